//! Automatic differentiation: the derivative rule of every primitive on one screen, and the walk
//! that applies them. Rules build graph, so gradients have gradients.

mod patches;

use crate::module::Module;
use crate::node::{Group, IdMap, Node, Segment, current_scope, next_id, record, sort_by_id};
use crate::prim::{Conv, Face, Prim, ReduceOp, SliceSpec, axis_list};
use crate::shape::Shape;
use crate::tape::{Binary, Unary};
use crate::tensor::Tensor;
use patches::Patches;
use smallvec::{SmallVec, smallvec};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// The cotangents of a node's inputs; `None` where no gradient flows.
type Cotangents = SmallVec<[Option<Tensor>; 4]>;

/// The rule of every primitive: from the inputs `x`, the output `y` and its cotangent `g` to the
/// cotangents of the inputs. Those of inputs that are not `wanted` may be missing.
fn vjp(prim: &Prim, x: &[Tensor], y: &Tensor, g: &Tensor, wanted: &[bool]) -> Cotangents {
    let zeros = |t: &Tensor| Tensor::full((), 0.0, t.dtype());
    match prim {
        Prim::Unary(op) => smallvec![unary_vjp(*op, &x[0], y, g)],
        Prim::Binary(op) => binary_vjp(*op, &x[0], &x[1], y, g),
        Prim::Where => {
            smallvec![
                None,
                Some(x[0].where_(g, &zeros(g))),
                Some(x[0].where_(&zeros(g), g))
            ]
        }
        Prim::Cast => smallvec![x[0].dtype().is_float().then(|| g.to_dtype(x[0].dtype()))],

        Prim::Reshape => smallvec![Some(g.reshape(x[0].shape()))],
        Prim::Permute(axes) => {
            let mut inverse = vec![0isize; axes.len()];
            axes.iter()
                .enumerate()
                .for_each(|(i, &a)| inverse[a as usize] = i as isize);
            smallvec![Some(
                product_transposed(g, &inverse).unwrap_or_else(|| g.permute(inverse))
            )]
        }
        Prim::Broadcast => {
            let stretched = |&d: &usize| x[0].shape()[d] != y.shape()[d];
            let axes: Vec<isize> = (0..y.rank())
                .filter(stretched)
                .map(|d| d as isize)
                .collect();
            smallvec![Some(g.sum_keepdim(axes))]
        }
        Prim::Slice(s) => {
            let base = Tensor::zeros(x[0].shape(), g.dtype());
            smallvec![Some(Tensor::op(Prim::SliceUpdate(s.clone()), [&base, g]))]
        }
        Prim::SliceUpdate(s) => {
            let hole = Tensor::zeros(x[1].shape(), g.dtype());
            let around = Tensor::op(Prim::SliceUpdate(s.clone()), [g, &hole]);
            smallvec![Some(around), Some(slice_like(g, s, x[1].shape()))]
        }
        Prim::Concat(axis) => {
            let mut start = 0;
            let part = |t: &Tensor| {
                let len = t.shape()[*axis];
                start += len;
                Some(g.narrow(*axis as isize, start - len, len))
            };
            x.iter().map(part).collect()
        }

        Prim::Reduce(op, axes) => {
            let (x, axes) = (&x[0], axis_list(axes));
            let kept: Shape = (0..x.rank())
                .map(|d| if axes.contains(&d) { 1 } else { x.shape()[d] })
                .collect();
            let spread = |t: &Tensor| t.reshape(kept.clone()).broadcast_to(x.shape());
            smallvec![Some(match op {
                ReduceOp::Sum => spread(g),
                ReduceOp::Prod => {
                    let axes: Vec<isize> = axes.iter().map(|&a| a as isize).collect();
                    let inputs = std::slice::from_ref(x);
                    let grads = vjp_of(|x| prod_by_halves(&x[0], &axes), inputs, g);
                    grads
                        .into_iter()
                        .next()
                        .flatten()
                        .expect("a product depends on its factors")
                }
                ReduceOp::Max | ReduceOp::Min => {
                    // Tied elements share, as in torch.amax.
                    let hit = x.eq(&spread(y)).to_dtype(g.dtype());
                    let axes: Vec<isize> = axes.iter().map(|&a| a as isize).collect();
                    &hit * spread(&(g / hit.sum(axes)))
                }
            })]
        }
        Prim::CumSum { axis, reverse } => {
            let prim = Prim::CumSum {
                axis: *axis,
                reverse: !reverse,
            };
            smallvec![Some(Tensor::op(prim, [g]))]
        }

        Prim::MatMul(precision) => {
            let (a, b) = (&x[0], &x[1]);
            let db = if b.rank() == 2 && a.rank() != 2 {
                a.rows().t().matmul_with(&g.rows(), *precision)
            } else {
                a.t().matmul_with(g, *precision)
            };
            smallvec![Some(g.matmul_with(&b.t(), *precision)), Some(db)]
        }
        Prim::Conv(c) => conv_vjp(c, &x[0], &x[1], g),

        Prim::Gather(axis) => {
            let base = Tensor::zeros(x[0].shape(), g.dtype());
            smallvec![
                Some(Tensor::op(Prim::ScatterAdd(*axis), [&base, &x[1], g])),
                None
            ]
        }
        Prim::ScatterAdd(axis) => {
            smallvec![Some(g.clone()), None, Some(g.gather(*axis as isize, &x[1]))]
        }

        Prim::Barrier => smallvec![Some(g.clone()), None],
        Prim::Fast(op) => op.vjp(x, y, g, wanted).into(),

        // Nothing flows into leaves, through indices, or where the user said stop.
        Prim::Data | Prim::Const(_) | Prim::Iota | Prim::Uniform(_) => smallvec![],
        Prim::ArgReduce(..) | Prim::ArgSort { .. } | Prim::StopGradient => smallvec![None],
    }
}

