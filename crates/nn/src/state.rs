//! Saving and loading weights.

use crate::module::{EntryMut, Module, Path};
use crate::{Error, Result};
use fornax_tensor::{DType, Tensor, io};
use std::collections::{BTreeMap, HashMap};

/// Saves all parameters and buffers of a model to a safetensors file, under their names. The file
/// is replaced at once or not at all.
///
/// # Errors
/// If the file cannot be written.
pub fn save(model: &dyn Module, path: impl AsRef<std::path::Path>) -> Result<()> {
    Ok(io::save_safetensors(
        path,
        &model.state_dict(),
        &BTreeMap::new(),
    )?)
}

/// Loads all parameters and buffers of a model from a safetensors file.
///
/// ```
/// use fornax_nn::{Linear, load, save};
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("model.safetensors");
/// save(&Linear::new(3, 2), &path)?;
/// let mut model = Linear::new(3, 2);
/// load(&mut model, &path)?;
/// let error = load(&mut Linear::new(4, 2), &path).unwrap_err();
/// assert!(error.to_string().contains("`weight` has shape [2, 3], the model needs [2, 4]"));
/// # Ok::<(), fornax_nn::Error>(())
/// ```
///
/// # Errors
/// As [`load_state_dict`], and if the file cannot be read.
pub fn load(model: &mut dyn Module, path: impl AsRef<std::path::Path>) -> Result<()> {
    let path = path.as_ref();
    let file = io::load_safetensors(path)?;
    load_named(model, file.tensors, &path.display().to_string())
}

/// Replaces all parameters and buffers of a model by tensors of the same names. Floating-point
/// tensors take the model's element type.
///
/// # Errors
/// If names are missing or unknown, or shapes or types differ, naming each; then the model has
/// not changed.
pub fn load_state_dict(model: &mut dyn Module, tensors: Vec<(String, Tensor)>) -> Result<()> {
    load_named(model, tensors, "the state dict")
}

fn load_named(model: &mut dyn Module, tensors: Vec<(String, Tensor)>, what: &str) -> Result<()> {
    let mut by_name: HashMap<String, Tensor> = HashMap::new();
    let mut problems = Vec::new();
    for (name, tensor) in tensors {
        if by_name.insert(name.clone(), tensor).is_some() {
            problems.push(format!("`{name}` occurs twice"));
        }
    }
    let mut new = HashMap::new();
    for (name, old) in model.state_dict() {
        let Some(t) = by_name.remove(&name) else {
            problems.push(format!("`{name}` is missing"));
            continue;
        };
        if t.shape() != old.shape() {
            problems.push(format!(
                "`{name}` has shape {:?}, the model needs {:?}",
                t.shape(),
                old.shape()
            ));
        } else if t.dtype() != old.dtype() && !(t.dtype().is_float() && old.dtype().is_float()) {
            problems.push(format!(
                "`{name}` holds {}, the model needs {}",
                t.dtype(),
                old.dtype()
            ));
        } else {
            new.insert(name, t.to_dtype(old.dtype()));
        }
    }
    let mut unknown: Vec<&String> = by_name.keys().collect();
    unknown.sort_unstable();
    problems.extend(unknown.iter().map(|n| format!("`{n}` is not in the model")));
    if !problems.is_empty() {
        return Err(Error::Mismatch {
            what: what.to_owned(),
            problems,
        });
    }
    // Computed first, so that nothing can fail once the model changes.
    fornax_tensor::eval_all(&new.values().collect::<Vec<_>>())?;
    model.visit_mut(&mut Path::new(), &mut |name, entry| {
        if let Some(t) = new.remove(name) {
            entry.set(t);
        }
    });
    Ok(())
}

/// Converts the floating-point parameters and buffers of a model to another element type.
///
/// # Panics
/// If `dtype` is not a floating-point type.
#[track_caller]
pub fn to_dtype(model: &mut dyn Module, dtype: DType) {
    if !dtype.is_float() {
        panic!("to_dtype: parameters are of a float type, not {dtype}");
    }
    model.visit_mut(&mut Path::new(), &mut |_, entry: EntryMut<'_>| {
        let old = entry.tensor();
        if old.dtype().is_float() {
            let new = old.to_dtype(dtype);
            new.eval();
            entry.set(new);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BatchNorm1d, Layer, Linear, Sequential};

    fn net() -> Sequential {
        Sequential::new()
            .push(Linear::new(2, 3))
            .push(BatchNorm1d::new(3))
    }

    #[test]
    fn a_saved_model_computes_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.safetensors");
        let (a, mut b) = (net(), net());
        let x = Tensor::randn([4, 2], DType::F32);
        assert_ne!(a.forward(&x).to_vec::<f32>(), b.forward(&x).to_vec::<f32>());
        save(&a, &path).unwrap();
        load(&mut b, &path).unwrap();
        assert_eq!(a.forward(&x).to_vec::<f32>(), b.forward(&x).to_vec::<f32>());
    }

    #[test]
    fn a_misfit_names_everything_and_changes_nothing() {
        let mut model = net();
        let before = model.named_parameters()[0].1.to_vec::<f32>();
        let mut state = net().state_dict();
        state.retain(|(name, _)| name != "0.bias");
        state.push(("extra".to_owned(), Tensor::zeros([1], DType::F32)));
        let mean = state
            .iter_mut()
            .find(|(n, _)| n == "1.running_mean")
            .unwrap();
        mean.1 = Tensor::zeros([4], DType::F32);
        let count = state
            .iter_mut()
            .find(|(n, _)| n == "1.num_batches_tracked")
            .unwrap();
        count.1 = Tensor::zeros((), DType::F32);
        let message = load_state_dict(&mut model, state).unwrap_err().to_string();
        for part in [
            "`0.bias` is missing",
            "`extra` is not in the model",
            "`1.running_mean` has shape [4], the model needs [3]",
            "`1.num_batches_tracked` holds float32, the model needs int64",
        ] {
            assert!(message.contains(part), "{message}");
        }
        assert_eq!(model.named_parameters()[0].1.to_vec::<f32>(), before);
    }

    #[test]
    fn converting_leaves_counters_alone() {
        let mut model = net();
        to_dtype(&mut model, DType::F64);
        let types: Vec<DType> = model.state_dict().iter().map(|e| e.1.dtype()).collect();
        assert_eq!(types[..6], [DType::F64; 6]);
        assert_eq!(types[6], DType::I64);
        let half: Vec<_> = model
            .state_dict()
            .into_iter()
            .map(|(n, t)| {
                let t = if t.dtype().is_float() {
                    t.to_dtype(DType::BF16)
                } else {
                    t
                };
                (n, t)
            })
            .collect();
        load_state_dict(&mut model, half).unwrap();
        assert_eq!(model.named_parameters()[0].1.dtype(), DType::F64);
    }
}
