//! Datasets: samples by number, one copy in memory however many parts and
//! loaders look at it.

use crate::error::{Error, Result};
use crate::schema::{Input, Schema, TargetKind};
use std::sync::Arc;

/// Samples that can be read by number, from any thread.
pub trait Dataset: Send + Sync {
    /// What the samples are.
    fn schema(&self) -> &Schema;

    /// How many samples there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes the features of sample `index` into `x`, which holds
    /// `schema().sample_len()` numbers. A missing value is NaN.
    ///
    /// # Errors
    /// Where reading needs a file, what is wrong with that file.
    ///
    /// # Panics
    /// If `index` or the length of `x` is out of range.
    fn read(&self, index: usize, x: &mut [f32]) -> Result<()>;

    /// The class of sample `index`, in `0..classes`.
    ///
    /// # Panics
    /// If the dataset's target is not a class, or `index` is out of range.
    fn class(&self, index: usize) -> i64 {
        let _ = index;
        panic!("the dataset \"{}\" has no classes", self.schema().name)
    }

    /// Writes the target of sample `index` into `y`, which holds as many
    /// numbers as `schema().target_shape()` says.
    ///
    /// # Errors
    /// As [`read`](Dataset::read).
    ///
    /// # Panics
    /// If the dataset's target is a class, or `index` is out of range.
    fn read_values(&self, index: usize, y: &mut [f32]) -> Result<()> {
        let _ = (index, y);
        panic!(
            "the dataset \"{}\" has no target values",
            self.schema().name
        )
    }
}

/// How datasets are passed around: one shared copy.
pub type SharedDataset = Arc<dyn Dataset>;

impl<D: Dataset + ?Sized> Dataset for Arc<D> {
    fn schema(&self) -> &Schema {
        (**self).schema()
    }

    fn len(&self) -> usize {
        (**self).len()
    }

    fn read(&self, index: usize, x: &mut [f32]) -> Result<()> {
        (**self).read(index, x)
    }

    fn class(&self, index: usize) -> i64 {
        (**self).class(index)
    }

    fn read_values(&self, index: usize, y: &mut [f32]) -> Result<()> {
        (**self).read_values(index, y)
    }
}

/// How many samples each class has, in the order of the classes' names.
///
/// # Panics
/// If the dataset's target is not a class.
pub fn class_counts(data: &dyn Dataset) -> Vec<usize> {
    let names = data.schema().classes();
    let mut counts = vec![
        0;
        names
            .expect("class_counts needs a dataset with classes")
            .len()
    ];
    for i in 0..data.len() {
        counts[data.class(i) as usize] += 1;
    }
    counts
}

/// The features of all samples, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub enum Features {
    /// Bytes that stand for `byte / divisor`: images keep a quarter of the memory that floats need.
    Bytes {
        /// The bytes.
        data: Vec<u8>,
        /// The byte that stands for 1: 255 makes pixels lie between 0 and 1.
        divisor: f32,
    },
    /// Plain numbers; NaN where a value is missing.
    Floats(Vec<f32>),
}

/// The targets of all samples, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    /// A class each.
    Classes(Vec<i64>),
    /// Numbers.
    Values(Vec<f32>),
}

/// A dataset that lies in memory as a whole.
///
/// ```
/// use fornax_data::{Dataset, InMemory};
///
/// let data = InMemory::classification("points", &[2], vec![0.0, 1.0, 2.0, 3.0], vec![0, 1], &["low", "high"])?;
/// let mut x = [0.0; 2];
/// data.read(1, &mut x)?;
/// assert_eq!((x, data.class(1)), ([2.0, 3.0], 1));
/// # Ok::<(), fornax_data::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct InMemory {
    schema: Schema,
    features: Features,
    targets: Targets,
    len: usize,
    sample: usize,
}