fn unary_vjp(op: Unary, x: &Tensor, y: &Tensor, g: &Tensor) -> Option<Tensor> {
    Some(match op {
        Unary::Neg => -g,
        Unary::Abs => g * x.sign(),
        // Flat almost everywhere.
        Unary::Sign | Unary::Floor | Unary::Ceil | Unary::Round | Unary::Trunc => g.zeros_like(),
        Unary::Sqrt => g / (y * 2.0),
        Unary::Rsqrt => g * y.powf(3.0) * -0.5,
        Unary::Recip => -g * y.square(),
        Unary::Exp => g * y,
        Unary::Expm1 => g * (y + 1.0),
        Unary::Log => g / x,
        Unary::Log1p => g / (x + 1.0),
        Unary::Sin => g * x.cos(),
        Unary::Cos => -(g * x.sin()),
        Unary::Tanh => g * (1.0 - y.square()),
        Unary::Erf => g * (-x.square()).exp() * std::f64::consts::FRAC_2_SQRT_PI,
        Unary::Sigmoid => g * y * (1.0 - y),
        Unary::Relu => y.le_scalar(0).where_(&Tensor::full((), 0.0, g.dtype()), g),
        Unary::Not => return None,
    })
}

fn binary_vjp(op: Binary, a: &Tensor, b: &Tensor, y: &Tensor, g: &Tensor) -> Cotangents {
    let (da, db) = match op {
        Binary::Add => (g.clone(), g.clone()),
        Binary::Sub => (g.clone(), -g),
        Binary::Mul => (g * b, g * a),
        Binary::Div => (g / b, -g * (y / b)),
        Binary::Rem => (g.clone(), -g * (a / b).floor()),
        Binary::Pow => {
            // 0 where the formula has 0 * inf: at exponent 0, and at base 0.
            let da = g * b * a.pow(&(b - 1.0));
            let db = g * y * a.log();
            let base_zero = a.eq_scalar(0).logical_and(&b.ge_scalar(0));
            (
                da.masked_fill(&b.eq_scalar(0), 0.0),
                db.masked_fill(&base_zero, 0.0),
            )
        }
        Binary::Max | Binary::Min => {
            // Halved at a tie, as in torch.maximum.
            let shared = a.eq(b).where_(&(g * 0.5), g);
            let (low, high) = (
                shared.masked_fill(&a.lt(b), 0.0),
                shared.masked_fill(&a.gt(b), 0.0),
            );
            if op == Binary::Max {
                (low, high)
            } else {
                (high, low)
            }
        }
        Binary::And | Binary::Or | Binary::Xor => return smallvec![None, None],
        Binary::Eq | Binary::Ne | Binary::Lt | Binary::Le | Binary::Gt | Binary::Ge => {
            return smallvec![None, None];
        }
    };
    smallvec![Some(da), Some(db)]
}

