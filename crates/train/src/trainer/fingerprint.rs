//! What a run learns from, in a few numbers: going on with other data would be another run.

use std::fmt::Debug;

use serde::{Deserialize, Serialize};

use fornax_data::{Augment, Batches, Dataset, Preprocess, TargetKind};

use crate::error::Result;

/// Tells data from other data. Contents are CRC-32: no secret is kept here, changes are found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fingerprint {
    schema: u32,
    preprocess: u32,
    augment: u32,
    train: Part,
    validation: Option<Part>,
}

/// One part of the data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    samples: usize,
    features: u32,
    targets: u32,
}

impl Fingerprint {
    /// The fingerprint of all that a run is given. Reads every example once.
    ///
    /// # Errors
    /// If an example cannot be read.
    pub fn of(
        train: &dyn Dataset,
        validation: Option<&dyn Dataset>,
        preprocess: Option<&Preprocess>,
        augment: &[Augment],
    ) -> Result<Self> {
        Ok(Self {
            schema: of_text(train.schema()),
            preprocess: of_text(&preprocess),
            augment: of_text(&augment),
            train: Part::of(train)?,
            validation: validation.map(Part::of).transpose()?,
        })
    }

    /// The fingerprint of a run on batches of any kind.
    ///
    /// # Errors
    /// If something cannot be read.
    pub fn of_batches(train: &dyn Batches, validation: Option<&dyn Batches>) -> Result<Self> {
        Ok(Self {
            schema: 0,
            preprocess: 0,
            augment: 0,
            train: Part::of_batches(train)?,
            validation: validation.map(Part::of_batches).transpose()?,
        })
    }

    /// What `now` has otherwise, as the end of a sentence; `None` if nothing.
    pub fn changes(&self, now: &Self) -> Option<String> {
        let mut changes = Vec::new();
        self.train.changes(&now.train, "training", &mut changes);
        match (&self.validation, &now.validation) {
            (Some(was), Some(is)) => was.changes(is, "validation", &mut changes),
            (None, None) => {}
            (was, _) => changes.push(format!(
                "there {} validation data then",
                if was.is_some() { "was" } else { "was no" }
            )),
        }
        for (same, what) in [
            (self.schema == now.schema, "the columns or classes differ"),
            (self.preprocess == now.preprocess, "the scaling differs"),
            (self.augment == now.augment, "the augmentation differs"),
        ] {
            if !same {
                changes.push(what.to_owned());
            }
        }
        (!changes.is_empty()).then(|| changes.join(", "))
    }
}

impl Part {
    /// The fingerprint of a part. Reads every example once.
    ///
    /// # Errors
    /// If an example cannot be read.
    pub fn of(data: &dyn Dataset) -> Result<Self> {
        let schema = data.schema();
        let mut x = vec![0f32; schema.sample_len()];
        let mut y = vec![0f32; schema.target_shape().iter().product()];
        let (mut features, mut targets) = (crc32fast::Hasher::new(), crc32fast::Hasher::new());
        for index in 0..data.len() {
            data.read(index, &mut x)?;
            features.update(bytemuck::cast_slice(&x));
            match schema.target {
                TargetKind::Classes { .. } => targets.update(&data.class(index).to_le_bytes()),
                TargetKind::Values { .. } => {
                    data.read_values(index, &mut y)?;
                    targets.update(bytemuck::cast_slice(&y));
                }
            }
        }
        Ok(Self {
            samples: data.len(),
            features: features.finalize(),
            targets: targets.finalize(),
        })
    }

    /// The fingerprint of batches of any kind, whose features and targets are one.
    ///
    /// # Errors
    /// If something cannot be read.
    pub fn of_batches(batches: &dyn Batches) -> Result<Self> {
        let mut content = crc32fast::Hasher::new();
        batches.digest(&mut |bytes| content.update(bytes))?;
        Ok(Self {
            samples: batches.samples(),
            features: content.finalize(),
            targets: 0,
        })
    }

    /// What `now` has otherwise, as the end of a sentence; `None` if nothing. Other data would be
    /// cut otherwise, and what was trained on be taken for unseen.
    pub fn changes_to(&self, now: &Self, name: &str) -> Option<String> {
        let mut changes = Vec::new();
        self.changes(now, name, &mut changes);
        (!changes.is_empty()).then(|| changes.join(", "))
    }

    /// Adds what `now` has otherwise to `changes`; `name` is what the part is called.
    fn changes(&self, now: &Self, name: &str, changes: &mut Vec<String>) {
        if self.samples != now.samples {
            // With other examples the contents differ anyway.
            changes.push(format!(
                "there were {} {name} examples then and are {} now",
                self.samples, now.samples
            ));
            return;
        }
        if self.features != now.features {
            changes.push(format!("the features of the {name} examples differ"));
        }
        if self.targets != now.targets {
            changes.push(format!("the targets of the {name} examples differ"));
        }
    }
}

/// The shortest text that tells values apart is the one for debugging: it has every digit.
fn of_text(value: &impl Debug) -> u32 {
    crc32fast::hash(format!("{value:?}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_data::InMemory;

    fn data(features: &[f32], labels: &[i64], classes: &[&str]) -> InMemory {
        let features = features.to_vec();
        InMemory::classification("d", &[1], features, labels.to_vec(), classes).unwrap()
    }

    #[test]
    fn every_change_is_named() {
        let of = |train: &InMemory, validation: Option<&InMemory>| {
            let validation = validation.map(|data| data as &dyn Dataset);
            Fingerprint::of(train, validation, None, &[]).unwrap()
        };
        let ab = ["a", "b"];
        let train = data(&[1.0, f32::NAN], &[0, 1], &ab);
        let was = of(&train, Some(&train));
        assert_eq!(was.changes(&of(&train, Some(&train))), None);
        let changes = |now: Fingerprint| was.changes(&now).unwrap();
        let longer = data(&[1.0, 2.0, 3.0], &[0, 1, 1], &ab);
        assert_eq!(
            changes(of(&longer, Some(&train))),
            "there were 2 training examples then and are 3 now"
        );
        let scaled = data(&[2.0, f32::NAN], &[0, 1], &ab);
        assert_eq!(
            changes(of(&scaled, Some(&scaled))),
            "the features of the training examples differ, \
             the features of the validation examples differ"
        );
        let other = data(&[1.0, f32::NAN], &[1, 1], &ab);
        assert_eq!(
            changes(of(&other, Some(&train))),
            "the targets of the training examples differ"
        );
        assert_eq!(changes(of(&train, None)), "there was validation data then");
        let renamed = data(&[1.0, f32::NAN], &[0, 1], &["a", "c"]);
        assert_eq!(
            changes(of(&renamed, Some(&train))),
            "the columns or classes differ"
        );
        let fitted = Preprocess::identity(train.schema());
        let fitted = Fingerprint::of(&train, Some(&train), Some(&fitted), &[]).unwrap();
        assert_eq!(changes(fitted), "the scaling differs");
        let flipped = [Augment::horizontal_flip()];
        let flipped = Fingerprint::of(&train, Some(&train), None, &flipped).unwrap();
        assert_eq!(changes(flipped), "the augmentation differs");
    }
}
