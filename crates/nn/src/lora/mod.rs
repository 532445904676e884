//! Adapters of low rank, to fine-tune a model by few parameters.

mod peft;

use crate::init;
use crate::module::{Entry, EntryMut, Kind, Module, Param, Path};
use fornax_tensor::Tensor;
use peft::{LoraConfig, is_called};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

/// A model whose weights stay as they are while a product of two thin matrices learns what to add
/// to some of them: LoRA (Hu et al. 2022). `w + alpha / rank * b a` with `a [rank, in]` and
/// `b [out, rank]`; `b` starts at zero, so that nothing changes at first.
///
/// As a module it shows the adapters alone, under the names that the `peft` library gives them, so
/// optimizers, checkpoints, [`save`](crate::save) and [`load`](crate::load) deal with these;
/// [`save_adapter`](Lora::save_adapter) and [`load_adapter`](Lora::load_adapter) have whole folders
/// of `peft`. The sum is formed anew in each [`with`](Lora::with), once for the whole batch.
///
/// ```
/// use fornax_nn::{AdamW, Layer, Linear, Lora, Module, Optimizer, Sequential};
/// use fornax_tensor::{DType, Tensor, value_and_grad};
/// let model = Sequential::new().push(Linear::new(16, 16)).push(Linear::new(16, 2));
/// let mut lora = Lora::new(model, 2, 4.0, &["0"]);
/// assert_eq!(lora.num_parameters(), 2 * 16 + 16 * 2);
/// let x = Tensor::randn([8, 16], DType::F32);
/// let mut optimizer = AdamW::new(1e-2);
/// for _ in 0..3 {
///     let (_, grads) = value_and_grad(&lora, |l| l.with(|m| m.forward(&x).square().mean(..)));
///     optimizer.step(&mut lora, grads)?;
/// }
/// let tuned: Sequential = lora.merge();
/// # Ok::<(), fornax_nn::Error>(())
/// ```
pub struct Lora<M> {
    /// With the weights that it had, but while a closure of [`Lora::with`] runs.
    model: Mutex<M>,
    adapters: Vec<Adapter>,
    config: LoraConfig,
}

/// What one weight learns.
struct Adapter {
    /// The weight's name.
    weight: String,
    /// `[rank, in]`.
    a: Param,
    /// `[out, rank]`.
    b: Param,
}

impl Adapter {
    /// The layer's name.
    fn layer(&self) -> &str {
        self.weight.strip_suffix(".weight").unwrap_or(&self.weight)
    }
}

impl<M: Module> Lora<M> {
    /// Adapters of this rank for the weights of all layers whose name is one of `targets` or ends
    /// with a dot and one of them, such as `q_proj`. All else of the model is frozen; what is
    /// to train besides, [`also_train`](Lora::also_train) tells.
    ///
    /// # Panics
    /// If the rank is 0, a target names no layer with a matrix as its weight, or parameters are
    /// plain tensors, which cannot be frozen.
    #[track_caller]
    pub fn new(model: M, rank: usize, alpha: f64, targets: &[&str]) -> Self {
        let config = LoraConfig {
            r: rank,
            lora_alpha: alpha,
            target_modules: targets.iter().map(|&name| name.to_owned()).collect(),
            ..LoraConfig::default()
        };
        Lora::of_config(model, config).unwrap_or_else(|reason| panic!("Lora: {reason}"))
    }

    /// Says what is wrong if the adapters cannot be.
    #[track_caller]
    fn of_config(mut model: M, config: LoraConfig) -> Result<Self, String> {
        let (rank, targets) = (config.r, &config.target_modules);
        if rank == 0 {
            return Err("the rank must be at least 1".to_owned());
        }
        let mut adapters = Vec::new();
        let mut found = vec![false; targets.len()];
        for (name, weight) in model.named_parameters() {
            let Some(layer) = name.strip_suffix(".weight") else {
                continue;
            };
            let at = targets.iter().position(|target| is_called(layer, target));
            if let (Some(at), &[rows, columns]) = (at, weight.shape()) {
                found[at] = true;
                let [outputs, inputs] = match config.fan_in_fan_out {
                    false => [rows, columns],
                    true => [columns, rows],
                };
                adapters.push(Adapter {
                    weight: name,
                    a: init::fan_in_uniform([rank, inputs], inputs)
                        .to_dtype(weight.dtype())
                        .into(),
                    b: init::zeros([outputs, rank]).to_dtype(weight.dtype()).into(),
                });
            }
        }
        if let Some(at) = found.iter().position(|&found| !found) {
            return Err(format!(
                "no layer with a matrix as its weight is called `{}`",
                targets[at]
            ));
        }
        model.freeze("");
        Ok(Lora {
            model: Mutex::new(model),
            adapters,
            config,
        })
    }

