//! Tokenizers: between text and numbers.

use super::{gpt2, sentencepiece};
use crate::error::{Error, Result};
use crate::file;
use fornax_tensor::io::Gguf;
use serde_json::{Value, json};
use std::path::Path;

/// Turns text into the numbers of tokens and back.
///
/// Whatever file a tokenizer comes from (HuggingFace's `tokenizer.json`, GPT-2's vocabulary and
/// merges, a SentencePiece model, BERT's `vocab.txt`, a GGUF file), it becomes the same thing and is
/// saved as a `tokenizer.json`.
///
/// ```
/// use fornax_data::text::Tokenizer;
/// let tokenizer = Tokenizer::characters("to be or not to be");
/// let ids = tokenizer.encode("to robot", false)?;
/// assert_eq!(tokenizer.decode(&ids)?, "to robot");
/// assert_eq!(tokenizer.vocab_size(), 7);
/// # Ok::<(), fornax_data::Error>(())
/// ```
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Every token is one character, so a character without a token cannot be written.
    characters: bool,
    /// The token that ends a text, if its file says so.
    end: Option<u32>,
}

/// Texts are cut into parts of about this many bytes, at the end of a line, to bound the memory
/// that goes with them.
const PART: usize = 1 << 16;

impl Tokenizer {
    /// Opens a tokenizer: a `tokenizer.json`, a SentencePiece `.model`, a `.gguf` file, or a folder
    /// with one of them, with `vocab.json` and `merges.txt` (or `encoder.json` and `vocab.bpe`), or
    /// with a BERT's `vocab.txt`.
    ///
    /// # Errors
    /// If there is none, or it is damaged.
    pub fn open(path: impl AsRef<Path>) -> Result<Tokenizer> {
        let path = path.as_ref();
        if !path.is_dir() {
            return match path.extension().and_then(|e| e.to_str()) {
                Some("gguf") => Self::from_gguf(&Gguf::open(path)?),
                Some("model") => sentencepiece::read(path, &file::read(path)?),
                Some("txt") => Self::from_json(path, &wordpiece(path)?),
                _ => Self::from_json(path, &file::read(path)?),
            };
        }
        let there = |name: &str| path.join(name).is_file();
        for name in [
            "tokenizer.json",
            "tokenizer.model",
            "spiece.model",
            "sentencepiece.bpe.model",
        ] {
            if there(name) {
                return Self::open(path.join(name));
            }
        }
        for (vocab, merges) in [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")] {
            if there(vocab) && there(merges) {
                return gpt2::read(&path.join(vocab), &path.join(merges));
            }
        }
        if there("vocab.txt") {
            return Self::open(path.join("vocab.txt"));
        }
        Err(Error::folder(
            path,
            "has no tokenizer",
            "put a tokenizer.json there, or vocab.json with merges.txt, or a SentencePiece .model",
        ))
    }

