//! What is done to every sample before the model sees it: missing values are
//! filled and the numbers brought to a common scale. The rule is fitted on the
//! training part only and saved with the model.

use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::schema::{Input, Schema, TargetKind};
use crate::table::{ColumnKind, Missing};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How to bring features to a common scale.
///
/// Images are scaled by channel, rows of a table by feature.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scaling {
    /// As they are.
    None,
    /// `(x - mean) / std` of the training part (std of the population, as scikit-learn's `StandardScaler`).
    #[default]
    Standard,
    /// `(x - min) / (max - min)` of the training part.
    MinMax,
    /// `(x - mean) / std` with given numbers, one each for all channels or one per channel.
    Fixed {
        /// What is subtracted.
        mean: Vec<f32>,
        /// What the result is divided by.
        std: Vec<f32>,
    },
}

/// The fitted rule: `x -> (x - offset) / scale` by channel, with NaN replaced
/// by `fill` first. It can be serialised, to be applied when predicting.
///
/// ```
/// use fornax_data::{InMemory, Preprocess, Scaling};
///
/// let train = InMemory::regression("t", &[2], vec![1.0, 10.0, 3.0, 30.0], vec![0.0, 1.0])?;
/// let rule = Preprocess::fit(&train, &Scaling::Standard)?;
/// let mut x = [3.0, 10.0];
/// rule.apply(&mut x);
/// assert_eq!(x, [1.0, -1.0]);
/// # Ok::<(), fornax_data::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preprocess {
    /// By channel: what is subtracted.
    offset: Vec<f32>,
    /// By channel: what the result is divided by; never 0.
    scale: Vec<f32>,
    /// By feature: what replaces a missing value; empty where none can be missing.
    fill: Vec<f32>,
    /// How many numbers a sample has.
    sample: usize,
    /// What is subtracted from a target that is a number, and what the result is divided by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<(f32, f32)>,
}

impl Preprocess {
    /// The rule that changes nothing about samples of `schema`'s shape.
    pub fn identity(schema: &Schema) -> Self {
        Preprocess {
            offset: vec![],
            scale: vec![],
            fill: vec![],
            sample: schema.sample_len(),
            target: None,
        }
    }

    /// Fits a rule to `train`, which should be the training part only, lest the
    /// test part leak into the model. A feature that is constant there is only
    /// shifted, to 0.
    ///
    /// # Errors
    /// If a sample cannot be read, a feature is missing in all of `train`, or
    /// given numbers do not fit the channels.
    pub fn fit(train: &dyn Dataset, scaling: &Scaling) -> Result<Self> {
        let schema = train.schema();
        let mut rule = Preprocess::identity(schema);
        rule.fill = fit_fill(train)?;
        let (channels, inner) = schema.channels();
        (rule.offset, rule.scale) = match scaling {
            Scaling::None => (vec![], vec![]),
            Scaling::Fixed { mean, std } => {
                let spread = |what: &str, v: &[f32]| match v {
                    [one] => Ok(vec![*one; channels]),
                    _ if v.len() == channels => Ok(v.to_vec()),
                    _ => Err(Error::Mismatch(format!(
                        "the scaling of \"{}\" gives {} numbers for {what}, but there are {channels} channels",
                        schema.name,
                        v.len()
                    ))),
                };
                (spread("mean", mean)?, spread("std", std)?)
            }
            Scaling::Standard | Scaling::MinMax => {
                let stats = rule.measure(train, channels, inner)?;
                match scaling {
                    Scaling::MinMax => stats.iter().map(Stats::min_max).unzip(),
                    _ => stats.iter().map(Stats::standard).unzip(),
                }
            }
        };
        if rule.scale.iter().any(|s| *s == 0.0 || !s.is_finite()) {
            return Err(Error::Mismatch(format!(
                "the scaling of \"{}\" would divide by {:?}; every number must be finite and not 0",
                schema.name, rule.scale
            )));
        }
        Ok(rule)
    }

    /// The rule that also brings targets that are numbers to mean 0 and deviation 1 in `train`;
    /// where the target is a class, the same rule. A network starts with outputs about 0, and
    /// would need most of its training to reach targets far from there.
    ///
    /// # Errors
    /// If a sample cannot be read.
    pub fn standardize_target(mut self, train: &dyn Dataset) -> Result<Self> {
        if let TargetKind::Values { shape, .. } = &train.schema().target {
            let mut y = vec![0.0; shape.iter().product()];
            let mut stats = Stats::default();
            for i in 0..train.len() {
                train.read_values(i, &mut y)?;
                stats.add(&y);
            }
            self.target = Some(stats.standard());
        }
        Ok(self)
    }

