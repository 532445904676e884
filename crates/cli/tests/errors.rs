//! Bad input gives one clear error, a non-zero exit, and harms no file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn fornax(args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_fornax");
    Command::new(program)
        .args(args)
        .env_remove("FORNAX_DATA")
        .output()
        .unwrap()
}

/// Runs the program, which must fail with one line that has all `parts`.
#[track_caller]
fn refused(args: &[&str], parts: &[&str]) {
    let output = fornax(args);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{args:?} succeeded");
    assert!(error.starts_with("error: "), "{error}");
    assert_eq!(error.trim_end().lines().count(), 1, "{error}");
    assert!(
        output.stdout.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    for part in parts {
        assert!(error.contains(part), "{error:?} lacks {part:?}");
    }
}

#[track_caller]
fn trained(folder: &Path, extra: &[&str]) {
    let out = folder.display().to_string();
    let mut args = vec![
        "train", "iris", "--json", "--set", "epochs=3", "--out", &out,
    ];
    args.extend(extra);
    let output = fornax(&args);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Everything in a folder, by name.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(contents(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            files.push((path, bytes));
        }
    }
    files.sort();
    files
}

#[test]
fn recipes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.toml");
    fs::write(&file, "seed = 1\n[model]\nneurns = 5\n").unwrap();
    refused(
        &["train", &text(&file), "--json"],
        &["mine.toml, line 3", "did you mean `model.neurons`"],
    );
    refused(&["train", "digit"], &["did you mean `digits`"]);
    refused(
        &["train", "digits", "--set", "epochs=none"],
        &["--set epochs", "whole number"],
    );
    refused(
        &["train", "iris", "--set", "model.name=cnn"],
        &["is for images"],
    );
    refused(
        &["train", "mnist", "--data", &text(folder.path())],
        &["scripts/fetch-data mnist", "mnist"],
    );
}

#[test]
fn folders() {
    let temporary = tempfile::tempdir().unwrap();
    let used = temporary.path().join("used");
    fs::create_dir(&used).unwrap();
    fs::write(used.join("thesis.txt"), "irreplaceable").unwrap();
    fs::write(used.join(".thesis.tmp"), "the latest chapter").unwrap();
    fs::write(used.join(".recipe.toml.7.tmp"), "half").unwrap();
    let before = contents(&used);
    refused(
        &["train", "iris", "--out", &text(&used)],
        &["not empty", "used"],
    );
    let missing = text(&temporary.path().join("missing"));
    refused(&["train", "--resume", &missing], &["no such folder"]);
    refused(&["train", "--resume", &text(&used)], &["no run to resume"]);
    refused(&["eval", &missing], &["no such folder"]);
    refused(
        &["train", "iris", "--resume", &text(&used)],
        &["no run to resume"],
    );
    refused(&["eval", &text(&used)], &["no run in"]);
    refused(&["inspect", &missing], &["missing"]);
    assert!(contents(&used) == before);

    // What the first moments of a killed run leave is in nobody's way.
    let begun = temporary.path().join("begun");
    fs::create_dir(&begun).unwrap();
    fs::write(begun.join(".lock"), "").unwrap();
    fs::write(begun.join(".recipe.toml.7.tmp"), "half").unwrap();
    trained(&begun, &[]);
    assert!(!begun.join(".recipe.toml.7.tmp").exists());
}

/// Settings that the data or the network refuse are found before the folder is made, so that the
/// corrected command can have it.
#[test]
fn settings() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("run");
    let out = text(&folder);
    let cases: [(&[&str], &str); 4] = [
        (&["augment.flip=true"], "images"),
        (
            &["model.layers=2", "model.neurons=16777216"],
            "[model] mlp: the layers have 281475127705603 weights",
        ),
        (
            &["batch_size=1", "model.batch_norm=true"],
            "model.batch_norm needs at least 2 examples",
        ),
        (&["model.name=lenet"], "is for images"),
    ];
    for (set, part) in cases {
        let mut args = vec!["train", "iris", "--json", "--out", &out];
        args.extend(set.iter().flat_map(|set| ["--set", set]));
        refused(&args, &[part]);
        assert!(!folder.exists(), "{set:?}");
    }
    trained(&folder, &[]);
}