    /// Reads the text of a `tokenizer.json`; `path` is what errors call it.
    ///
    /// # Errors
    /// If it is none.
    pub fn from_json(path: impl AsRef<Path>, text: &[u8]) -> Result<Tokenizer> {
        let path = path.as_ref();
        let wrong = |problem: String| {
            Error::format(
                path,
                "the tokenizer",
                problem,
                "fetch the file again, or use another tokenizer",
            )
        };
        // The library takes some malformed parts for a bug and panics.
        let read = std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(text));
        let mut inner = read
            .map_err(|_| wrong("is malformed".into()))?
            .map_err(|error| wrong(error.to_string()))?;
        // Batches are padded and cut by those who make them.
        inner.with_padding(None);
        let plain = inner.with_truncation(None);
        plain.map_err(|error| wrong(error.to_string()))?;
        let value: Value = serde_json::from_slice(text).map_err(|e| wrong(e.to_string()))?;
        let model = &value["model"];
        let characters = model["type"] == "BPE"
            && model["merges"].as_array().is_some_and(Vec::is_empty)
            && value["pre_tokenizer"].is_null()
            && model["unk_token"].is_null();
        Ok(Tokenizer {
            end: END_TOKENS.iter().find_map(|name| inner.token_to_id(name)),
            inner,
            characters,
        })
    }

    pub(super) fn from_value(path: &Path, value: &Value) -> Result<Tokenizer> {
        Self::from_json(path, value.to_string().as_bytes())
    }

    /// The tokenizer that a GGUF file holds.
    ///
    /// # Errors
    /// If it holds none, or one of a kind that is not read.
    pub fn from_gguf(file: &Gguf) -> Result<Tokenizer> {
        super::gguf::read(file)
    }

    /// A token for every character that occurs in `text`, in the characters' order.
    pub fn characters(text: &str) -> Tokenizer {
        let mut all: Vec<char> = text.chars().collect();
        all.sort_unstable();
        all.dedup();
        let vocab: serde_json::Map<String, Value> = all
            .iter()
            .enumerate()
            .map(|(id, character)| (character.to_string(), json!(id)))
            .collect();
        let value = json!({
            "version": "1.0",
            "added_tokens": [],
            "decoder": {"type": "Fuse"},
            "model": {"type": "BPE", "vocab": vocab, "merges": []},
        });
        Self::from_value("characters".as_ref(), &value).expect("characters make a tokenizer")
    }

    /// Learns byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019) from texts:
    /// `size` tokens in all, at least 256, `special` ones first. Any text can be written in them.
    ///
    /// # Errors
    /// If `size` is too small for the bytes and the special tokens.
    pub fn train_bpe(texts: &[&str], size: usize, special: &[&str]) -> Result<Tokenizer> {
        use tokenizers::models::TrainerWrapper;
        use tokenizers::models::bpe::{BPE, BpeTrainer};
        use tokenizers::pre_tokenizers::byte_level::ByteLevel;
        if size < 256 + special.len() {
            return Err(Error::Mismatch(format!(
                "a vocabulary of {size} tokens has no room for 256 bytes and {} special tokens",
                special.len()
            )));
        }
        let trainer = BpeTrainer::builder()
            .vocab_size(size)
            .min_frequency(2)
            .show_progress(false)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(
                special
                    .iter()
                    .map(|name| tokenizers::AddedToken::from(*name, true))
                    .collect(),
            )
            .build();
        let mut inner = tokenizers::Tokenizer::new(BPE::default());
        let bytes = ByteLevel::new(false, true, true);
        inner.with_pre_tokenizer(Some(bytes));
        inner.with_decoder(Some(bytes));
        let parts = texts.iter().flat_map(|text| parts(text));
        let trained = inner.train(&mut TrainerWrapper::from(trainer), parts);
        let text = trained.and_then(|inner| inner.to_string(false));
        let text = text.map_err(|error| Error::Mismatch(format!("the tokenizer: {error}")))?;
        Self::from_json("trained", text.as_bytes())
    }

    /// The text of a `tokenizer.json`, which [`from_json`](Tokenizer::from_json) reads.
    pub fn to_json(&self) -> String {
        self.inner
            .to_string(false)
            .expect("a tokenizer is plain data")
    }

    /// One more than the highest number of a token.
    pub fn vocab_size(&self) -> usize {
        let vocab = self.inner.get_vocab(true);
        vocab.values().max().map_or(0, |&id| id as usize + 1)
    }

    /// The number of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of a number, as the vocabulary writes it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// For every token, whether a word begins with it: one after a space, a line's end, a mark of
    /// punctuation or a special token.
    pub fn word_beginnings(&self) -> Vec<bool> {
        let vocab = self.inner.get_vocab(true);
        let pieces = vocab.keys().any(|token| token.starts_with("##"));
        let mut begins = vec![true; self.vocab_size()];
        for (token, id) in vocab {
            // Bytes are written as visible characters: Ġ is a space, Ċ the end of a line.
            let within = match pieces {
                true => token.starts_with("##"),
                false => {
                    let first = token.chars().next();
                    first.is_some_and(|c| c.is_alphanumeric() && !matches!(c, 'Ġ' | 'Ċ' | '▁'))
                }
            };
            begins[id as usize] = !within;
        }
        begins
    }

    /// The token that ends a text.
    pub fn end(&self) -> Option<u32> {
        self.end
    }

    pub(super) fn with_end(mut self, end: Option<u32>) -> Self {
        self.end = end.or(self.end);
        self
    }

    /// The tokens of a text. `special` adds what the model wants around a text, such as BERT's
    /// `[CLS]` and `[SEP]`.
    ///
    /// # Errors
    /// If a character has no token and the vocabulary has none for unknown ones.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        if self.characters
            && let Some(unknown) = text
                .chars()
                .find(|c| self.inner.token_to_id(c.encode_utf8(&mut [0; 4])).is_none())
        {
            return Err(Error::Mismatch(format!(
                "the character {unknown:?} does not occur in the text that the tokenizer was made \
                 from; leave it out"
            )));
        }
        let encoding = self.inner.encode_fast(text, special);
        let encoding = encoding.map_err(|error| Error::Mismatch(format!("the tokenizer: {error}")));
        Ok(encoding?.get_ids().to_vec())
    }

    /// The tokens of a long text, without special ones, part by part: parts end with a line, after
    /// about 64 KiB.
    ///
    /// # Errors
    /// As [`encode`](Tokenizer::encode).
    pub fn encode_long(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for part in parts(text) {
            ids.extend(self.encode(part, false)?);
        }
        Ok(ids)
    }

    /// The text of some tokens, without special ones but T5's sentinels (`<extra_id_0>`), which
    /// tell what fills which gap.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let added = self.inner.get_added_vocabulary();
        let told = |&id: &u32| {
            let special =
                |token: String| added.is_special_token(&token) && !token.starts_with("<extra_id_");
            !self.inner.id_to_token(id).is_some_and(special)
        };
        let told: Vec<u32> = ids.iter().copied().filter(told).collect();
        self.inner
            .decode(&told, false)
            .map_err(|error| Error::Mismatch(format!("the tokenizer: {error}")))
    }

    /// Decodes tokens as they come.
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        DecodeStream {
            tokenizer: self,
            ids: Vec::new(),
            told: 0,
            before: 0,
        }
    }
}

