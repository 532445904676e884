//! Text: tokenizers, and data for models of language.

mod chat;
mod gguf;
mod gpt2;
mod sentencepiece;
mod tokenizer;
mod tokens;
mod windows;

pub use chat::{Message, Role, chatml};
pub use tokenizer::{DecodeStream, Tokenizer};
pub use tokens::Tokens;
pub use windows::{IGNORE, Masking, Objective, Windows};

#[cfg(test)]
mod tests;
