//! Readers against arbitrary bytes: whatever a file holds, the answer is a
//! dataset or an error, never a panic, and never more memory than the file's
//! size can account for.

use fornax_data::idx::{self, Idx, IdxData};
use fornax_data::table::{ColumnKind, CsvOptions, Missing, parse_csv};
use fornax_data::{Dataset, Input};
use proptest::prelude::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Counts what the current thread has allocated at most at one time.
struct Counting;

thread_local! {
    static NOW: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; the counters
// are plain cells of this thread that need no allocation of their own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = NOW.try_with(|now| {
            now.set(now.get() + layout.size());
            PEAK.with(|peak| peak.set(peak.get().max(now.get())));
        });
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ = NOW.try_with(|now| now.set(now.get().saturating_sub(layout.size())));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most memory that `f` held at one time beyond what was held before.
fn peak<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.get();
    PEAK.set(before);
    let result = f();
    (result, PEAK.get() - before)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}

/// Bytes that get past the magic number more often than not.
fn idx_like() -> impl Strategy<Value = Vec<u8>> {
    let header = (
        prop::sample::select(vec![8u8, 9, 11, 12, 13, 14, 7]),
        0u8..5,
    );
    let dims = prop::collection::vec(prop_oneof![0u32..6, any::<u32>()], 0..5);
    let body = prop::collection::vec(any::<u8>(), 0..80);
    (header, dims, body).prop_map(|((code, rank), dims, body)| {
        let mut bytes = vec![0, 0, code, rank];
        bytes.extend(dims.iter().flat_map(|d| d.to_be_bytes()));
        bytes.extend(body);
        bytes
    })
}

fn idx_values() -> impl Strategy<Value = Idx> {
    let dims = (0usize..4, 1usize..4, 1usize..4);
    (dims, 0usize..6, any::<u64>()).prop_map(|((a, b, c), kind, seed)| {
        let n = a * b * c;
        let value = |i: usize| (seed.wrapping_mul(i as u64 + 1) >> 17) as i64;
        let data = match kind {
            0 => IdxData::U8((0..n).map(|i| value(i) as u8).collect()),
            1 => IdxData::I8((0..n).map(|i| value(i) as i8).collect()),
            2 => IdxData::I16((0..n).map(|i| value(i) as i16).collect()),
            3 => IdxData::I32((0..n).map(|i| value(i) as i32).collect()),
            4 => IdxData::F32((0..n).map(|i| value(i) as f32).collect()),
            _ => IdxData::F64((0..n).map(|i| value(i) as f64).collect()),
        };
        Idx {
            dims: vec![a, b, c],
            data,
        }
    })
}

/// Text made of what matters to a CSV parser.
fn csv_like() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => Just(b",".to_vec()),
        4 => Just(b"\n".to_vec()),
        1 => Just(b"\"".to_vec()),
        1 => Just(b"\r\n".to_vec()),
        1 => Just(b";".to_vec()),
        1 => Just(b" ".to_vec()),
        1 => Just(b"\xff".to_vec()),
        1 => Just(b"NA".to_vec()),
        4 => (-1000i32..1000).prop_map(|n| n.to_string().into_bytes()),
        2 => any::<f64>().prop_map(|n| n.to_string().into_bytes()),
        3 => "[a-cé]{1,3}".prop_map(String::into_bytes),
    ];
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

