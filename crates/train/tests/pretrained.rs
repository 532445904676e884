//! Real weights give what the reference implementation gives. They are fetched with
//! `scripts/fetch-data minilm smollm2`; without them these tests say so and do nothing.

use std::path::PathBuf;

use fornax_data::locate;
use fornax_models::generate::{Options, generate};
use fornax_train::{Embedder, Writer, WritingModel};
use serde_json::Value;
use std::ops::ControlFlow;

fn expected() -> Value {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/pretrained.json"
    );
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Where the weights lie, if they were fetched.
fn fetched(name: &str) -> Option<PathBuf> {
    let found = locate(name, None).ok();
    if found.is_none() {
        eprintln!("SKIPPED: {name} is not there; scripts/fetch-data {name} fetches it");
    }
    found
}

fn numbers(value: &Value) -> Vec<f64> {
    let list = value.as_array().unwrap().iter();
    list.map(|x| x.as_f64().unwrap()).collect()
}

#[test]
fn minilm_embeds_sentences_as_the_reference_does() {
    let Some(folder) = fetched("minilm") else {
        return;
    };
    let expected = expected();
    let sentences = expected["sentences"].as_array().unwrap();
    let sentences: Vec<&str> = sentences.iter().map(|s| s.as_str().unwrap()).collect();
    assert_eq!(sentences.len(), 10);
    let embedder = Embedder::open(&folder).unwrap();
    let found = embedder.embed(&sentences).unwrap();
    let width = found.dim(1);
    let mut worst = 0f64;
    for (row, found) in found.to_f64_vec().chunks(width).enumerate() {
        let wanted = numbers(&expected["embeddings"][row]);
        assert_eq!(wanted.len(), width);
        for (a, b) in found.iter().zip(&wanted) {
            worst = worst.max((a - b).abs());
        }
        // And alone, without padding.
        let alone = embedder.embed(&sentences[row..=row]).unwrap().to_f64_vec();
        for (a, b) in alone.iter().zip(&wanted) {
            worst = worst.max((a - b).abs());
        }
    }
    assert!(worst < 1e-4, "{worst}");
}

#[test]
fn smollm2_writes_what_the_reference_writes() {
    let Some(folder) = fetched("smollm2") else {
        return;
    };
    let file = folder.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    let writer = Writer::open(&file).unwrap();
    assert!(writer.chats());
    let expected = expected();
    let texts = expected["texts"].as_array().unwrap();
    assert_eq!(texts.len(), 3);
    for text in texts {
        let ids =
            |name: &str| -> Vec<u32> { numbers(&text[name]).iter().map(|&id| id as u32).collect() };
        let prompt = text["prompt"].as_str().unwrap();
        let tokens = writer.tokenizer.encode(prompt, false).unwrap();
        assert_eq!(tokens, ids("ids"), "{prompt}");
        let options = Options {
            most: 32,
            ..Options::default()
        };
        let go = |_, _| ControlFlow::Continue(());
        let WritingModel::Causal(model) = &writer.model else {
            panic!("a LLaMA goes on with texts");
        };
        let found = generate(&**model, &[tokens], &options, go);
        assert_eq!(found[0], ids("new"), "{prompt}");
    }
}