    /// For layers whose weights are `[in, out]`, as GPT-2's (`fan_in_fan_out` of `peft`).
    pub fn transposed(mut self) -> Self {
        if !self.config.fan_in_fan_out {
            for adapter in &mut self.adapters {
                let (rank, inputs, outputs) =
                    (adapter.a.dim(0), adapter.b.dim(0), adapter.a.dim(1));
                let dtype = adapter.a.dtype();
                adapter
                    .a
                    .set(init::fan_in_uniform([rank, inputs], inputs).to_dtype(dtype));
                adapter.b.set(init::zeros([outputs, rank]).to_dtype(dtype));
            }
        }
        self.config.fan_in_fan_out = true;
        self
    }

    /// Lets the parameters at or below `prefix` train as well, such as those of a new head.
    ///
    /// # Panics
    /// If there are none.
    #[track_caller]
    pub fn also_train(mut self, prefix: &str) -> Self {
        let model = self.model.get_mut().unwrap_or_else(|e| e.into_inner());
        model.unfreeze(prefix);
        let is_parameter = model
            .named_parameters()
            .iter()
            .any(|(name, _)| name == prefix);
        // `peft` knows modules only.
        let module = match prefix.rsplit_once('.') {
            Some((module, _)) if is_parameter => module,
            _ => prefix,
        };
        let saved = self.config.modules_to_save.get_or_insert_default();
        saved.push(module.to_owned());
        self
    }

    /// Runs `f` on the model with what the adapters add.
    ///
    /// # Panics
    /// If `f` does, and if it calls `with` of the same adapters.
    pub fn with<R>(&self, f: impl FnOnce(&M) -> R) -> R {
        // Puts the weights back even if `f` panics.
        struct Restore<'a, M: Module>(MutexGuard<'a, M>, HashMap<String, Tensor>);
        impl<M: Module> Drop for Restore<'_, M> {
            fn drop(&mut self) {
                swap(&mut *self.0, &mut self.1);
            }
        }
        let mut model = self.model();
        let mut weights = self.sums(&*model);
        swap(&mut *model, &mut weights);
        let restore = Restore(model, weights);
        f(&restore.0)
    }

    /// The model with what the adapters have learnt added to its weights for good; all of it
    /// trains again.
    pub fn merge(self) -> M {
        let mut sums = self.sums(&*self.model());
        let all: Vec<&Tensor> = sums.values().collect();
        fornax_tensor::eval_all(&all).expect("sums of products have no indices");
        let mut model = self.model.into_inner().unwrap_or_else(|e| e.into_inner());
        swap(&mut model, &mut sums);
        model.unfreeze("");
        model
    }

    /// The adapted weights, by name.
    fn sums(&self, model: &M) -> HashMap<String, Tensor> {
        let scale = self.config.lora_alpha / self.config.r as f64;
        let mut old: HashMap<String, Tensor> = model.named_parameters().into_iter().collect();
        let sum = |adapter: &Adapter| {
            let added = match self.config.fan_in_fan_out {
                false => adapter.b.matmul(&adapter.a),
                true => adapter.a.t().matmul(&adapter.b.t()),
            };
            let weight = old.remove(&adapter.weight).expect("the model has it");
            (adapter.weight.clone(), weight + added * scale)
        };
        self.adapters.iter().map(sum).collect()
    }

    fn model(&self) -> MutexGuard<'_, M> {
        // A panic inside `with` has put the weights back.
        self.model.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Exchanges the model's parameters of these names for the given ones.
fn swap(model: &mut dyn Module, tensors: &mut HashMap<String, Tensor>) {
    model.visit_mut(&mut Path::new(), &mut |name, entry| {
        if let (EntryMut::Param { tensor, .. }, Some(other)) = (entry, tensors.get_mut(name)) {
            std::mem::swap(tensor, other);
        }
    });
}

/// The names of `peft`: those of the model behind `base_model.model`.
fn scoped<R>(path: &mut Path, f: impl FnOnce(&mut Path) -> R) -> R {
    path.scope("base_model", |path| path.scope("model", f))
}

