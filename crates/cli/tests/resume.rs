//! The real program, killed with SIGKILL at odd moments and resumed, ends with the same bytes as
//! the one that was left alone; and with one thread as with two.

#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Small and quick, yet with all that has a state: dropout, batch norm, shuffling, augmentation,
/// momentum schedule, accumulation, early stopping, best weights.
const DENSE: &[&str] = &[
    "digits",
    "epochs=6",
    "batch_size=16",
    "accumulate=2",
    "model.neurons=32",
    "model.batch_norm=true",
    "model.dropout=0.3",
    "schedule.name=one_cycle",
    "early_stopping.patience=50",
    "regularization.l1=1e-5",
    "checkpoint.every_steps=3",
];

/// Images that move, through convolutions, batch norm and pooling.
const CONVOLUTIONAL: &[&str] = &[
    "digits-cnn",
    "epochs=3",
    "batch_size=64",
    "model.channels=[8, 16]",
    "model.dense=32",
    "optimizer.name=sgd",
    "optimizer.momentum=0.9",
    "checkpoint.every_steps=5",
];

/// A language model on random windows of a text, with dropout and decay groups.
fn language(text: &Path, model: &str) -> Vec<String> {
    let set = match model {
        "bert" => "data.tokenizer=bpe data.vocabulary=300 data.masked=0.2",
        "t5" => "data.tokenizer=bpe data.vocabulary=400 accumulate=2",
        _ => "data.tokenizer=characters accumulate=2",
    };
    let all = "data.name=text data.context=16 data.steps=30 epochs=4 batch_size=8 model.layers=2 \
               model.heads=2 model.width=32 model.dropout=0.2 schedule.name=cosine \
               schedule.warmup=0.1 regularization.label_smoothing=0.1 regularization.clip_norm=1 \
               checkpoint.every_steps=7";
    let mut recipe = vec!["shakespeare-gpt".to_owned()];
    recipe.push(format!("data.path={}", text.display()));
    recipe.push(format!("model.name={model}"));
    recipe.extend(all.split_whitespace().map(str::to_owned));
    recipe.extend(set.split_whitespace().map(str::to_owned));
    recipe
}

fn write_text(path: &Path) {
    let words = [
        "the", "sea", "of", "troubles", "to", "sleep", "and", "dream",
    ];
    let word = |i: usize| words[(i * i * 7 + i / 3) % words.len()];
    let text: Vec<String> = (0..3000)
        .map(|i| format!("{}{}", word(i), if i % 9 == 8 { ".\n" } else { " " }))
        .collect();
    std::fs::write(path, text.concat()).unwrap();
}

