//! The npy format: one array in a file, as NumPy reads and writes it
//! (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>).
//!
//! A file is the magic `\x93NUMPY`, the version (2 bytes), the length of the header (2 bytes in
//! version 1, else 4, little-endian), the header (a Python dictionary as text) and the elements.
//! What is read is checked before a byte of it is believed.

use super::safetensors::{from_bytes, io_error, write_elements};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// A longer header is taken for an attack: that of a tensor has about a hundred bytes.
const LONGEST_HEADER: u64 = 1 << 16;
/// The elements begin at a multiple of this.
const ALIGNMENT: usize = 64;

/// NumPy's names of element types, without the mark of the byte order.
const DTYPES: &[(&str, DType)] = &[
    ("b1", DType::Bool),
    ("u1", DType::U8),
    ("i4", DType::I32),
    ("i8", DType::I64),
    ("f2", DType::F16),
    ("f4", DType::F32),
    ("f8", DType::F64),
];

/// Writes a tensor, in version 1 of the format and C order.
///
/// # Errors
/// What the writer says.
///
/// # Panics
/// If the tensor is of `bf16`, which NumPy lacks.
#[track_caller]
pub fn write(out: &mut dyn Write, tensor: &Tensor) -> io::Result<()> {
    let dtype = tensor.dtype();
    let Some((name, _)) = DTYPES.iter().find(|(_, known)| *known == dtype) else {
        panic!("npy: NumPy has no elements of type {dtype}; cast the tensor first, to f32 perhaps");
    };
    let order = if dtype.size() == 1 { '|' } else { '<' };
    let sides = tensor.shape().iter();
    let sides: String = sides.map(|side| format!("{side}, ")).collect();
    // A tuple of one keeps its comma.
    let shape = match tensor.rank() {
        1 => sides.trim_end(),
        _ => sides.trim_end_matches(", "),
    };
    let header =
        format!("{{'descr': '{order}{name}', 'fortran_order': False, 'shape': ({shape}), }}");
    let start = MAGIC.len() + 4;
    let end = (start + header.len() + 1).next_multiple_of(ALIGNMENT);
    let length = u16::try_from(end - start).expect("tensors have few axes");
    out.write_all(MAGIC)?;
    out.write_all(&[1, 0])?;
    out.write_all(&length.to_le_bytes())?;
    writeln!(out, "{header:<width$}", width = end - start - 1)?;
    write_elements(out, tensor)
}

/// [`write()`] into a file that is replaced atomically.
///
/// # Errors
/// If the file cannot be written; an old one is then as it was.
///
/// # Panics
/// As [`write()`].
#[track_caller]
pub fn save(path: impl AsRef<Path>, tensor: &Tensor) -> Result<()> {
    let path = path.as_ref();
    super::write_atomic(path, |file| write(file, tensor)).map_err(io_error(path))
}

/// Reads a file of version 1, 2 or 3, in C or Fortran order, of either byte order.
///
/// # Errors
/// If the file cannot be read, is not exactly what its header says, or has elements of a type that
/// tensors do not have.
///
/// ```
/// use fornax_tensor::{Tensor, io::npy};
/// let path = std::env::temp_dir().join(format!("fornax-{}.npy", std::process::id()));
/// npy::save(&path, &Tensor::from_vec(vec![1.0f32, 2.0], [2, 1]))?;
/// assert_eq!(npy::load(&path)?.shape(), [2, 1]);
/// # std::fs::remove_file(path).unwrap();
/// # Ok::<(), fornax_tensor::Error>(())
/// ```
pub fn load(path: impl AsRef<Path>) -> Result<Tensor> {
    let path = path.as_ref();
    let mut file = File::open(path).map_err(io_error(path))?;
    let length = file.metadata().map_err(io_error(path))?.len();
    read(&mut file, length).map_err(|error| match error {
        Wrong::Io(error) => io_error(path)(error),
        Wrong::Format(reason) => Error::Format {
            path: path.display().to_string(),
            reason,
        },
    })
}

/// Why a file is refused.
#[derive(Debug)]
enum Wrong {
    Io(io::Error),
    Format(String),
}

impl From<io::Error> for Wrong {
    fn from(error: io::Error) -> Self {
        Wrong::Io(error)
    }
}

