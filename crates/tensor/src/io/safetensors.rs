//! The safetensors format: named tensors in one file, as PyTorch and HuggingFace read and write
//! it (<https://github.com/huggingface/safetensors>).
//!
//! A file is the length of its header (8 bytes, little-endian), the header (JSON), and the
//! elements of all tensors, little-endian. What is written is a function of the arguments alone,
//! so equal models give equal files. What is read is checked before a byte of it is believed.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, eval_all};
use half::{bf16, f16};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map as Object, Value, json};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

use super::map::Map;

/// The longest header that the format allows.
const LONGEST_HEADER: u64 = 100_000_000;
const METADATA: &str = "__metadata__";

/// The names of element types in files; those that [`DType`] has come with it.
const DTYPES: &[(&str, usize, Option<DType>)] = &[
    ("BOOL", 1, Some(DType::Bool)),
    ("U8", 1, Some(DType::U8)),
    ("I8", 1, None),
    ("F8_E4M3", 1, None),
    ("F8_E5M2", 1, None),
    ("I16", 2, None),
    ("U16", 2, None),
    ("F16", 2, Some(DType::F16)),
    ("BF16", 2, Some(DType::BF16)),
    ("I32", 4, Some(DType::I32)),
    ("U32", 4, None),
    ("F32", 4, Some(DType::F32)),
    ("I64", 8, Some(DType::I64)),
    ("U64", 8, None),
    ("F64", 8, Some(DType::F64)),
];

/// Writes named tensors and metadata. Tensors of wide elements come first, so that all are
/// aligned in the file; among equals the order is kept.
///
/// # Errors
/// What the writer says.
///
/// # Panics
/// If two tensors have the same name, or one is called `__metadata__`.
#[track_caller]
pub fn write(
    out: &mut dyn Write,
    tensors: &[(String, Tensor)],
    metadata: &BTreeMap<String, String>,
) -> io::Result<()> {
    let mut order: Vec<&(String, Tensor)> = tensors.iter().collect();
    order.sort_by_key(|(_, tensor)| std::cmp::Reverse(tensor.dtype().size()));

    let mut header = String::from("{");
    if !metadata.is_empty() {
        header += &format!("\"{METADATA}\":{}", json!(metadata));
    }
    let mut seen = std::collections::HashSet::new();
    let mut offset = 0;
    for (name, tensor) in &order {
        assert!(
            name != METADATA && seen.insert(name),
            "safetensors: a second tensor `{name}`"
        );
        let end = offset + tensor.numel() * tensor.dtype().size();
        let separator = if header.len() > 1 { "," } else { "" };
        header += &format!(
            "{separator}{}:{{\"dtype\":\"{}\",\"shape\":{},\"data_offsets\":[{offset},{end}]}}",
            json!(name),
            file_name(tensor.dtype()),
            json!(tensor.shape()),
        );
        offset = end;
    }
    header.push('}');
    // Elements start at a multiple of 8; the format pads with spaces.
    let padded = header.len().next_multiple_of(8);
    header.extend(std::iter::repeat_n(' ', padded - header.len()));
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    for (_, tensor) in order {
        write_elements(out, tensor)?;
    }
    Ok(())
}

/// [`write()`] into a file that is replaced atomically.
///
/// # Errors
/// If the file cannot be written; an old one is then as it was.
#[track_caller]
pub fn save(
    path: impl AsRef<Path>,
    tensors: &[(String, Tensor)],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let path = path.as_ref();
    // An index out of range is found before anything is written.
    eval_all(&tensors.iter().map(|(_, t)| t).collect::<Vec<_>>())?;
    super::write_atomic(path, |file| write(file, tensors, metadata)).map_err(io_error(path))
}

/// What a file holds.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The tensors in the order of their elements.
    pub tensors: Vec<(String, Tensor)>,
    /// Texts by name.
    pub metadata: BTreeMap<String, String>,
}

/// Reads a whole file.
///
/// # Errors
/// As [`SafeTensors::open`] and [`SafeTensors::tensor`].
pub fn load(path: impl AsRef<Path>) -> Result<Loaded> {
    let file = SafeTensors::open(path)?;
    let tensors = file.entries.iter().map(|entry| {
        let tensor = file.tensor(entry)?;
        Ok((entry.name.clone(), tensor))
    });
    Ok(Loaded {
        tensors: tensors.collect::<Result<_>>()?,
        metadata: file.metadata.clone(),
    })
}

