//! What all optimizers share: groups, the state of each parameter, and the walk of a step.

use super::{Group, OptimizerState, mismatch};
use crate::module::{EntryMut, Module, Path};
use crate::{Error, Result};
use fornax_tensor::{DType, Grads, Tensor, WeakTensor, eval_all};
use std::collections::{BTreeMap, HashMap};

/// See the module; hidden because only the optimizers of this crate are built on it.
#[derive(Debug)]
pub struct Base {
    pub(super) lr: f64,
    pub(super) weight_decay: f64,
    pub(super) groups: Vec<Group>,
    pub(super) steps: u64,
    /// The state tensors of a parameter of a shape.
    slots: fn(&[usize]) -> Vec<Slot>,
    params: HashMap<String, State>,
    /// The parameters' order, for a state that is always written the same.
    order: Vec<String>,
}

/// A state tensor that an optimizer keeps of each parameter.
pub struct Slot {
    name: &'static str,
    shape: Vec<usize>,
    /// Whether it is kept with every option.
    always: bool,
}

impl Slot {
    pub(super) fn always(name: &'static str, shape: &[usize]) -> Slot {
        Slot {
            name,
            shape: shape.to_vec(),
            always: true,
        }
    }

    /// One that is kept with some options.
    pub(super) fn sometimes(name: &'static str, shape: &[usize]) -> Slot {
        Slot {
            always: false,
            ..Slot::always(name, shape)
        }
    }
}

/// What is remembered about one parameter.
#[derive(Debug, Default)]
struct State {
    step: u64,
    slots: Slots,
}

