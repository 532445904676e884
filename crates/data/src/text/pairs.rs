//! Texts in pairs, such as a sentence and its translation, and batches of them.

use super::{Tokenizer, sword};
use crate::error::{Error, Result};
use crate::file;
use crate::loader::{Batch, Batches};
use crate::rng::{Philox, Purpose, permutation};
use fornax_tensor::{IGNORE_INDEX, Tensor};
use std::path::Path;
use std::sync::Arc;

/// A text to read and the text to write about it.
pub type TextPair = [String; 2];

/// The pairs of a file with two columns, separated by a tab: a text to read and one to write on each
/// line. Empty lines are passed over.
///
/// # Errors
/// If the file cannot be read, is not UTF-8, or a line has no second column or more than two.
///
/// ```
/// let file = tempfile::NamedTempFile::new()?;
/// std::fs::write(file.path(), "good morning\tbuenos días\ngood night\tbuenas noches\n")?;
/// let pairs = fornax_data::text::read_pairs(file.path())?;
/// assert_eq!(pairs[1], ["good night", "buenas noches"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn read_pairs(path: &Path) -> Result<Vec<TextPair>> {
    let wrong = |place: String, problem: &str, remedy: &str| {
        Err(Error::format(path, place, problem, remedy))
    };
    let text = match String::from_utf8(file::read(path)?) {
        Ok(text) => text,
        Err(error) => {
            let place = format!("byte {}", error.utf8_error().valid_up_to());
            return wrong(place, "is not UTF-8", "convert the file first");
        }
    };
    let mut pairs = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let cells: Vec<&str> = line.split('\t').map(str::trim).collect();
        match cells[..] {
            [""] => {}
            [source, target] if !source.is_empty() && !target.is_empty() => {
                pairs.push([source.to_owned(), target.to_owned()]);
            }
            _ => {
                return wrong(
                    format!("line {}", number + 1),
                    "has not two texts with a tab between them",
                    "write the text to read, a tab, and the text to write",
                );
            }
        }
    }
    Ok(pairs)
}

/// The verses of a folder with a module of the SWORD project for each of two languages, in
/// subfolders of these names: those that both have.
///
/// # Errors
/// If files are missing or damaged, or the modules number their verses otherwise.
pub fn read_verses(folder: &Path, source: &str, target: &str) -> Result<Vec<TextPair>> {
    let [read, write] = [source, target].map(|language| sword::verses(&folder.join(language)));
    let (read, write) = (read?, write?);
    if read.len() != write.len() {
        return Err(Error::folder(
            folder,
            format!(
                "has {} verses of {source} and {} of {target}",
                read.len(),
                write.len()
            ),
            "use modules with the same numbering of verses",
        ));
    }
    let pairs = read.into_iter().zip(write);
    let both = pairs.filter(|(a, b)| !a.is_empty() && !b.is_empty());
    Ok(both.map(|(a, b)| [a, b]).collect())
}

/// Batches of pairs of texts, each batch of about the same length.
///
/// A batch has `x [batch, time]`, what is read, filled up with the padding token, and `y [batch,
/// time]`, what is to be written, filled up with [`IGNORE_INDEX`], both `i64`. The two times are the
/// longest text's, rounded up to a multiple of 8 so that few plans serve all batches. What a batch
/// holds is a function of seed, epoch and number alone.
///
/// ```
/// use fornax_data::Batches;
/// use fornax_data::text::Pairs;
/// let pairs = vec![[vec![5, 6, 7], vec![8, 9]], [vec![5], vec![6; 9]]];
/// let batch = Pairs::new(pairs, 0)?.batch_size(2).epoch(0, 0).next().unwrap()?;
/// assert_eq!((batch.x.shape(), batch.y.shape()), (&[2, 8][..], &[2, 16][..]));
/// assert_eq!(batch.weight, 11);
/// # Ok::<(), fornax_data::Error>(())
/// ```
#[derive(Clone)]
pub struct Pairs {
    pairs: Arc<[[Vec<u32>; 2]]>,
    padding: u32,
    batch_size: usize,
    seed: Option<u64>,
}

/// Batches whose samples are sorted by length together, when they are shuffled.
const POOL: usize = 32;

