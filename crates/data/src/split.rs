//! Cutting a dataset into training, validation and test parts, as a function
//! of a seed.

use crate::dataset::{Dataset, SharedDataset, Subset, class_counts};
use crate::error::{Error, Result};
use crate::rng::{Philox, Purpose};
use std::sync::Arc;

/// A dataset's parts. All of them look at the same copy of the data.
#[derive(Clone)]
pub struct Splits {
    /// What the model learns from.
    pub train: SharedDataset,
    /// What is looked at during training, to choose when to stop and which model to keep.
    pub validation: Option<SharedDataset>,
    /// What is looked at once, at the end.
    pub test: Option<SharedDataset>,
}

impl Splits {
    /// Parts that exist already, such as MNIST's own training and test files.
    ///
    /// # Errors
    /// If the training part is empty, or a part differs from it in the shape
    /// of its samples or in its classes, or holds a class that it lacks.
    pub fn new(
        train: SharedDataset,
        validation: Option<SharedDataset>,
        test: Option<SharedDataset>,
    ) -> Result<Self> {
        if train.is_empty() {
            return Err(Error::Mismatch(format!(
                "the training part of \"{}\" has no samples",
                train.schema().name
            )));
        }
        for (part, data) in [("validation", &validation), ("test", &test)] {
            if let Some(data) = data {
                check_part(train.as_ref(), data.as_ref(), part)?;
            }
        }
        Ok(Splits {
            train,
            validation,
            test,
        })
    }
}

/// Checks that what is learned from `train` can be judged on `data`.
fn check_part(train: &dyn Dataset, data: &dyn Dataset, part: &str) -> Result<()> {
    let (a, b) = (train.schema(), data.schema());
    if a.sample_shape() != b.sample_shape() || a.target != b.target {
        return Err(Error::Mismatch(format!(
            "the {part} part has samples of shape {:?} with target {:?}, but the training part {:?} with {:?}",
            b.sample_shape(),
            b.target,
            a.sample_shape(),
            a.target
        )));
    }
    let Some(names) = a.classes() else {
        return Ok(());
    };
    let (known, asked) = (class_counts(train), class_counts(data));
    match (0..names.len()).find(|&c| known[c] == 0 && asked[c] > 0) {
        None => Ok(()),
        Some(c) => Err(Error::ClassNotInTraining {
            class: names[c].clone(),
            part: part.into(),
            count: asked[c],
        }),
    }
}

/// How to cut a dataset.
///
/// With stratification (the default where the target is a class) every part
/// has the classes in the proportions of the whole, up to rounding, and a
/// class never leaves the training part altogether.
///
/// ```
/// use fornax_data::{Dataset, Holdout, builtin};
///
/// let iris = builtin::load("iris", None)?.whole();
/// let splits = Holdout::new().test(0.2).validation(0.1).seed(7).split(&iris)?;
/// assert_eq!(splits.train.len(), 105);
/// assert_eq!(splits.test.unwrap().len(), 30);
/// # Ok::<(), fornax_data::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Holdout {
    test: f64,
    validation: f64,
    stratified: bool,
    seed: u64,
}

impl Default for Holdout {
    fn default() -> Self {
        Holdout::new()
    }
}

impl Holdout {
    /// Everything in the training part, stratified, seed 0.
    pub fn new() -> Self {
        Holdout {
            test: 0.0,
            validation: 0.0,
            stratified: true,
            seed: 0,
        }
    }

    /// The share of all samples that becomes the test part.
    pub fn test(mut self, share: f64) -> Self {
        self.test = share;
        self
    }

    /// The share of all samples that becomes the validation part.
    pub fn validation(mut self, share: f64) -> Self {
        self.validation = share;
        self
    }

    /// Whether each part gets the classes in the proportions of the whole.
    /// Without effect where the target is not a class.
    pub fn stratified(mut self, yes: bool) -> Self {
        self.stratified = yes;
        self
    }

