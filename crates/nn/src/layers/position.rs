//! How a Transformer is told where its tokens stand. Learned positions are an
//! [`Embedding`](crate::Embedding).

use crate::{Module, Param, init};
use fornax_tensor::{DType, Tensor};

/// Sines and cosines of rising wavelength, `[count, width]`: column `2 i` of row `p` is
/// `sin(p / 10000^(2 i / width))`, the next one the cosine of the same (Vaswani et al. 2017).
pub fn sinusoidal_positions(count: usize, width: usize) -> Tensor {
    let value = |p: usize, column: usize| {
        let i = column / 2 * 2;
        let angle = p as f64 / 10000f64.powf(i as f64 / width as f64);
        match column % 2 {
            0 => angle.sin() as f32,
            _ => angle.cos() as f32,
        }
    };
    let values = (0..count * width).map(|i| value(i / width, i % width));
    Tensor::from_vec(values.collect(), [count, width])
}

/// Rotary positions (Su et al. 2021): pairs of elements of queries and keys are turned by an angle
/// that grows with the position, so that their products depend on distances alone.
///
/// As in LLaMA's files, element `i` of the first half pairs with element `i` of the second.
///
/// ```
/// use fornax_nn::Rotary;
/// use fornax_tensor::{DType, Tensor};
/// let rotary = Rotary::new(8, 10000.0);
/// let q = Tensor::randn([1, 2, 3, 8], DType::F32);
/// let turned = rotary.at(&Tensor::arange(3, DType::I64).unsqueeze(0)).apply(&q);
/// assert_eq!(turned.shape(), q.shape());
/// ```
#[derive(Clone)]
pub struct Rotary {
    /// Angle per position of each pair, `[size / 2]`.
    frequencies: Vec<f32>,
}

impl Rotary {
    /// For heads of `size` elements; pair `i` turns by `theta^(-2 i / size)` per position.
    ///
    /// # Panics
    /// If the size is odd.
    #[track_caller]
    pub fn new(size: usize, theta: f64) -> Self {
        if !size.is_multiple_of(2) {
            panic!("Rotary: a size of {size} has no pairs");
        }
        let frequency = |i: usize| theta.powf(-((2 * i) as f64) / size as f64) as f32;
        Rotary {
            frequencies: (0..size / 2).map(frequency).collect(),
        }
    }

    /// With every pair's angle per position changed by `f`, as models for longer texts do.
    pub fn map(mut self, f: impl Fn(f64) -> f64) -> Self {
        for frequency in &mut self.frequencies {
            *frequency = f(*frequency as f64) as f32;
        }
        self
    }

    /// With each pair's angle per position divided by its own factor.
    ///
    /// # Panics
    /// If there is not one factor for each pair.
    #[track_caller]
    pub fn divided(mut self, factors: &[f64]) -> Self {
        let pairs = self.frequencies.len();
        if factors.len() != pairs {
            panic!("Rotary: {} factors for {pairs} pairs", factors.len());
        }
        for (frequency, factor) in self.frequencies.iter_mut().zip(factors) {
            *frequency = (*frequency as f64 / factor) as f32;
        }
        self
    }

    /// The turns of tokens at these positions, `[batch, time]` or `[1, time]`.
    #[track_caller]
    pub fn at(&self, positions: &Tensor) -> Turns {
        let half = self.frequencies.len();
        let frequencies = Tensor::from_slice(&self.frequencies, [half]);
        let angles = positions.to_dtype(DType::F32).unsqueeze(-1) * frequencies;
        let [batch, time] = [positions.dim(0), positions.dim(1)];
        // The first half loses what the second gains.
        let sign = Tensor::from_vec(vec![-1f32, 1.0], [2, 1]);
        let angles = angles.reshape([batch, 1, time, 1, half]);
        Turns {
            cos: angles.cos(),
            sin: angles.sin() * sign,
        }
    }
}

/// The turns of some tokens: see [`Rotary::at`].
pub struct Turns {
    /// `[batch, 1, time, 1, size / 2]`.
    cos: Tensor,
    /// `[batch, 1, time, 2, size / 2]`, negative for the first half.
    sin: Tensor,
}

