//! The GGUF format, version 3: weights, often quantised, with everything that a program needs to
//! use them, the tokenizer too (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>).
//!
//! A file is a header (counts, then keys with values), descriptions of the tensors, and, from the
//! next multiple of the alignment on, their elements; all numbers little-endian. Quantised
//! elements lie in blocks of 32, each with a scale of its own; they become `f32` when a tensor is
//! read. As with safetensors, nothing that the header says is believed before it is checked.

use super::map::Map;
use crate::error::Result;
use crate::tensor::Tensor;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

mod quant;

pub use quant::{GgmlType, dequantize};

const MAGIC: &[u8; 4] = b"GGUF";
/// ggml's limit.
const MOST_DIMENSIONS: u32 = 4;
const DEFAULT_ALIGNMENT: u64 = 32;

/// A value of a file's metadata.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    Integer(i128),
    Float(f64),
    Bool(bool),
    Text(String),
    Integers(Vec<i64>),
    Floats(Vec<f64>),
    Bools(Vec<bool>),
    Texts(Vec<String>),
}

/// A tensor as a header describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufEntry {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: GgmlType,
    /// Its shape as other formats have it: the last axis is the one whose elements lie side by
    /// side. (The file has the axes the other way round.)
    pub shape: Vec<usize>,
    /// Its bytes in the file.
    pub bytes: Range<usize>,
}

/// An opened file, mapped into memory: its header is read and checked, elements are read and
/// dequantised when asked for.
#[derive(Debug)]
pub struct Gguf {
    map: Map,
    metadata: Vec<(String, Value)>,
    keys: HashMap<String, usize>,
    entries: Vec<GgufEntry>,
    names: HashMap<String, usize>,
}

impl Gguf {
    /// Opens a file and checks its header: counts and lengths against what is there, names,
    /// shapes, types, and that every tensor lies within the file and apart from the others.
    ///
    /// # Errors
    /// If the file cannot be read, or what of the above does not hold.
    pub fn open(path: impl AsRef<Path>) -> Result<Gguf> {
        Self::read(Map::open(path)?)
    }

    /// As [`open`](Gguf::open), of bytes that are mapped or in memory already.
    ///
    /// # Errors
    /// As there.
    pub fn read(map: Map) -> Result<Gguf> {
        match parse(&map) {
            Ok(header) => {
                let index = |names: Vec<&String>| -> HashMap<String, usize> {
                    let names = names.into_iter().enumerate();
                    names.map(|(i, name)| (name.clone(), i)).collect()
                };
                Ok(Gguf {
                    keys: index(header.metadata.iter().map(|(key, _)| key).collect()),
                    names: index(header.entries.iter().map(|entry| &entry.name).collect()),
                    metadata: header.metadata,
                    entries: header.entries,
                    map,
                })
            }
            Err(reason) => Err(map.refuse(reason)),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.map.path()
    }

    /// The metadata in the file's order.
    pub fn metadata(&self) -> &[(String, Value)] {
        &self.metadata
    }

    /// The value of a key of the metadata.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).map(|&i| &self.metadata[i].1)
    }

    /// The text of a key.
    ///
    /// # Errors
    /// If the key is missing or no text.
    pub fn text(&self, key: &str) -> Result<&str> {
        match self.value(key) {
            Some(Value::Text(text)) => Ok(text),
            _ => Err(self.lacks(key, "a text")),
        }
    }

    /// The texts of a key.
    ///
    /// # Errors
    /// If the key is missing or no list of texts.
    pub fn texts(&self, key: &str) -> Result<&[String]> {
        match self.value(key) {
            Some(Value::Texts(texts)) => Ok(texts),
            _ => Err(self.lacks(key, "a list of texts")),
        }
    }

    /// The number of a key, from 0 to 2^63.
    ///
    /// # Errors
    /// If the key is missing or no such number.
    pub fn count(&self, key: &str) -> Result<usize> {
        match self.value(key) {
            Some(Value::Integer(n)) if (0..=i64::MAX as i128).contains(n) => Ok(*n as usize),
            _ => Err(self.lacks(key, "a whole number")),
        }
    }

    /// The number of a key, whole or not.
    ///
    /// # Errors
    /// If the key is missing or no number.
    pub fn number(&self, key: &str) -> Result<f64> {
        match self.value(key) {
            Some(Value::Float(x)) => Ok(*x),
            Some(Value::Integer(n)) => Ok(*n as f64),
            _ => Err(self.lacks(key, "a number")),
        }
    }

    fn lacks(&self, key: &str, kind: &str) -> crate::error::Error {
        let what = match self.value(key) {
            Some(_) => "is not",
            None => "is missing; it should be",
        };
        self.map
            .refuse(format!("the metadata `{key}` {what} {kind}"))
    }

