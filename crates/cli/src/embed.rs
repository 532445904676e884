//! `fornax embed`: which sentences mean about the same.

use std::io::Read;
use std::path::PathBuf;

use serde_json::json;

use crate::output::{Table, json_line};
use crate::{Outcome, set_threads};
use fornax::train::Embedder;

/// Turn sentences into vectors and find the nearest of each
#[derive(clap::Args)]
pub struct Args {
    /// A folder of a BERT for sentences, such as data/minilm
    model: PathBuf,
    /// Sentences; without any, the lines of stdin
    sentences: Vec<String>,
    /// Threads; as many as the machine has without it
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print one JSON object per sentence, with its vector
    #[arg(long)]
    json: bool,
}

/// Sentences embedded at once.
const BATCH: usize = 32;

pub fn run(args: Args) -> Outcome {
    set_threads(args.threads)?;
    let mut sentences = args.sentences;
    if sentences.is_empty() {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        sentences = text.lines().map(str::to_owned).collect();
        sentences.retain(|line| !line.trim().is_empty());
    }
    if sentences.is_empty() {
        return Err("there are no sentences to embed".into());
    }
    let embedder = Embedder::open(&args.model)?;
    let mut vectors: Vec<Vec<f64>> = Vec::with_capacity(sentences.len());
    for part in sentences.chunks(BATCH) {
        let texts: Vec<&str> = part.iter().map(String::as_str).collect();
        let all = embedder.embed(&texts)?;
        let width = all.dim(1);
        vectors.extend(all.to_f64_vec().chunks(width).map(<[f64]>::to_vec));
    }
    let mut table = Table::new(&["sentence", ">similarity", "nearest"]);
    for (i, (sentence, vector)) in sentences.iter().zip(&vectors).enumerate() {
        let product = |other: &[f64]| -> f64 { vector.iter().zip(other).map(|(a, b)| a * b).sum() };
        let nearest = (0..sentences.len())
            .filter(|&j| j != i)
            .map(|j| (j, product(&vectors[j])))
            .max_by(|a, b| a.1.total_cmp(&b.1));
        if args.json {
            json_line(&json!({
                "sentence": sentence,
                "vector": vector,
                "nearest": nearest.map(|(j, _)| &sentences[j]),
                "similarity": nearest.map(|(_, similarity)| similarity),
            }))?;
        } else {
            let (similarity, other) = nearest.map_or((String::new(), String::new()), |(j, s)| {
                (format!("{s:.3}"), sentences[j].clone())
            });
            table.row([sentence.clone(), similarity, other]);
        }
    }
    if !args.json {
        table.print()?;
    }
    Ok(())
}