fn start(extra: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fornax"));
    command.arg("train").args(extra);
    command
        .arg("--json")
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn finish(child: Child) {
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
}

/// The arguments of a new run: a recipe and what is set in it.
fn fresh(recipe: &[&str], folder: &Path, threads: &str) -> Vec<String> {
    let mut args = vec![recipe[0].to_owned(), "--seed".into(), "5".into()];
    args.extend(["--threads".into(), threads.into()]);
    args.extend(["--out".into(), folder.display().to_string()]);
    for set in &recipe[1..] {
        args.extend(["--set".into(), (*set).into()]);
    }
    args
}

fn run(args: &[String]) -> Child {
    start(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

fn model(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("model.safetensors")).unwrap()
}

/// The epochs that the log has, and what they say but for times.
fn log(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    text.lines()
        .map(|line| {
            let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
            let object = line.as_object_mut().unwrap();
            object.remove("seconds");
            object.remove("samples_per_second");
            line.to_string()
        })
        .collect()
}

#[test]
fn killed_at_any_moment_and_resumed_it_ends_the_same() {
    kill_and_resume(DENSE, 6);
}

#[test]
fn so_does_a_convolutional_network() {
    kill_and_resume(CONVOLUTIONAL, 3);
}

#[test]
fn so_does_a_language_model() {
    let temporary = tempfile::tempdir().unwrap();
    let text = temporary.path().join("text.txt");
    write_text(&text);
    for model in ["gpt2", "bert", "t5"] {
        let recipe = language(&text, model);
        let recipe: Vec<&str> = recipe.iter().map(String::as_str).collect();
        kill_and_resume(&recipe, 2);
    }
}

/// What is computed twice drops the same numbers both times.
#[test]
fn gradient_checkpointing_changes_no_bit() {
    let temporary = tempfile::tempdir().unwrap();
    let text = temporary.path().join("text.txt");
    write_text(&text);
    for model_name in ["gpt2", "bert", "t5"] {
        let end = |checkpoint: bool| {
            let folder = temporary.path().join(format!("{model_name}-{checkpoint}"));
            let set = format!("model.checkpoint={checkpoint}");
            let mut recipe = language(&text, model_name);
            recipe.extend(["epochs=1".into(), set]);
            let recipe: Vec<&str> = recipe.iter().map(String::as_str).collect();
            finish(run(&fresh(&recipe, &folder, "2")));
            model(&folder)
        };
        assert!(end(false) == end(true), "{model_name}");
    }
}

#[test]
fn so_does_one_of_texts_in_pairs() {
    let temporary = tempfile::tempdir().unwrap();
    let text = temporary.path().join("text.txt");
    write_text(&text);
    let lines = std::fs::read_to_string(&text).unwrap();
    let pairs = temporary.path().join("pairs.tsv");
    let line = |line: &str| format!("{line}\t{}\n", line.to_uppercase());
    std::fs::write(&pairs, lines.lines().map(line).collect::<String>()).unwrap();
    let path = format!("data.path={}", pairs.display());
    let mut recipe = vec!["translate-en-es-transformer", "data.name=pairs", &path];
    recipe.extend(
        "data.vocabulary=300 data.context=48 data.validation=0.1 epochs=3 batch_size=16 \
         accumulate=2 model.layers=1 model.heads=2 model.width=32 model.dropout=0.2 \
         checkpoint.every_steps=3"
            .split_whitespace(),
    );
    kill_and_resume(&recipe, 2);
}

fn kill_and_resume(recipe: &[&str], rounds: u32) {
    let temporary = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { temporary.path().join(name) };
    let whole = path("whole");
    let started = Instant::now();
    finish(run(&fresh(recipe, &whole, "2")));
    let took = started.elapsed();

    let single = path("single");
    finish(run(&fresh(recipe, &single, "1")));
    assert!(
        model(&whole) == model(&single),
        "one thread gives other bytes than two"
    );

    for round in 0..rounds {
        let folder = path(&format!("killed-{round}"));
        let mut kills = 0;
        let mut child = run(&fresh(recipe, &folder, "2"));
        loop {
            // From the first milliseconds to beyond the end.
            let share = f64::from((round * 7 + kills * 3) % 11 + 1) / 11.0;
            std::thread::sleep(Duration::from_secs_f64(took.as_secs_f64() * share * 0.7));
            if child.try_wait().unwrap().is_some() {
                finish(child);
                break;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
            let mut args = fresh(recipe, &folder, "2");
            let out = args.iter().position(|arg| arg == "--out").unwrap();
            args[out] = "--resume".into();
            std::fs::create_dir_all(&folder).unwrap();
            child = run(&args);
            if kills > 12 {
                finish(child);
                break;
            }
        }
        assert!(
            model(&whole) == model(&folder),
            "round {round}: other bytes after {kills} kills"
        );
        assert_eq!(log(&whole), log(&folder), "round {round}");
        let leftovers = std::fs::read_dir(&folder).unwrap().flatten();
        let leftovers =
            leftovers.filter(|entry| entry.file_name().to_string_lossy().ends_with(".tmp"));
        assert_eq!(leftovers.count(), 0, "round {round}");
    }
}

#[test]
fn resuming_a_finished_run_changes_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("run");
    finish(run(&fresh(DENSE, &folder, "2")));
    let (before, lines) = (model(&folder), log(&folder));
    let folder_name = folder.display().to_string();
    finish(start(&["--resume", &folder_name]));
    assert!(before == model(&folder));
    assert_eq!(lines, log(&folder));
}