/// Each face of a convolution is linear in both its operands, and its derivatives are the other
/// two faces.
fn conv_vjp(c: &Conv, a: &Tensor, b: &Tensor, g: &Tensor) -> Cotangents {
    let face = |f, p: &Tensor, q: &Tensor, like: &Tensor| {
        Some(Tensor::conv_face(c, f, p, q, like.shape()))
    };
    match c.face {
        // a = x, b = w, g like y
        Face::Output => {
            smallvec![
                face(Face::InputGrad, g, b, a),
                face(Face::WeightGrad, a, g, b)
            ]
        }
        // a = dy, b = w, g like x
        Face::InputGrad => {
            smallvec![face(Face::Output, g, b, a), face(Face::WeightGrad, g, a, b)]
        }
        // a = x, b = dy, g like w
        Face::WeightGrad => {
            smallvec![face(Face::InputGrad, b, g, a), face(Face::Output, a, g, b)]
        }
    }
}

fn slice_like(x: &Tensor, spec: &Arc<SliceSpec>, shape: &[usize]) -> Tensor {
    Tensor::op_shaped(Prim::Slice(spec.clone()), [x], Shape::from(shape))
}

/// A product over axes as a tree of elementwise products: its derivative is right even where
/// factors are 0, to every order.
fn prod_by_halves(x: &Tensor, axes: &[isize]) -> Tensor {
    let mut x = x.clone();
    for &axis in axes {
        if x.dim(axis) == 0 {
            x = x.sum_keepdim(axis) + 1.0;
        }
        while x.dim(axis) > 1 {
            let n = x.dim(axis);
            let half = n / 2;
            let pairs = x.narrow(axis, 0, half) * x.narrow(axis, half, half);
            x = match n % 2 {
                0 => pairs,
                _ => Tensor::cat(&[pairs, x.narrow(axis, n - 1, 1)], axis),
            };
        }
    }
    let kept = (0..x.rank()).filter(|&d| !axes.contains(&(d as isize)));
    x.reshape(kept.map(|d| x.shape()[d]).collect::<Shape>())
}

/// The transpose of a matrix product as the product of the transposes in reverse order, so that a
/// weight stored as `[out, in]` gets its gradient in that order and not as a strided view.
fn product_transposed(g: &Tensor, axes: &[isize]) -> Option<Tensor> {
    let state = g.0.state();
    let [a, b] = state.inputs.as_slice() else {
        return None;
    };
    let flat = axes == [1, 0] && a.rank() == 2 && b.rank() == 2;
    let Prim::MatMul(precision) = g.0.prim else {
        return None;
    };
    let lazy = state.value.is_none();
    (flat && lazy).then(|| b.t().matmul_with(&a.t(), precision))
}

/// Another node for the same value, so that it can be told apart from the original.
pub(crate) fn alias(x: &Tensor) -> Tensor {
    Tensor::op_shaped(Prim::Reshape, [x], x.0.shape.clone())
}

/// The cotangents of `inputs` under the function `f`, whatever `inputs` were made of.
pub(crate) fn vjp_of(
    f: impl FnOnce(&[Tensor]) -> Tensor,
    inputs: &[Tensor],
    g: &Tensor,
) -> Vec<Option<Tensor>> {
    record(|| {
        let since = next_id();
        let inputs: Vec<Tensor> = inputs.iter().map(alias).collect();
        let y = f(&inputs);
        sweep(
            &[(&y, g.clone())],
            &inputs.iter().collect::<Vec<_>>(),
            since,
        )
    })
}