impl<M: Module> Module for Lora<M> {
    fn visit(&self, path: &mut Path, f: &mut dyn FnMut(Entry<'_>)) {
        path.enter(self);
        scoped(path, |path| {
            for adapter in &self.adapters {
                path.scope(adapter.layer(), |path| {
                    path.scope("lora_A.weight", |path| adapter.a.visit(path, f));
                    path.scope("lora_B.weight", |path| adapter.b.visit(path, f));
                });
            }
            self.model().visit(path, &mut |entry| {
                if entry.kind == Kind::Buffer || entry.trainable {
                    f(entry);
                }
            });
        });
    }

    fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, EntryMut<'_>)) {
        let model = self.model.get_mut().unwrap_or_else(|e| e.into_inner());
        let adapters = &mut self.adapters;
        scoped(path, |path| {
            for adapter in adapters {
                let layer = adapter.layer().to_owned();
                path.scope(layer, |path| {
                    path.scope("lora_A.weight", |path| adapter.a.visit_mut(path, f));
                    path.scope("lora_B.weight", |path| adapter.b.visit_mut(path, f));
                });
            }
            model.visit_mut(path, &mut |name, entry| {
                if matches!(entry, EntryMut::Buffer(_)) || entry.is_trainable() {
                    f(name, entry);
                }
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AdamW, Layer, Linear, Optimizer, Sequential, load, save};
    use fornax_tensor::{DType, manual_seed, value_and_grad};

    fn model() -> Sequential {
        Sequential::new()
            .push(Linear::new(6, 8))
            .push(Linear::new(8, 3))
    }

    fn train(lora: &mut Lora<Sequential>, x: &Tensor) -> Vec<f64> {
        let mut optimizer = AdamW::new(0.05);
        let step = |_| {
            let (loss, grads) = value_and_grad(&*lora, |l| {
                l.with(|m| (m.forward(x) - 1.0).square().mean(..))
            });
            optimizer.step(lora, grads).unwrap();
            loss.item()
        };
        (0..20).map(step).collect()
    }

    #[test]
    fn adapters_alone_learn_and_merge() {
        manual_seed(3);
        let model = model();
        let before: Vec<_> = model
            .state_dict()
            .into_iter()
            .map(|(n, t)| (n, t.to_vec::<f32>()))
            .collect();
        let x = Tensor::randn([5, 6], DType::F32);
        let start = model.forward(&x).to_vec::<f32>();
        let mut lora = Lora::new(model, 2, 4.0, &["0", "1"]);
        assert_eq!(lora.with(|m| m.forward(&x)).to_vec::<f32>(), start);
        let losses = train(&mut lora, &x);
        assert!(losses[19] < 0.5 * losses[0], "{losses:?}");
        let now: Vec<_> = lora
            .model()
            .state_dict()
            .into_iter()
            .map(|(n, t)| (n, t.to_vec::<f32>()))
            .collect();
        assert_eq!(before, now, "the base has not changed");
        let tuned = lora.with(|m| m.forward(&x)).to_vec::<f32>();
        let merged = lora.merge();
        for (a, b) in tuned.iter().zip(merged.forward(&x).to_vec::<f32>()) {
            assert!((a - b).abs() < 1e-5);
        }
        assert_eq!(merged.num_trainable(), merged.num_parameters());
    }

    #[test]
    fn a_file_holds_the_adapters_and_what_trains_besides() {
        manual_seed(4);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("adapter_model.safetensors");
        let base = model();
        let state = base.state_dict();
        let mut lora = Lora::new(base, 2, 4.0, &["0"]).also_train("1.bias");
        let x = Tensor::randn([5, 6], DType::F32);
        train(&mut lora, &x);
        save(&lora, &path).unwrap();
        let names: Vec<String> = lora.state_dict().into_iter().map(|e| e.0).collect();
        let expected = ["0.lora_A.weight", "0.lora_B.weight", "1.bias"]
            .map(|n| format!("base_model.model.{n}"));
        assert_eq!(names, expected);
        let mut other = model();
        crate::load_state_dict(&mut other, state).unwrap();
        let mut other = Lora::new(other, 2, 4.0, &["0"]).also_train("1.bias");
        load(&mut other, &path).unwrap();
        let y = |l: &Lora<Sequential>| l.with(|m| m.forward(&x)).to_vec::<f32>();
        assert_eq!(y(&other), y(&lora));
    }

    #[test]
    fn weights_of_inputs_by_outputs() {
        let mut lora = Lora::new(model(), 2, 4.0, &["0"]).transposed();
        // An [8, 6] weight read as [in, out].
        let shapes: Vec<Vec<usize>> = lora
            .state_dict()
            .iter()
            .map(|e| e.1.shape().to_vec())
            .collect();
        assert_eq!(shapes, [[2, 8], [6, 2]]);
        let x = Tensor::randn([5, 6], DType::F32);
        let losses = train(&mut lora, &x);
        assert!(losses[19] < losses[0]);
    }

    #[test]
    fn weights_come_back_after_a_panic() {
        let lora = Lora::new(model(), 2, 4.0, &["0"]);
        let before = lora.model().state_dict()[0].1.clone();
        let run = std::panic::AssertUnwindSafe(|| lora.with(|_| panic!("no")));
        assert!(std::panic::catch_unwind(run).is_err());
        assert!(lora.model().state_dict()[0].1.same(&before));
    }

    #[test]
    #[should_panic(expected = "no layer with a matrix as its weight is called `q_proj`")]
    fn targets_exist() {
        Lora::new(model(), 2, 4.0, &["q_proj"]);
    }
}