/// 1,294 training examples are three batches of 431 and one example.
#[test]
fn a_last_batch_of_one() {
    let temporary = tempfile::tempdir().unwrap();
    let output = fornax(&[
        "train",
        "digits",
        "--json",
        "--set",
        "epochs=1",
        "--set",
        "batch_size=431",
        "--set",
        "model.batch_norm=true",
        "--out",
        &text(&temporary.path().join("run")),
    ]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn csv_files() {
    let temporary = tempfile::tempdir().unwrap();
    let case = |name: &str, content: &str, parts: &[&str]| {
        let file = temporary.path().join(name);
        fs::write(&file, content).unwrap();
        let set = format!("data.path={}", text(&file));
        let out = text(&temporary.path().join("run"));
        refused(
            &[
                "train",
                "iris",
                "--set",
                "data.name=csv",
                "--set",
                &set,
                "--out",
                &out,
            ],
            parts,
        );
        assert!(!temporary.path().join("run").exists());
    };
    let row = "1.0,2.0,a\n3.0,4.0,b\n";
    case(
        "ragged.csv",
        &format!("x,y,c\n{row}5.0,6.0\n"),
        &["ragged.csv", "line 4"],
    );
    let rows = row.repeat(5);
    case(
        "text.csv",
        &format!("x,y,c\n{rows}5.0,six,a\n"),
        &["text.csv", "line 12", "six"],
    );
    case("empty.csv", "", &["empty.csv"]);
}

#[test]
fn models_and_files() {
    let temporary = tempfile::tempdir().unwrap();
    let small = temporary.path().join("small");
    let large = temporary.path().join("large");
    trained(&small, &[]);
    trained(&large, &["--set", "model.neurons=64"]);

    let model = large.join("model.safetensors");
    fs::copy(small.join("model.safetensors"), &model).unwrap();
    refused(&["eval", &text(&large)], &["hidden.0.linear.weight"]);
    let state = Path::new("checkpoint").join("state.safetensors");
    fs::copy(small.join(&state), large.join(&state)).unwrap();
    let before = contents(&large);
    refused(
        &["train", "--resume", &text(&large), "--json"],
        &["another model"],
    );
    assert!(contents(&large) == before);

    fs::remove_file(large.join(&state)).unwrap();
    let before = contents(&large);
    refused(
        &["train", "--resume", &text(&large), "--json"],
        &["state.safetensors", "is missing"],
    );
    assert!(contents(&large) == before);
    let before = fs::read(&model).unwrap();

    refused(
        &["train", "--resume", &text(&small), "--seed", "9"],
        &["another `seed`"],
    );
    refused(&["predict", &text(&small), "1,2"], &["the row"]);
    refused(&["predict", &text(&small), "nothing.csv"], &["nothing.csv"]);

    let half = temporary.path().join("half.safetensors");
    fs::write(&half, &before[..before.len() / 2]).unwrap();
    refused(
        &["inspect", &text(&half)],
        &["half.safetensors", "cut short"],
    );
    fs::write(&half, [255; 64]).unwrap();
    refused(&["inspect", &text(&half)], &["not a safetensors file"]);
}

#[test]
fn data_that_changed() {
    let temporary = tempfile::tempdir().unwrap();
    let table = temporary.path().join("table.csv");
    let write = |rows: usize, scale: f64| {
        let mut csv = String::from("x,y,class\n");
        for row in 0..rows {
            let x = (row as f64 * 0.7).sin();
            let class = if row % 3 == 0 { "a" } else { "b" };
            csv += &format!("{:.4},{:.4},{class}\n", scale * x, x * x);
        }
        fs::write(&table, csv).unwrap();
    };
    write(90, 1.0);
    let folder = temporary.path().join("run");
    let path = format!("data.path={}", text(&table));
    trained(&folder, &["--set", "data.name=csv", "--set", &path]);
    let before = contents(&folder);
    let resume = ["train", "--json", "--resume", &text(&folder)];
    write(90, 25.4);
    refused(
        &resume,
        &["other data", "features of the training", "the scaling"],
    );
    write(80, 1.0);
    refused(&resume, &["other data", "training examples then"]);
    assert!(contents(&folder) == before);
    write(90, 1.0);
    assert!(fornax(&resume).status.success());
}

#[test]
fn a_folder_that_another_process_works_in() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("run");
    let mut first = Command::new(env!("CARGO_BIN_EXE_fornax"))
        .args(["train", "iris", "--json", "--out", &text(&folder)])
        .args(["--set", "epochs=1000000"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let state = folder.join("checkpoint").join("state.safetensors");
    while !state.exists() && started.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let resume = ["train", "--json", "--resume", &text(&folder)];
    refused(&resume, &["run is in use by another process"]);
    first.kill().unwrap();
    first.wait().unwrap();
}

/// As with `fornax train iris | head -1`.
#[test]
fn a_reader_that_goes_does_not_stop_the_training() {
    let temporary = tempfile::tempdir().unwrap();
    for (name, json) in [("people", None), ("programs", Some("--json"))] {
        let folder = temporary.path().join(name);
        let mut child = Command::new(env!("CARGO_BIN_EXE_fornax"))
            .args(["train", "iris", "--set", "epochs=3"])
            .args(["--out", &text(&folder)])
            .args(json)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{error}");
        assert!(folder.join("confusion.png").exists(), "{name}");
    }
}

#[test]
fn a_loss_that_is_not_a_number_stops_and_keeps_the_last_good_checkpoint() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("run");
    let out = text(&folder);
    let set = [
        "optimizer.name=sgd",
        "optimizer.learning_rate=1e30",
        "schedule.name=constant",
    ];
    let mut args = vec!["train", "digits", "--out", &out, "--json"];
    args.extend(set.iter().flat_map(|set| ["--set", set]));
    refused(
        &args,
        &["epoch 1, step", "training stopped", "checkpoint of step 0"],
    );
    let state = folder.join("checkpoint").join("state.safetensors");
    assert!(fornax(&["inspect", &text(&state)]).status.success());
    assert!(!folder.join("model.safetensors").exists());
}

#[test]
fn json_is_all_there_is_on_stdout() {
    let temporary = tempfile::tempdir().unwrap();
    let out = text(&temporary.path().join("run"));
    let output = fornax(&[
        "train", "iris", "--json", "--set", "epochs=2", "--out", &out,
    ]);
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[2]["test_accuracy"].is_f64());
    for args in [
        vec!["eval", &out],
        vec!["predict", &out, "5.1,3.5,1.4,0.2"],
        vec!["inspect", &out],
    ] {
        let mut args = args;
        args.push("--json");
        let output = fornax(&args);
        assert!(output.status.success());
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    }
}

/// A file system with too little room, where the system lets us limit a file's size.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_the_old_checkpoint() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("run");
    let out = text(&folder);
    let program = env!("CARGO_BIN_EXE_fornax");
    // The first checkpoint, of the starting weights, fits; the next, with the optimizer's state,
    // does not. Blocks are of 1,024 bytes; the signal must be ignored for an error to come back.
    let script = format!(
        "trap '' XFSZ; ulimit -f 500; exec {program} train digits --json --out {out} \
         --set checkpoint.every_steps=5 --set model.neurons=256"
    );
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert_eq!(error.trim_end().lines().count(), 1, "{error}");
    assert!(error.contains("state.safetensors"), "{error}");
    let state = folder.join("checkpoint");
    assert_eq!(fs::read_dir(&state).unwrap().count(), 1, "a leftover stays");
    assert!(
        fornax(&["inspect", &text(&state.join("state.safetensors"))])
            .status
            .success()
    );
    let output = fornax(&["train", "--resume", &out, "--json"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
