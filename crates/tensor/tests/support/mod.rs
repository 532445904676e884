//! Reads the PyTorch fixtures that `scripts/make-fixtures.py` wrote (`scripts/fixtures/core.py` describes
//! them) and compares tensors with them.
#![allow(dead_code)] // Each test binary uses its part of this module.

pub mod compare;

use fornax_tensor::{DType, Tensor, bf16, f16};
use serde_json::Value;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// One fixture file: tensors and JSON metadata.
pub struct Fixture {
    header: Value,
    data: Vec<u8>,
}

/// A stored tensor, its numbers as `f64` (every stored integer is exact in it).
#[derive(Clone, Debug)]
pub struct Stored {
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

impl Fixture {
    /// The file `NAME.safetensors` in `tests/fixtures` of the crate at `manifest`.
    pub fn open(manifest: &str, name: &str) -> Fixture {
        let path = Path::new(manifest)
            .join("tests/fixtures")
            .join(name)
            .with_extension("safetensors");
        let mut bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = serde_json::from_slice(&bytes[8..8 + length]).expect("a JSON header");
        Fixture {
            header,
            data: bytes.split_off(8 + length),
        }
    }

    /// A metadata entry, parsed.
    pub fn meta(&self, key: &str) -> Value {
        let text = self.header["__metadata__"][key].as_str();
        serde_json::from_str(text.unwrap_or_else(|| panic!("no metadata {key}"))).expect("JSON")
    }

    /// The names of all tensors.
    pub fn names(&self) -> Vec<String> {
        let entries = self.header.as_object().expect("an object").keys();
        entries.filter(|k| *k != "__metadata__").cloned().collect()
    }

    /// A stored tensor.
    pub fn find(&self, key: &str) -> Option<Stored> {
        let entry = self.header.get(key)?;
        let at = usizes(&entry["data_offsets"]);
        let bytes = &self.data[at[0]..at[1]];
        let (dtype, values) = match entry["dtype"].as_str().expect("a dtype") {
            "F64" => (DType::F64, numbers(bytes, f64::from_le_bytes)),
            "F32" => (DType::F32, numbers(bytes, |b| f32::from_le_bytes(b) as f64)),
            "I64" => (DType::I64, numbers(bytes, |b| i64::from_le_bytes(b) as f64)),
            "I32" => (DType::I32, numbers(bytes, |b| i32::from_le_bytes(b) as f64)),
            "U8" => (DType::U8, numbers(bytes, |b: [u8; 1]| b[0] as f64)),
            "BOOL" => (DType::Bool, numbers(bytes, |b: [u8; 1]| b[0] as f64)),
            other => panic!("{key}: element type {other}"),
        };
        Some(Stored {
            dtype,
            shape: usizes(&entry["shape"]),
            values,
        })
    }

    /// The tensor that an input's or a parameter's recipe stands for, floats in `float`.
    pub fn input(&self, spec: &Value, float: DType) -> Tensor {
        if let Some(key) = spec["data"].as_str() {
            let stored = self.find(key).expect("stored data");
            let dtype = spec["dtype"].as_str().map_or(float, dtype_named);
            return tensor(&stored.values, &stored.shape, dtype);
        }
        let shape = usizes(&spec["shape"]);
        let count = shape.iter().product();
        if let Some([seed, low, high]) = spec["uniform"].as_array().map(Vec::as_slice) {
            let (low, high) = (low.as_f64().unwrap(), high.as_f64().unwrap());
            return tensor(
                &uniform(seed.as_u64().unwrap(), low, high, count),
                &shape,
                float,
            );
        }
        let recipe: Vec<i64> = spec["integers"]
            .as_array()
            .expect("a recipe")
            .iter()
            .map(|v| v.as_i64().unwrap())
            .collect();
        let values = integers(recipe[0] as u64, recipe[1], recipe[2], count);
        Tensor::from_vec(values, shape)
    }

    /// Runs every case; `run` gives its list of complaints. Panics with all of them at once.
    pub fn check_all(&self, run: impl Fn(&Case, DType) -> Vec<String>) {
        let cases = self.meta("cases");
        let (mut failures, mut ran) = (Vec::new(), 0);
        for (index, json) in cases.as_array().expect("a list").iter().enumerate() {
            let case = Case {
                index,
                json,
                fixture: self,
            };
            let runs = json["dtypes"].as_array().map_or(vec![DType::F64], |list| {
                list.iter()
                    .map(|d| dtype_named(d.as_str().unwrap()))
                    .collect()
            });
            for dtype in runs {
                ran += 1;
                let result = catch_unwind(AssertUnwindSafe(|| run(&case, dtype)));
                let complaints =
                    result.unwrap_or_else(|panic| vec![format!("panicked: {}", message(&*panic))]);
                failures.extend(
                    complaints
                        .iter()
                        .map(|c| format!("{} [{dtype}]: {c}", case.name())),
                );
            }
        }
        assert!(ran > 0, "the fixture has no cases");
        assert!(
            failures.is_empty(),
            "{} of {ran} runs failed:\n{}",
            failures.len(),
            failures.join("\n")
        );
    }
}

/// One case of a fixture.
pub struct Case<'a> {
    pub index: usize,
    pub json: &'a Value,
    pub fixture: &'a Fixture,
}