impl Pairs {
    /// Pairs of texts in tokens, in batches of 32 from the shortest to the longest; `padding` fills
    /// up what is read.
    ///
    /// # Errors
    /// If there are none, or a text has no token.
    pub fn new(pairs: Vec<[Vec<u32>; 2]>, padding: u32) -> Result<Self> {
        if pairs.is_empty() {
            return Err(Error::Mismatch("there are no pairs of texts".into()));
        }
        if let Some(i) = pairs.iter().position(|pair| pair.iter().any(Vec::is_empty)) {
            return Err(Error::Mismatch(format!(
                "pair {i} has a text without a token"
            )));
        }
        Ok(Self {
            pairs: pairs.into(),
            padding,
            batch_size: 32,
            seed: None,
        })
    }

    /// Pairs in a batch.
    ///
    /// # Panics
    /// If it is 0.
    #[track_caller]
    pub fn batch_size(mut self, pairs: usize) -> Self {
        assert!(pairs > 0, "a batch needs at least one pair");
        self.batch_size = pairs;
        self
    }

    /// Puts pairs together anew in each epoch.
    pub fn shuffle(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The longest text to read and the longest to write.
    pub fn longest(&self) -> [usize; 2] {
        [0, 1].map(|side| {
            self.pairs
                .iter()
                .map(|pair| pair[side].len())
                .max()
                .unwrap_or(0)
        })
    }

    /// The pairs.
    pub fn pairs(&self) -> &[[Vec<u32>; 2]] {
        &self.pairs
    }

    /// The pairs of each batch of an epoch.
    fn order(&self, epoch: u64) -> Vec<Vec<usize>> {
        let count = self.pairs.len();
        let by_length = |&i: &usize| {
            let [read, write] = &self.pairs[i];
            (write.len(), read.len())
        };
        let Some(seed) = self.seed else {
            let mut order: Vec<usize> = (0..count).collect();
            order.sort_by_key(by_length);
            return order
                .chunks(self.batch_size)
                .map(<[usize]>::to_vec)
                .collect();
        };
        let mut order = permutation(count, seed, epoch);
        let mut batches = Vec::with_capacity(self.batches());
        for pool in order.chunks_mut(POOL * self.batch_size) {
            pool.sort_by_key(by_length);
            batches.extend(pool.chunks(self.batch_size).map(<[usize]>::to_vec));
        }
        Philox::new(seed, Purpose::Batches, epoch, 0).shuffle(&mut batches);
        batches
    }

    fn make(&self, indices: Vec<usize>) -> Batch {
        let side = |side: usize, filler: i64| {
            let texts = || indices.iter().map(|&i| &self.pairs[i][side]);
            let longest = texts().map(Vec::len).max().unwrap_or(0);
            let time = longest.next_multiple_of(8);
            let mut all = Vec::with_capacity(texts().len() * time);
            for text in texts() {
                all.extend(text.iter().map(|&id| i64::from(id)));
                all.resize(all.len().next_multiple_of(time), filler);
            }
            Tensor::from_vec(all, [texts().len(), time])
        };
        let written = indices.iter().map(|&i| self.pairs[i][1].len());
        Batch {
            x: side(0, self.padding.into()),
            y: side(1, IGNORE_INDEX),
            weight: written.sum(),
            indices,
        }
    }
}

impl Batches for Pairs {
    fn samples(&self) -> usize {
        self.pairs.len()
    }

    fn batches(&self) -> usize {
        self.pairs.len().div_ceil(self.batch_size)
    }

    fn epoch(&self, epoch: u64, skip: usize) -> Box<dyn Iterator<Item = Result<Batch>> + '_> {
        let batches = self.order(epoch).into_iter().skip(skip);
        Box::new(batches.map(|indices| Ok(self.make(indices))))
    }

    fn digest(&self, take: &mut dyn FnMut(&[u8])) -> Result<()> {
        for text in self.pairs.iter().flatten() {
            take(&(text.len() as u64).to_le_bytes());
            text.iter().for_each(|id| take(&id.to_le_bytes()));
        }
        Ok(())
    }
}

