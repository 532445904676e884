//! IDX, the format of MNIST: a magic number (two zero bytes, the element type,
//! the number of dimensions), each dimension as a big-endian `u32`, then the
//! elements, big-endian, row by row. A gzipped file is recognised by its content.
//!
//! Nothing is allocated on the word of a header: a file is used only if it
//! holds exactly the bytes that its header promises.

use crate::dataset::{Features, InMemory, Targets};
use crate::error::{Error, Result};
use crate::file;
use crate::schema::{Input, Schema, TargetKind};
use std::path::Path;

/// The content of an IDX file.
#[derive(Debug, Clone, PartialEq)]
pub struct Idx {
    /// The dimensions; their product is the number of elements.
    pub dims: Vec<usize>,
    /// The elements, row by row.
    pub data: IdxData,
}

/// The elements of an IDX file, by their type there.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum IdxData {
    U8(Vec<u8>),
    I8(Vec<i8>),
    I16(Vec<i16>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    F64(Vec<f64>),
}

impl IdxData {
    /// The type's code in the magic number.
    fn code(&self) -> u8 {
        match self {
            IdxData::U8(_) => 0x08,
            IdxData::I8(_) => 0x09,
            IdxData::I16(_) => 0x0B,
            IdxData::I32(_) => 0x0C,
            IdxData::F32(_) => 0x0D,
            IdxData::F64(_) => 0x0E,
        }
    }

    /// The elements as plain numbers.
    fn to_f64(&self) -> Vec<f64> {
        match self {
            IdxData::U8(v) => v.iter().map(|&x| x.into()).collect(),
            IdxData::I8(v) => v.iter().map(|&x| x.into()).collect(),
            IdxData::I16(v) => v.iter().map(|&x| x.into()).collect(),
            IdxData::I32(v) => v.iter().map(|&x| x.into()).collect(),
            IdxData::F32(v) => v.iter().map(|&x| x.into()).collect(),
            IdxData::F64(v) => v.clone(),
        }
    }
}

const FETCH_AGAIN: &str = "the file is damaged or not IDX; fetch it again";

/// Reads an IDX file, gzipped or not.
///
/// # Errors
/// If the file cannot be read, or is not exactly what its header says.
pub fn read(path: impl AsRef<Path>) -> Result<Idx> {
    let path = path.as_ref();
    parse(path, file::read(path)?)
}

/// Reads the bytes of an IDX file, gzipped or not; `path` is for messages.
///
/// # Errors
/// If the bytes are not exactly what their header says.
///
/// ```
/// use fornax_data::idx::{self, IdxData};
/// let bytes = vec![0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 3, 10, 20, 30];
/// let idx = idx::parse("example".as_ref(), bytes)?;
/// assert_eq!((idx.dims, idx.data), (vec![1, 3], IdxData::U8(vec![10, 20, 30])));
/// # Ok::<(), fornax_data::Error>(())
/// ```
pub fn parse(path: &Path, bytes: Vec<u8>) -> Result<Idx> {
    if !file::is_gzip(&bytes) {
        let header = Header::parse(path, &bytes)?;
        return header.elements(path, bytes);
    }
    // 4 bytes of magic and at most 255 dimensions.
    let start = file::gunzip(path, &bytes, 4 + 4 * 255)?;
    let header = Header::parse(path, &start)?;
    // Deflate packs at most 1032 bytes into one, so a larger promise is a lie.
    if header.total / 1032 > bytes.len() as u64 {
        return Err(header.lie(
            path,
            format!("the whole file has {} (gzipped)", bytes.len()),
        ));
    }
    let bytes = file::gunzip(path, &bytes, header.total + 1)?;
    header.elements(path, bytes)
}

struct Header {
    code: u8,
    dims: Vec<usize>,
    /// Bytes before the elements.
    len: usize,
    /// Bytes of header and elements together.
    total: u64,
}

