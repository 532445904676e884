//! One long text, learnt from window by window.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fornax_data::text::{Masking, Objective, Spans, Tokenizer, Tokens, Windows};
use fornax_data::{Batches, locate};

use super::{Marks, Text};
use crate::error::{Error, Result, io};
use crate::progress::thousands;
use crate::recipe::{DataRecipe, Recipe};

/// The token that a masked model finds in place of hidden ones.
const MASK: &str = "[MASK]";
/// Stretches that a T5 can find taken out of a window.
const SENTINELS: usize = 100;

pub(super) fn load(recipe: &Recipe, folder: Option<&Path>) -> Result<Text> {
    let data = &recipe.data;
    let path = match data.name.as_str() {
        "text" => PathBuf::from(data.path.as_deref().unwrap_or_default()),
        name => locate(name, folder)?,
    };
    let learns = &*recipe.model.name;
    let (tokenizer, tokens) = tokens(data, &path, learns)?;
    let objective = match learns {
        "bert" => Objective::Masked(masking(data, &tokenizer)?),
        "t5" => Objective::Spans(spans(data, &tokenizer)?),
        _ => Objective::Next,
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
    let train = train.random(recipe.seed, steps);
    // The same words are hidden in every run, so that runs compare.
    let validation = match data.validation > 0.0 {
        true => Some(windows(rest)?.seed(0)),
        false => None,
    };
    let about = vec![
        format!(
            "data: {} windows an epoch for training, {} for validation",
            thousands(train.samples() as f64),
            thousands(validation.as_ref().map_or(0, Batches::samples) as f64),
        ),
        format!(
            "read as: text in {} tokens of a vocabulary of {}, windows of {context}",
            thousands(train_tokens as f64),
            thousands(tokenizer.vocab_size() as f64),
        ),
    ];
    Ok(Text {
        tokenizer,
        train: Arc::new(train),
        validation: validation.map(|windows| Arc::new(windows) as _),
        test: None,
        about,
    })
}

/// The tokenizer of a recipe, and the text in its tokens.
fn tokens(data: &DataRecipe, path: &Path, learns: &str) -> Result<(Tokenizer, Tokens)> {
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
        "characters" if learns != "gpt2" => {
            return Err(Error::Recipe(
                "a network that guesses hidden words needs words: set data.tokenizer = \"bpe\""
                    .into(),
            ));
        }
        "characters" => Tokenizer::characters(&text),
        "bpe" => {
            // From the part that is learnt from.
            let end = ((1.0 - data.validation) * text.len() as f64) as usize;
            let known = &text[..text.floor_char_boundary(end)];
            let special: Vec<String> = match learns {
                "bert" => vec![MASK.into()],
                "t5" => {
                    let marks = Marks::NAMES.map(str::to_owned);
                    marks
                        .into_iter()
                        .chain((0..SENTINELS).map(sentinel))
                        .collect()
                }
                _ => Vec::new(),
            };
            let special: Vec<&str> = special.iter().map(String::as_str).collect();
            Tokenizer::train_bpe(&[known], data.vocabulary.unwrap_or(1024), &special)?
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

/// What T5's tokenizers call the token that stands for a stretch.
fn sentinel(number: usize) -> String {
    format!("<extra_id_{number}>")
}

fn spans(data: &DataRecipe, tokenizer: &Tokenizer) -> Result<Spans> {
    let sentinels = (0..).map_while(|number| tokenizer.id(&sentinel(number)));
    Ok(Spans {
        share: data.masked.unwrap_or(0.15),
        mean: 3.0,
        sentinels: sentinels.collect(),
        end: Marks::of(tokenizer)?.end,
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
