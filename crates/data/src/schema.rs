//! What the samples of a dataset are: their shape, their target, their names.
//! A schema is saved with a trained model, so that `predict` can turn an image
//! or a row of text into exactly the numbers that the model was trained on.

use crate::table::{Column, ColumnKind, TableSchema};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The description of a dataset's samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schema {
    /// The dataset's name, for messages and plots.
    pub name: String,
    /// What a sample's features are.
    pub input: Input,
    /// What is to be predicted.
    pub target: TargetKind,
}

/// The features of one sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Input {
    /// A picture, `[channels, height, width]`, values from 0 to 1.
    Image {
        /// 1 for grey, 3 for red, green, blue.
        channels: usize,
        /// Rows of pixels.
        height: usize,
        /// Columns of pixels.
        width: usize,
    },
    /// A row of a table, `[features]`, with categories spread one-hot.
    Table(TableSchema),
    /// Numbers of any other shape.
    Array {
        /// The shape of one sample.
        shape: Vec<usize>,
    },
}

/// What is to be predicted for each sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TargetKind {
    /// One of several classes; class `i` has the name `names[i]`.
    Classes {
        /// The classes' names.
        names: Vec<String>,
    },
    /// Numbers (regression).
    Values {
        /// The shape of one sample's target; `[]` is a single number.
        shape: Vec<usize>,
        /// The name of what is predicted.
        name: String,
    },
}

/// How the data was read, in one line for people: `area, rooms (numbers), city (3 categories) ->
/// price (a number)`.
impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        let list = |all: Vec<String>| match all.len() {
            0..=SHOWN => all.join(", "),
            n => format!("{}, and {} more", all[..SHOWN].join(", "), n - SHOWN),
        };
        match &self.input {
            Input::Image {
                channels,
                height,
                width,
            } => write!(f, "pictures of {channels} x {height} x {width}")?,
            Input::Array { shape } => write!(f, "arrays of shape {shape:?}")?,
            Input::Table(table) => {
                let column = |c: &Column| match &c.kind {
                    ColumnKind::Number => format!("{} (number)", c.name),
                    ColumnKind::Categories(all) => {
                        format!("{} ({} categories)", c.name, all.len())
                    }
                };
                write!(f, "{}", list(table.columns.iter().map(column).collect()))?;
            }
        }
        match &self.target {
            TargetKind::Classes { names } => {
                write!(f, " -> {} classes: {}", names.len(), list(names.clone()))
            }
            TargetKind::Values { name, .. } => write!(f, " -> {name} (number)"),
        }
    }
}

impl Schema {
    /// The shape of one sample: `[channels, height, width]` of an image, `[features]` of a row.
    pub fn sample_shape(&self) -> Vec<usize> {
        match &self.input {
            Input::Image {
                channels,
                height,
                width,
            } => vec![*channels, *height, *width],
            Input::Table(table) => vec![table.width()],
            Input::Array { shape } => shape.clone(),
        }
    }

    /// How many numbers a sample's features are.
    pub fn sample_len(&self) -> usize {
        self.sample_shape().iter().product()
    }

    /// The shape of one sample's target: `[]` for a class.
    pub fn target_shape(&self) -> &[usize] {
        match &self.target {
            TargetKind::Classes { .. } => &[],
            TargetKind::Values { shape, .. } => shape,
        }
    }

    /// The classes' names, or `None` if the target is not a class.
    pub fn classes(&self) -> Option<&[String]> {
        match &self.target {
            TargetKind::Classes { names } => Some(names),
            TargetKind::Values { .. } => None,
        }
    }

    /// How many separately normalised channels a sample has, and how many
    /// numbers lie in each: images are normalised by channel, a table or any
    /// other one-dimensional sample by feature, other arrays by their first axis.
    pub fn channels(&self) -> (usize, usize) {
        let shape = self.sample_shape();
        match shape.split_first() {
            None => (1, 1),
            Some((first, rest)) => (*first, rest.iter().product()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_follow_the_kind_of_input() {
        let mut schema = Schema {
            name: "x".into(),
            input: Input::Image {
                channels: 3,
                height: 4,
                width: 5,
            },
            target: TargetKind::Classes {
                names: vec!["a".into()],
            },
        };
        assert_eq!(schema.sample_shape(), [3, 4, 5]);
        assert_eq!(schema.sample_len(), 60);
        assert_eq!(schema.channels(), (3, 20));
        schema.input = Input::Array { shape: vec![] };
        assert_eq!(schema.channels(), (1, 1));
        assert_eq!(schema.sample_len(), 1);
        schema.input = Input::Array { shape: vec![7] };
        assert_eq!(schema.channels(), (7, 1));
    }

    #[test]
    fn a_schema_survives_json() {
        let schema = Schema {
            name: "flowers".into(),
            input: Input::Array { shape: vec![4] },
            target: TargetKind::Values {
                shape: vec![],
                name: "height".into(),
            },
        };
        let text = serde_json::to_string(&schema).unwrap();
        assert_eq!(serde_json::from_str::<Schema>(&text).unwrap(), schema);
    }
}
