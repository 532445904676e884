//! From `[data]` of a recipe to text that a model learns from, and from `[model]` to that model.

mod model;
mod pairs;
mod windows;

use std::path::Path;
use std::sync::Arc;

use fornax_data::Batches;
use fornax_data::text::{TextPair, Tokenizer};
use fornax_models::Seq2SeqLm;
use fornax_models::generate::{Options, generate_seq2seq};
use fornax_nn::metrics::bleu;

pub use model::TextModel;

use crate::error::{Error, Result};
use crate::recipe::Recipe;
use crate::trainer::{Evaluation, evaluate_text};

/// The text of a run, as batches: windows of one long text, or texts in pairs.
#[derive(Clone)]
pub struct Text {
    /// Between text and tokens.
    pub tokenizer: Tokenizer,
    /// What is learnt from.
    pub train: Arc<dyn Batches>,
    /// The end of the text, or some of the pairs.
    pub validation: Option<Arc<dyn Batches>>,
    /// Pairs for the test.
    pub test: Option<Test>,
    /// What is known about it, in lines for people.
    pub about: Vec<String>,
}

/// Pairs of texts on which translations are compared with people's.
#[derive(Clone)]
pub struct Test {
    /// The texts to read and those to write.
    pub texts: Vec<TextPair>,
    /// The same in tokens.
    pub batches: Arc<fornax_data::text::Pairs>,
}

impl Text {
    /// Loads and cuts the text that `recipe` asks for; `folder` is where fetched data sets lie, see
    /// [`fornax_data::locate`].
    ///
    /// # Errors
    /// If the text is missing, damaged or too short, or the tokenizer cannot write it.
    pub fn load(recipe: &Recipe, folder: Option<&Path>) -> Result<Self> {
        match recipe.data.is_pairs() {
            true => pairs::load(recipe, folder),
            false => windows::load(recipe, folder),
        }
    }

    /// The part that [`evaluate`] takes, and its name.
    pub(crate) fn held_out(&self) -> Option<(&'static str, &dyn Batches)> {
        match (&self.test, &self.validation) {
            (Some(test), _) => Some(("test", &*test.batches)),
            (None, Some(validation)) => Some(("validation", &**validation)),
            (None, None) => None,
        }
    }
}

/// The tokens that a model of two texts needs besides those of the texts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Marks {
    /// Fills up texts.
    pub padding: u32,
    /// Stands before the first token that is written.
    pub start: u32,
    /// Ends a text.
    pub end: u32,
}

impl Marks {
    /// Their names in a vocabulary that is learnt for `recipe`.
    pub const NAMES: [&str; 3] = ["<pad>", "<s>", "</s>"];

    pub fn of(tokenizer: &Tokenizer) -> Result<Self> {
        let [padding, start, _] = Self::NAMES;
        let find = |names: [&str; 2]| names.iter().find_map(|name| tokenizer.id(name));
        let (Some(padding), Some(end)) = (find([padding, "[PAD]"]), tokenizer.end()) else {
            return Err(Error::Recipe(
                "a network that reads one text and writes another needs tokens for padding and for \
                 the end, and the tokenizer has no <pad> or no </s>; use that of a T5, or \
                 data.tokenizer = \"bpe\""
                    .into(),
            ));
        };
        Ok(Self {
            padding,
            start: find([start, "[CLS]"]).unwrap_or(padding),
            end,
        })
    }
}

/// Texts that are translated together.
const TOGETHER: usize = 64;

/// Evaluates a model on texts: loss, "accuracy" and "perplexity", and of pairs "bleu", of the
/// likeliest translations token by token.
pub(crate) fn evaluate(
    recipe: &Recipe,
    model: &TextModel,
    text: &Text,
) -> Result<(&'static str, Evaluation)> {
    let task = model.task(recipe, &text.tokenizer)?;
    let (name, part) = text
        .held_out()
        .ok_or_else(|| Error::Run("the run kept no text for validation or for a test".into()))?;
    let mut evaluation = evaluate_text(&task, model, part)?;
    if let (Some(test), TextModel::Seq2Seq(network)) = (&text.test, model) {
        let written = translate(&**network, &text.tokenizer, test)?;
        let right: Vec<&str> = test.texts.iter().map(|pair| pair[1].as_str()).collect();
        let score = ("bleu".to_owned(), bleu(&written, &right));
        evaluation.scores.metrics.push(score);
    }
    Ok((name, evaluation))
}

/// An error if a tokenizer's tokens are not those of a model that has `vocab` of them.
pub(crate) fn belong_together(ids: &[u32], vocab: usize) -> Result<()> {
    match ids.iter().find(|&&id| id as usize >= vocab) {
        None => Ok(()),
        Some(id) => Err(Error::Run(format!(
            "the tokenizer gives token {id}, but the model has only {vocab}; they do not belong \
             together"
        ))),
    }
}

/// What the model writes about each text of the test.
fn translate(model: &dyn Seq2SeqLm, tokenizer: &Tokenizer, test: &Test) -> Result<Vec<String>> {
    let pairs = test.batches.pairs();
    let options = Options {
        // A good translation is no longer than twice the longest there is.
        most: 2 * test.batches.longest()[1],
        ends: vec![Marks::of(tokenizer)?.end],
        ..Options::default()
    };
    // Texts of one length go together, so that little is computed for padding.
    let mut order: Vec<usize> = (0..pairs.len()).collect();
    order.sort_by_key(|&i| pairs[i][0].len());
    let mut written = vec![String::new(); pairs.len()];
    for some in order.chunks(TOGETHER) {
        let sources: Vec<Vec<u32>> = some.iter().map(|&i| pairs[i][0].clone()).collect();
        let go_on = |_, _| std::ops::ControlFlow::Continue(());
        for (&i, tokens) in some
            .iter()
            .zip(generate_seq2seq(model, &sources, &options, go_on))
        {
            written[i] = tokenizer.decode(&tokens)?;
        }
    }
    Ok(written)
}