    /// Applies the rule to one sample's target in place.
    pub fn apply_target(&self, target: &mut [f32]) {
        if let Some((offset, scale)) = self.target {
            for y in target {
                *y = (*y - offset) / scale;
            }
        }
    }

    /// A predicted number in the target's own units.
    pub fn undo_target(&self, predicted: f64) -> f64 {
        match self.target {
            Some((offset, scale)) => predicted * f64::from(scale) + f64::from(offset),
            None => predicted,
        }
    }

    /// How many of the target's own units a difference of 1 is.
    pub fn target_scale(&self) -> f64 {
        self.target.map_or(1.0, |(_, scale)| f64::from(scale))
    }

    fn measure(&self, train: &dyn Dataset, channels: usize, inner: usize) -> Result<Vec<Stats>> {
        let mut x = vec![0.0; self.sample];
        let mut stats = vec![Stats::default(); channels];
        for i in 0..train.len() {
            train.read(i, &mut x)?;
            self.fill_missing(&mut x);
            for (stats, x) in stats.iter_mut().zip(x.chunks_exact(inner.max(1))) {
                stats.add(x);
            }
        }
        Ok(stats)
    }

    fn fill_missing(&self, sample: &mut [f32]) {
        for (x, fill) in sample.iter_mut().zip(&self.fill) {
            if x.is_nan() {
                *x = *fill;
            }
        }
    }

    /// Applies the rule to one sample in place.
    ///
    /// # Panics
    /// If the sample is not of the size that the rule was fitted to.
    #[track_caller]
    pub fn apply(&self, sample: &mut [f32]) {
        assert_eq!(
            sample.len(),
            self.sample,
            "the rule was fitted to samples of {} numbers",
            self.sample
        );
        self.fill_missing(sample);
        if self.scale.is_empty() {
            return;
        }
        let inner = self.sample / self.scale.len();
        let rules = self.offset.iter().zip(&self.scale);
        if inner == 1 {
            for (x, (offset, scale)) in sample.iter_mut().zip(rules) {
                *x = (*x - offset) / scale;
            }
        } else {
            for (channel, (&offset, &scale)) in sample.chunks_exact_mut(inner).zip(rules) {
                for x in channel {
                    *x = (*x - offset) / scale;
                }
            }
        }
    }

    /// How many numbers the samples have that this rule is for.
    pub fn sample_len(&self) -> usize {
        self.sample
    }

    /// Checks that a rule read from a file is sound and made for samples of this kind.
    ///
    /// # Errors
    /// If it is not.
    pub fn check(&self, schema: &Schema) -> Result<()> {
        let (channels, _) = schema.channels();
        let sound = self.sample == schema.sample_len()
            && (self.scale.is_empty() || self.scale.len() == channels)
            && self.offset.len() == self.scale.len()
            && (self.fill.is_empty() || self.fill.len() == self.sample)
            && self.scale.iter().all(|s| *s != 0.0)
            && self.target.is_none_or(|(offset, scale)| {
                schema.classes().is_none()
                    && offset.is_finite()
                    && scale.is_finite()
                    && scale != 0.0
            });
        match sound {
            true => Ok(()),
            false => Err(Error::Mismatch(format!(
                "the scaling was fitted to samples of {} numbers, but those of \"{}\" have {} in {channels} channels",
                self.sample,
                schema.name,
                schema.sample_len()
            ))),
        }
    }
}

/// Running mean, variance and range of a channel, in `f64` about the first value met.
#[derive(Debug, Clone, Default)]
struct Stats {
    count: u64,
    origin: f64,
    sum: f64,
    squares: f64,
    min: f32,
    max: f32,
}

impl Stats {
    fn add(&mut self, xs: &[f32]) {
        if self.count == 0
            && let Some(&x) = xs.first()
        {
            (self.origin, self.min, self.max) = (x.into(), x, x);
        }
        self.count += xs.len() as u64;
        for &x in xs {
            let d = f64::from(x) - self.origin;
            self.sum += d;
            self.squares += d * d;
            self.min = self.min.min(x);
            self.max = self.max.max(x);
        }
    }

    fn standard(&self) -> (f32, f32) {
        let n = self.count.max(1) as f64;
        let mean = self.sum / n;
        let std = (self.squares / n - mean * mean).max(0.0).sqrt() as f32;
        let constant = self.min == self.max || std == 0.0;
        (
            (self.origin + mean) as f32,
            if constant { 1.0 } else { std },
        )
    }

