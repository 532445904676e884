//! Starting weights: the initialisers of `torch.nn.init` and PyTorch's default of every layer.
//!
//! Each function returns a new `f32` tensor drawn from the thread's generator (see
//! [`fornax_tensor::manual_seed`]); [`apply`] puts them into a model.
//!
//! The fans of a weight `[out, in, kernel..]` are `fan_in = in * kernel` and
//! `fan_out = out * kernel`.

use crate::module::{EntryMut, Module, Path};
use fornax_tensor::{DType, Shape, Tensor};
use serde::{Deserialize, Serialize};
use std::cell::Cell;

/// Which fan keeps its variance in the Kaiming initialisers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fan {
    /// The forward pass keeps its variance.
    #[default]
    In,
    /// The backward pass keeps its variance.
    Out,
}

/// What follows the layer, for the recommended [`gain`](Nonlinearity::gain).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Nonlinearity {
    /// Nothing: linear and convolution layers, and the sigmoid.
    #[default]
    Linear,
    /// `tanh`: 5/3.
    Tanh,
    /// `relu`: the square root of 2.
    Relu,
    /// `leaky_relu` with a negative slope: `sqrt(2 / (1 + slope^2))`.
    LeakyRelu(f64),
    /// `selu`: 3/4.
    Selu,
}

impl Nonlinearity {
    /// The recommended gain: PyTorch's `calculate_gain`.
    pub fn gain(self) -> f64 {
        match self {
            Nonlinearity::Linear => 1.0,
            Nonlinearity::Tanh => 5.0 / 3.0,
            Nonlinearity::Relu => 2f64.sqrt(),
            Nonlinearity::LeakyRelu(slope) => (2.0 / (1.0 + slope * slope)).sqrt(),
            Nonlinearity::Selu => 0.75,
        }
    }
}

/// `(fan_in, fan_out)` of a weight of this shape.
///
/// # Panics
/// If it has fewer than two dimensions.
#[track_caller]
pub fn fans(shape: &[usize]) -> (usize, usize) {
    if shape.len() < 2 {
        panic!("init: fans need a weight of at least two dimensions, not {shape:?}");
    }
    let kernel: usize = shape[2..].iter().product();
    (shape[1] * kernel, shape[0] * kernel)
}

/// All zero.
pub fn zeros(shape: impl Into<Shape>) -> Tensor {
    constant(shape, 0.0)
}

/// All one.
pub fn ones(shape: impl Into<Shape>) -> Tensor {
    constant(shape, 1.0)
}

/// All `value`.
pub fn constant(shape: impl Into<Shape>, value: f64) -> Tensor {
    ready(Tensor::full(shape, value, DType::F32))
}

thread_local! {
    static WITHOUT_VALUES: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`, in which random starting weights are zeros, and neither they nor constants take memory
/// or time: for a model that is made only to be loaded.
///
/// ```
/// use fornax_nn::{Linear, init};
/// let huge = init::without_values(|| Linear::new(1 << 20, 1 << 20));
/// assert_eq!(huge.weight.numel(), 1 << 40);
/// ```
pub fn without_values<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            WITHOUT_VALUES.set(self.0);
        }
    }
    let _restore = Restore(WITHOUT_VALUES.replace(true));
    f()
}

/// Whether this is called inside [`without_values`].
pub fn is_without_values() -> bool {
    WITHOUT_VALUES.get()
}

/// The zeros of [`without_values`], inside it.
fn placeholder(shape: &Shape) -> Option<Tensor> {
    let on = WITHOUT_VALUES.get();
    on.then(|| Tensor::zeros(shape.clone(), DType::F32))
}

/// Uniform in `[low, high)`.
pub fn uniform(shape: impl Into<Shape>, low: f64, high: f64) -> Tensor {
    let shape = shape.into();
    if let Some(zeros) = placeholder(&shape) {
        return zeros;
    }
    ready(Tensor::rand(shape, DType::F32) * (high - low) + low)
}

/// Normal with the given mean and standard deviation.
pub fn normal(shape: impl Into<Shape>, mean: f64, std: f64) -> Tensor {
    let shape = shape.into();
    if let Some(zeros) = placeholder(&shape) {
        return zeros;
    }
    ready(Tensor::randn(shape, DType::F32) * std + mean)
}