impl From<String> for Wrong {
    fn from(reason: String) -> Self {
        Wrong::Format(reason)
    }
}

/// Reads a tensor from the `length` bytes of `input`.
fn read(input: &mut dyn Read, length: u64) -> Result<Tensor, Wrong> {
    if length < 10 {
        return Err(format!("not an npy file: it has only {length} bytes").into());
    }
    let mut start = [0; 8];
    input.read_exact(&mut start)?;
    let [magic @ .., major, _] = start;
    if magic != *MAGIC {
        return Err("not an npy file: it does not begin as one"
            .to_owned()
            .into());
    }
    // Bytes that tell the header's length.
    let told = match major {
        1 => 2,
        2 | 3 => 4,
        _ => return Err(format!("version {major} of the format is unknown").into()),
    };
    let before = (start.len() + told) as u64;
    let mut size = [0; 4];
    if length >= before {
        input.read_exact(&mut size[..told])?;
    }
    let size = u64::from(u32::from_le_bytes(size));
    if size > LONGEST_HEADER || size > length.saturating_sub(before) {
        return Err(format!(
            "it claims a header of {size} bytes and has {length} in all: not an npy file, or cut short"
        )
        .into());
    }
    let mut header = vec![0; size as usize];
    input.read_exact(&mut header)?;
    let header = Header::parse(&header)?;

    let have = length - before - size;
    if header.bytes()? != have {
        return Err(format!(
            "its header promises {} bytes of elements, but there are {have}",
            header.bytes()?
        )
        .into());
    }
    let mut bytes = vec![0; have as usize];
    input.read_exact(&mut bytes)?;
    if header.big_endian {
        for element in bytes.chunks_exact_mut(header.dtype.size()) {
            element.reverse();
        }
    }
    if !header.fortran_order {
        return Ok(from_bytes(header.dtype, &bytes, &header.shape));
    }
    // The first axis is the fastest: in C order that is the array with its axes reversed.
    let reversed: Vec<usize> = header.shape.iter().rev().copied().collect();
    let axes: Vec<isize> = (0..reversed.len() as isize).rev().collect();
    Ok(from_bytes(header.dtype, &bytes, &reversed).permute(axes))
}

#[derive(Debug, PartialEq)]
struct Header {
    dtype: DType,
    big_endian: bool,
    fortran_order: bool,
    shape: Vec<usize>,
}

impl Header {
    /// Reads `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "its header is not text".to_owned())?;
        let mut words = Words(text);
        let (mut kind, mut fortran_order, mut shape) = (None, None, None);
        words.expect("{")?;
        while !words.take("}") {
            let key = words.quoted()?;
            words.expect(":")?;
            let again = match key {
                "descr" => kind.replace(words.dtype()?).is_some(),
                "fortran_order" => fortran_order.replace(words.truth()?).is_some(),
                "shape" => shape.replace(words.shape()?).is_some(),
                _ => return Err(format!("its header has the unknown key {key:?}")),
            };
            if again {
                return Err(format!("its header has {key:?} twice"));
            }
            if !words.take(",") {
                words.expect("}")?;
                break;
            }
        }
        words.end()?;
        let lacks = |key: &str| format!("its header has no {key:?}");
        let (dtype, big_endian) = kind.ok_or_else(|| lacks("descr"))?;
        Ok(Header {
            dtype,
            big_endian,
            fortran_order: fortran_order.ok_or_else(|| lacks("fortran_order"))?,
            shape: shape.ok_or_else(|| lacks("shape"))?,
        })
    }

    /// The bytes of all elements.
    fn bytes(&self) -> Result<u64, String> {
        // Without the empty axes too, so that no product of sides overflows later.
        let mut sides = self.shape.iter().filter(|side| **side > 0);
        let size = self.dtype.size();
        let full = sides.try_fold(size, |bytes: usize, side| bytes.checked_mul(*side));
        let full = full.filter(|&bytes| bytes <= isize::MAX as usize);
        let full = full.ok_or_else(|| format!("the shape {:?} is too large", self.shape))?;
        let empty = self.shape.contains(&0);
        Ok(if empty { 0 } else { full as u64 })
    }
}

/// What is left of a header.
struct Words<'a>(&'a str);