impl Case<'_> {
    pub fn name(&self) -> &str {
        self.json["name"].as_str().unwrap_or("?")
    }

    pub fn op(&self) -> &str {
        self.json["op"].as_str().expect("an op")
    }

    pub fn attrs(&self) -> Attrs<'_> {
        Attrs(&self.json["attrs"])
    }

    /// Whether PyTorch refuses this call.
    pub fn raises(&self) -> bool {
        self.json["raises"] == Value::Bool(true)
    }

    /// The inputs before their views.
    pub fn leaves(&self, float: DType) -> Vec<Tensor> {
        let specs = self.json["in"].as_array().expect("inputs");
        specs
            .iter()
            .map(|spec| self.fixture.input(spec, float))
            .collect()
    }

    /// The inputs as the op sees them.
    pub fn views(&self, leaves: &[Tensor]) -> Vec<Tensor> {
        let specs = self.json["in"].as_array().expect("inputs");
        leaves
            .iter()
            .zip(specs)
            .map(|(x, spec)| view(x, &spec["view"]))
            .collect()
    }

    /// The inputs whose gradients are known.
    pub fn grads(&self) -> Vec<usize> {
        if self.json["grads"].is_null() {
            Vec::new()
        } else {
            usizes(&self.json["grads"])
        }
    }

    /// `sum over k of sum(out_k * cotangent_k)` over the float results.
    pub fn loss(&self, outs: &[Tensor]) -> Tensor {
        let mut loss: Option<Tensor> = None;
        for (k, y) in outs
            .iter()
            .enumerate()
            .filter(|(_, y)| y.dtype().is_float())
        {
            let c = tensor(
                &uniform(9000 + k as u64, -1.0, 1.0, y.numel()),
                y.shape(),
                y.dtype(),
            );
            let part = (y * c).sum(..);
            loss = Some(match loss {
                None => part,
                Some(loss) => loss + part,
            });
        }
        loss.expect("a float result")
    }
}

/// The attributes of a case.
#[derive(Clone, Copy)]
pub struct Attrs<'a>(pub &'a Value);

impl<'a> Attrs<'a> {
    pub fn has(&self, key: &str) -> bool {
        !self.0[key].is_null()
    }

    pub fn int(&self, key: &str) -> isize {
        self.0[key]
            .as_i64()
            .unwrap_or_else(|| panic!("no integer {key}")) as isize
    }

    pub fn size(&self, key: &str) -> usize {
        self.int(key) as usize
    }

    pub fn float(&self, key: &str) -> f64 {
        self.0[key]
            .as_f64()
            .unwrap_or_else(|| panic!("no number {key}"))
    }

    pub fn float_or(&self, key: &str, default: f64) -> f64 {
        self.0[key].as_f64().unwrap_or(default)
    }

    pub fn flag(&self, key: &str, default: bool) -> bool {
        self.0[key].as_bool().unwrap_or(default)
    }

    pub fn text(&self, key: &str) -> &'a str {
        self.0[key]
            .as_str()
            .unwrap_or_else(|| panic!("no text {key}"))
    }

    pub fn ints(&self, key: &str) -> Vec<isize> {
        let list = self.0[key]
            .as_array()
            .unwrap_or_else(|| panic!("no list {key}"));
        list.iter().map(|v| v.as_i64().unwrap() as isize).collect()
    }

    pub fn sizes(&self, key: &str) -> Vec<usize> {
        self.ints(key).into_iter().map(|v| v as usize).collect()
    }

    /// A pair of sizes, from a list of two or one number for both.
    pub fn pair(&self, key: &str, default: usize) -> [usize; 2] {
        match &self.0[key] {
            Value::Null => [default; 2],
            Value::Number(n) => [n.as_u64().unwrap() as usize; 2],
            _ => self.sizes(key).try_into().expect("two sizes"),
        }
    }
}