    fn min_max(&self) -> (f32, f32) {
        let range = self.max - self.min;
        (self.min, if range == 0.0 { 1.0 } else { range })
    }
}

/// What replaces missing values, by feature, as the table's rule demands.
fn fit_fill(train: &dyn Dataset) -> Result<Vec<f32>> {
    let schema = train.schema();
    let Input::Table(table) = &schema.input else {
        return Ok(vec![]);
    };
    if table.missing == Missing::Error {
        return Ok(vec![]);
    }
    let width = table.width();
    let mut x = vec![0.0f32; width];
    let mut sums = vec![0.0f64; width];
    let mut counts = vec![0usize; width];
    // How often each number occurs, where the most frequent is asked for; the key orders as the number does.
    let mut seen: Vec<BTreeMap<i64, usize>> = vec![BTreeMap::new(); width];
    for i in 0..train.len() {
        train.read(i, &mut x)?;
        for (f, &x) in x.iter().enumerate().filter(|(_, x)| !x.is_nan()) {
            sums[f] += f64::from(x);
            counts[f] += 1;
            if table.missing == Missing::MostFrequent {
                *seen[f].entry(order(x)).or_default() += 1;
            }
        }
    }
    let mut fill = vec![0.0; width];
    for (column, span) in table.spans() {
        if counts[span.start] == 0 {
            return Err(Error::Mismatch(format!(
                "the column \"{}\" of \"{}\" has no value in the training part to fill missing ones with; list it in data.ignore",
                column.name, schema.name
            )));
        }
        match (&column.kind, table.missing) {
            (ColumnKind::Number, Missing::MostFrequent) => {
                let best = seen[span.start]
                    .iter()
                    .rev()
                    .max_by_key(|(_, count)| **count);
                fill[span.start] = best.map_or(0.0, |(key, _)| number(*key));
            }
            (ColumnKind::Number, _) => {
                fill[span.start] = (sums[span.start] / counts[span.start] as f64) as f32;
            }
            (ColumnKind::Categories(_), _) => {
                let best = span
                    .clone()
                    .rev()
                    .max_by(|&a, &b| sums[a].total_cmp(&sums[b]));
                fill[best.unwrap_or(span.start)] = 1.0;
            }
        }
    }
    Ok(fill)
}

/// An integer that orders as the number does, and gives it back.
fn order(x: f32) -> i64 {
    let x = if x == 0.0 { 0.0 } else { x };
    let bits = i64::from(x.to_bits() & 0x7fff_ffff);
    if x < 0.0 { -bits } else { bits }
}