impl Turns {
    /// Turns queries or keys `[batch, heads, time, size]`.
    #[track_caller]
    pub fn apply(&self, x: &Tensor) -> Tensor {
        let [b, h, t, d] = [x.dim(0), x.dim(1), x.dim(2), x.dim(3)];
        let halves = x.reshape([b, h, t, 2, d / 2]);
        let (cos, sin) = (self.cos.to_dtype(x.dtype()), self.sin.to_dtype(x.dtype()));
        let turned = &halves * cos + halves.flip(3) * sin;
        turned.reshape([b, h, t, d])
    }
}

/// A penalty on far keys instead of positions, ALiBi (Press et al. 2022): `-slope * distance`, with
/// a slope for each head that falls geometrically.
///
/// `distances [queries, keys]` tell how far before a query a key lies, as
/// [`Causal::distances`](crate::Causal::distances) does; the result is `[heads, queries, keys]`,
/// to be added to products.
pub fn alibi_bias(heads: usize, distances: &Tensor) -> Tensor {
    let slopes = Tensor::from_vec(alibi_slopes(heads), [heads, 1, 1]);
    -(slopes * distances.abs().to_dtype(DType::F32))
}

/// The slopes for a power of two are `2^(-8 i / heads)`; for other numbers, those of the next lower
/// power of two and every other one of the next higher.
fn alibi_slopes(heads: usize) -> Vec<f32> {
    let geometric = |n: usize| (1..=n).map(move |i| 2f32.powf(-8.0 * i as f32 / n as f32));
    let lower = match heads.is_power_of_two() {
        true => heads,
        false => (heads / 2 + 1).next_power_of_two(),
    };
    let between = geometric(2 * lower).step_by(2).take(heads - lower);
    geometric(lower).chain(between).collect()
}

/// T5's relative positions (Raffel et al. 2020): a learned number for each head and each bucket of
/// distances, added to products. Buckets are single distances at first and then grow.
#[derive(Module, Clone)]
pub struct RelativeBuckets {
    /// `[buckets, heads]`.
    pub weight: Param,
    /// The bucket of each distance from `-reach` to `reach`.
    #[module(skip)]
    buckets: Vec<i64>,
    #[module(skip)]
    reach: usize,
}

impl RelativeBuckets {
    /// `buckets` buckets, the last for distances of `reach` and beyond. With `both_sides`, half of
    /// them are for keys behind the query. Weights are normal with deviation `std`.
    ///
    /// # Panics
    /// If there are fewer than four buckets, or they reach further than `reach`.
    #[track_caller]
    pub fn new(buckets: usize, reach: usize, heads: usize, both_sides: bool, std: f64) -> Self {
        let side = if both_sides { buckets / 2 } else { buckets };
        if side < 2 || reach <= side / 2 {
            panic!("RelativeBuckets: {buckets} buckets for distances up to {reach}");
        }
        let reach_i = reach as i64;
        // How far before the query the key lies.
        let bucket = |distance: i64| {
            let behind = both_sides && distance < 0;
            let n = match both_sides {
                true => distance.abs(),
                false => distance.max(0),
            };
            sized(n, side, reach) + if behind { side as i64 } else { 0 }
        };
        RelativeBuckets {
            weight: Param::new(init::normal([buckets, heads], 0.0, std)),
            buckets: (-reach_i..=reach_i).map(bucket).collect(),
            reach,
        }
    }

    /// What to add to products, `[heads, queries, keys]`, for keys that lie `distances [queries,
    /// keys]` before their queries.
    #[track_caller]
    pub fn bias(&self, distances: &Tensor) -> Tensor {
        let reach = self.reach as i64;
        let buckets = Tensor::from_slice(&self.buckets, [self.buckets.len()]);
        let place = distances.clamp(-reach, reach) + reach;
        let [queries, keys] = [distances.dim(0), distances.dim(1)];
        let bucket = buckets.gather(0, &place.reshape([queries * keys]));
        let bias = self.weight.embedding(&bucket.reshape([queries, keys]));
        bias.permute([2, 0, 1])
    }
}

