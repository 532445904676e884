//! Text: tokenizers, and data for models of language.

mod chat;
mod gguf;
mod gpt2;
mod pairs;
mod sentencepiece;
mod sword;
mod tokenizer;
mod tokens;
mod windows;

pub use chat::{Message, Role, chatml};
pub use pairs::{Pairs, TextPair, encode_pairs, read_pairs, read_verses};
pub use tokenizer::{DecodeStream, Tokenizer};
pub use tokens::Tokens;
pub use windows::{Masking, Objective, Spans, Windows};

#[cfg(test)]
mod tests;