    /// The tensors in the file's order.
    pub fn entries(&self) -> &[GgufEntry] {
        &self.entries
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&GgufEntry> {
        self.names.get(name).map(|&i| &self.entries[i])
    }

    /// Reads one tensor, quantised or not, as `f32`.
    ///
    /// # Errors
    /// If its element type is none that can be read.
    pub fn tensor(&self, entry: &GgufEntry) -> Result<Tensor> {
        let mut elements = vec![0f32; entry.shape.iter().product()];
        if !dequantize(entry.dtype, &self.map[entry.bytes.clone()], &mut elements) {
            return Err(self.map.refuse(format!(
                "`{}` has elements of type {}, which cannot be read yet; F32, F16, BF16, Q4_0, Q4_1 \
                 and Q8_0 can",
                entry.name,
                entry.dtype.name()
            )));
        }
        Ok(Tensor::from_vec(elements, &entry.shape[..]))
    }
}

struct Header {
    metadata: Vec<(String, Value)>,
    entries: Vec<GgufEntry>,
}

/// What is left of the bytes, and how far one has come.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

type Parsed<T> = Result<T, String>;

impl<'a> Reader<'a> {
    fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    fn take(&mut self, count: u64) -> Parsed<&'a [u8]> {
        if count > self.left() {
            return Err(format!(
                "cut short, or its header lies: {count} bytes are wanted at byte {}, {} are left",
                self.at,
                self.left()
            ));
        }
        let taken = &self.bytes[self.at..self.at + count as usize];
        self.at += count as usize;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        let bytes = self.take(N as u64)?;
        Ok(bytes.try_into().expect("as many as were taken"))
    }

    fn u32(&mut self) -> Parsed<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Parsed<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Parsed<String> {
        let (at, length) = (self.at, self.u64()?);
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes);
        Ok(text
            .map_err(|_| format!("the text at byte {at} is not UTF-8"))?
            .to_owned())
    }

    /// A count of things that take at least `each` bytes: no more than there is room for.
    fn count(&mut self, what: &str, each: u64) -> Parsed<usize> {
        let count = self.u64()?;
        if count > self.left() / each {
            return Err(format!(
                "cut short, or its header lies: it claims {count} {what}, for which there is no room"
            ));
        }
        Ok(count as usize)
    }

    fn value(&mut self) -> Parsed<Value> {
        let kind = self.u32()?;
        self.value_of(kind)
    }

    fn value_of(&mut self, kind: u32) -> Parsed<Value> {
        const LIST: u32 = 9;
        Ok(match kind {
            6 | 12 => Value::Float(self.float(kind)?),
            7 => Value::Bool(self.boolean()?),
            8 => Value::Text(self.text()?),
            LIST => {
                let kind = self.u32()?;
                let each = match kind {
                    0 | 1 | 7 => 1,
                    2 | 3 => 2,
                    4..=6 => 4,
                    8 | 10..=12 => 8,
                    LIST => return Err("a list of lists, which is not read".into()),
                    _ => return Err(format!("the value type {kind} is unknown")),
                };
                let count = self.count("values of a list", each)?;
                match kind {
                    6 | 12 => Value::Floats(self.many(count, |r| r.float(kind))?),
                    7 => Value::Bools(self.many(count, Self::boolean)?),
                    8 => Value::Texts(self.many(count, Self::text)?),
                    _ => Value::Integers(self.many(count, |r| {
                        i64::try_from(r.integer(kind)?)
                            .map_err(|_| "a number of a list is beyond 2^63".into())
                    })?),
                }
            }
            _ => Value::Integer(self.integer(kind)?),
        })
    }

    fn many<T>(
        &mut self,
        count: usize,
        mut one: impl FnMut(&mut Self) -> Parsed<T>,
    ) -> Parsed<Vec<T>> {
        (0..count).map(|_| one(self)).collect()
    }

    fn boolean(&mut self) -> Parsed<bool> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(format!("{other} is neither true nor false")),
        }
    }

    fn float(&mut self, kind: u32) -> Parsed<f64> {
        match kind {
            6 => Ok(f32::from_le_bytes(self.array()?).into()),
            _ => Ok(f64::from_le_bytes(self.array()?)),
        }
    }

    fn integer(&mut self, kind: u32) -> Parsed<i128> {
        Ok(match kind {
            0 => u8::from_le_bytes(self.array()?).into(),
            1 => i8::from_le_bytes(self.array()?).into(),
            2 => u16::from_le_bytes(self.array()?).into(),
            3 => i16::from_le_bytes(self.array()?).into(),
            4 => u32::from_le_bytes(self.array()?).into(),
            5 => i32::from_le_bytes(self.array()?).into(),
            10 => u64::from_le_bytes(self.array()?).into(),
            11 => i64::from_le_bytes(self.array()?).into(),
            _ => return Err(format!("the value type {kind} is unknown")),
        })
    }
}