/// The bucket of a distance `n >= 0`: half of them are single distances, the others grow
/// logarithmically up to `reach`. In f32, as PyTorch computes it.
fn sized(n: i64, buckets: usize, reach: usize) -> i64 {
    let exact = buckets / 2;
    if n < exact as i64 {
        return n;
    }
    let span = (reach as f64 / exact as f64).ln() as f32;
    let grown = (n as f32 / exact as f32).ln() / span * (buckets - exact) as f32;
    (exact as i64 + grown as i64).min(buckets as i64 - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sinusoids_are_those_of_the_paper() {
        let table = sinusoidal_positions(6, 5).to_vec::<f32>();
        let angle = 3.0 / 10000f32.powf(2.0 / 5.0);
        assert_eq!(table[..5], [0.0, 1.0, 0.0, 1.0, 0.0]);
        for (column, want) in [
            (0, 3f32.sin()),
            (1, 3f32.cos()),
            (2, angle.sin()),
            (3, angle.cos()),
        ] {
            assert!((table[3 * 5 + column] - want).abs() < 1e-6, "{column}");
        }
    }

    #[test]
    fn turned_products_depend_on_distances() {
        let rotary = Rotary::new(6, 100.0);
        let [q, k] = [(); 2].map(|_| Tensor::randn([1, 1, 1, 6], DType::F32));
        let product = |i: i64, j: i64| {
            let at = |x: &Tensor, p| rotary.at(&Tensor::from_vec(vec![p], [1, 1])).apply(x);
            (at(&q, i) * at(&k, j)).sum(..).item()
        };
        assert!((product(0, 0) - (&q * &k).sum(..).item()).abs() < 1e-5);
        assert!((product(7, 4) - product(13, 10)).abs() < 1e-4);
        assert!((product(7, 4) - product(7, 5)).abs() > 1e-3);
        let (fast, slow) = (rotary.clone(), rotary.map(|f| f / 2.0));
        assert_eq!(fast.frequencies[0], 2.0 * slow.frequencies[0]);
        let own = fast.clone().divided(&[1.0, 2.0, 4.0]);
        assert_eq!(own.frequencies[0], fast.frequencies[0]);
        assert_eq!(own.frequencies[2], slow.frequencies[2] / 2.0);
    }

    #[test]
    fn alibi_slopes_are_those_of_the_paper() {
        assert_eq!(alibi_slopes(8)[..3], [0.5, 0.25, 0.125]);
        let twelve = alibi_slopes(12);
        assert_eq!(twelve.len(), 12);
        assert_eq!(twelve[8], 2f32.powf(-0.5));
        assert_eq!(twelve[11], 2f32.powf(-3.5));
        let distances = Tensor::from_vec(vec![0i64, 3], [1, 2]);
        assert_eq!(
            alibi_bias(8, &distances).to_vec::<f32>()[..4],
            [0.0, -1.5, 0.0, -0.75]
        );
    }

    #[test]
    fn buckets_grow() {
        // From transformers' T5Attention._relative_position_bucket, 8 buckets up to 20.
        let one = RelativeBuckets::new(8, 20, 1, false, 1.0);
        let at = |b: &RelativeBuckets, distance: i64| b.buckets[(distance + 20) as usize];
        let found: Vec<i64> = [-5, 0, 3, 4, 5, 6, 8, 9, 13, 14, 20]
            .map(|d| at(&one, d))
            .to_vec();
        assert_eq!(found, [0, 0, 3, 4, 4, 5, 5, 6, 6, 7, 7]);
        let two = RelativeBuckets::new(8, 20, 1, true, 1.0);
        let found: Vec<i64> = [-20, -3, -1, 0, 1, 2, 6, 7, 20]
            .map(|d| at(&two, d))
            .to_vec();
        assert_eq!(found, [7, 6, 5, 0, 1, 2, 2, 3, 3]);
    }
}
