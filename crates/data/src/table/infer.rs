//! Finding out what the columns of a CSV file are.

use super::{Column, ColumnKind, ColumnRef, CsvOptions, Task, number, some_of};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A whole-number target with at most this many different values is a class.
const FEW_VALUES: usize = 20;
/// Most classes that a target may have.
const MOST_CLASSES: usize = 10_000;

/// What was seen in a column.
#[derive(Debug, Clone)]
pub(super) struct Stats {
    numbers: usize,
    texts: usize,
    /// Texts that are numbers to a person, such as `0,5` or `$1,200`.
    foreign: usize,
    all_whole: bool,
    /// The first cell that is text, with its line.
    first_text: Option<(u64, String)>,
    /// How often each different cell occurs, until there are too many to be categories.
    distinct: BTreeMap<String, usize>,
    limit: usize,
}

impl Stats {
    pub(super) fn new(max_categories: usize) -> Self {
        Stats {
            numbers: 0,
            texts: 0,
            foreign: 0,
            all_whole: true,
            first_text: None,
            distinct: BTreeMap::new(),
            limit: max_categories.max(MOST_CLASSES),
        }
    }

    pub(super) fn add(&mut self, line: u64, cell: &str, missing: bool) {
        if missing {
            return;
        }
        match cell.parse::<f64>() {
            Ok(x) => {
                self.numbers += 1;
                self.all_whole &= x.fract() == 0.0;
            }
            Err(_) => {
                self.texts += 1;
                self.foreign += is_foreign_number(cell) as usize;
                // The header question may add the first line last.
                if self.first_text.as_ref().is_none_or(|(l, _)| line < *l) {
                    self.first_text = Some((line, cell.into()));
                }
            }
        }
        if let Some(count) = self.distinct.get_mut(cell) {
            *count += 1;
        } else if self.distinct.len() <= self.limit {
            self.distinct.insert(cell.into(), 1);
        }
    }

    /// Whether this cell occurs but once, in a column where others repeat.
    pub(super) fn is_odd_one_out(&self, cell: &str) -> bool {
        self.distinct.get(cell) == Some(&1) && self.distinct.values().any(|&count| count > 1)
    }

    fn mostly_numbers(&self) -> bool {
        self.numbers > self.texts
    }

    /// Numbers in a spelling that is not read must not quietly become categories.
    fn refuse_foreign(&self, path: &Path, name: &str) -> Result<()> {
        match &self.first_text {
            Some((line, text)) if self.foreign > 0 && self.foreign == self.texts => {
                Err(Error::format(
                    path,
                    format!("line {line}, column \"{name}\""),
                    format!("\"{text}\" looks like a number, but not as it is read here"),
                    "write it with digits and a decimal point alone, as 1234.5, or list the column \
                     in data.categorical",
                ))
            }
            _ => Ok(()),
        }
    }

    /// The different cells in order: of their values if all are numbers, else alphabetical.
    fn categories(&self) -> Vec<String> {
        let mut names: Vec<String> = self.distinct.keys().cloned().collect();
        if self.texts == 0 {
            let value = |s: &String| s.parse::<f64>().unwrap_or(f64::NAN);
            names.sort_by(|a, b| value(a).total_cmp(&value(b)).then_with(|| a.cmp(b)));
        }
        names
    }
}