/// An opened file: its header is read and checked, its elements are mapped into memory and copied
/// into tensors when asked for. So a file of any size opens at once.
#[derive(Debug)]
pub struct SafeTensors {
    map: Map,
    /// Where the elements begin.
    base: usize,
    entries: Vec<FileEntry>,
    metadata: BTreeMap<String, String>,
}

/// A tensor as a header describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Its name.
    pub name: String,
    /// The format's name of its element type, such as `F32`.
    pub dtype: &'static str,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its bytes, counted from the first byte of elements.
    pub bytes: Range<u64>,
}

impl SafeTensors {
    /// Opens a file and checks its header: that it lies within the file and is JSON, that types
    /// and shapes fit the lengths, and that the tensors cover the file without gap or overlap.
    ///
    /// # Errors
    /// If the file cannot be read, or what of the above does not hold.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::read(Map::open(path)?)
    }

    /// As [`open`](SafeTensors::open), of bytes that are mapped or in memory already.
    ///
    /// # Errors
    /// As there.
    pub fn read(map: Map) -> Result<Self> {
        let length = map.len() as u64;
        let Some((size, rest)) = map.split_first_chunk::<8>() else {
            return Err(map.refuse(format!(
                "not a safetensors file: it has {length} bytes, fewer than the header's length takes"
            )));
        };
        let size = u64::from_le_bytes(*size);
        if size > LONGEST_HEADER || size > length - 8 {
            return Err(map.refuse(format!(
                "not a safetensors file, or cut short: it claims a header of {size} bytes and has {length} in all"
            )));
        }
        let Unique(header) = serde_json::from_slice(&rest[..size as usize])
            .map_err(|error| map.refuse(format!("its header is not a JSON object: {error}")))?;
        let (entries, metadata) =
            parse_header(header, length - 8 - size).map_err(|reason| map.refuse(reason))?;
        Ok(SafeTensors {
            base: 8 + size as usize,
            map,
            entries,
            metadata,
        })
    }

    /// The tensors in the order of their elements.
    pub fn entries(&self) -> &[FileEntry] {
        &self.entries
    }

    /// Texts by name.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Reads one tensor.
    ///
    /// # Errors
    /// If the element type is one that tensors do not have.
    pub fn tensor(&self, entry: &FileEntry) -> Result<Tensor> {
        let known = DTYPES.iter().find(|(name, ..)| *name == entry.dtype);
        let Some((_, _, Some(dtype))) = known else {
            return Err(self.map.refuse(format!(
                "`{}` has elements of type {}, which Fornax does not have",
                entry.name, entry.dtype
            )));
        };
        let Range { start, end } = entry.bytes;
        let bytes = &self.map[self.base + start as usize..self.base + end as usize];
        Ok(from_bytes(*dtype, bytes, &entry.shape))
    }
}

