//! From an image file, a CSV file or a row to what a trained network says about it.

use std::path::Path;

use fornax_data::{ImageForm, Input, read_image};
use fornax_tensor::Tensor;

use crate::error::{Error, Result};
use crate::run::Trained;
use crate::trainer::predict;

/// What a network says about one example.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// A classifier's answer.
    Class {
        /// What was asked about: the file, with the row's number where it has several.
        input: String,
        /// The most probable class.
        class: String,
        /// The probability of every class, in the order of the classes.
        probabilities: Vec<(String, f64)>,
    },
    /// Predicted numbers.
    Values {
        /// What was asked about.
        input: String,
        /// The numbers.
        values: Vec<f64>,
    },
}

impl Trained {
    /// Answers about `input`: an image file for a network of images; a CSV file or a row of
    /// values (`5.1,3.5,1.4,0.2`) for others.
    ///
    /// # Errors
    /// If the input cannot be read or is not of the kind that the network learnt from.
    pub fn predict(&self, input: &str) -> Result<Vec<Answer>> {
        let (names, mut rows) = self.read(input)?;
        for row in &mut rows {
            self.preprocess.apply(row);
        }
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let mut shape = vec![rows.len()];
        shape.extend(self.schema.sample_shape());
        let x = Tensor::from_vec(rows.concat(), shape);
        let output = predict(&self.network, &self.schema, &x).to_f64_vec();
        let width = output.len() / rows.len();
        let answers = names.into_iter().zip(output.chunks(width.max(1)));
        let answers = answers.map(|(input, row)| match self.schema.classes() {
            Some(classes) => {
                let best = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
                Answer::Class {
                    input,
                    class: best.map_or(String::new(), |best| classes[best].clone()),
                    probabilities: classes.iter().cloned().zip(row.iter().copied()).collect(),
                }
            }
            None => Answer::Values {
                input,
                values: row
                    .iter()
                    .map(|&y| self.preprocess.undo_target(y))
                    .collect(),
            },
        });
        Ok(answers.collect())
    }

    /// The examples in `input`, each with a name.
    fn read(&self, input: &str) -> Result<(Vec<String>, Vec<Vec<f32>>)> {
        let path = Path::new(input);
        let one = |row: Vec<f32>| (vec![input.to_owned()], vec![row]);
        match &self.schema.input {
            Input::Image { .. } if path.exists() || !input.contains(',') => {
                let form = ImageForm::of(&self.schema).ok_or_else(|| {
                    Error::Run("the network is for images of more than three colours".into())
                })?;
                Ok(one(read_image(path, form)?))
            }
            Input::Table(table) if path.exists() || !looks_like_a_row(input) => {
                let rows = table.read_rows(path)?;
                let names = (1..=rows.len()).map(|row| format!("{input}, row {row}"));
                Ok((names.collect(), rows))
            }
            Input::Table(table) => Ok(one(table.encode_line(input)?)),
            _ => Ok(one(self.numbers(input)?)),
        }
    }

    /// A row of numbers for a network that is not for tables, such as the pixels of an image.
    fn numbers(&self, input: &str) -> Result<Vec<f32>> {
        let numbers: Result<Vec<f32>, _> =
            input.split(',').map(|cell| cell.trim().parse()).collect();
        let wanted = self.schema.sample_len();
        match numbers {
            Ok(numbers) if numbers.len() == wanted && numbers.iter().all(|x| x.is_finite()) => {
                Ok(numbers)
            }
            Ok(numbers) if numbers.len() != wanted => Err(Error::Run(format!(
                "`{input}` has {} numbers, the network takes {wanted}",
                numbers.len()
            ))),
            _ => Err(Error::Run(format!(
                "`{input}` is neither a file nor {wanted} numbers with commas between"
            ))),
        }
    }
}

/// Whether an input that is no file was meant as values rather than as a file's name.
fn looks_like_a_row(input: &str) -> bool {
    !input.ends_with(".csv") && !input.ends_with(".gz") && !input.contains('/')
}