/// Recomputations of checkpointed segments, made as the reverse sweep first needs them.
#[derive(Default)]
struct Replays(HashMap<*const Segment, Replay>);

struct Replay {
    /// The first cotangent to reach the segment: nothing is computed again before it is there.
    after: Tensor,
    copies: HashMap<u64, Tensor>,
}

impl Replays {
    /// `t` as the backward pass should read it: `t` itself, or its recomputation.
    fn residual<'a>(&mut self, t: &'a Tensor, g: &Tensor) -> Cow<'a, Tensor> {
        let Some(segment) = &t.0.segment else {
            return Cow::Borrowed(t);
        };
        let key = Arc::as_ptr(segment);
        let replay = self.0.entry(key).or_insert_with(|| Replay {
            after: g.clone(),
            copies: HashMap::new(),
        });
        Cow::Owned(replay.copy(t, key))
    }
}

impl Replay {
    /// Rebuilds `t` and what it needs from the segment's boundary on; iterative, inputs first.
    fn copy(&mut self, t: &Tensor, segment: *const Segment) -> Tensor {
        let here = |t: &Tensor| {
            let made_in = t.0.segment.as_ref();
            made_in.is_some_and(|s| Arc::as_ptr(s) == segment)
        };
        let mut stack = vec![t.clone()];
        while let Some(top) = stack.last().cloned() {
            if self.copies.contains_key(&top.0.id) {
                stack.pop();
                continue;
            }
            if !here(&top) || top.0.state().inputs.is_empty() {
                let is_leaf = matches!(top.0.prim, Prim::Const(_) | Prim::Uniform(_) | Prim::Iota);
                // One from outside may be what is differentiated by, and stays itself.
                let copy = if is_leaf && here(&top) {
                    let Node {
                        prim, shape, dtype, ..
                    } = &*top.0;
                    Tensor::from_node(prim.clone(), SmallVec::new(), shape.clone(), *dtype)
                } else {
                    Tensor::op(Prim::Barrier, [&top, &self.after])
                };
                self.copies.insert(top.0.id, copy);
                continue;
            }
            let inputs = top.0.state().inputs.clone();
            let missing: Vec<Tensor> = inputs
                .iter()
                .filter(|i| !self.copies.contains_key(&i.0.id))
                .cloned()
                .collect();
            if !missing.is_empty() {
                stack.extend(missing);
                continue;
            }
            let inputs = inputs
                .iter()
                .map(|i| self.copies[&i.0.id].clone())
                .collect();
            let Node {
                prim, shape, dtype, ..
            } = &*top.0;
            let copy = Tensor::from_node(prim.clone(), inputs, shape.clone(), *dtype);
            self.copies.insert(top.0.id, copy);
        }
        self.copies[&t.0.id].clone()
    }
}

/// One node met by the sweep.
struct Visit {
    tensor: Tensor,
    /// Whether a target lies at or below.
    leads: bool,
    /// The sum of what has come back, but for the patches.
    sum: Option<Tensor>,
    patches: Patches,
}

impl Visit {
    /// The sum of all that has come back.
    fn cotangent(&self) -> Option<Cow<'_, Tensor>> {
        match (&self.sum, self.patches.whole()) {
            (Some(sum), Some(patches)) => Some(Cow::Owned(sum + patches)),
            (None, patches) => patches.map(Cow::Owned),
            (Some(sum), None) => Some(Cow::Borrowed(sum)),
        }
    }
}