/// A JSON object, no two of whose entries have one name.
pub(super) struct Unique(pub(super) Object<String, Value>);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Unique;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique, A::Error> {
                let mut entries = Object::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if entries.contains_key(&name) {
                        return Err(A::Error::custom(format!("`{name}` is there twice")));
                    }
                    entries.insert(name, value);
                }
                Ok(Unique(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

type Parsed = (Vec<FileEntry>, BTreeMap<String, String>);

fn parse_header(header: Object<String, Value>, length: u64) -> Result<Parsed, String> {
    let mut entries = Vec::new();
    let mut metadata = BTreeMap::new();
    for (name, value) in header {
        if name == METADATA {
            let Value::Object(texts) = value else {
                return Err(format!("`{METADATA}` is not an object"));
            };
            for (key, text) in texts {
                let Value::String(text) = text else {
                    return Err(format!("`{METADATA}.{key}` is not a text"));
                };
                metadata.insert(key, text);
            }
        } else {
            entries.push(parse_entry(name, &value)?);
        }
    }
    entries.sort_by(|a, b| {
        (a.bytes.start, a.bytes.end, &a.name).cmp(&(b.bytes.start, b.bytes.end, &b.name))
    });
    let mut at = 0;
    for entry in &entries {
        let Range { start, end } = entry.bytes;
        if end > length {
            return Err(format!(
                "`{}` ends at byte {end} of the elements, but the file has only {length}: it was cut short",
                entry.name
            ));
        }
        if start != at {
            return Err(format!(
                "`{}` starts at byte {start} of the elements, not at {at} where the one before it ends",
                entry.name
            ));
        }
        at = end;
    }
    if at != length {
        return Err(format!(
            "{} bytes after the last tensor belong to none",
            length - at
        ));
    }
    Ok((entries, metadata))
}

fn parse_entry(name: String, value: &Value) -> Result<FileEntry, String> {
    let wrong = |what: &str| format!("`{name}`: {what}");
    let text = value["dtype"]
        .as_str()
        .ok_or_else(|| wrong("has no dtype"))?;
    let (dtype, size, _) = DTYPES
        .iter()
        .find(|(known, ..)| *known == text)
        .ok_or_else(|| wrong(&format!("the element type {text:?} is unknown")))?;
    let numbers = |key: &str| -> Option<Vec<u64>> {
        let list = value[key].as_array()?.iter();
        list.map(Value::as_u64).collect()
    };
    let shape = numbers("shape").ok_or_else(|| wrong("has no shape of whole numbers"))?;
    let offsets = numbers("data_offsets").ok_or_else(|| wrong("has no data_offsets"))?;
    let [start, end] = offsets[..] else {
        return Err(wrong("data_offsets are not a pair"));
    };
    let bytes = shape
        .iter()
        .try_fold(*size as u64, |bytes, &side| bytes.checked_mul(side))
        .filter(|&bytes| bytes <= isize::MAX as u64)
        .ok_or_else(|| wrong(&format!("the shape {shape:?} is too large")))?;
    if end.checked_sub(start) != Some(bytes) {
        return Err(wrong(&format!(
            "{dtype} of shape {shape:?} takes {bytes} bytes, but its offsets are {start} to {end}"
        )));
    }
    let sides = shape.iter().map(|&side| usize::try_from(side));
    let shape = sides
        .collect::<Result<_, _>>()
        .map_err(|_| wrong("a side is too long"))?;
    Ok(FileEntry {
        dtype,
        shape,
        bytes: start..end,
        name,
    })
}

fn file_name(dtype: DType) -> &'static str {
    let found = DTYPES.iter().find(|(.., known)| *known == Some(dtype));
    found.expect("every type has a name in files").0
}

pub(super) fn io_error(path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.display().to_string();
    move |source| Error::Io {
        path: path.clone(),
        source,
    }
}

pub(super) fn write_elements(out: &mut dyn Write, tensor: &Tensor) -> io::Result<()> {
    macro_rules! elements {
        ($t:ty) => {{
            // Through a buffer of modest size: a second copy of a large tensor is not needed.
            let mut bytes = Vec::with_capacity(1 << 16);
            for part in tensor.to_vec::<$t>().chunks(1 << 12) {
                bytes.clear();
                bytes.extend(part.iter().flat_map(|x| x.to_le_bytes()));
                out.write_all(&bytes)?;
            }
        }};
    }
    match tensor.dtype() {
        DType::Bool => {
            let bytes: Vec<u8> = tensor.to_vec::<bool>().into_iter().map(u8::from).collect();
            out.write_all(&bytes)?;
        }
        DType::U8 => out.write_all(&tensor.to_vec::<u8>())?,
        DType::I32 => elements!(i32),
        DType::I64 => elements!(i64),
        DType::F16 => elements!(f16),
        DType::BF16 => elements!(bf16),
        DType::F32 => elements!(f32),
        DType::F64 => elements!(f64),
    }
    Ok(())
}

pub(super) fn from_bytes(dtype: DType, bytes: &[u8], shape: &[usize]) -> Tensor {
    macro_rules! elements {
        ($t:ty) => {{
            if cfg!(target_endian = "little")
                && let Ok(elements) = bytemuck::try_cast_slice::<u8, $t>(bytes)
            {
                return Tensor::from_slice(elements, shape);
            }
            let parts = bytes.chunks_exact(size_of::<$t>());
            let elements: Vec<$t> = parts
                .map(|part| <$t>::from_le_bytes(part.try_into().expect("a whole element")))
                .collect();
            Tensor::from_vec(elements, shape)
        }};
    }
    match dtype {
        DType::Bool => Tensor::from_vec(
            bytes.iter().map(|&byte| byte != 0).collect::<Vec<_>>(),
            shape,
        ),
        DType::U8 => Tensor::from_slice(bytes, shape),
        DType::I32 => elements!(i32),
        DType::I64 => elements!(i64),
        DType::F16 => elements!(f16),
        DType::BF16 => elements!(bf16),
        DType::F32 => elements!(f32),
        DType::F64 => elements!(f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<(String, Tensor)> {
        let named = |name: &str, tensor| (name.to_owned(), tensor);
        vec![
            named("flags", Tensor::from_vec(vec![true, false, true], [3])),
            named(
                "weight",
                Tensor::from_vec(vec![1f32, -2.5, f32::NAN, 4.0], [2, 2]),
            ),
            named("ö\"quoted", Tensor::from_vec(vec![7i64], ())),
            named("none", Tensor::from_vec(Vec::<f64>::new(), [0, 3])),
            named("bytes", Tensor::from_vec(vec![1u8, 255], [2])),
            named("half", Tensor::from_vec(vec![f16::from_f32(0.5)], [1])),
            named("brain", Tensor::from_vec(vec![bf16::from_f32(3.0)], [1, 1])),
            named("int", Tensor::from_vec(vec![-1i32], [1])),
        ]
    }

    fn bytes(tensors: &[(String, Tensor)]) -> Vec<u8> {
        let mut out = Vec::new();
        let metadata = BTreeMap::from([("b".into(), "2".into()), ("a".into(), "1".into())]);
        write(&mut out, tensors, &metadata).unwrap();
        out
    }

    #[test]
    fn tensors_of_all_types_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        save(&path, &sample(), &metadata).unwrap();
        let loaded = load(&path).unwrap();
        assert_eq!(loaded.metadata, metadata);
        let loaded = loaded.tensors;
        assert_eq!(loaded.len(), sample().len());
        for (name, tensor) in sample() {
            let (_, again) = loaded.iter().find(|(other, _)| *other == name).unwrap();
            assert_eq!(
                (tensor.dtype(), tensor.shape()),
                (again.dtype(), again.shape())
            );
            let same = |(a, b): (&f64, &f64)| a == b || (a.is_nan() && b.is_nan());
            assert!(
                tensor
                    .to_f64_vec()
                    .iter()
                    .zip(&again.to_f64_vec())
                    .all(same),
                "{name}"
            );
        }
    }

    #[test]
    fn equal_tensors_give_equal_bytes_that_the_reference_reads() {
        let written = bytes(&sample());
        assert_eq!(written, bytes(&sample()));
        let read = ::safetensors::SafeTensors::deserialize(&written).unwrap();
        let weight = read.tensor("weight").unwrap();
        assert_eq!(weight.shape(), [2, 2]);
        assert_eq!(weight.data()[..4], 1f32.to_le_bytes());
        assert_eq!(read.tensor("ö\"quoted").unwrap().data()[0], 7);
    }

    #[test]
    fn metadata_may_be_long() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        for length in [65_535, 65_536, 100_000, 300_001] {
            let metadata = BTreeMap::from([("text".to_owned(), "é".repeat(length / 2))]);
            save(&path, &sample(), &metadata).unwrap();
            let loaded = load(&path).unwrap();
            assert_eq!(loaded.metadata, metadata);
            assert_eq!(loaded.tensors.len(), sample().len());
        }
    }

    /// Whatever the bytes, opening and loading gives tensors or an error.
    fn open(bytes: &[u8]) -> Result<Vec<(String, Tensor)>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        std::fs::write(&path, bytes).unwrap();
        load(&path).map(|loaded| loaded.tensors)
    }

    #[test]
    fn files_cut_anywhere_are_refused() {
        let whole = bytes(&sample());
        for end in 0..whole.len() {
            let text = open(&whole[..end]).unwrap_err().to_string();
            assert!(text.contains("x.safetensors: "), "{text}");
        }
        let mut longer = whole;
        longer.push(0);
        assert!(
            open(&longer)
                .unwrap_err()
                .to_string()
                .contains("belong to none")
        );
    }

    #[test]
    fn lying_headers_are_refused() {
        let file = |header: &str, data: usize| {
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend(header.as_bytes());
            bytes.resize(bytes.len() + data, 0);
            open(&bytes)
        };
        let one = |dtype: &str, shape: &str, offsets: &str| {
            format!("{{\"t\":{{\"dtype\":{dtype},\"shape\":{shape},\"data_offsets\":{offsets}}}}}")
        };
        assert!(file(&one("\"F32\"", "[2]", "[0,8]"), 8).is_ok());
        assert!(file("{}", 0).is_ok());
        for (header, data, part) in [
            (one("\"F32\"", "[2]", "[0,4]"), 4, "takes 8 bytes"),
            (one("\"F32\"", "[2]", "[8,0]"), 8, "takes 8 bytes"),
            (one("\"F32\"", "[2]", "[8,16]"), 16, "not at 0"),
            (one("\"F32\"", "[-2]", "[0,8]"), 8, "shape"),
            (
                one("\"F32\"", "[4294967296,4294967296,4294967296]", "[0,8]"),
                8,
                "too large",
            ),
            (
                one("\"F32\"", "[4611686018427387904]", "[0,8]"),
                8,
                "too large",
            ),
            (one("\"F99\"", "[2]", "[0,8]"), 8, "unknown"),
            (one("\"I16\"", "[4]", "[0,8]"), 8, "does not have"),
            (one("5", "[2]", "[0,8]"), 8, "no dtype"),
            (one("\"F32\"", "[2]", "[0]"), 8, "pair"),
            ("[]".into(), 0, "JSON object"),
            ("{\"t\":5}".into(), 0, "no dtype"),
            ("{\"__metadata__\":{\"a\":5}}".into(), 0, "not a text"),
            ("{".repeat(100_000), 0, "JSON"),
        ] {
            let text = file(&header, data).unwrap_err().to_string();
            assert!(text.contains(part), "{text}: {part}");
        }
        let mut huge = u64::MAX.to_le_bytes().to_vec();
        huge.extend([0; 100]);
        assert!(
            open(&huge)
                .unwrap_err()
                .to_string()
                .contains("claims a header")
        );
    }

    #[test]
    #[should_panic(expected = "a second tensor `a`")]
    fn a_name_is_used_once() {
        let tensor = Tensor::from_vec(vec![1f32], [1]);
        bytes(&[("a".into(), tensor.clone()), ("a".into(), tensor)]);
    }

    #[test]
    fn a_name_that_is_there_twice_is_refused() {
        let one = r#"{"dtype":"U8","shape":[1],"data_offsets":[0,1]}"#;
        let header = format!(r#"{{"t":{one},"t":{one}}}"#);
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.push(7);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        std::fs::write(&path, bytes).unwrap();
        let error = SafeTensors::open(&path).err().unwrap().to_string();
        assert!(error.contains("`t` is there twice"), "{error}");
    }

    #[test]
    fn threads_read_from_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let tensor = |i: usize| Tensor::full([5000], i as f64, DType::F32);
        let tensors: Vec<_> = (0..8).map(|i| (format!("t{i}"), tensor(i))).collect();
        save(&path, &tensors, &BTreeMap::new()).unwrap();
        let file = SafeTensors::open(&path).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for entry in file.entries().iter().cycle().take(200) {
                        let want: f32 = entry.name[1..].parse().unwrap();
                        let read = file.tensor(entry).unwrap().to_vec::<f32>();
                        assert!(read.iter().all(|&v| v == want));
                    }
                });
            }
        });
    }

    #[test]
    fn a_tensor_that_cannot_be_computed_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let bad =
            Tensor::zeros([2], DType::F32).index_select(0, &Tensor::from_vec(vec![5i64], [1]));
        assert!(save(&path, &[("bad".to_owned(), bad)], &BTreeMap::new()).is_err());
        assert!(!path.exists());
    }
}