impl Header {
    fn parse(path: &Path, bytes: &[u8]) -> Result<Header> {
        let &[zero0, zero1, code, rank, ref rest @ ..] = bytes else {
            return Err(Error::format(
                path,
                format!("byte {}", bytes.len()),
                "the file ends inside the magic number",
                FETCH_AGAIN,
            ));
        };
        if zero0 != 0 || zero1 != 0 {
            return Err(Error::format(
                path,
                "byte 0",
                format!("an IDX file starts with two zero bytes, not {zero0:#04x} {zero1:#04x}"),
                FETCH_AGAIN,
            ));
        }
        let size: u64 = match code {
            0x08 | 0x09 => 1,
            0x0B => 2,
            0x0C | 0x0D => 4,
            0x0E => 8,
            _ => {
                return Err(Error::format(
                    path,
                    "byte 2",
                    format!("there is no element type {code:#04x}"),
                    FETCH_AGAIN,
                ));
            }
        };
        let rank = usize::from(rank);
        if rank == 0 {
            return Err(Error::format(
                path,
                "byte 3",
                "the file has no dimensions",
                FETCH_AGAIN,
            ));
        }
        if rest.len() < 4 * rank {
            return Err(Error::format(
                path,
                format!("byte {}", bytes.len()),
                format!("the file ends inside its {rank} dimensions"),
                FETCH_AGAIN,
            ));
        }
        let len = 4 + 4 * rank;
        let mut dims = Vec::with_capacity(rank);
        let mut total = Some(size);
        for (i, d) in rest[..4 * rank].chunks_exact(4).enumerate() {
            let d = u32::from_be_bytes([d[0], d[1], d[2], d[3]]);
            if d == 0 && i > 0 {
                return Err(Error::format(
                    path,
                    format!("byte {}", 4 + 4 * i),
                    format!("dimension {} of {rank} is 0", i + 1),
                    FETCH_AGAIN,
                ));
            }
            total = total.and_then(|t| t.checked_mul(d.into()));
            dims.push(d as usize);
        }
        let total = total.and_then(|t| t.checked_add(len as u64));
        let total = total.filter(|&t| t < isize::MAX as u64).ok_or_else(|| {
            Error::format(
                path,
                "byte 4",
                format!("the dimensions {dims:?} promise more than any memory holds"),
                FETCH_AGAIN,
            )
        })?;
        Ok(Header {
            code,
            dims,
            len,
            total,
        })
    }

    /// The error for a file that does not hold what the header promises.
    fn lie(&self, path: &Path, truth: String) -> Error {
        Error::format(
            path,
            "byte 4",
            format!(
                "the dimensions {:?} promise {} bytes, but {truth}",
                self.dims, self.total
            ),
            FETCH_AGAIN,
        )
    }

    fn elements(self, path: &Path, mut bytes: Vec<u8>) -> Result<Idx> {
        if bytes.len() as u64 != self.total {
            let truth = if bytes.len() as u64 > self.total {
                "the file has more".to_string()
            } else {
                format!("the file has {}", bytes.len())
            };
            return Err(self.lie(path, truth));
        }
        fn each<T, const N: usize>(bytes: &[u8], from: fn([u8; N]) -> T) -> Vec<T> {
            let (whole, _) = bytes.as_chunks::<N>();
            whole.iter().map(|&b| from(b)).collect()
        }
        let body = &bytes[self.len..];
        let data = match self.code {
            0x09 => IdxData::I8(each(body, i8::from_be_bytes)),
            0x0B => IdxData::I16(each(body, i16::from_be_bytes)),
            0x0C => IdxData::I32(each(body, i32::from_be_bytes)),
            0x0D => IdxData::F32(each(body, f32::from_be_bytes)),
            0x0E => IdxData::F64(each(body, f64::from_be_bytes)),
            _ => {
                bytes.drain(..self.len);
                IdxData::U8(bytes)
            }
        };
        Ok(Idx {
            dims: self.dims,
            data,
        })
    }
}

impl Idx {
    /// The bytes of an IDX file with this content.
    ///
    /// # Panics
    /// If there are more than 255 dimensions, or one exceeds 2^32 - 1.
    pub fn to_bytes(&self) -> Vec<u8> {
        let rank = u8::try_from(self.dims.len()).expect("IDX has at most 255 dimensions");
        let mut out = vec![0, 0, self.data.code(), rank];
        for &d in &self.dims {
            out.extend(
                u32::try_from(d)
                    .expect("an IDX dimension fits 32 bits")
                    .to_be_bytes(),
            );
        }
        match &self.data {
            IdxData::U8(v) => out.extend(v),
            IdxData::I8(v) => out.extend(v.iter().flat_map(|x| x.to_be_bytes())),
            IdxData::I16(v) => out.extend(v.iter().flat_map(|x| x.to_be_bytes())),
            IdxData::I32(v) => out.extend(v.iter().flat_map(|x| x.to_be_bytes())),
            IdxData::F32(v) => out.extend(v.iter().flat_map(|x| x.to_be_bytes())),
            IdxData::F64(v) => out.extend(v.iter().flat_map(|x| x.to_be_bytes())),
        }
        out
    }
}