/// The state tensors of one parameter, by name.
#[derive(Debug, Default)]
pub(super) struct Slots(Vec<(&'static str, Tensor)>);

impl Slots {
    /// Takes a tensor out, so that no handle keeps its memory from being written in place.
    pub fn take(&mut self, name: &str) -> Option<Tensor> {
        let i = self.0.iter().position(|(n, _)| *n == name)?;
        Some(self.0.remove(i).1)
    }

    /// [`take`](Slots::take), or zeros like `p` at the start.
    pub fn take_or_zeros(&mut self, name: &str, p: &Tensor) -> Tensor {
        self.take(name).unwrap_or_else(|| p.zeros_like())
    }

    /// Keeps a tensor for the next step.
    pub fn put(&mut self, name: &'static str, tensor: Tensor) {
        self.0.push((name, tensor));
    }
}

/// A parameter and its state tensors before a step, for as long as their updates are not computed.
struct Before {
    param: WeakTensor,
    slots: Vec<(&'static str, WeakTensor)>,
}

impl Before {
    fn new(param: &Tensor, slots: &Slots) -> Before {
        let slots = slots.0.iter().map(|(name, t)| (*name, t.downgrade()));
        Before {
            param: param.downgrade(),
            slots: slots.collect(),
        }
    }

    fn slots(&self) -> Vec<(&'static str, Tensor)> {
        let slots = self.slots.iter();
        let held = slots.map(|(name, t)| (*name, t.upgrade().expect("its update reads it")));
        held.collect()
    }
}

/// What the update of one parameter depends on besides tensors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hyper {
    pub lr: f64,
    pub weight_decay: f64,
    /// Counted from 1.
    pub step: u64,
}

impl Base {
    pub fn new(lr: f64, weight_decay: f64, slots: fn(&[usize]) -> Vec<Slot>) -> Self {
        Base {
            lr,
            weight_decay,
            groups: Vec::new(),
            steps: 0,
            slots,
            params: HashMap::new(),
            order: Vec::new(),
        }
    }

    /// One step: `update` gets each trainable parameter's old value, gradient and state, and
    /// returns its new value.
    pub(super) fn step(
        &mut self,
        model: &mut dyn Module,
        grads: Grads,
        also: &[&Tensor],
        mut update: impl FnMut(Hyper, Tensor, Tensor, &mut Slots) -> Tensor,
    ) -> Result<()> {
        let mut grads: HashMap<String, Tensor> = grads.into_iter().collect();
        check(model, &grads)?;
        let mut changed: Vec<Tensor> = Vec::new();
        let mut before: HashMap<String, Before> = HashMap::new();
        // Holds the place of a parameter while its update is built, so that the old value is
        // referenced by its update alone and can be overwritten.
        let empty = Tensor::zeros((), DType::F32);
        model.visit_mut(&mut Path::new(), &mut |path, entry| {
            if !entry.is_trainable() {
                return;
            }
            let EntryMut::Param { tensor, .. } = entry else {
                return;
            };
            let grad = grads.remove(path).expect("checked above");
            let state = match self.params.get_mut(path) {
                Some(state) => state,
                None => {
                    self.order.push(path.to_owned());
                    self.params.entry(path.to_owned()).or_default()
                }
            };
            before.insert(path.to_owned(), Before::new(tensor, &state.slots));
            state.step += 1;
            let group = self.groups.iter().find(|g| g.claims(path, tensor));
            let hyper = Hyper {
                lr: self.lr * group.map_or(1.0, |g| g.lr_scale),
                weight_decay: group
                    .and_then(|g| g.weight_decay)
                    .unwrap_or(self.weight_decay),
                step: state.step,
            };
            let old = std::mem::replace(tensor, empty.clone());
            *tensor = update(hyper, old, grad, &mut state.slots);
            changed.push(tensor.clone());
            changed.extend(state.slots.0.iter().map(|(_, t)| t.clone()));
        });
        let all: Vec<&Tensor> = changed.iter().chain(also.iter().copied()).collect();
        match eval_all(&all) {
            Ok(()) => self.steps += 1,
            Err(e) => {
                self.undo(model, before);
                return Err(e.into());
            }
        }
        Ok(())
    }

    /// After an evaluation that failed: the updates still hold what they were to replace.
    fn undo(&mut self, model: &mut dyn Module, before: HashMap<String, Before>) {
        model.visit_mut(&mut Path::new(), &mut |path, entry| {
            let EntryMut::Param { tensor, .. } = entry else {
                return;
            };
            let (Some(before), Some(state)) = (before.get(path), self.params.get_mut(path)) else {
                return;
            };
            state.step -= 1;
            state.slots = Slots(before.slots());
            *tensor = before.param.upgrade().expect("its update reads it");
        });
    }

    pub(super) fn state(&self) -> OptimizerState {
        let mut tensors = Vec::new();
        let mut scalars = BTreeMap::from([
            ("lr".to_owned(), self.lr),
            ("steps".to_owned(), self.steps as f64),
        ]);
        for path in &self.order {
            let state = &self.params[path];
            scalars.insert(join(path, "step"), state.step as f64);
            let mut slots: Vec<_> = state.slots.0.iter().collect();
            slots.sort_unstable_by_key(|(name, _)| *name);
            tensors.extend(slots.iter().map(|(name, t)| (join(path, name), t.clone())));
        }
        OptimizerState { tensors, scalars }
    }

    pub(super) fn load(&mut self, model: &dyn Module, state: OptimizerState) -> Result<()> {
        let OptimizerState {
            tensors,
            mut scalars,
        } = state;
        let mut problems = Vec::new();
        let mut count = |name: &str, problems: &mut Vec<String>| match scalars.remove(name) {
            Some(v) if v >= 0.0 && v.fract() == 0.0 => Some(v as u64),
            Some(v) => {
                problems.push(format!("`{name}` is {v}, not a count"));
                None
            }
            None => None,
        };
        let steps = count("steps", &mut problems);
        let mut tensors: HashMap<String, Tensor> = tensors.into_iter().collect();
        let mut params = HashMap::new();
        let mut order = Vec::new();
        for (path, p) in model.named_parameters() {
            let Some(step) = count(&join(&path, "step"), &mut problems) else {
                continue;
            };
            let mut slots = Slots::default();
            for slot in (self.slots)(p.shape()) {
                let name = join(&path, slot.name);
                let Some(t) = tensors.remove(&name) else {
                    if step > 0 && slot.always {
                        problems.push(format!("`{name}` is missing"));
                    }
                    continue;
                };
                if t.shape() != slot.shape {
                    let (found, shape) = (t.shape(), &slot.shape);
                    problems.push(format!("`{name}` has shape {found:?}, not {shape:?}"));
                }
                slots.put(slot.name, t.to_dtype(p.dtype()));
            }
            params.insert(path.clone(), State { step, slots });
            order.push(path);
        }
        let lr = scalars.remove("lr");
        for (name, value) in [("steps", steps.is_some()), ("lr", lr.is_some())] {
            if !value {
                problems.push(format!("`{name}` is missing"));
            }
        }
        let mut unknown: Vec<&String> = tensors.keys().chain(scalars.keys()).collect();
        unknown.sort_unstable();
        problems.extend(unknown.iter().map(|n| format!("`{n}` is unknown")));
        mismatch(problems)?;
        if let (Some(steps), Some(lr)) = (steps, lr) {
            (self.steps, self.lr, self.params, self.order) = (steps, lr, params, order);
        }
        Ok(())
    }
}

/// The name of something of a parameter; the parameter of a bare tensor has no name.
fn join(path: &str, what: &str) -> String {
    if path.is_empty() {
        what.to_owned()
    } else {
        format!("{path}.{what}")
    }
}

/// Whether gradients and trainable parameters match one to one.
fn check(model: &dyn Module, grads: &HashMap<String, Tensor>) -> Result<()> {
    let mut problem = None;
    let mut matched = 0;
    let mut trainable = Vec::new();
    model.visit(&mut Path::new(), &mut |e| {
        if !e.trainable || problem.is_some() {
            return;
        }
        trainable.push(e.path.to_owned());
        match grads.get(e.path) {
            None => problem = Some(Error::MissingGradient(e.path.to_owned())),
            Some(g) if g.shape() != e.tensor.shape() => {
                problem = Some(Error::GradientShape {
                    path: e.path.to_owned(),
                    expected: e.tensor.shape().to_vec(),
                    found: g.shape().to_vec(),
                });
            }
            Some(_) => matched += 1,
        }
    });
    if let Some(problem) = problem {
        return Err(problem);
    }
    if matched < grads.len() {
        let stray = grads.keys().filter(|k| !trainable.contains(k)).min();
        return Err(Error::UnknownGradient(stray.cloned().unwrap_or_default()));
    }
    Ok(())
}
