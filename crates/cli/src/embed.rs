//! `fornax embed`: which sentences mean about the same.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::output::{Table, json_line, line};
use crate::{Outcome, set_threads};
use fornax::train::{Embedder, hub};

/// Turn sentences into vectors and find the nearest of each
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fornax embed minilm \"A cat sleeps.\" \"A kitten naps.\" \"Stocks fell.\"
  fornax embed minilm --file sentences.txt --nearest 5 \"a query\"")]
pub struct Args {
    /// A folder of a BERT for sentences, the name of a fetched one (minilm), or a HuggingFace
    /// OWNER/NAME
    model: PathBuf,
    /// Sentences; without any, the lines of stdin
    sentences: Vec<String>,
    /// Search the lines of this file; the sentences are what is looked for
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Tell so many of the nearest; without it 1, or 3 of a file
    #[arg(long, value_name = "N")]
    nearest: Option<usize>,
    /// Threads; as many as the machine has without it
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print one JSON object per sentence, with its vector; with --file or --nearest, one per
    /// sentence that was found
    #[arg(long)]
    json: bool,
}

/// A sentence with its place among the others, counted from 1.
struct Sentence {
    line: usize,
    text: String,
}

/// One that was found for a query.
struct Hit<'a> {
    similarity: f32,
    sentence: &'a Sentence,
}

pub fn run(args: Args) -> Outcome {
    set_threads(args.threads)?;
    if args.nearest == Some(0) {
        return Err("--nearest must be at least 1".into());
    }
    let file = args.file.as_deref().map(read).transpose()?;
    let mut sentences = args.sentences;
    if sentences.is_empty() {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        sentences = text.lines().map(str::to_owned).collect();
        sentences.retain(|line| !line.trim().is_empty());
    }
    if sentences.is_empty() {
        return Err(match file {
            Some(_) => "there is no query; give one after the model, or as a line of stdin".into(),
            None => "there are no sentences to embed".into(),
        });
    }
    if args.nearest.is_some() && file.is_none() && sentences.len() == 1 {
        return Err("one sentence has no others to be near to; give more, or --file FILE".into());
    }
    let embedder = Embedder::open(&hub::resolve(&args.model)?)?;
    let queries = embedder.embed_all(&sentences)?;
    let own;
    let (pool, vectors) = match &file {
        Some(pool) => {
            let texts: Vec<&str> = pool.iter().map(|sentence| sentence.text.as_str()).collect();
            (pool, &embedder.embed_all(&texts)?)
        }
        None => {
            let texts = sentences.iter().cloned().enumerate();
            own = texts
                .map(|(i, text)| Sentence { line: i + 1, text })
                .collect();
            (&own, &queries)
        }
    };
    let count = args.nearest.unwrap_or(if file.is_some() { 3 } else { 1 });
    let nearest = |query: usize| -> Vec<Hit<'_>> {
        let others = pool.iter().zip(vectors).enumerate();
        // A sentence is not looked for in itself.
        let others = others.filter(|(i, _)| file.is_some() || *i != query);
        let mut hits: Vec<Hit<'_>> = others
            .map(|(_, (sentence, vector))| {
                let products = queries[query].iter().zip(vector).map(|(a, b)| a * b);
                Hit {
                    similarity: products.sum(),
                    sentence,
                }
            })
            .collect();
        hits.sort_by(|a, b| b.similarity.total_cmp(&a.similarity));
        hits.truncate(count);
        hits
    };
    if file.is_some() || args.nearest.is_some() {
        for (i, query) in sentences.iter().enumerate() {
            tell_hits(query, &nearest(i), i, sentences.len(), args.json)?;
        }
        return Ok(());
    }
    let mut table = Table::new(&["sentence", ">similarity", "nearest"]);
    for (i, (sentence, vector)) in sentences.iter().zip(&queries).enumerate() {
        let hits = nearest(i);
        let nearest = hits.first();
        if args.json {
            json_line(&json!({
                "sentence": sentence,
                "vector": vector,
                "nearest": nearest.map(|hit| &hit.sentence.text),
                "similarity": nearest.map(|hit| hit.similarity),
            }))?;
        } else {
            let similarity = nearest.map_or(String::new(), |hit| format!("{:.3}", hit.similarity));
            let other = nearest.map_or("", |hit| &hit.sentence.text);
            table.row([sentence, similarity.as_str(), other]);
        }
    }
    if !args.json {
        table.print()?;
    }
    Ok(())
}

/// The lines of a file that are not blank.
fn read(path: &Path) -> Result<Vec<Sentence>, Box<dyn std::error::Error>> {
    let bytes = std::fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let mut sentences = Vec::new();
    for (i, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let line = std::str::from_utf8(line)
            .map_err(|_| format!("{}, line {}: not UTF-8", path.display(), i + 1))?
            .trim();
        if !line.is_empty() {
            sentences.push(Sentence {
                line: i + 1,
                text: line.to_owned(),
            });
        }
    }
    if sentences.is_empty() {
        return Err(format!("{} has no sentences; one a line", path.display()).into());
    }
    Ok(sentences)
}

/// The nearest of query number `i` of `queries`, the nearest first.
fn tell_hits(query: &str, hits: &[Hit<'_>], i: usize, queries: usize, as_json: bool) -> Outcome {
    if as_json {
        for hit in hits {
            json_line(&json!({
                "query": query,
                "similarity": hit.similarity,
                "line": hit.sentence.line,
                "sentence": hit.sentence.text,
            }))?;
        }
        return Ok(());
    }
    if queries > 1 {
        line(format!("{}{query}\n", if i > 0 { "\n" } else { "" }))?;
    }
    let mut table = Table::new(&[">similarity", ">line", "sentence"]);
    for hit in hits {
        table.row([
            format!("{:.3}", hit.similarity),
            hit.sentence.line.to_string(),
            hit.sentence.text.clone(),
        ]);
    }
    Ok(table.print()?)
}
