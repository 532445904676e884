//! The tokens of a text, one after the other: in memory, or a file of them that is mapped.

use crate::error::{Error, Result};
use fornax_tensor::io::{Map, write_atomic};
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Tokens, or a stretch of them; copies share the memory.
///
/// As a file they are plain little-endian numbers of 16 bits, as nanoGPT writes them to `train.bin`
/// and `val.bin`.
///
/// ```
/// use fornax_data::text::Tokens;
/// let tokens = Tokens::new(vec![5, 6, 7, 8, 9, 5, 6, 7, 8, 9]);
/// let (train, validation) = tokens.split(0.1);
/// assert_eq!((train.len(), validation.to_vec()), (9, vec![9]));
/// ```
#[derive(Clone)]
pub struct Tokens {
    all: Arc<Source>,
    range: Range<usize>,
}

enum Source {
    Memory(Vec<u32>),
    File(Map),
}

impl Tokens {
    /// Tokens in memory.
    pub fn new(tokens: Vec<u32>) -> Self {
        Tokens {
            range: 0..tokens.len(),
            all: Arc::new(Source::Memory(tokens)),
        }
    }

    /// Maps a file of 16-bit tokens.
    ///
    /// # Errors
    /// If it cannot be opened or its length is odd.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let map = Map::open(path)?;
        if map.len() % 2 != 0 {
            return Err(Error::format(
                map.path(),
                "the end",
                "half a token is left over",
                "write tokens as little-endian numbers of 16 bits",
            ));
        }
        Ok(Tokens {
            range: 0..map.len() / 2,
            all: Arc::new(Source::File(map)),
        })
    }

    /// Writes a file that [`open`](Tokens::open) maps.
    ///
    /// # Errors
    /// If it cannot be written, or a token is beyond 65,535.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        if let Some(large) = (0..self.len())
            .map(|i| self.get(i))
            .find(|&id| id > u16::MAX.into())
        {
            return Err(Error::Mismatch(format!(
                "the token {large} does not fit into 16 bits; use a smaller vocabulary"
            )));
        }
        write_atomic(path, |file| {
            let mut bytes = Vec::with_capacity(2 * self.len());
            for i in 0..self.len() {
                bytes.extend((self.get(i) as u16).to_le_bytes());
            }
            file.write_all(&bytes)
        })
        .map_err(|source| Error::Io {
            path: path.to_owned(),
            source,
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Token `index`.
    ///
    /// # Panics
    /// If there are not so many.
    #[track_caller]
    pub fn get(&self, index: usize) -> u32 {
        assert!(index < self.len(), "token {index} of {}", self.len());
        let at = self.range.start + index;
        match &*self.all {
            Source::Memory(tokens) => tokens[at],
            Source::File(bytes) => u16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]).into(),
        }
    }

    /// Some tokens one after the other.
    ///
    /// # Panics
    /// If there are not so many.
    #[track_caller]
    pub fn slice(&self, range: Range<usize>) -> Tokens {
        assert!(
            range.start <= range.end && range.end <= self.len(),
            "tokens {range:?} of {}",
            self.len()
        );
        Tokens {
            all: self.all.clone(),
            range: self.range.start + range.start..self.range.start + range.end,
        }
    }

    /// The beginning to learn from and the last `share` to validate on: the text is cut once, so
    /// that no window of the one overlaps the other.
    pub fn split(&self, share: f64) -> (Tokens, Tokens) {
        let first = ((1.0 - share) * self.len() as f64).round() as usize;
        let first = first.min(self.len());
        (self.slice(0..first), self.slice(first..self.len()))
    }

    /// All of them.
    pub fn to_vec(&self) -> Vec<u32> {
        (0..self.len()).map(|i| self.get(i)).collect()
    }
}