/// Whether a call refuses its arguments: a panic, or an error when its result is evaluated.
pub fn refuses(f: impl FnOnce() -> Vec<Tensor>) -> bool {
    catch_unwind(AssertUnwindSafe(|| {
        f().iter().for_each(|y| drop(y.to_f64_vec()))
    }))
    .is_err()
}

/// A panic's message.
pub fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()))
        .unwrap_or_default()
}

/// The chain of views of an input's recipe.
fn view(x: &Tensor, steps: &Value) -> Tensor {
    let mut x = x.clone();
    for step in steps.as_array().into_iter().flatten() {
        let list = || -> Vec<isize> {
            step[1]
                .as_array()
                .unwrap()
                .iter()
                .map(|v| v.as_i64().unwrap() as isize)
                .collect()
        };
        x = match step[0].as_str().unwrap() {
            "permute" => x.permute(list()),
            "flip" => x.flip(list()),
            "expand" => x.broadcast_to(list().into_iter().map(|v| v as usize).collect::<Vec<_>>()),
            "unsqueeze" => x.unsqueeze(step[1].as_i64().unwrap() as isize),
            "slice" => slice(
                &x,
                step[1].as_i64().unwrap() as isize,
                &step[2],
                &step[3],
                step[4].as_i64().unwrap() as isize,
            ),
            other => panic!("view {other}"),
        };
    }
    x
}

/// Python's `x[start:end:step]`, where `null` is an end left out.
pub fn slice(x: &Tensor, axis: isize, start: &Value, end: &Value, step: isize) -> Tensor {
    let (first, last) = if step > 0 {
        (0, isize::MAX)
    } else {
        (-1, isize::MIN)
    };
    let or = |v: &Value, default| v.as_i64().map_or(default, |v| v as isize);
    x.slice(axis, or(start, first), or(end, last), step)
}

/// A tensor of the given element type from numbers that are exact in it.
pub fn tensor(values: &[f64], shape: &[usize], dtype: DType) -> Tensor {
    let v = values.iter().copied();
    match dtype {
        DType::Bool => Tensor::from_vec(v.map(|x| x != 0.0).collect::<Vec<bool>>(), shape),
        DType::U8 => Tensor::from_vec(v.map(|x| x as u8).collect::<Vec<u8>>(), shape),
        DType::I32 => Tensor::from_vec(v.map(|x| x as i32).collect::<Vec<i32>>(), shape),
        DType::I64 => Tensor::from_vec(v.map(|x| x as i64).collect::<Vec<i64>>(), shape),
        DType::F16 => Tensor::from_vec(v.map(f16::from_f64).collect::<Vec<f16>>(), shape),
        DType::BF16 => Tensor::from_vec(v.map(bf16::from_f64).collect::<Vec<bf16>>(), shape),
        DType::F32 => Tensor::from_vec(v.map(|x| x as f32).collect::<Vec<f32>>(), shape),
        DType::F64 => Tensor::from_vec(values.to_vec(), shape),
    }
}

/// 64-bit words of the fixtures' hash: splitmix64 of `seed * golden + index`.
pub fn hash_bits(seed: u64, count: usize) -> impl Iterator<Item = u64> {
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
    (0..count as u64).map(move |i| {
        let mut z = i
            .wrapping_add(seed.wrapping_mul(GOLDEN))
            .wrapping_mul(GOLDEN)
            .wrapping_add(GOLDEN);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

/// Floats in `[low, high)`, rounded to `f32`.
pub fn uniform(seed: u64, low: f64, high: f64, count: usize) -> Vec<f64> {
    let part = |bits: u64| (bits >> 40) as f64 / (1u64 << 24) as f64;
    hash_bits(seed, count)
        .map(|bits| (low + (high - low) * part(bits)) as f32 as f64)
        .collect()
}

/// Integers in `[low, high)`.
pub fn integers(seed: u64, low: i64, high: i64, count: usize) -> Vec<i64> {
    hash_bits(seed, count)
        .map(|bits| low + (bits >> 33) as i64 % (high - low))
        .collect()
}

/// The element type of a name in the fixtures.
pub fn dtype_named(name: &str) -> DType {
    let find = DType::ALL.into_iter().find(|d| d.to_string() == name);
    find.unwrap_or_else(|| panic!("element type {name}"))
}

/// A JSON list of sizes.
pub fn usizes(list: &Value) -> Vec<usize> {
    list.as_array()
        .expect("a list")
        .iter()
        .map(|v| v.as_u64().expect("a size") as usize)
        .collect()
}

fn numbers<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    bytes
        .chunks_exact(N)
        .map(|b| read(b.try_into().unwrap()))
        .collect()
}