/// Reads CSV bytes and, if they are a table, all that can be done with one.
fn use_csv(bytes: Vec<u8>, missing: Missing) {
    let options = CsvOptions {
        missing,
        ..CsvOptions::default()
    };
    let Ok(data) = parse_csv("x.csv".as_ref(), bytes, &options) else {
        return;
    };
    let mut x = vec![0.0; data.schema().sample_len()];
    for i in 0..data.len() {
        data.read(i, &mut x).unwrap();
        assert!(missing != Missing::Error || x.iter().all(|x| x.is_finite()));
    }
    let Input::Table(table) = &data.schema().input else {
        panic!("CSV gives tables");
    };
    assert_eq!(table.width(), x.len());
    let _ = fornax_data::Preprocess::fit(&data, &fornax_data::Scaling::Standard);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_bytes_as_idx(bytes in prop_oneof![idx_like(), prop::collection::vec(any::<u8>(), 0..200)]) {
        let size = bytes.len();
        let zipped = gzip(&bytes);
        let (plain, used) = peak(|| idx::parse("x".as_ref(), bytes));
        // One copy of the elements, the dimensions, and an error's words.
        prop_assert!(used <= size + 4096, "{used} bytes for a file of {size}");
        let (unpacked, used) = peak(|| idx::parse("x.gz".as_ref(), zipped));
        prop_assert!(used <= 4 * size + 100_000, "{used} bytes for a file of {size}");
        prop_assert_eq!(plain.is_ok(), unpacked.is_ok());
    }

    #[test]
    fn idx_survives_both_ways(idx in idx_values()) {
        let bytes = idx.to_bytes();
        prop_assert_eq!(&idx::parse("x.gz".as_ref(), gzip(&bytes)).unwrap(), &idx);
        prop_assert_eq!(idx::parse("x".as_ref(), bytes).unwrap(), idx);
    }

    #[test]
    fn damaged_idx_is_an_error_or_other_elements(idx in idx_values(), at in any::<prop::sample::Index>(), cut in any::<bool>()) {
        let mut bytes = gzip(&idx.to_bytes());
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] ^= 0x55 }
        let _ = idx::parse("x.gz".as_ref(), bytes);
        let mut bytes = idx.to_bytes();
        let at = at % bytes.len();
        bytes.truncate(at);
        prop_assert!(idx::parse("x".as_ref(), bytes).is_err());
    }

    #[test]
    fn arbitrary_bytes_as_csv(bytes in prop_oneof![csv_like(), prop::collection::vec(any::<u8>(), 0..300)]) {
        let size = bytes.len();
        let copy = bytes.clone();
        let ((), used) = peak(|| use_csv(bytes, Missing::Error));
        // The parser's own buffers, and a bounded number of bytes for each byte of text.
        prop_assert!(used <= 100_000 + 1000 * size, "{used} bytes for a file of {size}");
        use_csv(copy.clone(), Missing::Mean);
        use_csv(copy, Missing::MostFrequent);
    }

    #[test]
    fn csv_survives_both_ways(rows in prop::collection::vec((any::<f32>(), -9i32..9, "[a-z\",; \n]{0,5}", 0usize..3), 1..20)) {
        let rows: Vec<_> = rows.into_iter().filter(|r| r.0.is_finite()).collect();
        prop_assume!(!rows.is_empty());
        let mut text = String::from("number,count,word,class\n");
        for (number, count, word, class) in &rows {
            // The x keeps words from being empty or blank, the end from being trimmed.
            text += &format!("{number:e},{count},\"x{}x\",class {class}\n", word.replace('"', "\"\""));
        }
        let options = CsvOptions { delimiter: Some(','), ..CsvOptions::default() };
        let data = parse_csv("x.csv".as_ref(), text.into_bytes(), &options).unwrap();
        prop_assert_eq!(data.len(), rows.len());
        let classes = data.schema().classes().unwrap().to_vec();
        let Input::Table(table) = &data.schema().input else { panic!("CSV gives tables") };
        let ColumnKind::Categories(words) = &table.columns[2].kind else { panic!("words") };
        let mut x = vec![0.0; data.schema().sample_len()];
        for (i, (number, count, word, class)) in rows.iter().enumerate() {
            data.read(i, &mut x).unwrap();
            prop_assert_eq!((x[0], x[1]), (*number, *count as f32));
            let hot = x.iter().skip(2).position(|&v| v == 1.0).unwrap() + 2;
            prop_assert_eq!(&words[hot - 2], &format!("x{word}x"));
            prop_assert_eq!(&classes[data.class(i) as usize], &format!("class {class}"));
        }
    }
}