/// The reverse sweep: from outputs with their cotangents to the cotangents of `targets`; `None`
/// for a target that no path of recorded nodes with ids from `since` on reaches.
fn sweep(outputs: &[(&Tensor, Tensor)], targets: &[&Tensor], since: u64) -> Vec<Option<Tensor>> {
    let scope = current_scope();
    let open = |node: &Node| {
        let recorded = match (&node.scope, &scope) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            // Made on another thread in the meantime.
            (None, Some(now)) => node.id >= now.first,
            _ => false,
        };
        recorded && node.id >= since && !matches!(node.prim, Prim::StopGradient)
    };

    // Everything between the outputs and the edge of the recording, as it is met.
    let first = scope.as_ref().map_or(since, |scope| scope.first.max(since));
    let most = next_id().saturating_sub(first).min(1 << 16) as usize;
    let mut index: IdMap<u32> = IdMap::with_capacity_and_hasher(most, Default::default());
    let mut visits: Vec<Visit> = Vec::new();
    let visit = |tensor: Tensor| Visit {
        tensor,
        leads: false,
        sum: None,
        patches: Patches::default(),
    };
    for (t, _) in outputs {
        index.entry(t.0.id).or_insert_with(|| {
            visits.push(visit((*t).clone()));
            (visits.len() - 1) as u32
        });
    }
    // The places of all their inputs, and where those of each end.
    let (mut edges, mut ends): (Vec<u32>, Vec<usize>) = (Vec::new(), Vec::new());
    let mut new: SmallVec<[Tensor; 4]> = SmallVec::new();
    while let Some(met) = visits.get(ends.len()) {
        if open(&met.tensor.0) {
            for input in &met.tensor.0.state().inputs {
                let place = index.entry(input.0.id).or_insert_with(|| {
                    new.push(input.clone());
                    (visits.len() + new.len() - 1) as u32
                });
                edges.push(*place);
            }
        }
        ends.push(edges.len());
        visits.extend(new.drain(..).map(visit));
    }
    let inputs_of = |i: usize| {
        let start = i.checked_sub(1).map_or(0, |before| ends[before]);
        &edges[start..ends[i]]
    };
    let ids = visits.iter().map(|v| v.tensor.0.id);
    let mut order: Vec<(u64, u32)> = ids.zip(0..).collect();
    sort_by_id(&mut order);

    // Which of them lead to a target.
    for target in targets {
        if let Some(&i) = index.get(&target.0.id) {
            visits[i as usize].leads = true;
        }
    }
    for &(_, i) in &order {
        let mut inputs = inputs_of(i as usize).iter();
        visits[i as usize].leads |= inputs.any(|&j| visits[j as usize].leads);
    }

    for (output, g) in outputs {
        add_cotangent(&mut visits[index[&output.0.id] as usize], g.clone());
    }
    let mut replays = Replays::default();
    for &(_, i) in order.iter().rev() {
        let (visit, inputs) = (&visits[i as usize], inputs_of(i as usize));
        let wanted: SmallVec<[bool; 4]> =
            inputs.iter().map(|&j| visits[j as usize].leads).collect();
        if !wanted.contains(&true) {
            continue;
        }
        let Some(g) = visit.cotangent() else {
            continue;
        };
        let x = inputs.iter().map(|&j| &visits[j as usize].tensor);
        let x: SmallVec<[Tensor; 4]> = x.map(|x| replays.residual(x, &g).into_owned()).collect();
        let y = replays.residual(&visit.tensor, &g);
        let cotangents = vjp(&visit.tensor.0.prim, &x, &y, &g, &wanted);
        for (&j, c) in inputs.iter().zip(cotangents) {
            let input = &mut visits[j as usize];
            if let (true, Some(c)) = (input.leads, c) {
                add_cotangent(input, c);
            }
        }
    }
    let result = |t: &&Tensor| {
        let i = *index.get(&t.0.id)?;
        visits[i as usize].cotangent().map(Cow::into_owned)
    };
    targets.iter().map(result).collect()
}

fn add_cotangent(visit: &mut Visit, g: Tensor) {
    debug_assert_eq!(
        visit.tensor.shape(),
        g.shape(),
        "{}",
        visit.tensor.0.prim.name()
    );
    debug_assert_eq!(
        visit.tensor.dtype(),
        g.dtype(),
        "{}",
        visit.tensor.0.prim.name()
    );
    if visit.patches.take(&g) {
        return;
    }
    visit.sum = Some(match visit.sum.take() {
        Some(sum) => sum + g,
        None => g,
    });
}

#[track_caller]
fn check_loss(loss: &Tensor) {
    if loss.numel() != 1 || !loss.dtype().is_float() {
        panic!(
            "a loss is one floating-point number, not {} {:?}; reduce it with mean or sum",
            loss.dtype(),
            loss.shape()
        );
    }
}

