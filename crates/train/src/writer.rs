//! Writing text with a trained model: a run's, one from HuggingFace, or one in a GGUF file.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use fornax_data::text::{DecodeStream, Tokenizer};
use fornax_models::generate::{
    Options, beam_search, beam_search_seq2seq, generate, generate_seq2seq,
};
use fornax_models::pretrained::from_folder;
use fornax_models::{CausalLm, Gpt2, Llama, Seq2SeqLm, T5, gguf};
use fornax_tensor::io::Gguf;
use serde_json::Value;

use crate::error::{Error, Result, io};
use crate::run::TrainedText;
use crate::text::{TextModel, belong_together};

/// A model that writes, with its tokenizer.
pub struct Writer {
    /// The model.
    pub model: WritingModel,
    /// Between text and tokens.
    pub tokenizer: Tokenizer,
    /// Tokens that end a text.
    pub ends: Vec<u32>,
    /// Whether a run of Fornax trained it.
    run: bool,
}

/// How a model writes.
pub enum WritingModel {
    /// It goes on with a text.
    Causal(Box<dyn CausalLm>),
    /// It writes another text about it.
    Seq2Seq(Box<dyn Seq2SeqLm>),
}

/// What was written.
#[derive(Debug, Clone)]
pub struct Written {
    /// The new text after each prompt.
    pub texts: Vec<String>,
    /// New tokens of all texts together.
    pub tokens: usize,
    /// Seconds that they took, prompts included.
    pub seconds: f64,
}

