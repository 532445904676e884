//! Tables: rows of numbers and categories, read from CSV, encoded as numbers.
//!
//! [`read_csv`] makes a dataset of a file and writes down in a
//! [`TableSchema`] how each column became numbers; the schema is saved with
//! the model, so that `predict` encodes a new row in the same way.

mod csv;
mod infer;

pub use csv::{ColumnRef, CsvOptions, HeaderRow, Task, parse_csv, read_csv};

use crate::error::{Error, Result};
use crate::file;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::Path;

/// How the columns of a table become the features of a sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableSchema {
    /// The columns that are features, in their order.
    pub columns: Vec<Column>,
    /// How many columns the file had, with the target and those left out.
    pub file_columns: usize,
    /// What to do about missing values.
    pub missing: Missing,
    /// The texts that stand for a missing value.
    pub markers: Vec<String>,
    /// What separates the cells.
    pub delimiter: char,
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// Its name in the header, or `c0`, `c1`, ... where there is none.
    pub name: String,
    /// Its place in the file, from 0.
    pub position: usize,
    /// What its cells are.
    pub kind: ColumnKind,
}

/// What the cells of a column are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnKind {
    /// Numbers: one feature.
    Number,
    /// One of these texts: as many features, all 0 but the one that is 1.
    Categories(Vec<String>),
}

/// What to do about missing values in the features. A missing target is always an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// Refuse the file, saying where the first one is.
    #[default]
    Error,
    /// Numbers become the mean of the training part, categories its most frequent one.
    Mean,
    /// Both become the most frequent value of the training part (the smallest of several).
    MostFrequent,
}

impl Column {
    /// How many features the column becomes.
    pub fn width(&self) -> usize {
        match &self.kind {
            ColumnKind::Number => 1,
            ColumnKind::Categories(names) => names.len(),
        }
    }

    /// Writes a cell's features; `None` is a missing value. On failure says what is wrong.
    fn encode(&self, cell: Option<&str>, out: &mut [f32]) -> Result<(), (String, String)> {
        match (&self.kind, cell) {
            (_, None) => out.fill(f32::NAN),
            (ColumnKind::Number, Some(text)) => out[0] = number(text)?,
            (ColumnKind::Categories(names), Some(text)) => {
                let place = names.iter().position(|n| n == text).ok_or_else(|| {
                    (
                        format!("\"{text}\" is not one of the categories known from training"),
                        format!("use one of {}", some_of(names)),
                    )
                })?;
                out.fill(0.0);
                out[place] = 1.0;
            }
        }
        Ok(())
    }
}

/// Reads a cell of a number column. On failure says what is wrong and what to do.
fn number(text: &str) -> Result<f32, (String, String)> {
    match text.parse::<f64>() {
        Ok(x) if (x as f32).is_finite() => Ok(x as f32),
        Ok(_) => Err((
            format!("{text} is not a finite number in 32 bits"),
            "correct it, or leave the cell empty and set data.missing to fill it".into(),
        )),
        Err(_) => Err((
            format!("\"{text}\" is not a number, but the column holds numbers"),
            "correct it, list the column in data.categorical, or the text in data.missing_markers"
                .into(),
        )),
    }
}

/// The first few of many names, for a message.
fn some_of(names: &[String]) -> String {
    let shown = names.iter().take(8).map(|n| format!("\"{n}\""));
    let mut text = shown.collect::<Vec<_>>().join(", ");
    if names.len() > 8 {
        text += &format!(", ... ({} in all)", names.len());
    }
    text
}

impl TableSchema {
    /// How many features a row becomes.
    pub fn width(&self) -> usize {
        self.columns.iter().map(Column::width).sum()
    }

    /// Each column with the features that it becomes.
    pub fn spans(&self) -> impl Iterator<Item = (&Column, Range<usize>)> {
        let mut start = 0;
        self.columns.iter().map(move |column| {
            let span = start..start + column.width();
            start = span.end;
            (column, span)
        })
    }

    fn is_missing(&self, cell: &str) -> bool {
        self.markers.iter().any(|m| m == cell)
    }

    /// The features of a row given as one cell per feature column, in order.
    /// A missing value becomes NaN, for [`Preprocess`](crate::Preprocess) to fill.
    ///
    /// # Errors
    /// If the number of cells is wrong, or a cell is not what its column holds.
    ///
    /// ```
    /// use fornax_data::{Dataset, Input, builtin};
    /// let iris = builtin::load("iris", None)?.whole();
    /// let Input::Table(table) = &iris.schema().input else { unreachable!() };
    /// assert_eq!(table.encode_row(&["5.1", "3.5", "1.4", "0.2"])?, [5.1, 3.5, 1.4, 0.2]);
    /// assert!(table.encode_row(&["5.1", "3.5", "wide", "0.2"]).is_err());
    /// # Ok::<(), fornax_data::Error>(())
    /// ```
    pub fn encode_row(&self, cells: &[&str]) -> Result<Vec<f32>> {
        let mut pick = Vec::new();
        self.by_position(cells.len(), &mut pick)
            .map_err(|(problem, remedy)| {
                Error::Mismatch(format!("the row: {problem}; {remedy}"))
            })?;
        self.encode_picked(&pick, cells)
            .map_err(|(column, problem, remedy)| {
                Error::Mismatch(format!("the row, column \"{column}\": {problem}; {remedy}"))
            })
    }