/// Normal, drawn again while outside `[low, high]` (absolute bounds, as in PyTorch's
/// `trunc_normal_`), by inverting the distribution function.
///
/// # Panics
/// If `low >= high` or `std <= 0`.
#[track_caller]
pub fn truncated_normal(
    shape: impl Into<Shape>,
    mean: f64,
    std: f64,
    low: f64,
    high: f64,
) -> Tensor {
    if low >= high || std <= 0.0 || [mean, std, low, high].iter().any(|v| v.is_nan()) {
        panic!("init: truncated_normal needs low < high and std > 0, not {low}, {high}, {std}");
    }
    let shape = shape.into();
    if let Some(zeros) = placeholder(&shape) {
        return zeros;
    }
    let bounds = Tensor::from_vec(vec![(low - mean) / std, (high - mean) / std], [2]);
    let below = ((bounds * std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0) * 0.5;
    let below = below.to_f64_vec();
    let draws = Tensor::rand([shape.numel()], DType::F64).to_f64_vec();
    let values: Vec<f32> = draws
        .into_iter()
        .map(|u| normal_quantile(below[0] + u * (below[1] - below[0])))
        .map(|z| (mean + std * z).clamp(low, high) as f32)
        .collect();
    Tensor::from_vec(values, shape)
}

/// Uniform within `gain * sqrt(6 / (fan_in + fan_out))` of zero (Glorot & Bengio 2010).
#[track_caller]
pub fn xavier_uniform(shape: impl Into<Shape>, gain: f64) -> Tensor {
    let shape = shape.into();
    let (i, o) = fans(&shape);
    symmetric(shape, gain * over(6.0, i + o))
}

/// Normal with standard deviation `gain * sqrt(2 / (fan_in + fan_out))` (Glorot & Bengio 2010).
#[track_caller]
pub fn xavier_normal(shape: impl Into<Shape>, gain: f64) -> Tensor {
    let shape = shape.into();
    let (i, o) = fans(&shape);
    normal(shape, 0.0, gain * over(2.0, i + o))
}

/// Uniform within `gain * sqrt(3 / fan)` of zero (He et al. 2015).
#[track_caller]
pub fn kaiming_uniform(shape: impl Into<Shape>, fan: Fan, nonlinearity: Nonlinearity) -> Tensor {
    let shape = shape.into();
    let bound = nonlinearity.gain() * over(3.0, pick(fan, &shape));
    symmetric(shape, bound)
}

/// Normal with standard deviation `gain / sqrt(fan)` (He et al. 2015).
#[track_caller]
pub fn kaiming_normal(shape: impl Into<Shape>, fan: Fan, nonlinearity: Nonlinearity) -> Tensor {
    let shape = shape.into();
    let std = nonlinearity.gain() * over(1.0, pick(fan, &shape));
    normal(shape, 0.0, std)
}

/// Uniform within `1 / sqrt(fan_in)` of zero: PyTorch's default for weights and biases of linear
/// and convolution layers (its `kaiming_uniform_(a=sqrt(5))`).
pub(crate) fn fan_in_uniform(shape: impl Into<Shape>, fan_in: usize) -> Tensor {
    symmetric(shape, over(1.0, fan_in))
}

/// Replaces parameters of a model: `f` gets each name and tensor and returns the new tensor, or
/// `None` to leave that one.
///
/// ```
/// use fornax_nn::{Linear, init};
/// let mut layer = Linear::new(3, 2);
/// init::apply(&mut layer, |name, t| {
///     name.ends_with("bias").then(|| init::zeros(t.shape()))
/// });
/// ```
///
/// # Panics
/// If a new tensor has another shape than the parameter.
#[track_caller]
pub fn apply(model: &mut dyn Module, mut f: impl FnMut(&str, &Tensor) -> Option<Tensor>) {
    let caller = std::panic::Location::caller();
    model.visit_mut(&mut Path::new(), &mut |path, entry| {
        let EntryMut::Param { tensor, .. } = entry else {
            return;
        };
        if let Some(new) = f(path, tensor) {
            assert_eq!(
                new.shape(),
                tensor.shape(),
                "init::apply at {caller}: `{path}` needs its own shape"
            );
            *tensor = new.to_dtype(tensor.dtype());
        }
    });
}

fn symmetric(shape: impl Into<Shape>, bound: f64) -> Tensor {
    uniform(shape, -bound, bound)
}

/// `sqrt(a / n)`, and 0 for an empty fan.
fn over(a: f64, n: usize) -> f64 {
    if n == 0 { 0.0 } else { (a / n as f64).sqrt() }
}

#[track_caller]
fn pick(fan: Fan, shape: &[usize]) -> usize {
    let (fan_in, fan_out) = fans(shape);
    match fan {
        Fan::In => fan_in,
        Fan::Out => fan_out,
    }
}

/// Computed at once, so that the first training step has the same graph as all others; not in
/// [`without_values`].
pub(crate) fn ready(t: Tensor) -> Tensor {
    if !is_without_values() {
        t.eval();
    }
    t
}

/// The standard normal quantile to 16 digits (Wichura 1988, algorithm AS 241).
fn normal_quantile(p: f64) -> f64 {
    let poly = |c: &[f64; 8], x: f64| c.iter().rev().fold(0.0, |acc, &k| acc * x + k);
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        let r = 0.180625 - q * q;
        return q * poly(&CENTRE.0, r) / poly(&CENTRE.1, r);
    }
    let tail = if q < 0.0 { p } else { 1.0 - p };
    let r = (-tail.ln()).sqrt();
    let z = if r <= 5.0 {
        poly(&MIDDLE.0, r - 1.6) / poly(&MIDDLE.1, r - 1.6)
    } else {
        // Beyond any double between 0 and 1; `tail` may round to 0.
        let r = r.min(27.0);
        poly(&FAR.0, r - 5.0) / poly(&FAR.1, r - 5.0)
    };
    if q < 0.0 { -z } else { z }
}