impl Writer {
    /// Opens a run's folder, a folder with HuggingFace's `config.json` (of a GPT-2, a LLaMA or a
    /// T5), weights and a tokenizer, or a `.gguf` file of a LLaMA.
    ///
    /// # Errors
    /// If there is no such model, or its files are damaged.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() && path.join("recipe.toml").exists() {
            let run = TrainedText::load(path)?;
            let model = match run.model {
                TextModel::Causal(model) => WritingModel::Causal(model),
                TextModel::Seq2Seq(model) => WritingModel::Seq2Seq(model),
                TextModel::Masked(_) => {
                    return Err(Error::Run(format!(
                        "the run in {} trained a \"{}\", which guesses hidden words and cannot \
                         write",
                        path.display(),
                        run.recipe.model.name
                    )));
                }
            };
            return Ok(Self {
                run: true,
                ..Self::new(model, run.tokenizer)
            });
        }
        if !path.is_dir() {
            let file = Gguf::open(path)?;
            let tokenizer = Tokenizer::from_gguf(&file)?;
            let model = gguf::load_llama(&file).map_err(told)?;
            return Ok(Self::new(WritingModel::Causal(Box::new(model)), tokenizer));
        }
        let config = path.join("config.json");
        let text = fs::read(&config).map_err(io("read", &config))?;
        let value: Value = serde_json::from_slice(&text)
            .map_err(|error| Error::Run(format!("{}: {error}", config.display())))?;
        let tokenizer = Tokenizer::open(path)?;
        let model = match value["model_type"].as_str() {
            Some("gpt2") => WritingModel::Causal(opened::<Gpt2>(path)?),
            Some("llama") => WritingModel::Causal(opened::<Llama>(path)?),
            Some("t5") => WritingModel::Seq2Seq(opened::<T5>(path)?),
            other => {
                return Err(Error::Run(format!(
                    "{} describes a model of type \"{}\", which does not write; gpt2, llama and \
                     t5 do",
                    config.display(),
                    other.unwrap_or_default()
                )));
            }
        };
        let mut writer = Self::new(model, tokenizer);
        // One number or several.
        let named = &value["eos_token_id"];
        let one = named.as_array().map_or(vec![named.clone()], Clone::clone);
        let ends = one.iter().filter_map(Value::as_u64);
        writer
            .ends
            .extend(ends.filter_map(|id| u32::try_from(id).ok()));
        Ok(writer)
    }

    fn new(model: WritingModel, tokenizer: Tokenizer) -> Self {
        Self {
            model,
            ends: tokenizer.end().into_iter().collect(),
            tokenizer,
            run: false,
        }
    }

    /// Whether what is written goes on with the prompt, rather than being a text of its own.
    pub fn continues(&self) -> bool {
        matches!(self.model, WritingModel::Causal(_))
    }

    /// Whether the model was trained on conversations in ChatML.
    pub fn chats(&self) -> bool {
        let has = |token| self.tokenizer.id(token).is_some();
        has("<|im_start|>") && has("<|im_end|>")
    }

    /// The tokens of a prompt, with what the tokenizer puts around a text, such as LLaMA's `<s>`;
    /// a run has learnt from texts without. One that is gone on with and empty becomes the token
    /// that ends texts, after which another begins; one that is read ends with that token.
    fn prompt(&self, text: &str) -> Result<Vec<u32>> {
        let end = self.tokenizer.end();
        let mut ids = self.tokenizer.encode(text, !self.run)?;
        let (ids, vocab) = match &self.model {
            WritingModel::Causal(model) => {
                if ids.is_empty() {
                    ids.push(end.or(self.tokenizer.id("\n")).unwrap_or(0));
                }
                (ids, model.vocab())
            }
            WritingModel::Seq2Seq(model) => {
                let lacks_end = ids.is_empty() || ids.last().copied() != end;
                ids.extend(end.filter(|_| lacks_end));
                if ids.is_empty() {
                    return Err(Error::Run(
                        "there is nothing to read in an empty prompt".into(),
                    ));
                }
                if ids.len() > model.longest() {
                    return Err(Error::Run(format!(
                        "a prompt has {} tokens, but the model reads at most {}",
                        ids.len(),
                        model.longest()
                    )));
                }
                (ids, model.vocab())
            }
        };
        belong_together(&ids, vocab)?;
        Ok(ids)
    }

    /// Goes on with each prompt, or writes about it, until a token or one of the texts `stops` ends it, or `options` say
    /// so. `each` hears every new piece of text with its prompt's number as it comes.
    ///
    /// # Errors
    /// If a prompt has characters that the tokenizer cannot write.
    pub fn write(
        &self,
        prompts: &[&str],
        options: &Options,
        stops: &[String],
        mut each: impl FnMut(usize, &str),
    ) -> Result<Written> {
        let started = Instant::now();
        let ids: Vec<Vec<u32>> = prompts
            .iter()
            .map(|text| self.prompt(text))
            .collect::<Result<_>>()?;
        let mut rows: Vec<Row<'_>> = ids.iter().map(|_| Row::new(&self.tokenizer)).collect();
        let options = Options {
            ends: [&options.ends[..], &self.ends].concat(),
            ..options.clone()
        };
        let mut failed = None;
        let hear = |row: usize, token: u32| match rows[row].hear(token, stops) {
            Ok((new, flow)) => {
                if !new.is_empty() {
                    each(row, &new);
                }
                flow
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        };
        let texts = match &self.model {
            WritingModel::Causal(model) => generate(&**model, &ids, &options, hear),
            WritingModel::Seq2Seq(model) => generate_seq2seq(&**model, &ids, &options, hear),
        };
        if let Some(error) = failed {
            return Err(error);
        }
        for (number, row) in rows.iter_mut().enumerate() {
            let rest = row.rest()?;
            if !rest.is_empty() {
                each(number, &rest);
            }
        }
        Ok(Written {
            texts: rows.into_iter().map(|row| row.text).collect(),
            tokens: texts.iter().map(Vec::len).sum(),
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// The likeliest text of at most `most` tokens after a prompt that beam search of this width
    /// finds. It ends where the model's context does.
    ///
    /// # Errors
    /// As [`write`](Writer::write), and if the prompt fills the context.
    pub fn search(&self, prompt: &str, width: usize, most: usize) -> Result<Written> {
        let started = Instant::now();
        let ids = self.prompt(prompt)?;
        let found = match &self.model {
            WritingModel::Causal(model) => {
                let context = model.context();
                let room = context.saturating_sub(ids.len());
                if room == 0 {
                    return Err(Error::Run(format!(
                        "the prompt has {} tokens, and beam search no room in the model's context \
                         of {context}; shorten the prompt, or leave out --beams",
                        ids.len()
                    )));
                }
                let most = most.min(room);
                beam_search(&**model, &ids, width, most, &self.ends, 1.0)
            }
            WritingModel::Seq2Seq(model) => {
                let most = most.min(model.longest());
                beam_search_seq2seq(&**model, &ids, width, most, &self.ends, 1.0)
            }
        };
        let tokens = found
            .into_iter()
            .next()
            .map_or(Vec::new(), |beam| beam.tokens);
        Ok(Written {
            texts: vec![self.tokenizer.decode(&tokens)?],
            tokens: tokens.len(),
            seconds: started.elapsed().as_secs_f64(),
        })
    }
}

fn opened<M: fornax_models::Pretrained>(folder: &Path) -> Result<Box<M>> {
    Ok(Box::new(from_folder::<M>(folder).map_err(told)?.model))
}

fn told(error: fornax_models::pretrained::Error) -> Error {
    Error::Run(error.to_string())
}

/// One text as it grows.
struct Row<'t> {
    stream: DecodeStream<'t>,
    /// What has been told.
    text: String,
    /// What may be the beginning of a text that stops this one.
    held: String,
    stopped: bool,
}

impl<'t> Row<'t> {
    fn new(tokenizer: &'t Tokenizer) -> Self {
        Self {
            stream: tokenizer.decode_stream(),
            text: String::new(),
            held: String::new(),
            stopped: false,
        }
    }

    /// Takes a token; returns what is certain to belong to the text, and whether it goes on.
    fn hear(&mut self, token: u32, stops: &[String]) -> Result<(String, ControlFlow<()>)> {
        let piece = self.stream.push(token)?;
        Ok(self.take(&piece, stops))
    }

    fn take(&mut self, piece: &str, stops: &[String]) -> (String, ControlFlow<()>) {
        self.held += piece;
        let stops = stops.iter().filter(|stop| !stop.is_empty());
        let found = stops
            .clone()
            .filter_map(|stop| self.held.find(stop.as_str()))
            .min();
        let (certain, flow) = match found {
            Some(at) => {
                self.stopped = true;
                (at, ControlFlow::Break(()))
            }
            None => {
                let may_begin = |at: &usize| {
                    let rest = &self.held[*at..];
                    stops.clone().any(|stop| stop.starts_with(rest))
                };
                let mut places = self.held.char_indices().map(|(at, _)| at);
                let certain = places.find(may_begin).unwrap_or(self.held.len());
                (certain, ControlFlow::Continue(()))
            }
        };
        let rest = self.held.split_off(certain);
        let new = std::mem::replace(&mut self.held, rest);
        self.text += &new;
        (new, flow)
    }

    /// What was held back and belongs to the text after all.
    fn rest(&mut self) -> Result<String> {
        if self.stopped {
            return Ok(String::new());
        }
        let rest = std::mem::take(&mut self.held) + &self.stream.finish()?;
        self.text += &rest;
        Ok(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_may_stop_is_held_back() {
        let tokenizer = Tokenizer::characters("a");
        let stops = ["END".to_owned(), "\n\n".to_owned(), String::new()];
        let mut row = Row::new(&tokenizer);
        let mut told = String::new();
        for piece in ["one E", "N", "d two\n", "three E", "ND four"] {
            let (new, flow) = row.take(piece, &stops);
            assert!(!new.contains("END"));
            told += &new;
            if flow.is_break() {
                break;
            }
        }
        told += &row.rest().unwrap();
        assert_eq!(told, "one ENd two\nthree ");
        assert_eq!(row.text, told);

        let mut row = Row::new(&tokenizer);
        assert_eq!(row.take("a\n", &stops).0, "a");
        assert_eq!(row.rest().unwrap(), "\n");
    }
}
