//! The meaning of sentences as vectors, by a BERT that was trained for it, such as MiniLM.

use std::path::Path;

use fornax_data::text::Tokenizer;
use fornax_models::pretrained::from_folder;
use fornax_models::{Bert, Pretrained};
use fornax_tensor::Tensor;

use crate::error::{Error, Result};
use crate::text::belong_together;

/// Texts that go through the model at once.
const TOGETHER: usize = 32;

/// A BERT with its tokenizer.
pub struct Embedder {
    model: Bert,
    tokenizer: Tokenizer,
}

impl Embedder {
    /// Opens a folder with HuggingFace's `config.json`, weights and tokenizer.
    ///
    /// # Errors
    /// If there is no BERT, or its files are damaged.
    pub fn open(folder: &Path) -> Result<Self> {
        let told = |error: fornax_models::pretrained::Error| Error::Run(error.to_string());
        if !folder.is_dir() {
            return Err(Error::Run(format!(
                "{} is not the folder of a BERT, with config.json, weights and a tokenizer",
                folder.display()
            )));
        }
        Ok(Self {
            model: from_folder::<Bert>(folder).map_err(told)?.model,
            tokenizer: Tokenizer::open(folder)?,
        })
    }

    /// A vector of length 1 for each text, `[texts, width]`: the mean over its tokens, as
    /// `sentence-transformers` has it. The product of two is their cosine similarity. Of texts with
    /// more tokens than the model has positions the end is cut off; `sentence-transformers` cuts
    /// earlier where its own settings say so.
    ///
    /// # Errors
    /// If the tokenizer cannot write a text, or does not belong to the model.
    ///
    /// # Panics
    /// If there are no texts.
    pub fn embed(&self, texts: &[&str]) -> Result<Tensor> {
        assert!(!texts.is_empty(), "embed: no texts");
        let config = self.model.config();
        let (vocab, longest) = (config.vocab_size, config.max_position_embeddings);
        let mut rows = Vec::with_capacity(texts.len());
        for text in texts {
            let mut ids = self.tokenizer.encode(text, true)?;
            belong_together(&ids, vocab)?;
            if ids.len() > longest {
                // The last token says where the text ends.
                let last = ids[ids.len() - 1];
                ids.truncate(longest - 1);
                ids.push(last);
            }
            rows.push(ids);
        }
        let time = rows.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let (mut ids, mut mask) = (Vec::new(), Vec::new());
        for row in &rows {
            let padding = time - row.len();
            ids.extend(row.iter().map(|&id| i64::from(id)));
            ids.extend(std::iter::repeat_n(0, padding));
            mask.extend(std::iter::repeat_n(1i64, row.len()));
            mask.extend(std::iter::repeat_n(0, padding));
        }
        let shape = [rows.len(), time];
        let (ids, mask) = (Tensor::from_vec(ids, shape), Tensor::from_vec(mask, shape));
        Ok(self.model.embed(&ids, Some(&mask)))
    }

    /// [`embed`](Embedder::embed) for any number of texts: a vector of each, in their order. Texts
    /// of like length go through the model together, so that little of the work is on padding.
    ///
    /// # Errors
    /// If the tokenizer cannot write a text.
    pub fn embed_all(&self, texts: &[impl AsRef<str>]) -> Result<Vec<Vec<f32>>> {
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&i| texts[i].as_ref().len());
        let mut vectors = vec![Vec::new(); texts.len()];
        for part in order.chunks(TOGETHER) {
            let texts: Vec<&str> = part.iter().map(|&i| texts[i].as_ref()).collect();
            let all = self.embed(&texts)?;
            let rows = all.to_vec::<f32>();
            for (&i, row) in part.iter().zip(rows.chunks(all.dim(1))) {
                vectors[i] = row.to_vec();
            }
        }
        Ok(vectors)
    }
}