/// The gradients of `loss` with respect to `targets`, as `torch.autograd.grad`. To be called
/// inside [`record`]: only what was computed in the same recording is differentiated.
///
/// # Panics
/// If `loss` is not one floating-point number, or does not depend on one of the targets.
#[track_caller]
pub fn grad_of(loss: &Tensor, targets: &[&Tensor]) -> Vec<Tensor> {
    check_loss(loss);
    let grads = sweep(&[(loss, loss.ones_like())], targets, 0);
    let mut out = Vec::with_capacity(grads.len());
    for (i, g) in grads.into_iter().enumerate() {
        let Some(g) = g else {
            panic!(
                "grad_of: the loss does not depend on target {i} ({} {:?}), or not within this recording",
                targets[i].dtype(),
                targets[i].shape()
            );
        };
        out.push(g);
    }
    out
}

/// The gradients of a module's trainable parameters, by name, in the order of
/// [`Module::visit`].
#[derive(Clone, Debug, Default)]
pub struct Grads(Vec<(String, Tensor)>);

impl Grads {
    /// Name and gradient, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, g)| (name.as_str(), g))
    }

    /// The gradient of the parameter with this name, such as `fc1.weight`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, g)| g)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each gradient replaced by `f` of its name and itself.
    pub fn map(self, mut f: impl FnMut(&str, Tensor) -> Tensor) -> Grads {
        Grads(
            self.0
                .into_iter()
                .map(|(name, g)| {
                    let g = f(&name, g);
                    (name, g)
                })
                .collect(),
        )
    }
}

