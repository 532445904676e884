//! Reading CSV: from a file to a dataset.

use super::infer::{Stats, decide_header, infer};
use super::{ColumnKind, Missing, TableSchema, number};
use crate::dataset::{Features, InMemory, Targets};
use crate::error::{Error, Result};
use crate::file;
use crate::schema::{Input, Schema, TargetKind};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// How to read a CSV file. The defaults suit most files: the header and the
/// kinds of the columns are found out, the last column is the target, and a
/// missing value is an error. A recipe's `[data]` has the same keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CsvOptions {
    /// Whether the first line holds the columns' names.
    pub header: HeaderRow,
    /// What separates the cells; found out from the first line if not given
    /// (the most frequent of comma, semicolon, tab and vertical bar).
    pub delimiter: Option<char>,
    /// How many lines to pass over at the top of the file.
    pub skip_lines: usize,
    /// The column to predict; the last one if not given.
    pub target: Option<ColumnRef>,
    /// Whether the target is a class or a number. If not given: a class if it
    /// is text, or has at most 20 different values that are all whole numbers.
    pub task: Option<Task>,
    /// Columns to leave out, such as row numbers and names.
    pub ignore: Vec<ColumnRef>,
    /// Columns to take for categories although they look like numbers.
    pub categorical: Vec<ColumnRef>,
    /// Columns to take for numbers although most of their cells are text.
    pub numeric: Vec<ColumnRef>,
    /// What to do about missing values.
    pub missing: Missing,
    /// The texts that stand for a missing value, besides an empty cell.
    pub missing_markers: Vec<String>,
    /// More different texts than this in a feature column are refused: such a
    /// column is an identifier or free text, which one-hot cannot serve.
    pub max_categories: usize,
}

impl Default for CsvOptions {
    fn default() -> Self {
        CsvOptions {
            header: HeaderRow::Auto,
            delimiter: None,
            skip_lines: 0,
            target: None,
            task: None,
            ignore: Vec::new(),
            categorical: Vec::new(),
            numeric: Vec::new(),
            missing: Missing::Error,
            missing_markers: ["NA", "N/A", "NaN", "nan", "null", "NULL", "?"]
                .map(String::from)
                .to_vec(),
            max_categories: 100,
        }
    }
}

/// Whether a file's first line holds the columns' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeaderRow {
    /// It does if it has no number in it and does not look like the lines below it. Where that
    /// cannot be told, the file is refused.
    #[default]
    Auto,
    /// It does.
    Yes,
    /// It does not.
    No,
}

/// A column, by its place (from 0; negative counts from the end) or its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ColumnRef {
    /// Its place.
    Index(i64),
    /// Its name in the header.
    Name(String),
}

impl From<&str> for ColumnRef {
    fn from(name: &str) -> Self {
        ColumnRef::Name(name.into())
    }
}

impl From<i64> for ColumnRef {
    fn from(index: i64) -> Self {
        ColumnRef::Index(index)
    }
}

/// What kind of prediction a target asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// One of several classes.
    Classification,
    /// A number.
    Regression,
}

pub(super) const RAGGED: &str =
    "every line must have the same number of cells; quote cells that hold the separator";

/// Reads a CSV file, gzipped or not, as a dataset.
///
/// A column is one of numbers if more than half of its cells are; a text in
/// it is then an error. Other columns are categories and become one feature
/// for each, in alphabetical order. Spaces around cells are dropped. Classes are
/// in alphabetical order, or in that of their values if all are numbers.
/// Missing features become NaN, for [`Preprocess`](crate::Preprocess) to fill
/// from the training part as `options.missing` says.
///
/// # Errors
/// Whatever is wrong with the file, naming the line, the column and the remedy.
///
/// ```
/// use fornax_data::{Dataset, table};
///
/// let text = "size,colour,price\n1,red,10.5\n2,blue,20.5\n3,red,\n";
/// let options = table::CsvOptions { task: Some(table::Task::Regression), ..Default::default() };
/// let error = table::parse_csv("prices.csv".as_ref(), text.into(), &options).unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "prices.csv: line 4, column \"price\": the target is missing; give it a value or remove the line"
/// );
/// let data = table::parse_csv("prices.csv".as_ref(), text.replace(",\n", ",30\n").into(), &options)?;
/// let mut x = [0.0; 3]; // size, colour=blue, colour=red
/// data.read(0, &mut x)?;
/// assert_eq!(x, [1.0, 0.0, 1.0]);
/// # Ok::<(), fornax_data::Error>(())
/// ```
pub fn read_csv(path: impl AsRef<Path>, options: &CsvOptions) -> Result<InMemory> {
    let path = path.as_ref();
    parse_csv(path, file::read(path)?, options)
}

