//! Bad input gives one clear error, a non-zero exit, and harms no file.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

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
    refused(
        &["train", "iris", "--out", &text(&used)],
        &["not empty", "used"],
    );
    assert_eq!(
        fs::read_to_string(used.join("thesis.txt")).unwrap(),
        "irreplaceable"
    );
    let missing = text(&temporary.path().join("missing"));
    refused(&["train", "--resume", &missing], &["no such folder"]);
    refused(&["train", "--resume", &text(&used)], &["no run to resume"]);
    refused(&["eval", &missing], &["no such folder"]);
    refused(&["eval", &text(&used)], &["no run in"]);
    refused(&["inspect", &missing], &["missing"]);
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
    let before = fs::read(&model).unwrap();
    fs::copy(small.join(&state), large.join(&state)).unwrap();
    refused(
        &["train", "--resume", &text(&large), "--json"],
        &["another model"],
    );
    assert_eq!(before, fs::read(&model).unwrap());

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