    /// Which of the possible cuts to make.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Cuts `data`. The parts keep the samples in their order in `data`.
    ///
    /// # Errors
    /// If the shares are not in `0..1` or leave nothing to train on, a part
    /// that was asked for would be empty, or a class of another part is absent
    /// from the training part.
    pub fn split(&self, data: &SharedDataset) -> Result<Splits> {
        let name = &data.schema().name;
        let shares = [self.test, self.validation];
        if shares.iter().any(|s| !(0.0..1.0).contains(s)) || shares.iter().sum::<f64>() >= 1.0 {
            return Err(Error::Mismatch(format!(
                "the shares of \"{name}\" kept for test ({}) and validation ({}) must not be negative \
                 and must sum to less than 1",
                self.test, self.validation
            )));
        }
        let n = u32::try_from(data.len())
            .map_err(|_| Error::Mismatch(format!("\"{name}\" has more than 2^32 - 1 samples")))?;
        let groups: Vec<Vec<u32>> = match data.schema().classes() {
            Some(names) if self.stratified => {
                let mut groups = vec![Vec::new(); names.len()];
                for i in 0..n {
                    groups[data.class(i as usize) as usize].push(i);
                }
                groups
            }
            _ => vec![(0..n).collect()],
        };
        let (train, [test, validation]) = self.cut(groups, shares);
        for (part, share, indices) in [
            ("training", 1.0, &train),
            ("test", self.test, &test),
            ("validation", self.validation, &validation),
        ] {
            if share > 0.0 && indices.is_empty() {
                return Err(Error::Mismatch(format!(
                    "\"{name}\" has {n} samples, too few to keep any in the {part} part"
                )));
            }
        }
        let part = |indices: Vec<u32>| -> SharedDataset {
            Arc::new(Subset::new(Arc::clone(data), indices))
        };
        let some = |share: f64, indices| (share > 0.0).then(|| part(indices));
        Splits::new(
            part(train),
            some(self.validation, validation),
            some(self.test, test),
        )
    }

    /// Shares out each group's samples; returns what stays and what is held out.
    fn cut(&self, groups: Vec<Vec<u32>>, shares: [f64; 2]) -> (Vec<u32>, [Vec<u32>; 2]) {
        let mut rest = groups;
        for (g, group) in rest.iter_mut().enumerate() {
            Philox::new(self.seed, Purpose::Split, 0, g).shuffle(group);
        }
        let totals: Vec<usize> = rest.iter().map(Vec::len).collect();
        let held = shares.map(|share| {
            // One sample of each group always stays to be learned from.
            let room: Vec<usize> = rest.iter().map(|g| g.len().saturating_sub(1)).collect();
            let counts = apportion(&totals, share, &room);
            let mut taken = Vec::new();
            for (group, count) in rest.iter_mut().zip(counts) {
                taken.extend(group.drain(group.len() - count..));
            }
            taken.sort_unstable();
            taken
        });
        let mut train: Vec<u32> = rest.into_iter().flatten().collect();
        train.sort_unstable();
        (train, held)
    }
}