/// Reads the bytes of a CSV file as [`read_csv`] does; `path` is for messages.
///
/// # Errors
/// As [`read_csv`].
pub fn parse_csv(path: &Path, bytes: Vec<u8>, options: &CsvOptions) -> Result<InMemory> {
    let bytes = content(path, bytes)?;
    let (body, skipped) = skip_lines(&bytes, options.skip_lines);
    let delimiter = match options.delimiter {
        Some(c) if c.is_ascii() && !matches!(c, '"' | '\n' | '\r') => c,
        Some(c) => {
            return Err(Error::Mismatch(format!(
                "{c:?} cannot separate cells; use one ASCII character that is not a quote or line end"
            )));
        }
        None => guess_delimiter(body),
    };
    let source = Source {
        path,
        body,
        skipped,
        delimiter,
    };

    // First pass: what is in each column?
    let mut first: Vec<String> = Vec::new();
    let mut stats: Vec<Stats> = Vec::new();
    let mut rows = 0usize;
    let mut first_line = 0;
    source.each(|line, cells| {
        if stats.is_empty() {
            first_line = line;
            first = cells.iter().map(|c| c.to_string()).collect();
            stats = vec![Stats::new(options.max_categories); cells.len()];
            return Ok(());
        }
        if cells.len() != first.len() {
            let problem = format!(
                "has {} cells, but the first line has {}",
                cells.len(),
                first.len()
            );
            return Err(Error::format(path, format!("line {line}"), problem, RAGGED));
        }
        rows += 1;
        for (stats, cell) in stats.iter_mut().zip(cells) {
            stats.add(line, cell, is_missing(options, cell));
        }
        Ok(())
    })?;
    let header = match options.header {
        HeaderRow::Yes => true,
        HeaderRow::No => false,
        HeaderRow::Auto => decide_header(&first, &stats, |cell| is_missing(options, cell))
            .map_err(|reason| unclear_header(path, first_line, &reason))?,
    };
    if !header {
        rows += 1;
        for (stats, cell) in stats.iter_mut().zip(&first) {
            stats.add(first_line, cell, is_missing(options, cell));
        }
    }
    if rows == 0 || first.is_empty() {
        return Err(Error::format(
            path,
            "the file",
            "has no rows of data",
            "give it at least one, or set data.header = \"no\" if the first line is data",
        ));
    }
    let names: Vec<String> = match header {
        true => first.clone(),
        false => (0..first.len()).map(|i| format!("c{i}")).collect(),
    };
    if let Some(name) = duplicate(&names) {
        return Err(Error::format(
            path,
            format!("line {first_line}"),
            format!("several columns are called \"{name}\""),
            "give each column a name of its own",
        ));
    }
    let plan = infer(path, options, names, &stats)?;
    if options.header == HeaderRow::Auto
        && !header
        && matches!(plan.target_kind, ColumnKind::Categories(_))
        && stats[plan.target].is_odd_one_out(&first[plan.target])
    {
        let reason = format!("no other line has the class \"{}\"", first[plan.target]);
        return Err(unclear_header(path, first_line, &reason));
    }

    // Second pass: encode.
    let table = TableSchema {
        columns: plan.columns,
        file_columns: plan.file_columns,
        missing: options.missing,
        markers: std::iter::once(String::new())
            .chain(options.missing_markers.iter().cloned())
            .collect(),
        delimiter,
    };
    let width = table.width();
    let mut features = Vec::with_capacity(rows * width);
    let mut classes = Vec::new();
    let mut values = Vec::new();
    let mut at_header = header;
    let class_of: BTreeMap<&str, i64> = match &plan.target_kind {
        ColumnKind::Number => BTreeMap::new(),
        ColumnKind::Categories(names) => names.iter().map(String::as_str).zip(0..).collect(),
    };
    source.each(|line, cells| {
        if std::mem::take(&mut at_header) {
            return Ok(());
        }
        for column in &table.columns {
            let cell = cells[column.position];
            let cell = (!is_missing(options, cell)).then_some(cell);
            let fail = |(problem, remedy): (String, String)| {
                Error::format(
                    path,
                    format!("line {line}, column \"{}\"", column.name),
                    problem,
                    remedy,
                )
            };
            if cell.is_none() && options.missing == Missing::Error {
                return Err(fail((
                    "the value is missing".into(),
                    "fill it, or set data.missing = \"mean\" or \"most_frequent\"".into(),
                )));
            }
            let start = features.len();
            features.resize(start + column.width(), 0.0);
            column.encode(cell, &mut features[start..]).map_err(fail)?;
        }
        let cell = cells[plan.target];
        let fail = |(problem, remedy): (String, String)| {
            Error::format(
                path,
                format!("line {line}, column \"{}\"", plan.target_name),
                problem,
                remedy,
            )
        };
        if is_missing(options, cell) {
            return Err(fail((
                "the target is missing".into(),
                "give it a value or remove the line".into(),
            )));
        }
        match &plan.target_kind {
            ColumnKind::Number => values.push(number(cell).map_err(fail)?),
            ColumnKind::Categories(_) => classes.push(class_of[cell]),
        }
        Ok(())
    })?;
    let (targets, target) = match plan.target_kind {
        ColumnKind::Number => (
            Targets::Values(values),
            TargetKind::Values {
                shape: vec![],
                name: plan.target_name,
            },
        ),
        ColumnKind::Categories(names) => (Targets::Classes(classes), TargetKind::Classes { names }),
    };
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let schema = Schema {
        name: name.trim_end_matches(".csv").to_string(),
        input: Input::Table(table),
        target,
    };
    InMemory::new(schema, Features::Floats(features), targets)
}