fn parse(bytes: &[u8]) -> Parsed<Header> {
    let mut reader = Reader { bytes, at: 0 };
    if reader.take(4).ok() != Some(MAGIC) {
        return Err("not a GGUF file".into());
    }
    match reader.u32()? {
        // The second version differs in nothing that is read here.
        2 | 3 => {}
        version => {
            return Err(format!(
                "GGUF of version {version} (of a machine with another byte order, if that looks \
                 odd); only 2 and 3 are read"
            ));
        }
    }
    // A name's length, dimensions, type and offset; a key's length, type and a value of one byte.
    let tensors = reader.u64()?;
    let keys = reader.count("keys", 13)?;
    if tensors > reader.left() / 24 {
        return Err(format!(
            "cut short, or its header lies: it claims {tensors} tensors, for which there is no room"
        ));
    }
    let mut metadata = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..keys {
        let key = reader.text()?;
        let value = reader
            .value()
            .map_err(|reason| format!("`{key}`: {reason}"))?;
        if !seen.insert(key.clone()) {
            return Err(format!("the key `{key}` is there twice"));
        }
        metadata.push((key, value));
    }
    let alignment = metadata.iter().find(|(key, _)| key == "general.alignment");
    let alignment = match alignment {
        None => DEFAULT_ALIGNMENT,
        Some((_, Value::Integer(n))) if *n > 0 && *n % 8 == 0 && *n <= 1 << 30 => *n as u64,
        Some((_, value)) => {
            return Err(format!(
                "general.alignment is {value:?}, not a multiple of 8"
            ));
        }
    };
    let mut entries = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..tensors {
        let entry = describe(&mut reader, alignment)?;
        if !seen.insert(entry.name.clone()) {
            return Err(format!("the tensor `{}` is there twice", entry.name));
        }
        entries.push(entry);
    }
    let base = (reader.at as u64).next_multiple_of(alignment);
    place(&mut entries, base, bytes.len() as u64)?;
    Ok(Header { metadata, entries })
}

/// Reads what the header says of one tensor; its bytes are still counted from the first element.
fn describe(reader: &mut Reader<'_>, alignment: u64) -> Parsed<GgufEntry> {
    let name = reader.text()?;
    let wrong = |what: String| format!("`{name}`: {what}");
    let dimensions = reader.u32()?;
    if dimensions > MOST_DIMENSIONS {
        return Err(wrong(format!(
            "it has {dimensions} dimensions, at most {MOST_DIMENSIONS} are possible"
        )));
    }
    let mut sides = reader.many(dimensions as usize, Reader::u64)?;
    let code = reader.u32()?;
    let dtype =
        GgmlType::of(code).ok_or_else(|| wrong(format!("the element type {code} is unknown")))?;
    let start = reader.u64()?;
    if !start.is_multiple_of(alignment) {
        return Err(wrong(format!(
            "its offset {start} is not a multiple of {alignment}"
        )));
    }
    let (block, size) = dtype.block();
    // The blocks go along the axis whose elements lie side by side.
    if !sides.first().unwrap_or(&1).is_multiple_of(block) {
        return Err(wrong(format!(
            "rows of {} elements do not divide into blocks of {block}",
            sides.first().unwrap_or(&1)
        )));
    }
    // A side of 0 hides no absurd ones, so that the sides can be multiplied in any order.
    let sized = |&side: &u64| side.max(1);
    let elements = sides.iter().map(sized).try_fold(1u64, u64::checked_mul);
    let length = elements
        .filter(|&n| n <= (isize::MAX / 4) as u64)
        .map(|n| if sides.contains(&0) { 0 } else { n })
        .and_then(|n| (n / block).checked_mul(size));
    let end = length.and_then(|length| start.checked_add(length));
    let end = end
        .filter(|&end| end <= isize::MAX as u64)
        .ok_or_else(|| wrong(format!("the shape {sides:?} is too large")))?;
    sides.reverse();
    Ok(GgufEntry {
        dtype,
        shape: sides.into_iter().map(|side| side as usize).collect(),
        bytes: start as usize..end as usize,
        name,
    })
}

/// Counts the tensors' bytes from the beginning of the file, and sees that they lie in it and
/// apart from each other.
fn place(entries: &mut [GgufEntry], base: u64, length: u64) -> Parsed<()> {
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by_key(|&i| (entries[i].bytes.start, entries[i].bytes.end));
    let mut before: Option<usize> = None;
    for i in order {
        let bytes = entries[i].bytes.clone();
        if let Some(before) = before
            && bytes.start < entries[before].bytes.end - base as usize
            && !bytes.is_empty()
        {
            return Err(format!(
                "`{}` and `{}` share bytes",
                entries[before].name, entries[i].name
            ));
        }
        let end = base.checked_add(bytes.end as u64);
        if end.is_none_or(|end| end > length) {
            return Err(format!(
                "`{}` ends at byte {} of the elements, but the file has only {}: it was cut short",
                entries[i].name,
                bytes.end,
                length.saturating_sub(base)
            ));
        }
        let base = base as usize;
        entries[i].bytes = base + bytes.start..base + bytes.end;
        if !bytes.is_empty() {
            before = Some(i);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