impl<'a> Words<'a> {
    fn take(&mut self, mark: &str) -> bool {
        let text = self.0.trim_start();
        match text.strip_prefix(mark) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, mark: &str) -> Result<(), String> {
        match self.take(mark) {
            true => Ok(()),
            false => Err(self.wrong(&format!("`{mark}`"))),
        }
    }

    fn wrong(&self, wanted: &str) -> String {
        let here: String = self.0.trim_start().chars().take(20).collect();
        format!("its header is not as NumPy writes it: {wanted} is missing before {here:?}")
    }

    fn end(&self) -> Result<(), String> {
        match self.0.trim() {
            "" => Ok(()),
            _ => Err(self.wrong("the end")),
        }
    }

    fn quoted(&mut self) -> Result<&'a str, String> {
        for quote in ["'", "\""] {
            if self.take(quote) {
                let Some((word, rest)) = self.0.split_once(quote) else {
                    return Err(self.wrong("a closing quote"));
                };
                self.0 = rest;
                return Ok(word);
            }
        }
        Err(self.wrong("a text in quotes"))
    }

    fn dtype(&mut self) -> Result<(DType, bool), String> {
        if self.0.trim_start().starts_with('[') {
            return Err("its elements are records of several fields; save each as an array".into());
        }
        let name = self.quoted()?;
        let plain = name.trim_start_matches(['<', '>', '|', '=']);
        let known = DTYPES.iter().find(|(known, _)| *known == plain);
        match known {
            Some((_, dtype)) => Ok((*dtype, name.starts_with('>'))),
            None => Err(format!(
                "its elements are of NumPy's type {name:?}, which Fornax does not have; convert \
                 them with astype(\"float32\"), say"
            )),
        }
    }

    fn truth(&mut self) -> Result<bool, String> {
        match (self.take("True"), self.take("False")) {
            (true, false) => Ok(true),
            (false, true) => Ok(false),
            _ => Err(self.wrong("True or False")),
        }
    }

    fn shape(&mut self) -> Result<Vec<usize>, String> {
        let mut shape = Vec::new();
        self.expect("(")?;
        while !self.take(")") {
            shape.push(self.number()?);
            if !self.take(",") {
                // (3) is a number in Python, but what is meant is plain.
                self.expect(")")?;
                break;
            }
        }
        Ok(shape)
    }

    fn number(&mut self) -> Result<usize, String> {
        let text = self.0.trim_start();
        let end = text.find(|c: char| !c.is_ascii_digit());
        let (digits, rest) = text.split_at(end.unwrap_or(text.len()));
        let number = digits.parse();
        let number = number.map_err(|_| self.wrong("a whole number"))?;
        // As Python 2 marked long numbers.
        self.0 = rest.strip_prefix('L').unwrap_or(rest);
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::assert_close;
    use proptest::prelude::*;

    fn written(tensor: &Tensor) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, tensor).unwrap();
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<Tensor, String> {
        read(&mut &bytes[..], bytes.len() as u64).map_err(|error| match error {
            Wrong::Format(reason) => reason,
            Wrong::Io(error) => panic!("{error}"),
        })
    }

    /// A file of version 1 with this header.
    fn file(header: &str, elements: &[u8]) -> Vec<u8> {
        let length = (header.len() as u16).to_le_bytes();
        [MAGIC, &[1, 0][..], &length, header.as_bytes(), elements].concat()
    }

    #[test]
    fn every_type_and_rank_survives_both_ways() {
        let range = Tensor::from_vec((0..24).map(|i| i as f64 - 3.5).collect::<Vec<_>>(), [24]);
        for (_, dtype) in DTYPES {
            for shape in [&[24][..], &[], &[2, 3, 4], &[4, 0, 3], &[1, 24]] {
                let count = shape.iter().product::<usize>();
                let x = range.narrow(0, 0, count).reshape(shape).to_dtype(*dtype);
                let bytes = written(&x);
                assert_eq!((bytes.len() - count * dtype.size()) % ALIGNMENT, 0);
                let y = parse(&bytes).unwrap();
                assert_eq!((y.dtype(), y.shape()), (*dtype, shape));
                assert_eq!(y.to_f64_vec(), x.to_f64_vec());
            }
        }
    }

    #[test]
    #[should_panic(expected = "NumPy has no elements of type")]
    fn bf16_is_refused() {
        written(&Tensor::zeros([1], DType::BF16));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n";
        let elements = [0, 0, 128, 63, 0, 0, 0, 64];
        let x = parse(&file(good, &elements)).unwrap();
        assert_eq!(x.to_vec::<f32>(), [1.0, 2.0]);
        let other = "{\"shape\": (1, 2L), \"fortran_order\": True,\"descr\": \">f4\"}";
        let swapped = [63, 128, 0, 0, 64, 0, 0, 0];
        assert_close(
            &parse(&file(other, &swapped)).unwrap(),
            &x.reshape([1, 2]),
            0.0,
        );

        let bad =
            |from: &str, to: &str| parse(&file(&good.replace(from, to), &elements)).unwrap_err();
        assert!(bad("<f4", "<c8").contains("type \"<c8\", which Fornax does not have"));
        assert!(bad("'<f4'", "[('x', '<f4')]").contains("records"));
        assert!(bad("(2,)", "(3,)").contains("promises 12 bytes of elements, but there are 8"));
        assert!(bad("(2,)", "(-2,)").contains("a whole number is missing before \"-2"));
        let large = "(4611686018427387904, 16)";
        assert!(bad("(2,)", large).contains("too large"));
        assert!(bad("(2,)", "(9223372036854775807, 0, 8)").contains("too large"));
        assert!(bad("(2,)", "(99999999999999999999,)").contains("a whole number"));
        assert!(bad("False", "Maybe").contains("True or False"));
        assert!(bad("'descr': '<f4', ", "").contains("has no \"descr\""));
        assert!(bad("'shape'", "'size'").contains("unknown key \"size\""));
        assert!(bad("'shape': (2,)", "'descr': '<f4'").contains("twice"));
        assert!(bad("}", "").contains("a text in quotes"));
        assert!(bad("}", "} 1").contains("the end is missing before \"1"));
        assert!(
            parse(b"PK\x03\x04 an npz archive")
                .unwrap_err()
                .contains("does not begin as one")
        );
        assert!(
            parse(b"\x93NUMPY\x01")
                .unwrap_err()
                .contains("only 7 bytes")
        );
        assert!(
            parse(b"\x93NUMPY\x09\0\0\0")
                .unwrap_err()
                .contains("version 9")
        );
        let lie = b"\x93NUMPY\x02\0\xff\xff\xff\xff{}";
        assert!(
            parse(lie)
                .unwrap_err()
                .contains("claims a header of 4294967295 bytes")
        );
    }

    #[test]
    fn what_numpy_wrote_is_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/npy");
        let want: Vec<f64> = (0..6).map(f64::from).collect();
        let mut files = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let x = load(&path).unwrap();
            assert_eq!(x.shape(), [2, 3], "{path:?}");
            let got = x.to_dtype(DType::F64).to_f64_vec();
            if x.dtype() == DType::Bool {
                assert_eq!(got, [0.0, 1.0, 1.0, 1.0, 1.0, 1.0], "{path:?}");
            } else {
                assert_eq!(got, want, "{path:?}");
            }
            // Written again in C order it is what NumPy writes, byte for byte.
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with("c-") {
                assert!(written(&x) == std::fs::read(&path).unwrap(), "{name}");
            }
            files += 1;
        }
        assert_eq!(files, 7 + 3);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// One part of a good file replaced by others: an error or a tensor, never a panic, and no
        /// room made for elements that are not there (2^40 of them would not be had).
        #[test]
        fn damaged_headers(at in any::<prop::sample::Index>(), part in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..4),
            prop::sample::select(vec!["(", ")", ",", "'", "{", "}", "0", "1099511627776", "True", "<i8"])
                .prop_map(|text| text.as_bytes().to_vec()),
        ], over in 0usize..4) {
            let mut bytes = written(&Tensor::zeros([2, 3], DType::F32));
            let at = at.index(bytes.len());
            let end = (at + over).min(bytes.len());
            bytes.splice(at..end, part);
            if let Ok(x) = parse(&bytes) {
                prop_assert!(x.numel() <= bytes.len());
            }
        }
    }
}