/// Where no file says which token ends a text.
const END_TOKENS: &[&str] = &[
    "<|im_end|>",
    "<|endoftext|>",
    "</s>",
    "<|end_of_text|>",
    "[SEP]",
];

/// A text in parts that end with a line.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let from = rest.floor_char_boundary(PART);
        let end = rest[from..]
            .find('\n')
            .map_or(rest.len(), |at| from + at + 1);
        let (part, after) = rest.split_at(end);
        rest = after;
        Some(part)
    })
}

/// The text of tokens as they come: whole characters only, though a token may hold part of one.
///
/// ```
/// use fornax_data::text::Tokenizer;
/// let tokenizer = Tokenizer::train_bpe(&["größer größer"], 256, &[])?;
/// let mut stream = tokenizer.decode_stream();
/// let mut text = String::new();
/// for id in tokenizer.encode("größer", false)? {
///     text += &stream.push(id)?;
/// }
/// text += &stream.finish()?;
/// assert_eq!(text, "größer");
/// # Ok::<(), fornax_data::Error>(())
/// ```
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The tokens that the next text may depend on.
    ids: Vec<u32>,
    /// Of these, so many are told.
    told: usize,
    /// And so many were told before the last piece.
    before: usize,
}

impl DecodeStream<'_> {
    /// Takes a token; returns the characters that are now whole.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        self.piece(false)
    }

    /// What is left, whole or not.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(&mut self) -> Result<String> {
        self.piece(true)
    }

    fn piece(&mut self, all: bool) -> Result<String> {
        // With the tokens of the last piece before them, because a first token loses its space.
        let known = self.tokenizer.decode(&self.ids[self.before..self.told])?;
        let now = self.tokenizer.decode(&self.ids[self.before..])?;
        if (now.ends_with('\u{fffd}') && !all) || now.len() <= known.len() {
            return Ok(String::new());
        }
        let new = now.get(known.len()..).unwrap_or_default().to_owned();
        self.before = self.told;
        self.told = self.ids.len();
        if self.before > 1 << 10 {
            self.ids.drain(..self.before);
            self.told -= self.before;
            self.before = 0;
        }
        Ok(new)
    }
}

/// A BERT vocabulary, a token a line, as the tokenizer of uncased models.
fn wordpiece(path: &Path) -> Result<Vec<u8>> {
    let bytes = file::read(path)?;
    let text = String::from_utf8(bytes).map_err(|_| {
        Error::format(
            path,
            "the vocabulary",
            "is not UTF-8",
            "fetch the file again",
        )
    })?;
    let vocab: serde_json::Map<String, Value> = text
        .lines()
        .enumerate()
        .map(|(id, token)| (token.to_owned(), json!(id)))
        .collect();
    let id = |token: &str| {
        vocab.get(token).and_then(Value::as_u64).ok_or_else(|| {
            Error::format(
                path,
                "the vocabulary",
                format!("lacks the token {token}"),
                "use the vocab.txt of a BERT, or a tokenizer.json",
            )
        })
    };
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let added: Vec<Value> = special
        .iter()
        .map(|name| id(name).map(|id| added_token(id, name, true)))
        .collect::<Result<_>>()?;
    let piece = |name: &str| json!({"SpecialToken": {"id": name, "type_id": 0}});
    let value = json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [piece("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, piece("[SEP]")],
            "pair": [piece("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, piece("[SEP]"),
                {"Sequence": {"id": "B", "type_id": 1}}, piece("[SEP]")],
            "special_tokens": {
                "[CLS]": {"id": "[CLS]", "ids": [id("[CLS]")?], "tokens": ["[CLS]"]},
                "[SEP]": {"id": "[SEP]", "ids": [id("[SEP]")?], "tokens": ["[SEP]"]},
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab,
        },
    });
    Ok(value.to_string().into_bytes())
}

pub(super) fn added_token(id: u64, content: &str, special: bool) -> Value {
    json!({
        "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": special,
    })
}
