use super::*;
use crate::io::load_safetensors;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/gguf/types");

#[test]
fn every_type_reads_as_ggml_reads_it() {
    let file = Gguf::open(format!("{FIXTURE}.gguf")).unwrap();
    let expected = load_safetensors(format!("{FIXTURE}.safetensors")).unwrap();
    assert_eq!(expected.tensors.len(), 6);
    for (name, wanted) in expected.tensors {
        let entry = file.get(&name).unwrap();
        assert_eq!(entry.dtype.name(), name);
        let read = file.tensor(entry).unwrap();
        assert_eq!(read.shape(), wanted.shape(), "{name}");
        assert_eq!(read.to_vec::<f32>(), wanted.to_vec::<f32>(), "{name}");
    }
    let error = file.tensor(file.get("Q5_0").unwrap()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("`Q5_0` has elements of type Q5_0")
    );
}

#[test]
fn metadata_of_every_kind() {
    let file = Gguf::open(format!("{FIXTURE}.gguf")).unwrap();
    assert_eq!(file.text("general.architecture").unwrap(), "llama");
    assert_eq!(file.text("some.text").unwrap(), "Grüße");
    assert_eq!(file.count("some.count").unwrap(), 7);
    assert_eq!(file.value("some.negative"), Some(&Value::Integer(-5)));
    assert_eq!(file.number("some.number").unwrap(), 0.5);
    assert_eq!(file.value("some.truth"), Some(&Value::Bool(true)));
    assert_eq!(file.texts("some.texts").unwrap(), ["a", "", "ß"]);
    let numbers = Value::Integers(vec![1, 2, 3]);
    assert_eq!(file.value("some.numbers"), Some(&numbers));
    for error in [
        file.count("some.negative").unwrap_err(),
        file.text("none").unwrap_err(),
        file.count("none").unwrap_err(),
    ] {
        assert!(error.to_string().contains("types.gguf: the metadata"));
    }
}

/// A header of these counts, and what follows it.
fn file(tensors: u64, keys: u64, rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(tensors.to_le_bytes());
    bytes.extend(keys.to_le_bytes());
    bytes.extend(rest);
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// The description of a tensor.
fn tensor(name: &str, sides: &[u64], code: u32, offset: u64) -> Vec<u8> {
    let mut bytes = text(name);
    bytes.extend((sides.len() as u32).to_le_bytes());
    bytes.extend(sides.iter().flat_map(|side| side.to_le_bytes()));
    bytes.extend(code.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

/// Some tensors and 96 bytes for them.
fn tensors(all: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = file(all.len() as u64, 0, &all.concat());
    bytes.resize(bytes.len().next_multiple_of(32) + 96, 0);
    bytes
}

#[test]
fn lying_headers_are_refused() {
    let good = tensors(&[tensor("a", &[8], 0, 0), tensor("b", &[2, 4], 0, 32)]);
    let read = |bytes: Vec<u8>| Gguf::read(Map::from_bytes("x.gguf", bytes));
    let opened = read(good).unwrap();
    assert_eq!(opened.get("b").unwrap().shape, [4, 2]);

    let key = |kind: u32, rest: &[u8]| [&text("k")[..], &kind.to_le_bytes(), rest].concat();
    let list = |kind: u32, count: u64| [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
    let pad = [0; 64];
    for (bytes, part) in [
        (b"GGML\x03\0\0\0".to_vec(), "not a GGUF"),
        (vec![], "not a GGUF"),
        (b"GGUF\0\0\0\x03".to_vec(), "version"),
        (file(u64::MAX, 0, &pad), "tensors, for which"),
        (file(0, u64::MAX, &pad), "keys, for which"),
        (
            file(0, 1, &key(9, &[&list(0, u64::MAX)[..], &pad].concat())),
            "no room",
        ),
        (
            file(0, 1, &key(9, &[&list(8, 1 << 60)[..], &pad].concat())),
            "no room",
        ),
        (
            file(0, 1, &key(9, &[&list(9, 1)[..], &pad].concat())),
            "list of lists",
        ),
        (file(0, 1, &key(77, &pad)), "unknown"),
        (file(0, 1, &key(7, &[2; 9])), "neither true nor false"),
        (file(0, 1, &key(8, &[255; 9])), "cut short"),
        (
            file(
                0,
                1,
                &key(8, &[&[1, 0, 0, 0, 0, 0, 0, 0, 255][..]].concat()),
            ),
            "not UTF-8",
        ),
        (
            file(0, 2, &[key(0, &[1]), key(0, &[1])].concat()),
            "there twice",
        ),
        (tensors(&[tensor("a", &[8], 0, 16)]), "multiple of 32"),
        (tensors(&[tensor("a", &[8], 0, 96)]), "cut short"),
        (tensors(&[tensor("a", &[1 << 40], 0, 0)]), "cut short"),
        (tensors(&[tensor("a", &[1 << 62, 2], 0, 0)]), "too large"),
        (
            tensors(&[tensor("a", &[1 << 32, 1 << 32, 4], 0, 0)]),
            "too large",
        ),
        (tensors(&[tensor("a", &[0, 1 << 63, 4], 0, 0)]), "too large"),
        (tensors(&[tensor("a", &[8], 0, u64::MAX - 31)]), "too large"),
        (
            tensors(&[tensor("a", &[1, 1, 1, 1, 1], 0, 0)]),
            "dimensions",
        ),
        (tensors(&[tensor("a", &[8], 99, 0)]), "unknown"),
        (tensors(&[tensor("a", &[33], 2, 0)]), "blocks of 32"),
        (
            tensors(&[tensor("a", &[16], 0, 0), tensor("b", &[8], 0, 32)]),
            "share bytes",
        ),
        (
            tensors(&[tensor("a", &[8], 0, 0), tensor("a", &[8], 0, 32)]),
            "there twice",
        ),
    ] {
        let error = read(bytes).unwrap_err().to_string();
        assert!(error.contains(part), "{error}: {part}");
    }
}

#[test]
fn files_cut_anywhere_are_refused() {
    let whole = std::fs::read(format!("{FIXTURE}.gguf")).unwrap();
    let file = Gguf::read(Map::from_bytes("x", whole.clone())).unwrap();
    let needed = file.entries().iter().map(|e| e.bytes.end).max().unwrap();
    for end in 0..needed {
        assert!(Gguf::read(Map::from_bytes("x", whole[..end].to_vec())).is_err());
    }
}
