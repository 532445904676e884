//! The tokenizer inside a GGUF file.

use super::tokenizer::added_token;
use super::{Tokenizer, gpt2, sentencepiece};
use crate::error::{Error, Result};
use fornax_tensor::io::Gguf;
use fornax_tensor::io::gguf::Value as Meta;
use serde_json::{Value, json};

const TOKENS: &str = "tokenizer.ggml.tokens";

/// How words are split before bytes are paired, by the name that files give it.
fn splits(name: &str) -> Option<Value> {
    let bytes = |split| gpt2::byte_level_split(split);
    let by = |pattern: &str| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
            bytes(false),
        ]})
    };
    Some(match name {
        "default" | "gpt-2" => bytes(true),
        "smollm" | "starcoder" | "refact" | "command-r" => {
            json!({"type": "Sequence", "pretokenizers": [
                {"type": "Digits", "individual_digits": true},
                bytes(true),
            ]})
        }
        "llama-bpe" | "llama3" | "llama-v3" => by(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        "qwen2" => by(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        _ => return None,
    })
}

pub(super) fn read(file: &Gguf) -> Result<Tokenizer> {
    let path = file.path();
    let wrong = |problem: String| {
        Error::format(
            path,
            "the tokenizer",
            problem,
            "take the tokenizer.json of the model instead",
        )
    };
    let tokens = file.texts(TOKENS)?;
    let kinds = match file.value("tokenizer.ggml.token_type") {
        Some(Meta::Integers(kinds)) if kinds.len() == tokens.len() => &kinds[..],
        None => &[],
        Some(_) => return Err(wrong("has not one type for each token".into())),
    };
    let kind = |id: usize| kinds.get(id).copied().unwrap_or(sentencepiece::NORMAL);
    let added: Vec<Value> = (0..tokens.len())
        .filter(|&id| matches!(kind(id), sentencepiece::CONTROL | sentencepiece::USER))
        .map(|id| added_token(id as u64, &tokens[id], kind(id) == sentencepiece::CONTROL))
        .collect();
    let mut vocab = serde_json::Map::new();
    for (id, token) in tokens.iter().enumerate() {
        if vocab.insert(token.clone(), json!(id)).is_some() {
            return Err(wrong(format!("has the token {token:?} twice")));
        }
    }
    let mut value = match file.text("tokenizer.ggml.model")? {
        "gpt2" => {
            let name = file.text("tokenizer.ggml.pre").unwrap_or("default");
            let split = splits(name).ok_or_else(|| {
                wrong(format!("splits words by a rule {name:?} that is not known"))
            })?;
            let merges = file.texts("tokenizer.ggml.merges")?;
            gpt2::byte_level(Value::Object(vocab), json!(merges), added, split)
        }
        "llama" => {
            let scores = match file.value("tokenizer.ggml.scores") {
                Some(Meta::Floats(scores)) if scores.len() == tokens.len() => scores,
                _ => return Err(wrong("has not one score for each token".into())),
            };
            let pieces = (0..tokens.len())
                .map(|id| sentencepiece::Piece {
                    text: tokens[id].clone(),
                    score: scores[id],
                    kind: kind(id),
                })
                .collect();
            let prefix = match file.value("tokenizer.ggml.add_space_prefix") {
                Some(Meta::Bool(yes)) => *yes,
                _ => true,
            };
            sentencepiece::bpe(pieces, prefix)
        }
        other => {
            return Err(wrong(format!(
                "is of the kind {other:?}, which is not read"
            )));
        }
    };
    let begin = file.count("tokenizer.ggml.bos_token_id").ok();
    let begin = begin.filter(|_| begins(file));
    if let Some((id, token)) = begin.and_then(|id| Some((id, tokens.get(id)?))) {
        value["post_processor"] = after(id, token);
    }
    let end = file.count("tokenizer.ggml.eos_token_id").ok();
    let end = end.and_then(|id| u32::try_from(id).ok());
    Ok(Tokenizer::from_value(path, &value)?.with_end(end))
}

/// Whether texts begin with a token of their own: as the file says, else as LLaMA's do.
fn begins(file: &Gguf) -> bool {
    match file.value("tokenizer.ggml.add_bos_token") {
        Some(Meta::Bool(yes)) => *yes,
        _ => {
            let pre = file.text("tokenizer.ggml.pre").unwrap_or_default();
            file.text("tokenizer.ggml.model")
                .is_ok_and(|kind| kind == "llama")
                || ["llama-bpe", "llama3", "llama-v3"].contains(&pre)
        }
    }
}

/// A text after a special token.
fn after(id: usize, token: &str) -> Value {
    let special = |of| json!({"SpecialToken": {"id": token, "type_id": of}});
    let text = |name: &str, of| json!({"Sequence": {"id": name, "type_id": of}});
    json!({
        "type": "TemplateProcessing",
        "single": [special(0), text("A", 0)],
        "pair": [special(0), text("A", 0), special(1), text("B", 1)],
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_text_begins_with_a_token_of_its_own() {
        let plain = Tokenizer::train_bpe(&["to be"], 260, &["<s>"]).unwrap();
        let mut value: Value = serde_json::from_str(&plain.to_json()).unwrap();
        value["post_processor"] = after(0, "<s>");
        let tokenizer = Tokenizer::from_value(Path::new("x.gguf"), &value).unwrap();
        let text = plain.encode("to be", false).unwrap();
        assert_eq!(tokenizer.encode("to be", false).unwrap(), text);
        assert_eq!(
            tokenizer.encode("to be", true).unwrap(),
            [&[0], &text[..]].concat()
        );
    }
}