impl InMemory {
    /// A dataset of the given parts.
    ///
    /// # Errors
    /// If the numbers of features and targets do not fit each other and the
    /// schema, or a class is out of range.
    pub fn new(schema: Schema, features: Features, targets: Targets) -> Result<Self> {
        let name = &schema.name;
        let mismatch =
            |what: String| Err(Error::Mismatch(format!("the dataset \"{name}\": {what}")));
        let sample = schema.sample_len();
        let numbers = match &features {
            Features::Bytes { data, .. } => data.len(),
            Features::Floats(data) => data.len(),
        };
        if sample == 0 {
            return mismatch("its samples have no features".into());
        }
        let len = match (&targets, &schema.target) {
            (Targets::Classes(labels), TargetKind::Classes { names }) => {
                let range = 0..names.len() as i64;
                if let Some(i) = labels.iter().position(|c| !range.contains(c)) {
                    let label = labels[i];
                    let classes = names.len();
                    return mismatch(format!(
                        "sample {i} has class {label}, but there are {classes} classes, numbered from 0"
                    ));
                }
                labels.len()
            }
            (Targets::Values(values), TargetKind::Values { shape, .. }) => {
                let per_sample: usize = shape.iter().product();
                if per_sample == 0 || values.len() % per_sample != 0 {
                    return mismatch(format!(
                        "{} target numbers do not make whole targets of shape {shape:?}",
                        values.len()
                    ));
                }
                values.len() / per_sample
            }
            _ => return mismatch("its targets are not of the kind that its schema says".into()),
        };
        if numbers != len * sample {
            return mismatch(format!(
                "{len} targets need {} features ({sample} each), but there are {numbers}",
                len * sample
            ));
        }
        Ok(InMemory {
            schema,
            features,
            targets,
            len,
            sample,
        })
    }

    /// Samples of `shape`, each with one of the named classes.
    ///
    /// # Errors
    /// As [`InMemory::new`].
    pub fn classification(
        name: &str,
        shape: &[usize],
        features: Vec<f32>,
        labels: Vec<i64>,
        classes: &[&str],
    ) -> Result<Self> {
        let schema = Schema {
            name: name.into(),
            input: input_of(shape),
            target: TargetKind::Classes {
                names: classes.iter().map(|c| c.to_string()).collect(),
            },
        };
        InMemory::new(schema, Features::Floats(features), Targets::Classes(labels))
    }

    /// Samples of `shape`, each with one number to predict.
    ///
    /// # Errors
    /// As [`InMemory::new`].
    pub fn regression(
        name: &str,
        shape: &[usize],
        features: Vec<f32>,
        values: Vec<f32>,
    ) -> Result<Self> {
        let schema = Schema {
            name: name.into(),
            input: input_of(shape),
            target: TargetKind::Values {
                shape: vec![],
                name: "value".into(),
            },
        };
        InMemory::new(schema, Features::Floats(features), Targets::Values(values))
    }

    /// The same dataset as one that is shared.
    pub fn shared(self) -> SharedDataset {
        Arc::new(self)
    }

    /// All features, as they are stored.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// All targets.
    pub fn targets(&self) -> &Targets {
        &self.targets
    }
}

/// Three axes of 1 or 3 channels are taken for an image.
fn input_of(shape: &[usize]) -> Input {
    match *shape {
        [channels @ (1 | 3), height, width] => Input::Image {
            channels,
            height,
            width,
        },
        _ => Input::Array {
            shape: shape.to_vec(),
        },
    }
}

impl Dataset for InMemory {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn len(&self) -> usize {
        self.len
    }

    fn read(&self, index: usize, x: &mut [f32]) -> Result<()> {
        let range = index * self.sample..(index + 1) * self.sample;
        match &self.features {
            Features::Floats(data) => x.copy_from_slice(&data[range]),
            Features::Bytes { data, divisor } => {
                let bytes = &data[range];
                assert_eq!(x.len(), bytes.len(), "room for one sample");
                for (x, &byte) in x.iter_mut().zip(bytes) {
                    *x = f32::from(byte) / divisor;
                }
            }
        }
        Ok(())
    }

    fn class(&self, index: usize) -> i64 {
        match &self.targets {
            Targets::Classes(labels) => labels[index],
            Targets::Values(_) => panic!("the dataset \"{}\" has no classes", self.schema.name),
        }
    }

    fn read_values(&self, index: usize, y: &mut [f32]) -> Result<()> {
        match &self.targets {
            Targets::Values(values) => {
                let n = y.len();
                y.copy_from_slice(&values[index * n..(index + 1) * n]);
                Ok(())
            }
            Targets::Classes(_) => {
                panic!(
                    "the dataset \"{}\" has classes, not values",
                    self.schema.name
                )
            }
        }
    }
}

