//! Byte-level byte-pair encoding as GPT-2 publishes it: a vocabulary in JSON and a text of merges.

use super::Tokenizer;
use super::tokenizer::added_token;
use crate::error::{Error, Result};
use crate::file;
use serde_json::{Value, json};
use std::path::Path;

/// `vocab.json` (or `encoder.json`) with `merges.txt` (or `vocab.bpe`).
pub(super) fn read(vocab_path: &Path, merges_path: &Path) -> Result<Tokenizer> {
    let wrong = |path: &Path, problem: String| {
        Error::format(path, "the vocabulary", problem, "fetch the file again")
    };
    let vocab: Value = serde_json::from_slice(&file::read(vocab_path)?)
        .map_err(|error| wrong(vocab_path, error.to_string()))?;
    let merges = String::from_utf8(file::read(merges_path)?)
        .map_err(|_| wrong(merges_path, "is not UTF-8".into()))?;
    let merges: Vec<&str> = merges
        .lines()
        .enumerate()
        // The first line may say the version; merges may begin with # too.
        .filter(|(i, line)| !(line.is_empty() || *i == 0 && line.starts_with("#version")))
        .map(|(_, line)| line)
        .collect();
    if let Some(line) = merges.iter().find(|line| line.split(' ').count() != 2) {
        return Err(wrong(
            merges_path,
            format!("the line {line:?} is not two tokens with a space between"),
        ));
    }
    let special: Vec<Value> = vocab
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(token, _)| token.starts_with("<|") && token.ends_with("|>"))
        .filter_map(|(token, id)| Some(added_token(id.as_u64()?, token, true)))
        .collect();
    let value = byte_level(vocab, json!(merges), special, byte_level_split(true));
    Tokenizer::from_value(vocab_path, &value)
}

/// The pre-tokenizer that writes bytes as characters; `split` cuts by GPT-2's rule first.
pub(super) fn byte_level_split(split: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": split})
}

/// A `tokenizer.json` of these parts.
pub(super) fn byte_level(vocab: Value, merges: Value, added: Vec<Value>, split: Value) -> Value {
    json!({
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": split,
        "decoder": byte_level_split(true),
        "model": {"type": "BPE", "vocab": vocab, "merges": merges, "ignore_merges": false},
    })
}
