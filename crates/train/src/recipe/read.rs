//! From TOML text and `--set` overrides to a complete table of checked values.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Value;
use toml::de::{DeTable, DeValue};

use super::schema::{self, KEYS, Key, Kind};
use crate::error::{Error, Result};

/// Where a value came from, for errors.
#[derive(Debug, Clone)]
enum Origin {
    /// A place in the recipe's text.
    Line(String, usize),
    /// `--set`.
    Set,
    /// The schema.
    Default,
}

impl Origin {
    fn say(&self, path: &str) -> String {
        match self {
            Origin::Line(file, line) => format!("{file}, line {line}: `{path}`"),
            Origin::Set => format!("--set {path}"),
            Origin::Default => format!("`{path}`"),
        }
    }

    /// The nearer to the user's hand, the more a value counts.
    fn nearness(&self) -> u8 {
        match self {
            Origin::Default => 0,
            Origin::Line(..) => 1,
            Origin::Set => 2,
        }
    }
}

/// Checked values by dotted path.
#[derive(Debug, Clone, Default)]
pub struct Values(BTreeMap<&'static str, (Value, Origin)>);

impl Values {
    /// Reads the text of the recipe called `file`.
    pub fn parse(file: &str, text: &str) -> Result<Self> {
        let table = DeTable::parse(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(text, &span));
            Error::Recipe(format!("{file}, line {line}: {}", error.message()))
        })?;
        let mut values = Self::default();
        values.read_table(file, text, "", table.get_ref())?;
        Ok(values)
    }

    fn read_table(&mut self, file: &str, text: &str, prefix: &str, table: &DeTable) -> Result<()> {
        for (name, value) in table.iter() {
            let path = format!("{prefix}{}", name.get_ref());
            let line = line_of(text, &name.span());
            if let Some(key) = schema::find(&path) {
                let origin = Origin::Line(file.to_owned(), line);
                let plain = to_value(value.get_ref());
                let checked = check(key, plain, &origin)?;
                self.0.insert(key.path, (checked, origin));
            } else if let DeValue::Table(inner) = value.get_ref()
                && is_section(&path)
            {
                self.read_table(file, text, &format!("{path}."), inner)?;
            } else {
                return Err(Error::Recipe(format!(
                    "{file}, line {line}: {}",
                    unknown(&path)
                )));
            }
        }
        Ok(())
    }

    /// Applies one `key=value` of `--set`. A text needs no quotes.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let Some((path, text)) = assignment.split_once('=') else {
            return Err(Error::Recipe(format!(
                "--set {assignment}: expected key=value, for example \
                 --set optimizer.learning_rate=0.01"
            )));
        };
        let (path, text) = (path.trim(), text.trim());
        let Some(key) = schema::find(path) else {
            return Err(Error::Recipe(format!(
                "--set {assignment}: {}",
                unknown(path)
            )));
        };
        let parsed = format!("value = {text}")
            .parse::<toml::Table>()
            .ok()
            .and_then(|mut table| table.remove("value"));
        let wants_text = matches!(key.kind, Kind::Text | Kind::Choice(_));
        let value = match parsed {
            Some(value) if !wants_text || value.is_str() => value,
            _ => Value::String(text.to_owned()),
        };
        let value = check(key, value, &Origin::Set)?;
        self.0.insert(key.path, (value, Origin::Set));
        Ok(())
    }

    /// Fills in the defaults, and refuses keys that belong to another choice.
    pub fn resolve(mut self) -> Result<BTreeMap<&'static str, Value>> {
        // A key's condition is always an earlier key, so that by its turn the choice is made.
        for key in KEYS {
            let applies = key.only.is_none_or(|(path, words)| {
                self.0[path]
                    .0
                    .as_str()
                    .is_some_and(|word| words.contains(&word))
            });
            // Who chooses otherwise by `--set` drops what the file says about the former choice.
            let dropped = key
                .only
                .is_some_and(|(path, _)| matches!(self.0[path].1, Origin::Set))
                && matches!(self.0.get(key.path), Some((_, Origin::Line(..))));
            match self.0.get(key.path) {
                Some(_) if !applies && dropped => {
                    self.0.remove(key.path);
                }
                Some((_, origin)) if !applies => {
                    let (path, words) = key.only.expect("a key that does not apply has a choice");
                    return Err(Error::Recipe(format!(
                        "{} does nothing with {path} = {}; it belongs to {}",
                        origin.say(key.path),
                        self.0[path].0,
                        words.join(", ")
                    )));
                }
                None if applies => {
                    let default = key.default_for(|path| self.0.get(path)?.0.as_str());
                    if default.is_empty() {
                        continue;
                    }
                    let value = format!("value = {default}")
                        .parse::<toml::Table>()
                        .expect("defaults are TOML")
                        .remove("value")
                        .expect("the value just written");
                    self.0.insert(key.path, (value, Origin::Default));
                }
                _ => {}
            }
        }
        self.count_layers();
        Ok(self
            .0
            .into_iter()
            .map(|(path, (value, _))| (path, value))
            .collect())
    }

    /// A list of neurons says how many layers there are. It overrules a number of layers that
    /// stands farther off: the default, or the recipe's where the list comes by `--set`.
    fn count_layers(&mut self) {
        let (Some((_, from)), Some((Value::Array(neurons), list_from))) =
            (self.0.get("model.layers"), self.0.get("model.neurons"))
        else {
            return;
        };
        if from.nearness() < list_from.nearness() {
            let count = Value::Integer(neurons.len() as i64);
            self.0.insert("model.layers", (count, Origin::Default));
        }
    }
}

