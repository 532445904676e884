//! SentencePiece models (<https://github.com/google/sentencepiece>): a protocol buffer of pieces
//! with scores, and of how text is normalised. The few fields that matter are read here; what they
//! mean is left to the tokenizer that all others become too.

use super::Tokenizer;
use super::tokenizer::added_token;
use crate::error::{Error, Result};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;

/// Kinds of pieces, here and in GGUF files.
pub(super) const NORMAL: i64 = 1;
const UNKNOWN: i64 = 2;
pub(super) const CONTROL: i64 = 3;
pub(super) const USER: i64 = 4;
const BYTE: i64 = 6;

/// A token of the vocabulary.
pub(super) struct Piece {
    pub text: String,
    pub score: f64,
    pub kind: i64,
}

const UNIGRAM: u64 = 1;
const BPE: u64 = 2;

struct Model {
    pieces: Vec<Piece>,
    kind: u64,
    charsmap: Vec<u8>,
    dummy_prefix: bool,
    remove_extra_spaces: bool,
}

/// A field of a message.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed(u32),
}

/// Goes through the fields of a message.
fn fields<'a>(
    mut bytes: &'a [u8],
    mut each: impl FnMut(u64, Field<'a>) -> Result<(), String>,
) -> Result<(), String> {
    fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = bytes.split_first().ok_or("it is cut short")?;
            *bytes = rest;
            value |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return Ok(value);
            }
        }
        Err("a number is too long".into())
    }
    fn take<'a>(bytes: &mut &'a [u8], count: u64) -> Result<&'a [u8], String> {
        let count = usize::try_from(count).map_err(|_| "it is cut short")?;
        let (taken, rest) = bytes.split_at_checked(count).ok_or("it is cut short")?;
        *bytes = rest;
        Ok(taken)
    }
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let field = match tag & 7 {
            0 => Field::Number(varint(&mut bytes)?),
            1 => {
                take(&mut bytes, 8)?;
                continue;
            }
            2 => {
                let length = varint(&mut bytes)?;
                Field::Bytes(take(&mut bytes, length)?)
            }
            5 => {
                let bytes = take(&mut bytes, 4)?;
                Field::Fixed(u32::from_le_bytes(bytes.try_into().expect("four bytes")))
            }
            _ => return Err("it is no protocol buffer".into()),
        };
        each(tag >> 3, field)?;
    }
    Ok(())
}

fn parse(bytes: &[u8]) -> Result<Model, String> {
    let mut model = Model {
        pieces: Vec::new(),
        kind: UNIGRAM,
        charsmap: Vec::new(),
        dummy_prefix: true,
        remove_extra_spaces: true,
    };
    fields(bytes, |number, field| {
        match (number, field) {
            (1, Field::Bytes(bytes)) => model.pieces.push(piece(bytes)?),
            // TrainerSpec
            (2, Field::Bytes(bytes)) => fields(bytes, |number, field| {
                if let (3, Field::Number(kind)) = (number, field) {
                    model.kind = kind;
                }
                Ok(())
            })?,
            // NormalizerSpec
            (3, Field::Bytes(bytes)) => fields(bytes, |number, field| {
                match (number, field) {
                    (2, Field::Bytes(map)) => model.charsmap = map.to_vec(),
                    (3, Field::Number(yes)) => model.dummy_prefix = yes != 0,
                    (4, Field::Number(yes)) => model.remove_extra_spaces = yes != 0,
                    _ => {}
                }
                Ok(())
            })?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(model)
}

fn piece(bytes: &[u8]) -> Result<Piece, String> {
    let mut piece = Piece {
        text: String::new(),
        score: 0.0,
        kind: NORMAL,
    };
    fields(bytes, |number, field| {
        match (number, field) {
            (1, Field::Bytes(text)) => {
                let text = std::str::from_utf8(text);
                piece.text = text.map_err(|_| "a piece is not UTF-8")?.to_owned();
            }
            (2, Field::Fixed(bits)) => piece.score = f32::from_bits(bits).into(),
            (3, Field::Number(kind)) => piece.kind = kind as i64,
            _ => {}
        }
        Ok(())
    })?;
    Ok(piece)
}

/// Reads a model from the bytes of the file `path`.
pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<Tokenizer> {
    let wrong = |problem: String| {
        Error::format(
            path,
            "the SentencePiece model",
            problem,
            "fetch the file again, or take the model's tokenizer.json",
        )
    };
    let model = parse(bytes).map_err(wrong)?;
    if model.pieces.is_empty() {
        return Err(wrong("it has no pieces".into()));
    }
    if let Some(piece) = model.pieces.iter().find(|piece| !piece.score.is_finite()) {
        return Err(wrong(format!("the score of {:?} is no number", piece.text)));
    }
    let bytes = model.pieces.iter().any(|piece| piece.kind == BYTE);
    let mut value = match model.kind {
        UNIGRAM => unigram(&model.pieces).map_err(wrong)?,
        BPE => bpe(model.pieces, model.dummy_prefix),
        kind => {
            return Err(wrong(format!(
                "it is of kind {kind}; unigram and BPE are read"
            )));
        }
    };
    let mut steps = Vec::new();
    if !model.charsmap.is_empty() {
        let map = base64(&model.charsmap);
        steps.push(json!({"type": "Precompiled", "precompiled_charsmap": map}));
    }
    if model.remove_extra_spaces {
        steps.push(json!({"type": "Strip", "strip_left": true, "strip_right": true}));
        steps.push(json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}));
    }
    value["normalizer"] = json!({"type": "Sequence", "normalizers": steps});
    value["pre_tokenizer"] = metaspace(model.dummy_prefix);
    value["decoder"] = match bytes {
        true => joined(model.dummy_prefix),
        false => metaspace(model.dummy_prefix),
    };
    Tokenizer::from_value(path, &value)
}

/// Spaces as a visible character, one before the text if `prefix`.
fn metaspace(prefix: bool) -> Value {
    let scheme = if prefix { "always" } else { "never" };
    json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true})
}