fn unclear_header(path: &Path, line: u64, reason: &str) -> Error {
    Error::format(
        path,
        format!("line {line}"),
        format!("it may hold the columns' names or data: {reason}"),
        "set data.header = \"yes\" or \"no\"",
    )
}

/// The first name that occurs again.
pub(super) fn duplicate<S: AsRef<str>>(names: &[S]) -> Option<&str> {
    let mut seen = BTreeSet::new();
    let mut names = names.iter().map(AsRef::as_ref);
    names.find(|name| !seen.insert(*name))
}

/// The text of a CSV file, unpacked if it is gzipped.
pub(super) fn content(path: &Path, bytes: Vec<u8>) -> Result<Vec<u8>> {
    /// More than this from one gzipped file is taken for an attack.
    const LIMIT: u64 = 4 << 30;
    if !file::is_gzip(&bytes) {
        return Ok(bytes);
    }
    let text = file::gunzip(path, &bytes, LIMIT)?;
    if text.len() as u64 == LIMIT {
        return Err(Error::format(
            path,
            "the file",
            "unpacks to 4 GiB or more",
            "unpack it first",
        ));
    }
    Ok(text)
}

fn is_missing(options: &CsvOptions, cell: &str) -> bool {
    cell.is_empty() || options.missing_markers.iter().any(|m| m == cell)
}

/// What follows the first `n` lines, and how many lines were really passed over.
fn skip_lines(bytes: &[u8], n: usize) -> (&[u8], u64) {
    let mut rest = bytes;
    for skipped in 0..n {
        match rest.iter().position(|&b| b == b'\n') {
            Some(end) => rest = &rest[end + 1..],
            None => return (&[], skipped as u64),
        }
    }
    (rest, n as u64)
}

fn guess_delimiter(bytes: &[u8]) -> char {
    let line = bytes
        .split(|&b| b == b'\n')
        .find(|l| !l.trim_ascii().is_empty());
    let count = |c: char| {
        let line = line.unwrap_or_default();
        line.iter().filter(|&&b| b == c as u8).count()
    };
    // The last of equals wins, so the comma comes last.
    ['|', '\t', ';', ',']
        .into_iter()
        .max_by_key(|&c| count(c))
        .unwrap_or(',')
}

struct Source<'a> {
    path: &'a Path,
    body: &'a [u8],
    skipped: u64,
    delimiter: char,
}

impl Source<'_> {
    fn each(&self, mut f: impl FnMut(u64, &[&str]) -> Result<()>) -> Result<()> {
        each_record(self.path, self.body, self.delimiter, |line, cells| {
            f(line + self.skipped, cells)
        })
    }
}

/// Calls `f` with the number of the line (from 1) and the cells of each row; empty lines are passed over.
pub(super) fn each_record(
    path: &Path,
    bytes: &[u8],
    delimiter: char,
    mut f: impl FnMut(u64, &[&str]) -> Result<()>,
) -> Result<()> {
    // Without the byte order mark, positions in the file are those in `bytes`.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    // The parser's line is where it started to look, before any empty lines.
    let line_of = |p: &csv::Position| {
        let rest = bytes.get(p.byte() as usize..).unwrap_or_default();
        let blank = rest.iter().take_while(|b| matches!(b, b'\r' | b'\n'));
        p.line() + blank.filter(|b| **b == b'\n').count() as u64
    };
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .delimiter(delimiter as u8)
        .from_reader(bytes);
    let mut record = csv::StringRecord::new();
    loop {
        let line = reader.position().line();
        match reader.read_record(&mut record) {
            Ok(false) => return Ok(()),
            Ok(true) => {
                let line = record.position().map_or(line, line_of);
                let cells: Vec<&str> = record.iter().collect();
                // A line of nothing but spaces is as good as an empty one.
                if cells != [""] {
                    f(line, &cells)?;
                }
            }
            Err(e) => {
                let (line, problem) = match e.kind() {
                    csv::ErrorKind::Utf8 { pos, err } => (
                        pos.as_ref().map_or(line, line_of),
                        format!("cell {} is not UTF-8 text", err.field() + 1),
                    ),
                    _ => (line, e.to_string()),
                };
                return Err(Error::format(
                    path,
                    format!("line {line}"),
                    problem,
                    "save the file as CSV in UTF-8",
                ));
            }
        }
    }
}
