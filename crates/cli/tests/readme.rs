//! The commands that the README shows do what it says.

use std::process::Command;

/// The README's own lines that start with `fornax `, without their comments.
fn commands() -> Vec<Vec<String>> {
    let readme = include_str!("../../../README.md");
    let lines = readme
        .lines()
        .filter_map(|line| line.strip_prefix("fornax "));
    let words = lines.map(|line| {
        let command = line.split('#').next().unwrap_or_default();
        command.split_whitespace().map(str::to_owned).collect()
    });
    words.collect()
}

#[test]
fn every_command_runs_in_the_readmes_order() {
    let commands = commands();
    assert!(commands.len() >= 6, "the README has lost its commands");
    let folder = tempfile::tempdir().unwrap();
    for mut args in commands {
        // The whole measurement takes minutes; the listing shows that the command is there.
        if args == ["bench"] {
            args = vec!["list".into(), "workloads".into()];
        }
        let output = Command::new(env!("CARGO_BIN_EXE_fornax"))
            .args(&args)
            .current_dir(folder.path())
            .env_remove("FORNAX_DATA")
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {error}");
        assert!(!output.stdout.is_empty(), "{args:?} says nothing");
    }
}