/// Some of the samples of another dataset, in a given order; nothing is copied.
#[derive(Clone)]
pub struct Subset {
    data: SharedDataset,
    indices: Arc<[u32]>,
}

impl Subset {
    /// The samples `indices` of `data`.
    ///
    /// # Panics
    /// If an index is out of range.
    #[track_caller]
    pub fn new(data: SharedDataset, indices: Vec<u32>) -> Self {
        let n = data.len();
        if let Some(i) = indices.iter().find(|&&i| i as usize >= n) {
            panic!("a subset of {n} samples has no sample {i}");
        }
        Subset {
            data,
            indices: indices.into(),
        }
    }

    /// The number that sample `index` of this subset has in the whole dataset.
    pub fn base_index(&self, index: usize) -> usize {
        self.indices[index] as usize
    }

    /// The numbers that this subset's samples have in the whole dataset.
    pub fn indices(&self) -> &[u32] {
        &self.indices
    }
}

impl Dataset for Subset {
    fn schema(&self) -> &Schema {
        self.data.schema()
    }

    fn len(&self) -> usize {
        self.indices.len()
    }

    fn read(&self, index: usize, x: &mut [f32]) -> Result<()> {
        self.data.read(self.base_index(index), x)
    }

    fn class(&self, index: usize) -> i64 {
        self.data.class(self.base_index(index))
    }

    fn read_values(&self, index: usize, y: &mut [f32]) -> Result<()> {
        self.data.read_values(self.base_index(index), y)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes() -> InMemory {
        let schema = Schema {
            name: "bytes".into(),
            input: Input::Image {
                channels: 1,
                height: 1,
                width: 2,
            },
            target: TargetKind::Classes {
                names: vec!["a".into(), "b".into()],
            },
        };
        let features = Features::Bytes {
            data: vec![0, 255, 51, 102],
            divisor: 255.0,
        };
        InMemory::new(schema, features, Targets::Classes(vec![1, 0])).unwrap()
    }

    #[test]
    fn bytes_read_as_scaled_floats() {
        let data = bytes();
        let mut x = [0.0; 2];
        data.read(0, &mut x).unwrap();
        assert_eq!(x, [0.0, 1.0]);
        data.read(1, &mut x).unwrap();
        assert_eq!(x, [0.2, 0.4]);
        assert_eq!(class_counts(&data), [1, 1]);
    }

    #[test]
    fn a_subset_renumbers_without_copying() {
        let data = bytes().shared();
        let subset = Subset::new(data, vec![1]);
        let mut x = [0.0; 2];
        subset.read(0, &mut x).unwrap();
        assert_eq!((x, subset.class(0), subset.len()), ([0.2, 0.4], 0, 1));
        assert_eq!(subset.base_index(0), 1);
    }

    #[test]
    #[should_panic(expected = "a subset of 2 samples has no sample 2")]
    fn a_subset_out_of_range_panics() {
        Subset::new(bytes().shared(), vec![0, 2]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let err = |r: Result<InMemory>| r.unwrap_err().to_string();
        let classes = &["a", "b"];
        assert!(
            err(InMemory::classification(
                "d",
                &[2],
                vec![0.0; 3],
                vec![0, 1],
                classes
            ))
            .contains("2 targets need 4 features (2 each), but there are 3")
        );
        assert!(
            err(InMemory::classification(
                "d",
                &[1],
                vec![0.0; 2],
                vec![0, 2],
                classes
            ))
            .contains("sample 1 has class 2")
        );
        assert!(
            err(InMemory::classification(
                "d",
                &[1],
                vec![0.0],
                vec![-1],
                classes
            ))
            .contains("sample 0 has class -1")
        );
        assert!(err(InMemory::regression("d", &[0], vec![], vec![])).contains("no features"));
    }

    #[test]
    fn a_regression_set_gives_its_values() {
        let data = InMemory::regression("r", &[1], vec![1.0, 2.0], vec![10.0, 20.0]).unwrap();
        let mut y = [0.0];
        data.read_values(1, &mut y).unwrap();
        assert_eq!(y, [20.0]);
    }
}