fn number(key: i64) -> f32 {
    let x = f32::from_bits(key.unsigned_abs() as u32);
    if key < 0 { -x } else { x }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{InMemory, Subset};
    use crate::table::{CsvOptions, parse_csv};

    fn table(text: &str, missing: Missing) -> InMemory {
        let options = CsvOptions {
            missing,
            ..CsvOptions::default()
        };
        parse_csv("t.csv".as_ref(), text.into(), &options).unwrap()
    }

    fn row(data: &dyn Dataset, rule: &Preprocess, i: usize) -> Vec<f32> {
        let mut x = vec![0.0; data.schema().sample_len()];
        data.read(i, &mut x).unwrap();
        rule.apply(&mut x);
        x
    }

    #[test]
    fn standard_scaling_has_mean_0_and_variance_1_by_feature() {
        let x = vec![1e6, 5.0, 1e6 + 1.0, 5.0, 1e6 + 2.0, 5.0];
        let data = InMemory::regression("r", &[2], x, vec![0.0; 3]).unwrap();
        let rule = Preprocess::fit(&data, &Scaling::Standard).unwrap();
        let s = 1.5f32.sqrt();
        for (i, want) in [-s, 0.0, s].into_iter().enumerate() {
            let got = row(&data, &rule, i);
            assert!((got[0] - want).abs() < 1e-6, "{got:?}");
            assert_eq!(got[1], 0.0);
        }
    }

    #[test]
    fn images_scale_by_channel() {
        let x = vec![0.0, 2.0, 10.0, 10.0, 4.0, 6.0, 30.0, 30.0];
        let mut data = InMemory::classification("i", &[2, 1, 2], x, vec![0, 0], &["a"]).unwrap();
        let rule = Preprocess::fit(&data, &Scaling::MinMax).unwrap();
        assert_eq!(row(&data, &rule, 1), [4.0 / 6.0, 1.0, 1.0, 1.0]);
        let fixed = Scaling::Fixed {
            mean: vec![1.0],
            std: vec![2.0, 4.0],
        };
        let rule = Preprocess::fit(&data, &fixed).unwrap();
        assert_eq!(row(&data, &rule, 0), [-0.5, 0.5, 2.25, 2.25]);
        data = InMemory::regression("i", &[3], vec![], vec![]).unwrap();
        assert!(Preprocess::fit(&data, &fixed).is_err());
        assert!(rule.check(data.schema()).is_err());
    }

    #[test]
    fn targets_that_are_numbers_are_standardised_where_asked_for() {
        let values = vec![1e6, 1e6 + 2.0, 1e6 + 4.0];
        let data = InMemory::regression("r", &[1], vec![0.0; 3], values).unwrap();
        let plain = Preprocess::fit(&data, &Scaling::None).unwrap();
        let mut y = [7.0];
        plain.apply_target(&mut y);
        assert_eq!(
            (y, plain.undo_target(7.0), plain.target_scale()),
            ([7.0], 7.0, 1.0)
        );
        let rule = plain.clone().standardize_target(&data).unwrap();
        let mut y = [1e6, 1e6 + 2.0, 1e6 + 4.0];
        rule.apply_target(&mut y);
        let s = 1.5f32.sqrt();
        assert!(
            (y[0] + s).abs() < 1e-6 && y[1] == 0.0 && (y[2] - s).abs() < 1e-6,
            "{y:?}"
        );
        assert!((rule.undo_target(f64::from(y[2])) - 1_000_004.0).abs() < 1e-3);
        assert!(rule.check(data.schema()).is_ok());
        let classes = InMemory::classification("c", &[1], vec![0.0], vec![0], &["a"]).unwrap();
        assert!(rule.check(classes.schema()).is_err());
        assert_eq!(plain.clone().standardize_target(&classes).unwrap(), plain);
        // All the same: nothing to divide by.
        let same = InMemory::regression("r", &[1], vec![0.0; 2], vec![5.0; 2]).unwrap();
        let rule = Preprocess::fit(&same, &Scaling::None).unwrap();
        assert_eq!(
            rule.standardize_target(&same).unwrap().undo_target(0.0),
            5.0
        );
    }

    #[test]
    fn a_divisor_of_zero_is_refused() {
        let data = InMemory::regression("i", &[1], vec![1.0], vec![0.0]).unwrap();
        for std in [0.0, f32::NAN, f32::INFINITY] {
            let fixed = Scaling::Fixed {
                mean: vec![0.0],
                std: vec![std],
            };
            assert!(Preprocess::fit(&data, &fixed).is_err());
        }
    }

    #[test]
    fn missing_values_are_filled_from_the_training_part_only() {
        let text = "n,c,y\n1,red,a\n3,red,b\n,blue,a\n3,,b\n100,blue,a\n100,blue,a\n";
        let data = table(text, Missing::Mean).shared();
        let train = Subset::new(data.clone(), vec![0, 1, 2, 3]);
        let rule = Preprocess::fit(&train, &Scaling::None).unwrap();
        assert_eq!(row(&data, &rule, 2), [7.0 / 3.0, 1.0, 0.0]);
        assert_eq!(row(&data, &rule, 3), [3.0, 0.0, 1.0]);
        let data = table(text, Missing::MostFrequent).shared();
        let train = Subset::new(data.clone(), vec![0, 1, 2, 3]);
        let rule = Preprocess::fit(&train, &Scaling::None).unwrap();
        assert_eq!(row(&data, &rule, 2), [3.0, 1.0, 0.0]);
    }

    #[test]
    fn ties_go_to_the_smallest_and_empty_columns_are_named() {
        let data = table("n,y\n-2,a\n-1,b\n,a\n4,b\n", Missing::MostFrequent);
        let rule = Preprocess::fit(&data, &Scaling::None).unwrap();
        assert_eq!(row(&data, &rule, 2), [-2.0]);
        let train = Subset::new(data.shared(), vec![2]);
        let text = Preprocess::fit(&train, &Scaling::None)
            .unwrap_err()
            .to_string();
        assert!(text.contains("the column \"n\""), "{text}");
    }

    #[test]
    fn a_rule_survives_json_to_the_bit() {
        let x = vec![0.1, 0.7, 1.0 / 3.0];
        let data = InMemory::regression("r", &[1], x.clone(), x).unwrap();
        let rule = Preprocess::fit(&data, &Scaling::Standard).unwrap();
        let rule = rule.standardize_target(&data).unwrap();
        let text = serde_json::to_string(&rule).unwrap();
        assert_eq!(serde_json::from_str::<Preprocess>(&text).unwrap(), rule);
    }
}