/// A dataset of two IDX files: samples (images `[n, height, width]`, or
/// `[n, channels, height, width]`, or rows `[n, features]`) and their labels
/// `[n]`. Bytes become numbers between 0 and 1, other types stay as they are.
/// `classes` are the classes' names; without them the classes are `0`, `1`, ...
/// up to the largest label.
///
/// # Errors
/// If a file is not good IDX, the two do not belong together, or a label has no class.
pub fn dataset(
    name: &str,
    samples: impl AsRef<Path>,
    labels: impl AsRef<Path>,
    classes: Option<&[&str]>,
) -> Result<InMemory> {
    let (samples_path, labels_path) = (samples.as_ref(), labels.as_ref());
    let labels = read(labels_path)?;
    let samples = read(samples_path)?;
    let n = samples.dims[0];
    if labels.dims != [n] {
        return Err(Error::format(
            labels_path,
            "byte 4",
            format!(
                "has dimensions {:?}, but labels for the {n} samples of {} must have [{n}]",
                labels.dims,
                samples_path.display()
            ),
            "use the two files that belong together",
        ));
    }
    let (labels, names) = check_labels(labels_path, &labels.data, classes)?;
    let input = match samples.dims[1..] {
        [height, width] => Input::Image {
            channels: 1,
            height,
            width,
        },
        [channels @ (1 | 3), height, width] => Input::Image {
            channels,
            height,
            width,
        },
        [] => Input::Array { shape: vec![1] },
        ref shape => Input::Array {
            shape: shape.to_vec(),
        },
    };
    let features = match samples.data {
        IdxData::U8(data) => Features::Bytes {
            data,
            divisor: 255.0,
        },
        IdxData::F32(data) => Features::Floats(data),
        other => Features::Floats(other.to_f64().into_iter().map(|x| x as f32).collect()),
    };
    let schema = Schema {
        name: name.into(),
        input,
        target: TargetKind::Classes { names },
    };
    InMemory::new(schema, features, Targets::Classes(labels))
}

/// The labels as classes, with the classes' names.
fn check_labels(
    path: &Path,
    data: &IdxData,
    classes: Option<&[&str]>,
) -> Result<(Vec<i64>, Vec<String>)> {
    /// More classes than this are taken for a mistake.
    const MOST: f64 = 65_536.0;
    let labels = data.to_f64();
    let known = classes.map_or(MOST, |c| c.len() as f64);
    let bad = |&x: &f64| !(x >= 0.0 && x < known && x.fract() == 0.0);
    if let Some(i) = labels.iter().position(bad) {
        return Err(Error::format(
            path,
            format!("label {i}"),
            format!(
                "{} is not a class; classes are whole numbers from 0 to {}",
                labels[i],
                known - 1.0
            ),
            "use the labels that belong to the dataset",
        ));
    }
    let count = labels.iter().fold(0.0, |max: f64, &x| max.max(x + 1.0)) as usize;
    let names = match classes {
        Some(names) => names.iter().map(|n| n.to_string()).collect(),
        None => (0..count).map(|c| c.to_string()).collect(),
    };
    Ok((labels.into_iter().map(|x| x as i64).collect(), names))
}

