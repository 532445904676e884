//! Mutated files of weights: whatever the bytes, reading gives tensors or an error, and takes
//! memory in proportion to the file, not to what its header claims.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use fornax_tensor::io::safetensors::{SafeTensors, write};
use fornax_tensor::io::{Gguf, Map, read_index};
use fornax_tensor::{DType, Tensor};

/// Counts the bytes in use, and the most there were.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator; only numbers are kept.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = IN_USE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(now, Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const FILES: u64 = 12_000;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Numbers at the edges of what headers count with.
const EDGES: &[u64] = &[
    0,
    1,
    31,
    1 << 31,
    u32::MAX as u64,
    1 << 32,
    1 << 40,
    (1 << 61) + 1,
    1 << 62,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 7,
    u64::MAX,
];

/// One to four changes, nearly all of them in the first `header` bytes.
fn mutate(bytes: &mut Vec<u8>, header: usize, random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        let reach = if random.below(8) == 0 {
            bytes.len()
        } else {
            header.min(bytes.len())
        };
        if reach == 0 {
            return;
        }
        let at = random.below(reach);
        match random.below(9) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => bytes.truncate(at),
            3 => {
                let end = (at + 8).min(bytes.len());
                let edge = EDGES[random.below(EDGES.len())].to_le_bytes();
                bytes[at..end].copy_from_slice(&edge[..end - at]);
            }
            4 => {
                let end = (at + 1 + random.below(16)).min(bytes.len());
                bytes.drain(at..end);
            }
            5 => {
                let end = (at + 1 + random.below(64)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            6 => {
                // Digits, so that the numbers of a JSON header change and stay numbers.
                let digits = bytes[at..reach].iter().position(u8::is_ascii_digit);
                if let Some(digit) = digits {
                    bytes[at + digit] = b'0' + random.below(10) as u8;
                }
            }
            7 => {
                let edge = EDGES[random.below(EDGES.len())].to_string();
                let digit = bytes[at..reach].iter().position(u8::is_ascii_digit);
                if let Some(digit) = digit {
                    bytes.splice(at + digit..at + digit + 1, edge.bytes());
                }
            }
            _ => {
                let other = random.below(reach);
                bytes.swap(at, other);
            }
        }
    }
}

/// Reads many mutants of `whole`; returns how many were taken and how many refused.
fn throw(
    name: &str,
    whole: &[u8],
    header: usize,
    read: impl Fn(Vec<u8>) -> Result<(), fornax_tensor::Error>,
) {
    read(whole.to_vec()).unwrap();
    let (mut taken, mut refused) = (0, 0);
    for seed in 0..FILES {
        let mut bytes = whole.to_vec();
        mutate(&mut bytes, header, &mut Random(seed));
        // A header of JSON becomes a tree of values, a quantised element one of four bytes.
        let allowed = 64 * bytes.len() + (1 << 16);
        let before = IN_USE.load(Relaxed);
        PEAK.store(before, Relaxed);
        let outcome = catch_unwind(AssertUnwindSafe(|| read(bytes)));
        let used = PEAK.load(Relaxed).saturating_sub(before);
        assert!(used <= allowed, "{name}, mutant {seed}: {used} bytes taken");
        match outcome {
            Ok(Ok(())) => taken += 1,
            Ok(Err(_)) => refused += 1,
            Err(_) => panic!("{name}: mutant {seed} panics"),
        }
    }
    // Both ways were gone.
    assert!(
        taken > 100 && refused > FILES / 3,
        "{name}: {taken} taken, {refused} refused"
    );
}

#[test]
fn mutated_headers_are_taken_or_refused() {
    // One test, because the allocator counts for all threads.
    let tensor = |shape: &[usize], dtype| Tensor::full(shape, 1.0, dtype);
    let tensors: Vec<(String, Tensor)> = [
        ("embed.weight", tensor(&[16, 8], DType::F32)),
        ("layers.0.weight", tensor(&[8, 8], DType::BF16)),
        ("layers.0.bias", tensor(&[8], DType::F32)),
        ("steps", tensor(&[], DType::I64)),
    ]
    .map(|(name, tensor)| (name.to_owned(), tensor))
    .into();
    let mut bytes = Vec::new();
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    write(&mut bytes, &tensors, &metadata).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    throw("safetensors", &bytes, header, |bytes| {
        let file = SafeTensors::read(Map::from_bytes("x", bytes))?;
        let mut read = 0;
        for entry in file.entries() {
            read += file.tensor(entry).map_or(0, |tensor| tensor.numel());
        }
        assert!(read < 1 << 20);
        Ok(())
    });

    let names: Vec<String> = (0..40)
        .map(|i| {
            format!(
                "\"layers.{i}.weight\":\"model-0000{}-of-00002.safetensors\"",
                1 + i / 20
            )
        })
        .collect();
    let index = format!(
        "{{\"metadata\":{{\"total_size\":1000}},\"weight_map\":{{{}}}}}",
        names.join(",")
    );
    throw("index", index.as_bytes(), index.len(), |bytes| {
        for (_, file) in read_index(&Map::from_bytes("x", bytes))? {
            assert!(!file.contains(['/', '\\', '\0']) && file.ends_with(".safetensors"));
        }
        Ok(())
    });

    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/gguf/types.gguf"
    );
    let bytes = std::fs::read(path).unwrap();
    let file = Gguf::open(path).unwrap();
    let header = file.entries().iter().map(|e| e.bytes.start).min().unwrap();
    throw("gguf", &bytes, header, |bytes| {
        let file = Gguf::read(Map::from_bytes("x", bytes))?;
        for entry in file.entries() {
            let _ = file.tensor(entry);
        }
        Ok(())
    });
}
