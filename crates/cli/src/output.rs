//! Writing to stdout: one JSON object per line, and tables for people.

use std::io::{self, Write};

use serde_json::Value;

/// Writes one JSON object as one line, at once, so that a reader of a pipe sees it.
pub fn json_line(value: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()
}

/// Writes one line.
pub fn line(text: impl AsRef<str>) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{}", text.as_ref())
}

/// A table with aligned columns.
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
    /// Columns whose cells are numbers, set to the right.
    right: Vec<bool>,
}

impl Table {
    /// A table with these column heads; a head that begins with `>` sets its column to the right.
    pub fn new(head: &[&str]) -> Self {
        Self {
            head: head
                .iter()
                .map(|text| text.trim_start_matches('>').to_owned())
                .collect(),
            rows: Vec::new(),
            right: head.iter().map(|text| text.starts_with('>')).collect(),
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Prints it.
    pub fn print(&self) -> io::Result<()> {
        let width = |column: usize| {
            self.rows
                .iter()
                .chain([&self.head])
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let write = |row: &[String]| {
            let cells = row.iter().zip(&widths).zip(&self.right);
            let cells = cells.map(|((cell, &width), &right)| {
                if right {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                }
            });
            line(cells.collect::<Vec<_>>().join("  ").trim_end())
        };
        write(&self.head)?;
        let rule: Vec<String> = widths.iter().map(|&width| "─".repeat(width)).collect();
        line(rule.join("──"))?;
        self.rows.iter().try_for_each(|row| write(row))
    }
}