/// How many to take of each group so that the sum is the share of the whole,
/// rounded, each group gives its share as nearly as it can (largest remainders
/// first), and none gives more than `room`.
fn apportion(totals: &[usize], share: f64, room: &[usize]) -> Vec<usize> {
    let wanted = (totals.iter().sum::<usize>() as f64 * share).round() as usize;
    let exact: Vec<f64> = totals.iter().map(|&n| n as f64 * share).collect();
    let mut counts: Vec<usize> = exact
        .iter()
        .zip(room)
        .map(|(&e, &room)| (e as usize).min(room))
        .collect();
    let mut order: Vec<usize> = (0..totals.len()).collect();
    order.sort_by(|&a, &b| {
        exact[b]
            .fract()
            .total_cmp(&exact[a].fract())
            .then(a.cmp(&b))
    });
    let mut missing = wanted.saturating_sub(counts.iter().sum());
    while missing > 0 {
        let before = missing;
        for &g in &order {
            if missing > 0 && counts[g] < room[g] {
                counts[g] += 1;
                missing -= 1;
            }
        }
        if missing == before {
            break;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::InMemory;

    fn labelled(labels: Vec<i64>, classes: &[&str]) -> SharedDataset {
        let x = (0..labels.len()).map(|i| i as f32).collect();
        InMemory::classification("toy", &[1], x, labels, classes)
            .unwrap()
            .shared()
    }

    fn members(data: &SharedDataset) -> Vec<usize> {
        let mut x = [0.0];
        (0..data.len())
            .map(|i| {
                data.read(i, &mut x).unwrap();
                x[0] as usize
            })
            .collect()
    }

    #[test]
    fn parts_are_disjoint_complete_and_repeatable() {
        let data = labelled((0..103).map(|i| i % 3).collect(), &["a", "b", "c"]);
        for stratified in [true, false] {
            let cut = Holdout::new()
                .test(0.2)
                .validation(0.1)
                .stratified(stratified)
                .seed(5);
            let s = cut.split(&data).unwrap();
            let parts = [
                &s.train,
                s.validation.as_ref().unwrap(),
                s.test.as_ref().unwrap(),
            ];
            assert_eq!(parts.map(|p| p.len()), [72, 10, 21]);
            let mut all: Vec<usize> = parts.iter().flat_map(|p| members(p)).collect();
            all.sort();
            assert_eq!(all, (0..103).collect::<Vec<_>>());
            assert_eq!(members(&cut.split(&data).unwrap().train), members(&s.train));
            assert_ne!(
                members(&cut.clone().seed(6).split(&data).unwrap().train),
                members(&s.train)
            );
        }
    }

    #[test]
    fn stratification_keeps_proportions() {
        let labels = (0..1000).map(|i| i64::from(i % 10 == 0)).collect();
        let s = Holdout::new()
            .test(0.25)
            .split(&labelled(labels, &["common", "rare"]))
            .unwrap();
        assert_eq!(class_counts(s.test.unwrap().as_ref()), [225, 25]);
        assert_eq!(class_counts(s.train.as_ref()), [675, 75]);
    }

    #[test]
    fn a_class_of_one_sample_stays_in_training() {
        for seed in 0..20 {
            let data = labelled(vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 1], &["many", "one"]);
            let s = Holdout::new().test(0.5).seed(seed).split(&data).unwrap();
            assert_eq!(class_counts(s.train.as_ref()), [4, 1]);
        }
    }

    #[test]
    fn a_class_absent_from_training_is_an_error() {
        let data = labelled(vec![0, 0, 0, 1], &["seen", "unseen"]);
        let failures = (0..20)
            .filter_map(|seed| {
                let cut = Holdout::new().test(0.5).stratified(false).seed(seed);
                cut.split(&data).err().map(|e| e.to_string())
            })
            .collect::<Vec<_>>();
        assert!(!failures.is_empty() && failures.len() < 20);
        assert!(
            failures[0].contains("the class \"unseen\" has 1 sample(s) in the test part"),
            "{}",
            failures[0]
        );
    }

    #[test]
    fn shares_and_sizes_that_make_no_sense_are_refused() {
        let data = labelled(vec![0, 0, 0], &["a"]);
        for cut in [
            Holdout::new().test(1.0),
            Holdout::new().test(-0.1),
            Holdout::new().test(f64::NAN),
            Holdout::new().test(0.6).validation(0.4),
            Holdout::new().test(0.01),
        ] {
            assert!(cut.split(&data).is_err(), "{cut:?}");
        }
        assert!(Holdout::new().split(&labelled(vec![], &["a"])).is_err());
    }

    #[test]
    fn parts_of_different_shape_do_not_go_together() {
        let a = InMemory::regression("a", &[1], vec![0.0], vec![0.0]).unwrap();
        let b = InMemory::regression("b", &[2], vec![0.0; 2], vec![0.0]).unwrap();
        assert!(Splits::new(a.shared(), None, Some(b.shared())).is_err());
    }
}