/// The path of `stem` in `folder`, gzipped (`stem.gz`) or not.
pub(crate) fn find(folder: &Path, stem: &str) -> Result<std::path::PathBuf> {
    let plain = folder.join(stem);
    let gzipped = folder.join(format!("{stem}.gz"));
    [&plain, &gzipped]
        .into_iter()
        .find(|p| p.is_file())
        .cloned()
        .ok_or_else(|| {
            Error::folder(
                folder,
                format!("has no file {stem} or {stem}.gz"),
                "fetch the dataset again",
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Dataset;
    use std::io::Write;

    fn parse_bytes(bytes: Vec<u8>) -> Result<Idx> {
        parse("some.idx".as_ref(), bytes)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        e.write_all(bytes).unwrap();
        e.finish().unwrap()
    }

    fn message(bytes: Vec<u8>) -> String {
        parse_bytes(bytes).unwrap_err().to_string()
    }

    #[test]
    fn all_types_survive_both_ways() {
        for data in [
            IdxData::U8(vec![0, 255]),
            IdxData::I8(vec![-128, 127]),
            IdxData::I16(vec![-2, 30_000]),
            IdxData::I32(vec![i32::MIN, 7]),
            IdxData::F32(vec![-1.5, f32::MAX]),
            IdxData::F64(vec![f64::MIN_POSITIVE, -0.0]),
        ] {
            let idx = Idx {
                dims: vec![2, 1],
                data,
            };
            assert_eq!(parse_bytes(idx.to_bytes()).unwrap(), idx);
            assert_eq!(parse_bytes(gzip(&idx.to_bytes())).unwrap(), idx);
        }
    }

    #[test]
    fn hostile_headers_get_one_clear_error() {
        assert!(
            message(vec![]).contains("some.idx: byte 0: the file ends inside the magic number")
        );
        assert!(message(b"\x89PNG....".to_vec()).contains("starts with two zero bytes"));
        assert!(message(vec![0, 0, 7, 1, 0, 0, 0, 0]).contains("no element type 0x07"));
        assert!(message(vec![0, 0, 8, 0]).contains("no dimensions"));
        assert!(message(vec![0, 0, 8, 3, 0, 0, 0, 1]).contains("ends inside its 3 dimensions"));
        let huge = [&[0, 0, 14, 3][..], &[255; 12]].concat();
        assert!(message(huge.clone()).contains("more than any memory holds"));
        assert!(message(gzip(&huge)).contains("more than any memory holds"));
        let large = [&[0, 0, 8, 2][..], &[0, 255, 255, 255, 0, 0, 255, 255]].concat();
        assert!(message(large.clone()).contains("but the file has 12"));
        assert!(message(gzip(&large)).contains("(gzipped)"));
        let nothing = vec![0, 0, 8, 2, 255, 255, 255, 255, 0, 0, 0, 0];
        assert!(message(nothing).contains("dimension 2 of 2 is 0"));
        let short = vec![0, 0, 8, 1, 0, 0, 0, 3, 1, 2];
        assert!(message(short.clone()).contains("promise 11 bytes, but the file has 10"));
        assert!(message(gzip(&short)).contains("promise 11 bytes, but the file has 10"));
        let long = vec![0, 0, 8, 1, 0, 0, 0, 1, 1, 2];
        assert!(message(long.clone()).contains("the file has more"));
        assert!(message(gzip(&long)).contains("the file has more"));
        let mut cut = gzip(&[&[0, 0, 8, 1, 0, 0, 1, 0][..], &[1; 256]].concat());
        cut.truncate(cut.len() - 9);
        assert!(message(cut).contains("damaged or cut short"));
    }

    #[test]
    fn an_empty_set_is_fine() {
        let idx = parse_bytes(vec![0, 0, 8, 3, 0, 0, 0, 0, 0, 0, 0, 28, 0, 0, 0, 28]).unwrap();
        assert_eq!(idx.dims, [0, 28, 28]);
    }

    #[test]
    fn samples_and_labels_make_a_dataset() {
        let tmp = tempfile::tempdir().unwrap();
        let put = |name: &str, dims: Vec<usize>, data| {
            let path = tmp.path().join(name);
            std::fs::write(&path, Idx { dims, data }.to_bytes()).unwrap();
            path
        };
        let x = put("x", vec![2, 1, 2], IdxData::U8(vec![0, 255, 51, 0]));
        let y = put("y", vec![2], IdxData::U8(vec![1, 0]));
        let data = dataset("toy", &x, &y, None).unwrap();
        assert_eq!(data.schema().sample_shape(), [1, 1, 2]);
        assert_eq!(data.schema().classes().unwrap(), ["0", "1"]);
        assert_eq!(data.class(0), 1);

        let three = put("y3", vec![3], IdxData::U8(vec![1, 0, 1]));
        let text = dataset("toy", &x, &three, None).unwrap_err().to_string();
        assert!(text.contains("must have [2]"), "{text}");
        let bad = put("bad", vec![2], IdxData::I32(vec![0, -1]));
        let text = dataset("toy", &x, &bad, None).unwrap_err().to_string();
        assert!(text.contains("bad: label 1: -1 is not a class"), "{text}");
        let text = dataset("toy", &x, &y, Some(&["only"]))
            .unwrap_err()
            .to_string();
        assert!(text.contains("label 0: 1 is not a class"), "{text}");
        let text = read(tmp.path().join("none")).unwrap_err().to_string();
        assert!(text.contains("none: cannot be read"), "{text}");
        let text = read(tmp.path()).unwrap_err().to_string();
        assert!(text.contains("is a folder"), "{text}");
    }
}