type Rational = ([f64; 8], [f64; 8]);
const CENTRE: Rational = (
    [
        3.387_132_872_796_366_5,
        1.331_416_678_917_843_8e2,
        1.971_590_950_306_551_3e3,
        1.373_169_376_550_946e4,
        4.592_195_393_154_987e4,
        6.726_577_092_700_87e4,
        3.343_057_558_358_813e4,
        2.509_080_928_730_122_7e3,
    ],
    [
        1.0,
        4.231_333_070_160_091e1,
        6.871_870_074_920_579e2,
        5.394_196_021_424_751e3,
        2.121_379_430_158_659_7e4,
        3.930_789_580_009_271e4,
        2.872_908_573_572_194_3e4,
        5.226_495_278_852_545e3,
    ],
);
const MIDDLE: Rational = (
    [
        1.423_437_110_749_683_5,
        4.630_337_846_156_546,
        5.769_497_221_460_691,
        3.647_848_324_763_204_5,
        1.270_458_252_452_368_4,
        2.417_807_251_774_506e-1,
        2.272_384_498_926_918_4e-2,
        7.745_450_142_783_414e-4,
    ],
    [
        1.0,
        2.053_191_626_637_759,
        1.676_384_830_183_803_8,
        6.897_673_349_851e-1,
        1.481_039_764_274_800_8e-1,
        1.519_866_656_361_645_7e-2,
        5.475_938_084_995_345e-4,
        1.050_750_071_644_416_9e-9,
    ],
);
const FAR: Rational = (
    [
        6.657_904_643_501_103,
        5.463_784_911_164_114,
        1.784_826_539_917_291_3,
        2.965_605_718_285_048_7e-1,
        2.653_218_952_657_612_4e-2,
        1.242_660_947_388_078_4e-3,
        2.711_555_568_743_487_6e-5,
        2.010_334_399_292_288_1e-7,
    ],
    [
        1.0,
        5.998_322_065_558_88e-1,
        1.369_298_809_227_358e-1,
        1.487_536_129_085_061_5e-2,
        7.868_691_311_456_133e-4,
        1.846_318_317_510_054_7e-5,
        1.421_511_758_316_446e-7,
        2.044_263_103_389_939_8e-15,
    ],
);

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_tensor::manual_seed;

    fn moments(t: &Tensor) -> (f64, f64, f64, f64) {
        let v = t.to_f64_vec();
        let mean = v.iter().sum::<f64>() / v.len() as f64;
        let var = v.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / v.len() as f64;
        let (low, high) = v
            .iter()
            .fold((f64::MAX, f64::MIN), |(a, b), &x| (a.min(x), b.max(x)));
        (mean, var.sqrt(), low, high)
    }

    #[test]
    fn quantiles_are_those_of_the_normal_distribution() {
        // From scipy.stats.norm.ppf.
        for (p, z) in [
            (0.5, 0.0),
            (0.975, 1.959963984540054),
            (0.05, -1.6448536269514729),
            (1e-10, -6.361340902404056),
            (0.2, -0.8416212335729142),
        ] {
            let got = normal_quantile(p);
            assert!(
                (got - z).abs() < 1e-13 * z.abs().max(1.0),
                "{p}: {got} is not {z}"
            );
        }
    }

    #[test]
    fn draws_have_their_moments() {
        manual_seed(1);
        let (mean, std, low, high) =
            moments(&kaiming_uniform([400, 100], Fan::In, Nonlinearity::Relu));
        let bound = (6f64 / 100.).sqrt();
        assert!(
            mean.abs() < 2e-3 && (std - bound / 3f64.sqrt()).abs() < 2e-3,
            "{mean} {std}"
        );
        assert!(low >= -bound && high <= bound);
        let (_, std, ..) = moments(&xavier_normal([200, 100, 2, 1], 2.0));
        assert!((std - 2.0 * (2f64 / 600.).sqrt()).abs() < 2e-3, "{std}");
        let (mean, std, low, high) = moments(&truncated_normal([50_000], 1.0, 2.0, 0.0, 2.0));
        assert!(
            low >= 0.0 && high <= 2.0 && (mean - 1.0).abs() < 0.01,
            "{mean} {low} {high}"
        );
        // The standard deviation of N(1, 2) kept within half a deviation of its mean.
        assert!((std - 0.5693).abs() < 0.01, "{std}");
    }

    #[test]
    fn empty_fans_give_empty_weights() {
        assert_eq!(fan_in_uniform([3, 0], 0).numel(), 0);
        assert_eq!(
            kaiming_normal([0, 4], Fan::Out, Nonlinearity::Linear).shape(),
            [0, 4]
        );
    }

    #[test]
    #[should_panic(expected = "at least two dimensions")]
    fn fans_need_two_dimensions() {
        fans(&[3]);
    }
}
