//! Models by their name, and sentences that are near to others, with a tiny BERT.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::{printed, refused, tiny_bert};
use serde_json::Value;

/// Runs the program in `folder`, where fetched data is in `folder/weights`.
fn fornax(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fornax"))
        .args(args)
        .current_dir(folder)
        .env("FORNAX_DATA", folder.join("weights"))
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn objects(text: &str) -> Vec<Value> {
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

const LINES: &str = "a cat sleeps\n\n  the dog barks \r\nstocks fell\nthe kitten naps\n";

#[test]
fn the_nearest_lines_of_a_file() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    tiny_bert(&folder.join("weights/minilm"));
    fs::write(folder.join("lines.txt"), LINES).unwrap();

    let args = ["embed", "minilm", "--file", "lines.txt", "The dog barks"];
    let found = objects(&printed(fornax(folder, &[&args[..], &["--json"]].concat())));
    assert_eq!(found.len(), 3);
    assert_eq!(found[0]["query"], "The dog barks");
    assert_eq!(found[0]["sentence"], "the dog barks");
    assert_eq!(found[0]["line"], 3);
    assert!((found[0]["similarity"].as_f64().unwrap() - 1.0).abs() < 1e-5);
    let similarities: Vec<f64> = found
        .iter()
        .map(|hit| hit["similarity"].as_f64().unwrap())
        .collect();
    assert!(similarities.is_sorted_by(|a, b| a >= b));
    assert!(similarities[1] < 0.999);

    // More than there are gives all; several queries, each with its own.
    let more = ["--nearest", "9", "stocks fell", "--json"];
    let found = objects(&printed(fornax(folder, &[&args[..], &more].concat())));
    assert_eq!(found.len(), 8);
    assert_eq!(found[4]["query"], "stocks fell");
    assert_eq!(found[4]["line"], 4);

    let text = printed(fornax(folder, &[&args[..], &["--nearest", "1"]].concat()));
    let last = text.lines().last().unwrap();
    let words: Vec<&str> = last.split_whitespace().collect();
    assert_eq!(words, ["1.000", "3", "the", "dog", "barks"]);
}

#[test]
fn the_nearest_among_the_sentences_themselves() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    tiny_bert(&folder.join("model"));
    let args = [
        "embed",
        "model",
        "a cat sleeps",
        "stocks fell",
        "a cat naps",
    ];
    let found = objects(&printed(fornax(folder, &[&args[..], &["--json"]].concat())));
    assert_eq!(found.len(), 3);
    assert_eq!(found[0]["vector"].as_array().unwrap().len(), 16);
    assert_eq!(found[0]["nearest"], "a cat naps");

    let more = ["--json", "--nearest", "2"];
    let found = objects(&printed(fornax(folder, &[&args[..], &more].concat())));
    assert_eq!(found.len(), 6);
    assert!(found.iter().all(|hit| hit["query"] != hit["sentence"]));
}

#[test]
fn what_embed_refuses() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    tiny_bert(&folder.join("model"));
    fs::write(folder.join("lines.txt"), LINES).unwrap();
    fs::write(folder.join("empty.txt"), "\n  \n").unwrap();
    fs::write(folder.join("latin.txt"), b"a cat\nth\xe9\n").unwrap();
    let embed = |args: &[&str]| fornax(folder, &[&["embed", "model"], args].concat());
    refused(
        embed(&["--file", "empty.txt", "a cat"]),
        &["empty.txt has no sentences"],
    );
    refused(
        embed(&["--file", "none.txt", "a cat"]),
        &["cannot read none.txt"],
    );
    refused(
        embed(&["--file", "latin.txt", "a cat"]),
        &["latin.txt, line 2", "UTF-8"],
    );
    refused(embed(&["--file", "lines.txt"]), &["there is no query"]);
    refused(embed(&["--nearest", "0", "a", "b"]), &["at least 1"]);
    refused(embed(&["--nearest", "2", "a cat"]), &["no others"]);
    refused(embed(&[]), &["no sentences"]);
}

#[test]
fn models_by_name() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    for command in ["embed", "generate", "inspect"] {
        let words: &[&str] = if command == "embed" { &["a cat"] } else { &[] };
        refused(
            fornax(folder, &[&[command, "minilm"], words].concat()),
            &["scripts/fetch-data minilm", "FORNAX_DATA"],
        );
        refused(
            fornax(folder, &[&[command, "nothing"], words].concat()),
            &["nothing is no such file or folder", "minilm, smollm2"],
        );
    }
    let listed = objects(&printed(fornax(folder, &["list", "pretrained", "--json"])));
    assert_eq!(listed[0]["name"], "minilm");
    assert!(listed.iter().all(|row| row["folder"].is_null()));

    tiny_bert(&folder.join("weights/minilm"));
    let text = printed(fornax(folder, &["inspect", "minilm"]));
    assert!(text.contains("embeddings.word_embeddings.weight"));
    let listed = objects(&printed(fornax(folder, &["list", "pretrained", "--json"])));
    assert!(listed[0]["folder"].as_str().unwrap().ends_with("minilm"));
    let text = printed(fornax(folder, &["list", "pretrained"]));
    assert!(text.contains("not fetched: scripts/fetch-data smollm2"));

    let file = folder.join("weights/smollm2/model.gguf");
    fs::create_dir(file.parent().unwrap()).unwrap();
    fs::write(&file, "").unwrap();
    refused(
        fornax(folder, &["embed", "smollm2", "a cat"]),
        &["model.gguf is not the folder of a BERT"],
    );

    // What is there wins over what was fetched.
    fs::create_dir(folder.join("minilm")).unwrap();
    refused(fornax(folder, &["inspect", "minilm"]), &["minilm"]);
}

#[cfg(not(feature = "hub"))]
#[test]
fn the_hub_is_a_feature() {
    let temporary = tempfile::tempdir().unwrap();
    for args in [
        &["embed", "owner/name", "a cat"][..],
        &["generate", "owner/name"],
        &["inspect", "owner/name/file.gguf"],
    ] {
        refused(
            fornax(temporary.path(), args),
            &[
                "owner/name",
                "cargo install --path crates/cli --features hub",
            ],
        );
    }
}