/// Whether a text is a number with a decimal comma, separators between thousands, a currency or a
/// percent sign.
fn is_foreign_number(cell: &str) -> bool {
    let bare: String = cell
        .chars()
        .filter(|c| !"$€£¥%' \u{a0}\u{202f}".contains(*c))
        .collect();
    let bare = bare.strip_prefix(['-', '+']).unwrap_or(&bare);
    // After the last separator anything goes; before it, groups of three digits. So dates and
    // numbers of versions are texts.
    let (whole, fraction) = bare.rsplit_once([',', '.']).unwrap_or((bare, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let mut groups = whole.split([',', '.']);
    let first = groups.next().unwrap_or_default();
    !first.is_empty()
        && digits(first)
        && groups.all(|group| group.len() == 3 && digits(group))
        && digits(fraction)
}

/// Whether the first line is a header, judged by the statistics of the lines
/// below it: it has no number in it, and either some column below is of
/// numbers, or none of its cells occurs again. On failure says why it cannot be told.
pub(super) fn decide_header(
    first: &[String],
    below: &[Stats],
    is_missing: impl Fn(&str) -> bool,
) -> Result<bool, String> {
    let columns = || first.iter().zip(below);
    let is_number = |cell: &str| cell.parse::<f64>().is_ok();
    if first
        .iter()
        .any(|cell| !is_missing(cell) && is_number(cell))
    {
        let name = columns()
            .find(|(cell, stats)| !is_missing(cell) && !is_number(cell) && stats.mostly_numbers());
        return match name {
            None => Ok(false),
            Some((name, _)) => Err(format!(
                "it has numbers, but also \"{name}\" above a column of numbers"
            )),
        };
    }
    let over_numbers =
        |(cell, stats): (&String, &Stats)| !cell.is_empty() && stats.mostly_numbers();
    Ok(columns().any(over_numbers)
        || columns().all(|(cell, stats)| !stats.distinct.contains_key(cell)))
}

/// What is to become of each column.
pub(super) struct Plan {
    pub(super) columns: Vec<Column>,
    pub(super) file_columns: usize,
    pub(super) target: usize,
    pub(super) target_name: String,
    pub(super) target_kind: ColumnKind,
}

pub(super) fn infer(
    path: &Path,
    options: &CsvOptions,
    names: Vec<String>,
    stats: &[Stats],
) -> Result<Plan> {
    let find = |what: &str, column: &ColumnRef| find(path, &names, what, column);
    let find_all = |what: &str, columns: &[ColumnRef]| {
        columns
            .iter()
            .map(|c| find(what, c))
            .collect::<Result<BTreeSet<_>>>()
    };
    let dropped = find_all("data.ignore", &options.ignore)?;
    let categorical = find_all("data.categorical", &options.categorical)?;
    let numeric = find_all("data.numeric", &options.numeric)?;
    let target = match &options.target {
        Some(column) => find("data.target", column)?,
        None => names.len() - 1,
    };
    let clash = |what: &str, i: usize| {
        Err(Error::Mismatch(format!(
            "{}: the column \"{}\" is {what}",
            path.display(),
            names[i]
        )))
    };
    if dropped.contains(&target) {
        return clash("the target and cannot be in data.ignore", target);
    }
    if let Some(&i) = categorical.intersection(&numeric).next() {
        return clash("in both data.categorical and data.numeric", i);
    }
    let mut columns = Vec::new();
    for (position, stats) in stats.iter().enumerate() {
        if position == target || dropped.contains(&position) {
            continue;
        }
        let is_number = match () {
            () if categorical.contains(&position) => false,
            () if numeric.contains(&position) => true,
            () => stats.mostly_numbers(),
        };
        if !categorical.contains(&position) && !is_number {
            stats.refuse_foreign(path, &names[position])?;
        }
        let kind = feature_kind(path, options, &names[position], stats, is_number)?;
        columns.push(Column {
            name: names[position].clone(),
            position,
            kind,
        });
    }
    if columns.is_empty() {
        return Err(Error::format(
            path,
            "the header",
            "there is no column besides the target",
            "give the file at least one feature",
        ));
    }
    let declared = match () {
        () if categorical.contains(&target) => Some(Task::Classification),
        () if numeric.contains(&target) => Some(Task::Regression),
        () => options.task,
    };
    if declared.is_none() {
        stats[target].refuse_foreign(path, &names[target])?;
    }
    let target_kind = target_kind(path, declared, &names[target], &stats[target])?;
    Ok(Plan {
        columns,
        file_columns: names.len(),
        target,
        target_name: names[target].clone(),
        target_kind,
    })
}

fn feature_kind(
    path: &Path,
    options: &CsvOptions,
    name: &str,
    stats: &Stats,
    is_number: bool,
) -> Result<ColumnKind> {
    let place = format!("column \"{name}\"");
    if stats.numbers + stats.texts == 0 {
        return Err(Error::format(
            path,
            place,
            "has no values at all",
            "list it in data.ignore",
        ));
    }
    if is_number {
        refuse_text(path, name, stats)?;
        return Ok(ColumnKind::Number);
    }
    if stats.distinct.len() > options.max_categories {
        return Err(Error::format(
            path,
            place,
            format!(
                "is text with more than {} different values",
                options.max_categories
            ),
            "list it in data.ignore, or raise data.max_categories",
        ));
    }
    Ok(ColumnKind::Categories(stats.categories()))
}

fn target_kind(path: &Path, task: Option<Task>, name: &str, stats: &Stats) -> Result<ColumnKind> {
    let task = task.unwrap_or({
        let few = stats.all_whole && stats.distinct.len() <= FEW_VALUES;
        match stats.mostly_numbers() && !few {
            true => Task::Regression,
            false => Task::Classification,
        }
    });
    if task == Task::Regression {
        refuse_text(path, name, stats)?;
        return Ok(ColumnKind::Number);
    }
    if stats.distinct.len() > MOST_CLASSES {
        return Err(Error::format(
            path,
            format!("column \"{name}\""),
            format!("the target has more than {MOST_CLASSES} classes"),
            "set data.task = \"regression\", or choose another target",
        ));
    }
    Ok(ColumnKind::Categories(stats.categories()))
}

fn refuse_text(path: &Path, name: &str, stats: &Stats) -> Result<()> {
    match &stats.first_text {
        None => Ok(()),
        Some((line, text)) => {
            let (problem, remedy) = number(text).err().unwrap_or_default();
            Err(Error::format(
                path,
                format!("line {line}, column \"{name}\""),
                problem,
                remedy,
            ))
        }
    }
}

fn find(path: &Path, names: &[String], what: &str, column: &ColumnRef) -> Result<usize> {
    let n = names.len() as i64;
    let bad = |problem: String| {
        Err(Error::format(
            path,
            "the header",
            format!("{what}: {problem}"),
            format!("the columns are {}", some_of(names)),
        ))
    };
    match column {
        ColumnRef::Index(i) if (-n..n).contains(i) => Ok(i.rem_euclid(n) as usize),
        ColumnRef::Index(i) => bad(format!("there is no column {i}")),
        ColumnRef::Name(name) => {
            let mut found = (0..names.len()).filter(|&i| names[i] == *name);
            match (found.next(), found.next()) {
                (Some(i), None) => Ok(i),
                (None, _) => bad(format!("there is no column \"{name}\"")),
                (Some(_), Some(_)) => bad(format!("several columns are called \"{name}\"")),
            }
        }
    }
}