/// The nested table that serde reads.
pub fn nest(values: &BTreeMap<&'static str, Value>) -> toml::Table {
    let mut root = toml::Table::new();
    for (path, value) in values {
        match path.split_once('.') {
            None => {
                root.insert((*path).to_owned(), value.clone());
            }
            Some((section, name)) => {
                root.entry(section)
                    .or_insert_with(|| Value::Table(toml::Table::new()))
                    .as_table_mut()
                    .expect("sections are tables")
                    .insert(name.to_owned(), value.clone());
            }
        }
    }
    root
}

/// The recipe as TOML with its comments, complete, so that it can be read, changed and run again.
pub fn write(values: &BTreeMap<&'static str, Value>) -> String {
    let mut text = String::new();
    let mut section = "";
    for key in KEYS {
        let Some(value) = values.get(key.path) else {
            continue;
        };
        let (here, name) = key.path.split_once('.').unwrap_or(("", key.path));
        if here != section {
            text += &format!("\n[{here}]\n");
            section = here;
        }
        let assignment = format!("{name} = {value}");
        text += &format!("{assignment:<32}  # {}\n", key.help);
    }
    text
}

fn is_section(path: &str) -> bool {
    KEYS.iter()
        .any(|key| key.path.starts_with(&format!("{path}.")))
}

fn unknown(path: &str) -> String {
    if is_section(path) {
        return format!("`{path}` is a section: its keys are written below a line [{path}]");
    }
    let mut message = format!("unknown key `{path}`");
    match schema::nearest(path) {
        Some(near) => message += &format!("; did you mean `{near}`?"),
        None => message += "; `fornax list keys` shows them all",
    }
    message
}

/// Checks type and range; a whole number is taken where a number is wanted.
fn check(key: &Key, value: Value, origin: &Origin) -> Result<Value> {
    let fits = match (&key.kind, &value) {
        (Kind::Int(low, high), Value::Integer(number)) => (low..=high).contains(&number),
        (Kind::Float(low, high), Value::Float(number)) => {
            number.is_finite() && (low..=high).contains(&number)
        }
        (Kind::Float(low, high), Value::Integer(number)) => {
            let number = *number as f64;
            return if (*low..=*high).contains(&number) {
                Ok(Value::Float(number))
            } else {
                Err(refuse(key, &value, origin))
            };
        }
        (Kind::Bool, Value::Boolean(_)) | (Kind::Text, Value::String(_)) => true,
        (Kind::Choice(words), Value::String(word)) => words.contains(&word.as_str()),
        (Kind::Ints(low, high), Value::Integer(number)) => (low..=high).contains(&number),
        (Kind::Ints(low, high), Value::Array(numbers)) => numbers.iter().all(|number| {
            number
                .as_integer()
                .is_some_and(|number| (low..=high).contains(&&number))
        }),
        (Kind::Texts, Value::Array(texts)) => texts.iter().all(Value::is_str),
        _ => false,
    };
    if fits {
        Ok(value)
    } else {
        Err(refuse(key, &value, origin))
    }
}

fn refuse(key: &Key, value: &Value, origin: &Origin) -> Error {
    let mut message = format!(
        "{} is {value}, expected {}",
        origin.say(key.path),
        key.kind.expected()
    );
    if let (Kind::Choice(words), Value::String(word)) = (&key.kind, value) {
        let near = words
            .iter()
            .map(|known| (strsim::damerau_levenshtein(known, word), known))
            .min()
            .filter(|(distance, _)| *distance <= 2);
        if let Some((_, known)) = near {
            message += &format!("; did you mean \"{known}\"?");
        }
    }
    Error::Recipe(message)
}

fn line_of(text: &str, span: &Range<usize>) -> usize {
    let end = span.start.min(text.len());
    1 + text.as_bytes()[..end]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
}

/// Drops the spans of a parsed value.
fn to_value(value: &DeValue) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => {
            let digits = number.as_str();
            match i64::from_str_radix(digits, number.radix()) {
                Ok(number) => Value::Integer(number),
                // Out of i64: kept as text, which no number key accepts.
                Err(_) => Value::String(digits.to_owned()),
            }
        }
        DeValue::Float(number) => match number.as_str().parse() {
            Ok(number) => Value::Float(number),
            Err(_) => Value::String(number.as_str().to_owned()),
        },
        DeValue::Boolean(flag) => Value::Boolean(*flag),
        DeValue::Datetime(date) => Value::String(date.to_string()),
        DeValue::Array(items) => {
            Value::Array(items.iter().map(|item| to_value(item.get_ref())).collect())
        }
        DeValue::Table(table) => Value::Table(
            table
                .iter()
                .map(|(name, item)| (name.get_ref().to_string(), to_value(item.get_ref())))
                .collect(),
        ),
    }
}
