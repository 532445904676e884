//! ggml's element types, and what numbers their blocks stand for.

use half::{bf16, f16};

/// An element type of ggml.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GgmlType(usize);

/// Code in files, name, elements of a block, bytes of a block.
const TYPES: &[(u32, &str, u64, u64)] = &[
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 32, 36),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (30, "BF16", 1, 2),
];

impl GgmlType {
    /// The type that files call `code`.
    pub fn of(code: u32) -> Option<GgmlType> {
        TYPES
            .iter()
            .position(|(known, ..)| *known == code)
            .map(GgmlType)
    }

    /// Its name, such as `Q4_0`.
    pub fn name(self) -> &'static str {
        TYPES[self.0].1
    }

    /// Elements and bytes of a block.
    pub fn block(self) -> (u64, u64) {
        (TYPES[self.0].2, TYPES[self.0].3)
    }
}

/// Writes the numbers that `bytes`, whole blocks of type `dtype`, stand for. Answers `false`, and
/// writes nothing, for a type that cannot be read.
///
/// # Panics
/// If there are not as many blocks as `out` takes.
pub fn dequantize(dtype: GgmlType, bytes: &[u8], out: &mut [f32]) -> bool {
    let (block, size) = dtype.block();
    let (block, size) = (block as usize, size as usize);
    assert_eq!(
        bytes.len() * block,
        out.len() * size,
        "blocks for every element"
    );
    let one: fn(&[u8], &mut [f32]) = match dtype.name() {
        "F32" => |bytes, out| out[0] = f32::from_le_bytes(bytes.try_into().expect("four bytes")),
        "F16" => |bytes, out| out[0] = f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
        "BF16" => |bytes, out| out[0] = bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
        // A scale, then two numbers from 0 to 15 in each byte: the low halves are the first 16.
        "Q4_0" => |bytes, out| {
            let scale = f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
            nibbles(&bytes[2..], out, |q| (q - 8.0) * scale);
        },
        // A scale and the least value.
        "Q4_1" => |bytes, out| {
            let scale = f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
            let least = f16::from_le_bytes([bytes[2], bytes[3]]).to_f32();
            nibbles(&bytes[4..], out, |q| q * scale + least);
        },
        "Q8_0" => |bytes, out| {
            let scale = f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
            for (x, &q) in out.iter_mut().zip(&bytes[2..]) {
                *x = f32::from(q as i8) * scale;
            }
        },
        _ => return false,
    };
    for (bytes, out) in bytes.chunks_exact(size).zip(out.chunks_exact_mut(block)) {
        one(bytes, out);
    }
    true
}

fn nibbles(bytes: &[u8], out: &mut [f32], number: impl Fn(f32) -> f32) {
    let (low, high) = out.split_at_mut(16);
    for ((&q, low), high) in bytes.iter().zip(low).zip(high) {
        *low = number(f32::from(q & 15));
        *high = number(f32::from(q >> 4));
    }
}
