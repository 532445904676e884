//! Texts in pairs, one to read and one to write.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fornax_data::locate;
use fornax_data::rng::{Philox, Purpose};
use fornax_data::text::{Pairs, TextPair, Tokenizer, encode_pairs, read_pairs, read_verses};

use super::{Marks, Test, Text};
use crate::error::{Error, Result};
use crate::progress::thousands;
use crate::recipe::{DataRecipe, Recipe};

pub(super) fn load(recipe: &Recipe, folder: Option<&Path>) -> Result<Text> {
    let data = &recipe.data;
    let pairs = read(data, folder)?;
    let parts = cut(
        &pairs,
        data.test.unwrap_or(0.05),
        data.validation,
        recipe.seed,
    );
    let tokenizer = tokenizer(data, &parts[0])?;
    let marks = Marks::of(&tokenizer)?;
    let context = data.context.unwrap_or(64);
    let mut left_out = 0;
    let [train, validation, test] = parts.map(|part| -> Result<Option<Test>> {
        let (mut texts, mut tokens) = (Vec::new(), Vec::new());
        for pair in part {
            let coded = encode_pairs(std::slice::from_ref(pair), &tokenizer, marks.end, context)?;
            left_out += 1 - coded.len();
            texts.extend((!coded.is_empty()).then(|| pair.clone()));
            tokens.extend(coded);
        }
        if tokens.is_empty() {
            return Ok(None);
        }
        let batches = Pairs::new(tokens, marks.padding)?.batch_size(recipe.batch_size);
        let batches = Arc::new(batches);
        Ok(Some(Test { texts, batches }))
    });
    let (train, validation, test) = (train?, validation?, test?);
    let train = train.ok_or_else(|| {
        Error::Recipe(format!(
            "of {} pairs of texts none is left to learn from; take more, or a larger data.context",
            pairs.len()
        ))
    })?;
    let size = |part: Option<&Test>| thousands(part.map_or(0, |part| part.texts.len()) as f64);
    let mut about = vec![
        format!(
            "data: {} pairs for training, {} for validation, {} for the test",
            size(Some(&train)),
            size(validation.as_ref()),
            size(test.as_ref()),
        ),
        format!(
            "read as: pairs of texts of up to {context} tokens of a vocabulary of {}",
            thousands(tokenizer.vocab_size() as f64),
        ),
    ];
    if left_out > 0 {
        about.push(format!(
            "left out: {} pairs with a longer text",
            thousands(left_out as f64)
        ));
    }
    let shuffled = Pairs::clone(&train.batches).shuffle(recipe.seed);
    Ok(Text {
        tokenizer,
        train: Arc::new(shuffled),
        validation: validation.map(|part| part.batches as _),
        test,
        about,
    })
}

fn read(data: &DataRecipe, folder: Option<&Path>) -> Result<Vec<TextPair>> {
    if data.name == "pairs" {
        let path = PathBuf::from(data.path.as_deref().unwrap_or_default());
        return Ok(read_pairs(&path)?);
    }
    let languages = data.languages.as_deref().unwrap_or("en-es");
    match languages.split('-').collect::<Vec<_>>()[..] {
        [source, target] if ![source, target].contains(&"") => {
            Ok(read_verses(&locate(&data.name, folder)?, source, target)?)
        }
        _ => Err(Error::Recipe(format!(
            "data.languages = \"{languages}\" is not two languages, such as \"en-es\""
        ))),
    }
}

/// Parts to learn from, to validate and to test on. The test is the same with any seed. A text that
/// is to be read more than once is always learnt from, so that no part has it with another.
fn cut(pairs: &[TextPair], test: f64, validation: f64, seed: u64) -> [Vec<&TextPair>; 3] {
    let mut times: HashMap<&str, usize> = HashMap::new();
    for [read, _] in pairs {
        *times.entry(read).or_default() += 1;
    }
    let once = |pair: &&TextPair| times[pair[0].as_str()] == 1;
    let mut single: Vec<&TextPair> = pairs.iter().filter(once).collect();
    let mut take = |share: f64, seed: u64, part: usize, of: usize| {
        Philox::new(seed, Purpose::Split, 0, part).shuffle(&mut single);
        // Something is left to learn from.
        let count = (share * of as f64).round() as usize;
        single.split_off(single.len() - count.min(single.len().saturating_sub(1)))
    };
    let test = take(test, 0, 0, pairs.len());
    let validation = take(validation, seed, 1, pairs.len() - test.len());
    let several = pairs.iter().filter(|pair| !once(pair));
    let train = single.iter().copied().chain(several).collect();
    [train, validation, test]
}

/// One vocabulary for both sides.
fn tokenizer(data: &DataRecipe, train: &[&TextPair]) -> Result<Tokenizer> {
    Ok(match data.tokenizer.as_deref().unwrap_or("bpe") {
        "characters" => {
            return Err(Error::Recipe(
                "pairs of texts need data.tokenizer = \"bpe\" or that of a T5".into(),
            ));
        }
        "bpe" => {
            let texts: Vec<&str> = train
                .iter()
                .copied()
                .flatten()
                .map(String::as_str)
                .collect();
            Tokenizer::train_bpe(&texts, data.vocabulary.unwrap_or(1024), &Marks::NAMES)?
        }
        path => Tokenizer::open(path)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(count: usize) -> Vec<TextPair> {
        // Every tenth text to read is the same.
        let read = |i: usize| if i.is_multiple_of(10) { 0 } else { i };
        (0..count)
            .map(|i| [format!("read {}", read(i)), format!("write {i}")])
            .collect()
    }

    #[test]
    fn parts_share_no_text_to_read_and_the_test_is_the_same_with_any_seed() {
        let pairs = some(200);
        let [train, validation, test] = cut(&pairs, 0.1, 0.1, 1);
        assert_eq!((train.len(), validation.len(), test.len()), (162, 18, 20));
        for pair in validation.iter().chain(&test) {
            assert!(train.iter().all(|other| other[0] != pair[0]), "{pair:?}");
        }
        let mut all: Vec<_> = [train, validation.clone(), test.clone()].concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 200);
        let [_, other, same] = cut(&pairs, 0.1, 0.1, 2);
        assert_eq!(same, test);
        assert_ne!(other, validation);
    }

    #[test]
    fn few_pairs_are_learnt_from() {
        for count in 1..4 {
            let pairs = some(count);
            let [train, ..] = cut(&pairs, 0.9, 0.9, 0);
            assert!(!train.is_empty());
        }
    }
}
