use super::*;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers")
}

/// The sentences, and what the reference makes of them by the tokenizer called `name`.
fn expected(name: &str) -> Vec<(String, Vec<u32>, String)> {
    let text = std::fs::read(fixtures().join("expected.json")).unwrap();
    let all: Value = serde_json::from_slice(&text).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let own = &all[name];
    (0..all["sentences"].as_array().unwrap().len())
        .map(|i| {
            let ids = own["ids"][i].as_array().unwrap().iter();
            let ids = ids.map(|id| id.as_u64().unwrap() as u32).collect();
            (text(&all["sentences"][i]), ids, text(&own["texts"][i]))
        })
        .collect()
}

#[track_caller]
fn agrees(tokenizer: &Tokenizer, name: &str) {
    let cases = expected(name);
    assert!(cases.len() > 5);
    for (sentence, ids, text) in cases {
        assert_eq!(
            tokenizer.encode(&sentence, false).unwrap(),
            ids,
            "{name}: {sentence:?}"
        );
        let decoded = tokenizer.decode(&ids).unwrap();
        // What is unknown has no text here, and a mark of its own there.
        assert_eq!(
            decoded,
            text.replace(" \u{2047} ", ""),
            "{name}: {sentence:?}"
        );
        let mut stream = tokenizer.decode_stream();
        let mut streamed = String::new();
        for &id in &ids {
            let piece = stream.push(id).unwrap();
            assert!(!piece.contains('\u{fffd}'));
            streamed += &piece;
        }
        streamed += &stream.finish().unwrap();
        assert_eq!(streamed, decoded, "{name}: {sentence:?}");
    }
}

#[test]
fn sentencepiece_models_agree_with_sentencepiece() {
    for kind in ["unigram", "bpe"] {
        let path = fixtures().join(format!("{kind}.model"));
        let tokenizer = Tokenizer::open(&path).unwrap();
        agrees(&tokenizer, kind);
        // And again through the file that all are saved as.
        let again = Tokenizer::from_json("again", tokenizer.to_json().as_bytes()).unwrap();
        agrees(&again, kind);
    }
}

#[test]
fn gpt2_files_agree_with_the_reference() {
    let tokenizer = Tokenizer::open(fixtures()).unwrap();
    agrees(&tokenizer, "gpt2");
    assert_eq!(tokenizer.end(), tokenizer.id("<|endoftext|>"));
    let ids = tokenizer.encode("to<|endoftext|>be", false).unwrap();
    assert!(ids.contains(&tokenizer.end().unwrap()));
}

#[test]
fn damaged_sentencepiece_models_are_refused_or_read() {
    let bytes = std::fs::read(fixtures().join("unigram.model")).unwrap();
    for end in (0..bytes.len()).step_by(7) {
        let _ = sentencepiece::read("x.model".as_ref(), &bytes[..end]);
    }
    let error = sentencepiece::read("x.model".as_ref(), &[]).err().unwrap();
    assert!(error.to_string().contains("no pieces"), "{error}");
    let error = sentencepiece::read("x.model".as_ref(), b"{}")
        .err()
        .unwrap();
    assert!(error.to_string().contains("x.model"), "{error}");
}

#[test]
fn malformed_json_is_an_error() {
    for text in [
        "",
        "{}",
        "[]",
        "{\"model\":{\"type\":\"BPE\"}}",
        "{\"decoder\":5,\"model\":5}",
    ] {
        assert!(
            Tokenizer::from_json("x.json", text.as_bytes()).is_err(),
            "{text}"
        );
    }
    let empty = tempfile::tempdir().unwrap();
    let error = Tokenizer::open(empty.path()).err().unwrap().to_string();
    assert!(error.contains("has no tokenizer"), "{error}");
}

#[test]
fn characters_are_numbered_in_order() {
    let tokenizer = Tokenizer::characters("hello\n world");
    assert_eq!(tokenizer.vocab_size(), 9);
    assert_eq!(tokenizer.encode("\n d", false).unwrap(), [0, 1, 2]);
    let again = Tokenizer::from_json("x", tokenizer.to_json().as_bytes()).unwrap();
    assert_eq!(
        again
            .decode(&again.encode("he  llo\n", false).unwrap())
            .unwrap(),
        "he  llo\n"
    );
    let error = again.encode("help", false).unwrap_err().to_string();
    assert!(error.contains("the character 'p'"), "{error}");
}

#[test]
fn long_texts_are_encoded_in_parts() {
    let line = "to be or not to be, that is the question\n";
    let text = line.repeat(5000);
    let tokenizer = Tokenizer::characters(&text);
    let ids = tokenizer.encode_long(&text).unwrap();
    assert_eq!(ids.len(), text.len());
    assert_eq!(ids[..line.len()], ids[ids.len() - line.len()..]);
}

#[test]
fn learnt_pairs_write_any_text_in_the_same_way_every_time() {
    let text = "to be or not to be, that is the question: größer als 漢字\n".repeat(50);
    let train = || Tokenizer::train_bpe(&[&text], 300, &["<|endoftext|>"]).unwrap();
    let tokenizer = train();
    assert_eq!(tokenizer.id("<|endoftext|>"), Some(0));
    assert!(tokenizer.vocab_size() <= 300);
    for _ in 0..5 {
        assert_eq!(tokenizer.to_json(), train().to_json());
    }
    for text in ["question", "🙂 unseen\t", "größer"] {
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
    assert!(
        tokenizer
            .encode("that is the question", false)
            .unwrap()
            .len()
            < 12
    );
    assert!(Tokenizer::train_bpe(&[&text], 256, &["x"]).is_err());
}

#[test]
fn decoding_tells_sentinels_and_no_other_special_token() {
    let special = ["<pad>", "</s>", "<extra_id_0>", "<extra_id_1>"];
    let tokenizer = Tokenizer::train_bpe(&["to be or not to be"], 300, &special).unwrap();
    let text = "<extra_id_0>or not<extra_id_1> be</s>";
    let ids = tokenizer.encode(text, false).unwrap();
    let plain = "<extra_id_0>or not<extra_id_1> be";
    assert_eq!(tokenizer.decode(&ids).unwrap(), plain);
    // Also one whose tokenizer does not call it special.
    let json = tokenizer.to_json();
    let json = json.replace(r#""special":true"#, r#""special":false"#);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, json).unwrap();
    let usual = Tokenizer::open(&path).unwrap();
    assert_eq!(usual.decode(&ids).unwrap(), text);
    let mut stream = tokenizer.decode_stream();
    let mut told: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    told += &stream.finish().unwrap();
    assert_eq!(told, plain);
}

#[test]
fn a_bert_vocabulary_is_a_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let words = [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "!",
    ];
    std::fs::write(folder.path().join("vocab.txt"), words.join("\n")).unwrap();
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    assert_eq!(
        tokenizer.encode("PLAYing! xyz", true).unwrap(),
        [2, 5, 6, 7, 1, 3]
    );
    assert_eq!(tokenizer.decode(&[2, 5, 6, 7, 3]).unwrap(), "playing!");
}
