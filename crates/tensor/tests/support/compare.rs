//! How close is close: PyTorch's numbers against ours.

use super::{Attrs, Case, Fixture, Stored, hash_bits, refuses, usizes};
use fornax_tensor::{DType, Tensor, grad_of, record};

/// Relative tolerance per element type.
pub fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-12,
        DType::F32 => 1e-5,
        DType::BF16 => 1.0 / 128.0,
        DType::F16 => 1.0 / 1024.0,
        _ => 0.0,
    }
}

/// Below this, a number may have been flushed to zero.
fn tiny(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => f64::MIN_POSITIVE,
        DType::F32 | DType::BF16 => f32::MIN_POSITIVE as f64,
        DType::F16 => 6.2e-5,
        _ => 0.0,
    }
}

/// Compares a result with what the fixture has under `key`; gives the complaint, if there is one.
pub fn compare(
    fixture: &Fixture,
    key: &str,
    got: &Tensor,
    shape: Option<&[usize]>,
    strict: bool,
) -> Option<String> {
    if let Some(shape) = shape
        && got.shape() != shape
    {
        return Some(format!(
            "{key}: shape {:?}, expected {shape:?}",
            got.shape()
        ));
    }
    let (wide, sampled) = (fixture.find(key), fixture.find(&format!("{key}.sample")));
    let judge = |expected: &Stored| match &sampled {
        None => elements(
            key,
            &got.to_f64_vec(),
            &expected.values,
            got.dtype(),
            strict,
        ),
        Some(_) => samples(key, got, &expected.values),
    };
    let Some(expected) = wide.as_ref().or(sampled.as_ref()) else {
        return Some(format!("{key}: nothing of that name in the fixture"));
    };
    if sampled.is_none() && expected.values.len() != got.numel() {
        return Some(format!(
            "{key}: {} elements, expected {}",
            got.numel(),
            expected.values.len()
        ));
    }
    let complaint = judge(expected)?;
    // In f32 either is right: PyTorch's own f32 result, or the exact one where that is far from it.
    let narrow = if sampled.is_some() {
        format!("{key}.f32.sample")
    } else {
        format!("{key}.f32")
    };
    match fixture.find(&narrow).filter(|_| got.dtype() != DType::F64) {
        Some(narrow) => judge(&narrow),
        None => Some(complaint),
    }
}

/// A large tensor: its sum, its sum of magnitudes and some of its elements.
fn samples(key: &str, got: &Tensor, expected: &[f64]) -> Option<String> {
    let values = got.to_f64_vec();
    let (sum, magnitude): (f64, f64) = (values.iter().sum(), values.iter().map(|v| v.abs()).sum());
    let slack = tolerance(got.dtype()) * expected[1];
    if !((sum - expected[0]).abs() <= slack && (magnitude - expected[1]).abs() <= slack) {
        return Some(format!(
            "{key}: sum {sum:e} and sum of magnitudes {magnitude:e}, expected {:e} and {:e}",
            expected[0], expected[1]
        ));
    }
    let places =
        hash_bits(77, expected.len() - 2).map(|bits| (bits % values.len() as u64) as usize);
    let picked: Vec<f64> = places.map(|i| values[i]).collect();
    elements(key, &picked, &expected[2..], got.dtype(), false)
}

/// Element by element: equal if infinite or NaN; else within the tolerance of the element's size
/// (`strict`), or of the tensor's.
pub fn elements(
    key: &str,
    got: &[f64],
    expected: &[f64],
    dtype: DType,
    strict: bool,
) -> Option<String> {
    let narrowed = |x: f64| {
        if dtype == DType::F32 {
            x as f32 as f64
        } else {
            x
        }
    };
    let finite = expected
        .iter()
        .map(|&x| narrowed(x).abs())
        .filter(|x| x.is_finite());
    // The floor lets pure rounding noise around an exact zero pass.
    let scale = if strict {
        0.0
    } else {
        finite.fold(0.01, f64::max)
    };
    let (tol, tiny) = (tolerance(dtype), tiny(dtype));
    let (mut wrong, mut worst) = (0, None::<(f64, usize)>);
    for (i, (&x, &e)) in got.iter().zip(expected).enumerate() {
        let e = narrowed(e);
        let error = if x == e || (x.is_nan() && e.is_nan()) {
            0.0
        } else if !x.is_finite() || !e.is_finite() {
            f64::INFINITY
        } else {
            let floor = if dtype.is_float() { tiny } else { 0.0 };
            ((x - e).abs() - floor).max(0.0) / e.abs().max(scale).max(f64::MIN_POSITIVE)
        };
        if error > tol {
            wrong += 1;
            if worst.is_none_or(|(w, _)| error > w) {
                worst = Some((error, i));
            }
        }
    }
    let (error, i) = worst?;
    Some(format!(
        "{key}: {wrong} of {} elements wrong; element {i} is {:?}, expected {:?} (relative error {error:.1e})",
        got.len(),
        got[i],
        expected[i]
    ))
}