/// Texts in tokens, each with `end` after it; pairs with a text longer than `longest` (with its end)
/// are left out.
///
/// # Errors
/// If the tokenizer cannot write a text.
pub fn encode_pairs(
    pairs: &[TextPair],
    tokenizer: &Tokenizer,
    end: u32,
    longest: usize,
) -> Result<Vec<[Vec<u32>; 2]>> {
    let encode = |text: &String| -> Result<Vec<u32>> {
        let mut ids = tokenizer.encode(text, false)?;
        ids.push(end);
        Ok(ids)
    };
    let mut all = Vec::with_capacity(pairs.len());
    for [read, write] in pairs {
        let pair = [encode(read)?, encode(write)?];
        if pair.iter().all(|text| text.len() <= longest) {
            all.push(pair);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pair `i` reads `i % 7 + 1` tokens and writes `i % 11 + 1`, all of them `i + 1`.
    fn some(count: u32) -> Pairs {
        let text = |i: u32, length: u32| vec![i + 1; (i % length + 1) as usize];
        Pairs::new((0..count).map(|i| [text(i, 7), text(i, 11)]).collect(), 0).unwrap()
    }

    fn all(pairs: &Pairs, epoch: u64) -> Vec<Batch> {
        pairs.epoch(epoch, 0).collect::<Result<_>>().unwrap()
    }

    #[test]
    fn an_epoch_visits_every_pair_once() {
        for pairs in [some(103).batch_size(4), some(103).batch_size(4).shuffle(3)] {
            for epoch in 0..2 {
                let batches = all(&pairs, epoch);
                assert_eq!(batches.len(), pairs.batches());
                let mut seen: Vec<usize> = Vec::new();
                for batch in &batches {
                    let rows = batch.indices.len();
                    assert_eq!((batch.x.dim(0), batch.y.dim(0)), (rows, rows));
                    let (x, y) = (batch.x.to_vec::<i64>(), batch.y.to_vec::<i64>());
                    let time = [x.len() / rows, y.len() / rows];
                    for (row, &i) in batch.indices.iter().enumerate() {
                        let expected = |length: usize, filler: i64, time: usize| {
                            let mut text = vec![i as i64 + 1; i % length + 1];
                            text.resize(time, filler);
                            text
                        };
                        assert_eq!(x[row * time[0]..][..time[0]], expected(7, 0, time[0]));
                        assert_eq!(
                            y[row * time[1]..][..time[1]],
                            expected(11, IGNORE_INDEX, time[1])
                        );
                    }
                    let counts = y.iter().filter(|&&id| id != IGNORE_INDEX).count();
                    assert_eq!(counts, batch.weight);
                    seen.extend(&batch.indices);
                }
                seen.sort_unstable();
                assert_eq!(seen, (0..103).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn epochs_differ_and_can_be_made_again() {
        let pairs = some(200).batch_size(8).shuffle(1);
        let order = |epoch, skip| -> Vec<Vec<usize>> {
            let batches = pairs.epoch(epoch, skip);
            batches.map(|batch| batch.unwrap().indices).collect()
        };
        assert_eq!(order(2, 0), order(2, 0));
        assert_ne!(order(2, 0), order(3, 0));
        assert_eq!(order(2, 0)[5..], order(2, 5));
    }

    #[test]
    fn lines_of_two_columns_are_pairs() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, expected) in [
            ("a b\tc d\n\ne\tf", Ok(2)),
            ("", Ok(0)),
            ("a\tb\nonly one\n", Err("line 2")),
            ("a\tb\tc\n", Err("line 1")),
            ("\tb\n", Err("line 1")),
        ] {
            std::fs::write(file.path(), text).unwrap();
            match (read_pairs(file.path()), expected) {
                (Ok(pairs), Ok(count)) => assert_eq!(pairs.len(), count),
                (Err(error), Err(place)) => assert!(error.to_string().contains(place), "{error}"),
                (read, _) => panic!("{text:?}: {read:?}"),
            }
        }
        std::fs::write(file.path(), b"a\tb\n\xff\n").unwrap();
        assert!(
            read_pairs(file.path())
                .unwrap_err()
                .to_string()
                .contains("byte 4")
        );
    }

    #[test]
    fn long_texts_are_left_out() {
        let tokenizer = Tokenizer::characters("abc");
        let pairs = [["abc", "a"], ["a", "abcabc"]].map(|pair| pair.map(str::to_owned));
        let all = encode_pairs(&pairs, &tokenizer, 9, 4).unwrap();
        assert_eq!(all, [[vec![0, 1, 2, 9], vec![0, 9]]]);
    }
}
