//! How near translations come to those of people.

use std::collections::HashMap;

/// The longest runs of words that are compared.
const ORDERS: usize = 4;

/// BLEU (Papineni et al. 2002) of a corpus, from 0 to 100, with one reference for each translation:
/// `sacrebleu.corpus_bleu` as it is without options, that is with the words of `mteval-v13a` and
/// exponential smoothing (Post 2018). It is 0 without translations.
///
/// # Panics
/// If there are more or fewer references than translations.
///
/// ```
/// use fornax_nn::metrics::bleu;
/// let (written, right) = ("the cat sat on the mat.", "The cat sat on the mat.");
/// assert!((bleu(&[written], &[right]) - 80.91067).abs() < 1e-5);
/// assert!((bleu(&[right], &[right]) - 100.0).abs() < 1e-9);
/// ```
#[track_caller]
pub fn bleu(translations: &[impl AsRef<str>], references: &[impl AsRef<str>]) -> f64 {
    let [count, expected] = [translations.len(), references.len()];
    assert!(
        count == expected,
        "bleu: {count} translations with {expected} references"
    );
    let (mut right, mut all) = ([0u64; ORDERS], [0u64; ORDERS]);
    let (mut written, mut wanted) = (0, 0);
    for (translation, reference) in translations.iter().zip(references) {
        let [translation, reference] = [translation.as_ref(), reference.as_ref()].map(words);
        let [translation, reference] =
            [&translation, &reference].map(|t| Vec::from_iter(t.split_whitespace()));
        written += translation.len();
        wanted += reference.len();
        for order in 1..=ORDERS {
            let known = runs(&reference, order);
            for (run, times) in runs(&translation, order) {
                all[order - 1] += times;
                right[order - 1] += times.min(known.get(run).copied().unwrap_or(0));
            }
        }
    }
    if right.iter().all(|&n| n == 0) || all.contains(&0) {
        return 0.0;
    }
    // Where no run of a length is right, half of one is taken for right, then a quarter, ...
    let mut smoothing = 1.0;
    let logs = right.iter().zip(all).map(|(&right, all)| {
        let right = match right {
            0 => {
                smoothing *= 2.0;
                1.0 / smoothing
            }
            right => right as f64,
        };
        (right / all as f64).ln()
    });
    let precision = (logs.sum::<f64>() / ORDERS as f64).exp();
    let brevity = match written < wanted {
        true => (1.0 - wanted as f64 / written as f64).exp(),
        false => 1.0,
    };
    100.0 * brevity * precision
}

/// How often each run of `order` words occurs.
fn runs<'a, 'b>(words: &'b [&'a str], order: usize) -> HashMap<&'b [&'a str], u64> {
    let mut counts = HashMap::new();
    for run in words.windows(order) {
        *counts.entry(run).or_insert(0) += 1;
    }
    counts
}

/// A text with spaces between its words and around its marks, as `mteval-v13a` has them.
fn words(text: &str) -> String {
    let mut text = text
        .replace("<skipped>", "")
        .replace("-\n", "")
        .replace('\n', " ");
    for (name, mark) in [
        ("&quot;", "\""),
        ("&amp;", "&"),
        ("&lt;", "<"),
        ("&gt;", ">"),
    ] {
        text = text.replace(name, mark);
    }
    let mark = |c: char| c.is_ascii_punctuation() && !matches!(c, '\'' | ',' | '-' | '.');
    let mut spaced = String::from(" ");
    for c in text.chars() {
        match mark(c) {
            true => spaced.extend([' ', c, ' ']),
            false => spaced.push(c),
        }
    }
    spaced.push(' ');
    let point = |c: char| matches!(c, '.' | ',');
    let digit = |c: char| c.is_ascii_digit();
    // In numbers, points and dashes belong to the word; but not the dash after one.
    let spaced = between(
        &spaced,
        |a, b| !digit(a) && point(b),
        |a, b| [a, ' ', b, ' '],
    );
    let spaced = between(
        &spaced,
        |a, b| point(a) && !digit(b),
        |a, b| [' ', a, ' ', b],
    );
    between(
        &spaced,
        |a, b| digit(a) && b == '-',
        |a, b| [a, ' ', b, ' '],
    )
}

/// Replaces pairs of neighbours, none of which share a character, from left to right.
fn between(
    text: &str,
    is: impl Fn(char, char) -> bool,
    become_: impl Fn(char, char) -> [char; 4],
) -> String {
    let mut result = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(a) = chars.next() {
        match chars.next_if(|&b| is(a, b)) {
            Some(b) => result.extend(become_(a, b)),
            None => result.push(a),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_words() {
        let split = |text| words(text).split_whitespace().collect::<Vec<_>>().join("|");
        assert_eq!(split("Hi, (you)!"), "Hi|,|(|you|)|!");
        assert_eq!(
            split("3.14, 1,000. 7-8 x-y it's"),
            "3.14|,|1,000|.|7|-|8|x-y|it's"
        );
        assert_eq!(split("a... &amp; ¿qué?"), "a|.|.|.|&|¿qué|?");
    }

    #[test]
    fn nothing_is_worth_nothing() {
        let none: [&str; 0] = [];
        assert_eq!(bleu(&none, &none), 0.0);
        assert_eq!(bleu(&[""], &["a b c d"]), 0.0);
        assert_eq!(bleu(&["w x y z"], &["a b c d"]), 0.0);
        assert_eq!(bleu(&["a"], &["a"]), 0.0);
    }
}