/// Operations whose zeros have the sign that IEEE 754 gives them.
const SIGNED: [&str; 11] = [
    "neg", "abs", "floor", "ceil", "round", "trunc", "sqrt", "add", "sub", "mul", "div",
];

/// The results of a case: number, shapes, element types and values.
pub fn check_outs(case: &Case, outs: &[Tensor], run: DType) -> Vec<String> {
    let shapes = case.json["out"].as_array().expect("results");
    if outs.len() != shapes.len() {
        return vec![format!("{} results, expected {}", outs.len(), shapes.len())];
    }
    let strict = case.json["strict"] == true;
    let mut complaints = Vec::new();
    for (k, (y, shape)) in outs.iter().zip(shapes).enumerate() {
        let key = format!("{}.o{k}", case.index);
        complaints.extend(compare(case.fixture, &key, y, Some(&usizes(shape)), strict));
        if strict && SIGNED.contains(&case.op()) && complaints.is_empty() {
            let want = case
                .fixture
                .find(&key)
                .expect("a result stored whole")
                .values;
            let flipped = |(x, e): &(&f64, &f64)| {
                **x == 0.0 && **e == 0.0 && x.is_sign_negative() != e.is_sign_negative()
            };
            let count = y.to_f64_vec().iter().zip(&want).filter(flipped).count();
            complaints
                .extend((count > 0).then(|| format!("{key}: {count} zeros of the wrong sign")));
        }
        let dtype = case.json["out_dtypes"][k].as_str().expect("a dtype");
        // Written down for the f32 run; the f64 run of a case that has both has f64 in its place.
        let both = case.json["dtypes"].as_array().is_some_and(|d| d.len() > 1);
        if (run == DType::F32 || !both) && y.dtype().to_string() != dtype {
            complaints.push(format!("result {k} is {}, expected {dtype}", y.dtype()));
        }
    }
    complaints
}

/// The gradients of a case, in the order of [`Case::grads`].
pub fn check_grads(case: &Case, grads: &[Tensor]) -> Vec<String> {
    let places = case.grads();
    let compare = |(g, k): (&Tensor, usize)| {
        // The gradient has the shape of the input that was given.
        compare(
            case.fixture,
            &format!("{}.g{k}", case.index),
            g,
            None,
            false,
        )
    };
    grads.iter().zip(places).filter_map(compare).collect()
}

/// An op's case: results, then gradients. `apply` runs the op of a name on the inputs.
pub fn check_op(
    case: &Case,
    dtype: DType,
    apply: impl Fn(&str, Attrs, &[Tensor]) -> Vec<Tensor>,
) -> Vec<String> {
    let leaves = case.leaves(dtype);
    let call = || apply(case.op(), case.attrs(), &case.views(&leaves));
    if case.raises() {
        return if refuses(call) {
            Vec::new()
        } else {
            vec!["PyTorch refuses this, we do not".into()]
        };
    }
    let mut complaints = check_outs(case, &call(), dtype);
    // Views that have been read are leaves with strides of their own, negative ones too.
    let views = case.views(&leaves);
    for x in &views {
        x.eval();
    }
    if complaints.is_empty() && !views.iter().zip(&leaves).all(|(a, b)| a.same(b)) {
        let outs = apply(case.op(), case.attrs(), &views);
        let list = check_outs(case, &outs, dtype).into_iter();
        complaints.extend(list.map(|c| format!("of evaluated views: {c}")));
    }
    let targets: Vec<&Tensor> = case.grads().iter().map(|&k| &leaves[k]).collect();
    if !targets.is_empty() && complaints.is_empty() {
        let grads = record(|| grad_of(&case.loss(&call()), &targets));
        for (g, x) in grads.iter().zip(&targets) {
            if (g.shape(), g.dtype()) != (x.shape(), x.dtype()) {
                complaints.push(format!(
                    "gradient {:?} {} of {:?} {}",
                    g.shape(),
                    g.dtype(),
                    x.shape(),
                    x.dtype()
                ));
            }
        }
        complaints.extend(check_grads(case, &grads));
    }
    complaints
}