impl IntoIterator for Grads {
    type Item = (String, Tensor);
    type IntoIter = std::vec::IntoIter<(String, Tensor)>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl FromIterator<(String, Tensor)> for Grads {
    fn from_iter<I: IntoIterator<Item = (String, Tensor)>>(iter: I) -> Self {
        Grads(iter.into_iter().collect())
    }
}

/// The loss that `f` computes from `module`, and its gradients with respect to the module's
/// trainable parameters.
///
/// Inside `f` layers behave as in training: dropout drops, batch norm learns. Asking for the
/// loss, any gradient or any updated buffer computes all of them in one plan.
///
/// ```
/// use fornax_tensor::{value_and_grad, Tensor};
/// let w = Tensor::from_vec(vec![3f32], [1]);
/// let (loss, grads) = value_and_grad(&w, |w| (w * w).sum(..));
/// assert_eq!(loss.item(), 9.0);
/// assert_eq!(grads.get("").unwrap().item(), 6.0);
/// ```
///
/// # Panics
/// If the loss is not one floating-point number, or does not depend on some parameter; the
/// message names it. Freeze parameters that are not used.
#[track_caller]
pub fn value_and_grad<M: Module>(module: &M, f: impl FnOnce(&M) -> Tensor) -> (Tensor, Grads) {
    let mut names = Vec::new();
    let mut params = Vec::new();
    module.visit(&mut Default::default(), &mut |entry| {
        if entry.trainable && entry.tensor.dtype().is_float() {
            names.push(entry.path.to_string());
            params.push(entry.tensor);
        }
    });
    let mut seen: HashMap<u64, usize> = HashMap::new();
    for (i, p) in params.iter().enumerate() {
        if let Some(j) = seen.insert(p.0.id, i) {
            panic!(
                "value_and_grad: the parameters {} and {} are one tensor; make them two, or freeze one",
                names[j], names[i]
            );
        }
    }
    let outermost = current_scope().is_none();
    let (loss, grads) = record(|| {
        let loss = f(module);
        // Not `check_loss`: closures do not pass the caller's line on.
        if loss.numel() != 1 || !loss.dtype().is_float() {
            return (loss, Vec::new());
        }
        let seed = loss.ones_like();
        let grads = sweep(&[(&loss, seed)], &params.iter().collect::<Vec<_>>(), 0);
        (loss, grads)
    });
    check_loss(&loss);
    let unreached: Vec<&str> = names
        .iter()
        .zip(&grads)
        .filter(|(_, g)| g.is_none())
        .map(|(n, _)| n.as_str())
        .collect();
    if !unreached.is_empty() {
        panic!(
            "value_and_grad: the loss does not depend on the parameter(s) {}; use or freeze them",
            unreached.join(", ")
        );
    }
    let grads: Grads = names.into_iter().zip(grads.into_iter().flatten()).collect();
    if outermost {
        let mut yields = vec![loss.clone()];
        yields.extend(grads.iter().map(|(_, g)| g.clone()));
        module.visit(&mut Default::default(), &mut |entry| {
            if entry.kind == crate::module::Kind::Buffer {
                yields.push(entry.tensor);
            }
        });
        evaluate_together(&yields);
    }
    (loss, grads)
}

/// Makes one plan compute all of `tensors` that are still wanted as soon as one is asked for.
fn evaluate_together(tensors: &[Tensor]) {
    let group = Arc::new(Group {
        results: tensors.iter().map(|t| Arc::downgrade(&t.0)).collect(),
        met: AtomicU64::new(0),
    });
    for t in tensors {
        let mut state = t.0.state();
        if state.value.is_none() {
            state.group = Some(group.clone());
        }
    }
}

/// The gradient of `f` at `x`. Apply it twice for second derivatives.
///
/// ```
/// use fornax_tensor::{grad, Tensor};
/// let x = Tensor::from_vec(vec![2f64], [1]);
/// let second = grad(&x, |x| grad(x, |x| x.powf(3.0).sum(..)).sum(..));
/// assert_eq!(second.item(), 12.0);
/// ```
///
/// # Panics
/// If `f` does not give one floating-point number, or ignores `x`.
#[track_caller]
pub fn grad(x: &Tensor, f: impl FnOnce(&Tensor) -> Tensor) -> Tensor {
    let result = record(|| {
        let x = alias(x);
        let y = f(&x);
        if y.numel() != 1 || !y.dtype().is_float() {
            return Err(y);
        }
        Ok(sweep(&[(&y, y.ones_like())], &[&x], 0).remove(0))
    });
    match result {
        Ok(Some(g)) => g,
        Ok(None) => panic!("grad: the function ignores its argument"),
        Err(y) => {
            check_loss(&y);
            unreachable!()
        }
    }
}

/// The value of `f` at `x` and its derivative in direction `v` (forward mode, by differentiating
/// the reverse mode).
///
/// ```
/// use fornax_tensor::{jvp, Tensor};
/// let x = Tensor::from_vec(vec![1f64, 2.0], [2]);
/// let v = Tensor::from_vec(vec![1f64, 0.0], [2]);
/// let (y, dy) = jvp(&x, &v, |x| x * x);
/// assert_eq!(dy.to_vec::<f64>(), [2.0, 0.0]);
/// # assert_eq!(y.to_vec::<f64>(), [1.0, 4.0]);
/// ```
///
/// # Panics
/// If `v` is not like `x`, or `f` ignores `x`.
#[track_caller]
pub fn jvp(x: &Tensor, v: &Tensor, f: impl FnOnce(&Tensor) -> Tensor) -> (Tensor, Tensor) {
    if x.shape() != v.shape() || x.dtype() != v.dtype() {
        panic!(
            "jvp: the direction {} {:?} is not like the point {} {:?}",
            v.dtype(),
            v.shape(),
            x.dtype(),
            x.shape()
        );
    }
    let (y, dy) = record(|| {
        let x = alias(x);
        let y = f(&x);
        // The reverse derivative is linear in its cotangent `u`; its own derivative is the jvp.
        let u = alias(&y.zeros_like());
        let back = sweep(&[(&y, u.clone())], &[&x], 0).remove(0);
        let dy = back.map(|back| {
            let dy = sweep(&[(&back, v.clone())], &[&u], 0).remove(0);
            // A flat function: its gradient does not even depend on the cotangent.
            dy.unwrap_or_else(|| y.zeros_like())
        });
        (y, dy)
    });
    match dy {
        Some(dy) => (y, dy),
        None => panic!("jvp: the function ignores its argument"),
    }
}