/// Visible spaces as spaces again, and characters out of tokens of one byte each.
fn joined(prefix: bool) -> Value {
    json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": usize::from(prefix), "stop": 0},
    ]})
}

fn added(pieces: &[Piece]) -> Vec<Value> {
    let special = |kind| matches!(kind, CONTROL | UNKNOWN);
    let numbered = pieces.iter().enumerate();
    numbered
        .filter(|(_, piece)| special(piece.kind) || piece.kind == USER)
        .map(|(id, piece)| added_token(id as u64, &piece.text, special(piece.kind)))
        .collect()
}

fn unigram(pieces: &[Piece]) -> Result<Value, String> {
    let unknown = pieces.iter().position(|piece| piece.kind == UNKNOWN);
    let unknown = unknown.ok_or("it has no piece for what is unknown")?;
    let vocab: Vec<Value> = pieces
        .iter()
        .map(|piece| json!([piece.text, piece.score]))
        .collect();
    let bytes = pieces.iter().any(|piece| piece.kind == BYTE);
    Ok(json!({
        "version": "1.0",
        "added_tokens": added(pieces),
        "model": {"type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": bytes},
    }))
}

/// A `tokenizer.json` of byte-pair encoding whose merges are known by the scores of what they give.
pub(super) fn bpe(pieces: Vec<Piece>, prefix: bool) -> Value {
    let ids: HashMap<&str, usize> = pieces
        .iter()
        .enumerate()
        .map(|(id, piece)| (piece.text.as_str(), id))
        .collect();
    let mut merges = Vec::new();
    for piece in pieces.iter().filter(|piece| piece.kind == NORMAL) {
        let mut own: Vec<(&str, &str)> = piece
            .text
            .char_indices()
            .skip(1)
            .map(|(at, _)| piece.text.split_at(at))
            .filter(|(left, right)| ids.contains_key(left) && ids.contains_key(right))
            .collect();
        own.sort_by_key(|(left, right)| (ids[left], ids[right]));
        merges.extend(own.into_iter().map(|pair| (piece.score, pair)));
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0));
    let merges: Vec<Value> = merges
        .iter()
        .map(|(_, (left, right))| json!([left, right]))
        .collect();
    let vocab: serde_json::Map<String, Value> = ids
        .iter()
        .map(|(text, id)| ((*text).to_owned(), json!(id)))
        .collect();
    let unknown = pieces.iter().find(|piece| piece.kind == UNKNOWN);
    let bytes = pieces.iter().any(|piece| piece.kind == BYTE);
    json!({
        "version": "1.0",
        "added_tokens": added(&pieces),
        "pre_tokenizer": {
            "type": "Metaspace", "replacement": "▁", "split": false,
            "prepend_scheme": if prefix { "first" } else { "never" },
        },
        "decoder": joined(prefix),
        "model": {
            "type": "BPE", "vocab": vocab, "merges": merges, "fuse_unk": true,
            "unk_token": unknown.map(|piece| &piece.text), "byte_fallback": bytes,
        },
    })
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut three = [0; 3];
        three[..group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for digit in 0..4 {
            match digit <= group.len() {
                true => text.push(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63].into()),
                false => text.push('='),
            }
        }
    }
    text
}
