//! From `[data]` of a recipe to text that a model of language learns from.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fornax_data::text::{Masking, Objective, Tokenizer, Tokens, Windows};
use fornax_data::{Batches, locate};

use crate::error::{Error, Result, io};
use crate::recipe::{DataRecipe, Recipe};

/// The text of a run, as batches.
#[derive(Clone)]
pub struct Text {
    /// Between text and tokens.
    pub tokenizer: Tokenizer,
    /// Tokens to learn from.
    pub train_tokens: usize,
    /// Windows to learn from, drawn at random.
    pub train: Windows,
    /// The end of the text, window by window.
    pub validation: Option<Windows>,
}

/// The token that a masked model finds in place of hidden ones.
const MASK: &str = "[MASK]";

impl Text {
    /// Loads and cuts the text that `recipe` asks for; `folder` is where fetched data sets lie, see
    /// [`fornax_data::locate`].
    ///
    /// # Errors
    /// If the text is missing, damaged or too short, or the tokenizer cannot write it.
    pub fn load(recipe: &Recipe, folder: Option<&Path>) -> Result<Self> {
        let data = &recipe.data;
        let masked = recipe.model.name == "bert";
        let path = match data.name.as_str() {
            "text" => PathBuf::from(data.path.as_deref().unwrap_or_default()),
            name => locate(name, folder)?,
        };
        let (tokenizer, tokens) = tokens(data, &path, masked)?;
        let objective = match masked {
            true => Objective::Masked(masking(data, &tokenizer)?),
            false => Objective::Next,
        };
        let (first, rest) = tokens.split(data.validation);
        let context = data.context.unwrap_or(64);
        let windows = |tokens: Tokens| -> Result<Windows> {
            let windows = Windows::new(tokens, context, objective.clone())?;
            Ok(windows.batch_size(recipe.batch_size))
        };
        let train_tokens = first.len();
        let train = windows(first)?;
        let steps = data.steps.unwrap_or_else(|| train.once());
        Ok(Self {
            tokenizer,
            train_tokens,
            train: train.random(recipe.seed, steps),
            // The same words are hidden in every run, so that runs compare.
            validation: match data.validation > 0.0 {
                true => Some(windows(rest)?.seed(0)),
                false => None,
            },
        })
    }

    /// What is known about the text, in a line.
    pub fn describe(&self) -> String {
        let context = self.train.context();
        format!(
            "text in {} tokens of a vocabulary of {}, windows of {context}",
            crate::progress::thousands(self.train_tokens as f64),
            crate::progress::thousands(self.tokenizer.vocab_size() as f64),
        )
    }

    pub(crate) fn parts(&self) -> (Arc<dyn Batches>, Option<Arc<dyn Batches>>) {
        let validation = self.validation.clone();
        (
            Arc::new(self.train.clone()),
            validation.map(|windows| Arc::new(windows) as Arc<dyn Batches>),
        )
    }
}

/// The tokenizer of a recipe, and the text in its tokens.
fn tokens(data: &DataRecipe, path: &Path, masked: bool) -> Result<(Tokenizer, Tokens)> {
    let choice = data.tokenizer.as_deref().unwrap_or("characters");
    if path.extension().is_some_and(|e| e == "bin") {
        if matches!(choice, "characters" | "bpe") {
            return Err(Error::Recipe(format!(
                "{} holds tokens; say with data.tokenizer = FILE whose they are",
                path.display()
            )));
        }
        let tokenizer = Tokenizer::open(choice)?;
        let tokens = Tokens::open(path)?;
        let vocab = tokenizer.vocab_size();
        if let Some(i) = (0..tokens.len()).find(|&i| tokens.get(i) as usize >= vocab) {
            return Err(Error::Recipe(format!(
                "{}: token {i} is {}, but the tokenizer has only {vocab}",
                path.display(),
                tokens.get(i)
            )));
        }
        return Ok((tokenizer, tokens));
    }
    let text = read(path)?;
    let tokenizer = match choice {
        "characters" if masked => {
            return Err(Error::Recipe(
                "a network that guesses hidden words needs words: set data.tokenizer = \"bpe\""
                    .into(),
            ));
        }
        "characters" => Tokenizer::characters(&text),
        "bpe" => {
            // From the part that is learnt from.
            let end = ((1.0 - data.validation) * text.len() as f64) as usize;
            let special: &[&str] = if masked { &[MASK] } else { &[] };
            let known = &text[..text.floor_char_boundary(end)];
            Tokenizer::train_bpe(&[known], data.vocabulary.unwrap_or(1024), special)?
        }
        path => Tokenizer::open(path)?,
    };
    let tokens = tokenizer.encode_long(&text)?;
    Ok((tokenizer, Tokens::new(tokens)))
}

fn masking(data: &DataRecipe, tokenizer: &Tokenizer) -> Result<Masking> {
    let mask = [MASK, "<mask>"].iter().find_map(|name| tokenizer.id(name));
    let mask = mask.ok_or_else(|| {
        Error::Recipe(format!(
            "the tokenizer has no token {MASK} or <mask>, so nothing can be hidden; use that of a \
             BERT, or data.tokenizer = \"bpe\""
        ))
    })?;
    Ok(Masking {
        mask,
        share: data.masked.unwrap_or(0.15),
        begins: tokenizer.word_beginnings().into(),
        others: 0..tokenizer.vocab_size() as u32,
    })
}

/// A text file, or the `.txt` files of a folder one after the other in the order of their names.
fn read(path: &Path) -> Result<String> {
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        let entries = fs::read_dir(path).map_err(io("read", path))?;
        let entries: std::io::Result<Vec<_>> = entries.collect();
        files = entries
            .map_err(io("read", path))?
            .into_iter()
            .map(|entry| entry.path())
            .filter(|file| file.extension().is_some_and(|e| e == "txt"))
            .collect();
        files.sort();
        if files.is_empty() {
            return Err(Error::Run(format!(
                "{} holds no .txt files",
                path.display()
            )));
        }
    }
    let mut text = String::new();
    for file in files {
        let bytes = fs::read(&file).map_err(io("read", &file))?;
        let part = String::from_utf8(bytes).map_err(|error| {
            Error::Run(format!(
                "{}: byte {} is not UTF-8; convert the file first",
                file.display(),
                error.utf8_error().valid_up_to()
            ))
        })?;
        text += &part;
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    Ok(text)
}