    /// The features of a row given as one line of CSV, as [`encode_row`](TableSchema::encode_row)
    /// takes it; separated as the training file was, or by commas.
    ///
    /// # Errors
    /// As [`encode_row`](TableSchema::encode_row), and if it is not one line.
    pub fn encode_line(&self, line: &str) -> Result<Vec<f32>> {
        let split = |delimiter: char| {
            let mut rows: Vec<Vec<String>> = Vec::new();
            csv::each_record(
                "the row".as_ref(),
                line.as_bytes(),
                delimiter,
                |_, cells| {
                    rows.push(cells.iter().map(|c| c.to_string()).collect());
                    Ok(())
                },
            )?;
            match (rows.pop(), rows.is_empty()) {
                (Some(row), true) => Ok(row),
                _ => Err(Error::Mismatch(
                    "the row: one line of values is needed".into(),
                )),
            }
        };
        let mut cells = split(self.delimiter)?;
        if cells.len() == 1 && self.columns.len() > 1 {
            cells = split(',')?;
        }
        let cells: Vec<&str> = cells.iter().map(String::as_str).collect();
        self.encode_row(&cells)
    }

    /// The features of all rows of a CSV file without (or with) the target, to
    /// predict on. Columns go by name if the first line has all the names, else by
    /// place; a file laid out as the training file, target and all, will do too.
    ///
    /// # Errors
    /// If the file cannot be read or a row does not fit, naming the line and column.
    pub fn read_rows(&self, path: impl AsRef<Path>) -> Result<Vec<Vec<f32>>> {
        let path = path.as_ref();
        let bytes = csv::content(path, file::read(path)?)?;
        let mut rows = Vec::new();
        let mut pick: Option<Vec<usize>> = None;
        let mut first_width = 0;
        csv::each_record(path, &bytes, self.delimiter, |line, cells| {
            let bad = |place: String, problem: String, remedy: String| {
                Err(Error::format(path, place, problem, remedy))
            };
            let pick = match &pick {
                Some(pick) => pick,
                None => {
                    first_width = cells.len();
                    let named = self.by_name(cells);
                    if named.is_some()
                        && let Some(name) = csv::duplicate(cells)
                    {
                        return bad(
                            format!("line {line}"),
                            format!("several columns are called \"{name}\""),
                            "give each column a name of its own".into(),
                        );
                    }
                    let is_header = named.is_some();
                    let mut chosen = named.unwrap_or_default();
                    if !is_header
                        && let Err((problem, remedy)) = self.by_position(cells.len(), &mut chosen)
                    {
                        return bad(format!("line {line}"), problem, remedy);
                    }
                    let pick = pick.insert(chosen);
                    if is_header {
                        return Ok(());
                    }
                    pick
                }
            };
            if cells.len() != first_width {
                let problem = format!(
                    "has {} cells, but the first line has {first_width}",
                    cells.len()
                );
                return bad(format!("line {line}"), problem, csv::RAGGED.into());
            }
            match self.encode_picked(pick, cells) {
                Ok(row) => rows.push(row),
                Err((column, problem, remedy)) => {
                    return bad(format!("line {line}, column \"{column}\""), problem, remedy);
                }
            }
            Ok(())
        })?;
        Ok(rows)
    }

    /// Where each feature column is, if these cells are a header with all the names.
    fn by_name(&self, cells: &[&str]) -> Option<Vec<usize>> {
        self.columns
            .iter()
            .map(|c| cells.iter().position(|cell| *cell == c.name))
            .collect()
    }

    /// Where each feature column is in a row of `cells` cells.
    fn by_position(&self, cells: usize, pick: &mut Vec<usize>) -> Result<(), (String, String)> {
        if cells == self.columns.len() {
            pick.extend(0..cells);
        } else if cells == self.file_columns {
            pick.extend(self.columns.iter().map(|c| c.position));
        } else {
            let names: Vec<String> = self.columns.iter().map(|c| c.name.clone()).collect();
            return Err((
                format!("{cells} cells where {} are needed", names.len()),
                format!("give, in this order: {}", some_of(&names)),
            ));
        }
        Ok(())
    }

    fn encode_picked(
        &self,
        pick: &[usize],
        cells: &[&str],
    ) -> Result<Vec<f32>, (String, String, String)> {
        let mut row = vec![0.0; self.width()];
        for ((column, span), &place) in self.spans().zip(pick) {
            let cell = cells[place].trim();
            let cell = (!self.is_missing(cell)).then_some(cell);
            let fail = |(problem, remedy)| (column.name.clone(), problem, remedy);
            if cell.is_none() && self.missing == Missing::Error {
                return Err(fail((
                    "the value is missing".into(),
                    "give one; to fill them, train with data.missing = \"mean\"".into(),
                )));
            }
            column.encode(cell, &mut row[span]).map_err(fail)?;
        }
        Ok(row)
    }
}

#[cfg(test)]
mod tests;
