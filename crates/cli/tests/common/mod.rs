//! What several test programs share.

use std::fs;
use std::path::Path;
use std::process::Output;

use fornax::models::pretrained::save_to_folder;
use fornax::models::{Bert, BertConfig};
use fornax::tensor::manual_seed;

/// Makes a BERT with random weights and a few words, small enough for any test.
pub fn tiny_bert(folder: &Path) {
    let words = "[PAD] [UNK] [CLS] [SEP] [MASK] a the cat kitten dog sleeps naps barks stocks fell";
    let words: Vec<&str> = words.split(' ').collect();
    manual_seed(1);
    let config = BertConfig {
        vocab_size: words.len(),
        hidden_size: 16,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        intermediate_size: 16,
        max_position_embeddings: 12,
        initializer_range: 0.5,
        ..BertConfig::default()
    };
    save_to_folder(&Bert::new(&config).unwrap(), folder).unwrap();
    fs::write(folder.join("vocab.txt"), words.join("\n")).unwrap();
}

/// What a program that succeeded printed.
#[track_caller]
pub fn printed(output: Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

/// The program failed with one line that has all `parts`.
#[track_caller]
pub fn refused(output: Output, parts: &[&str]) {
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "it succeeded");
    assert!(error.starts_with("error: "), "{error}");
    assert_eq!(error.trim_end().lines().count(), 1, "{error}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.is_empty(), "{said}");
    for part in parts {
        assert!(error.contains(part), "{error:?} lacks {part:?}");
    }
}
