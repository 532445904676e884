//! Every kind of data, from its files to a prediction, by the program.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use fornax::data::idx::{Idx, IdxData};
use serde_json::Value;

fn start(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fornax"))
        .args(args)
        .current_dir(folder)
        .env_remove("FORNAX_DATA")
        .output()
        .unwrap()
}

/// Runs the program in `folder`; what it prints.
#[track_caller]
fn fornax(folder: &Path, args: &[&str]) -> String {
    let output = start(folder, args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// The last object that the program prints.
#[track_caller]
fn json(folder: &Path, args: &[&str]) -> Value {
    let text = fornax(folder, &[args, &["--json"]].concat());
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

fn picture(path: &Path, colour: [u8; 3]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::RgbImage::from_pixel(8, 8, image::Rgb(colour))
        .save(path)
        .unwrap();
}

/// A CSV file of houses whose price is a plain sum: about 200,000.
fn houses(path: &Path) {
    let mut text = String::from("rooms,area,price\n");
    for i in 0..500u32 {
        let (rooms, area) = (1 + i * 7 % 6, 40 + i * 37 % 160);
        text += &format!("{rooms},{area},{}\n", 20_000 * rooms + 1_200 * area);
    }
    fs::write(path, text).unwrap();
}

#[test]
fn numbers_in_any_unit_are_learnt_and_told_in_it() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    houses(&folder.join("houses.csv"));
    fs::write(
        folder.join("houses.toml"),
        "name = \"houses\"\n[data]\nname = \"csv\"\npath = \"houses.csv\"\n",
    )
    .unwrap();
    let report = json(folder, &["train", "houses.toml", "--out", "run"]);
    // The prices' standard deviation is about 65,000.
    let mae = report["test_mae"].as_f64().unwrap();
    assert!((10.0..15_000.0).contains(&mae), "{report}");
    assert!(report["test_rmse"].as_f64().unwrap() >= mae, "{report}");
    assert!(report["test_loss"].as_f64().unwrap() < 0.1, "{report}");

    // From another folder: the run knows where its data lies.
    let elsewhere = tempfile::tempdir().unwrap();
    let run = folder.join("run").display().to_string();
    let figures = json(elsewhere.path(), &["eval", &run]);
    assert_eq!(figures["test_mae"], report["test_mae"]);

    let answer = json(elsewhere.path(), &["predict", &run, "3,100"]);
    let price = answer["values"][0].as_f64().unwrap();
    assert!((price - 180_000.0).abs() < 40_000.0, "{answer}");

    let told = fornax(folder, &["train", "houses.toml", "--set", "epochs=1"]);
    assert!(
        told.contains("curves.png") && !told.contains("confusion.png"),
        "{told}"
    );
}

#[test]
fn a_table_with_quotes_categories_and_another_separator() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let mut text = String::from("size;kind;left\n");
    for i in 0..120 {
        let kind = ["\"small; old\"", "new"][i % 2];
        text += &format!("{}.5;{kind};{}\n", i % 9, ["no", "yes"][i % 2]);
    }
    fs::write(folder.join("some.csv"), text).unwrap();
    let set = [
        "--set",
        "data.name=csv",
        "--set",
        "data.path=some.csv",
        "--out",
        "run",
    ];
    json(folder, &[&["train", "iris"], &set[..]].concat());
    let quoted = "2.5;\"small; old\"";
    assert_eq!(json(folder, &["predict", "run", quoted])["class"], "no");
    assert_eq!(json(folder, &["predict", "run", "2.5;new"])["class"], "yes");
    fs::write(
        folder.join("new.csv"),
        "kind,size\nnew,1\n".replace(',', ";"),
    )
    .unwrap();
    let answer = json(folder, &["predict", "run", "new.csv"]);
    assert_eq!(
        (&answer["class"], &answer["input"]),
        (&"yes".into(), &"new.csv, row 1".into())
    );

    // What can be answered is, whatever comes after.
    let output = start(folder, &["predict", "run", "2.5;new", "nofile.csv"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("yes"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("nofile.csv"));
}

#[test]
fn folders_of_pictures() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    for (part, count) in [("train", 12), ("valid", 4), ("test", 4)] {
        for i in 0..count {
            let path = |class: &str| folder.join(format!("set/{part}/{class}/{i}.png"));
            picture(&path("blue"), [10 * i, 0, 200]);
            picture(&path("red"), [200, 10 * i, 0]);
        }
    }
    let set = "data.name=images data.path=set data.height=8 data.width=8 epochs=20 batch_size=8 \
               model.name=cnn model.channels=[4] model.dense=8 optimizer.learning_rate=0.01";
    fs::write(folder.join("empty.toml"), "").unwrap();
    let mut args = vec!["train", "empty.toml", "--out", "run"];
    args.extend(set.split_whitespace().flat_map(|set| ["--set", set]));
    let report = json(folder, &args);
    assert_eq!(report["test_samples"], 8, "{report}");
    assert_eq!(report["test_accuracy"], 1.0, "{report}");
    let answer = json(folder, &["predict", "run", "set/test/red/0.png"]);
    assert_eq!(answer["class"], "red");
    assert!(folder.join("run/confusion.png").exists());
    let data = fs::read_to_string(folder.join("run/data.json")).unwrap();
    let data: Value = serde_json::from_str(&data).unwrap();
    let names = &data["schema"]["target"]["names"];
    assert_eq!(*names, serde_json::json!(["blue", "red"]));
}

/// An IDX file of bytes.
fn idx(path: &Path, dims: &[usize], bytes: impl Iterator<Item = u8>) {
    let idx = Idx {
        dims: dims.to_vec(),
        data: IdxData::U8(bytes.collect()),
    };
    fs::write(path, idx.to_bytes()).unwrap();
}

#[test]
fn idx_files() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let set = folder.join("data/mnist");
    fs::create_dir_all(&set).unwrap();
    for (part, count) in [("train", 200), ("t10k", 40)] {
        let pixels = (0..count * 784).map(|i| {
            let (class, row) = (i / 784 % 10, i % 784 / 28);
            if row / 2 == class { 255 } else { (i % 7) as u8 }
        });
        let images = set.join(format!("{part}-images-idx3-ubyte"));
        idx(&images, &[count, 28, 28], pixels);
        let labels = set.join(format!("{part}-labels-idx1-ubyte"));
        idx(&labels, &[count], (0..count).map(|i| (i % 10) as u8));
    }
    let set = "epochs=5 model.neurons=[32] batch_size=20 data.validation=0.1";
    let mut args = vec!["train", "mnist", "--out", "run"];
    args.extend(set.split_whitespace().flat_map(|set| ["--set", set]));
    let report = json(folder, &args);
    assert_eq!(report["test_samples"], 40);
    assert_eq!(report["test_accuracy"], 1.0, "{report}");
}

#[test]
fn a_table_needs_no_recipe_and_is_evaluated_as_it_was() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let file = folder.join("my houses.csv");
    houses(&file);
    let told = fornax(folder, &["train", "my houses.csv", "--set", "epochs=2"]);
    assert!(
        told.contains("rooms (number), area (number) -> price (number)"),
        "{told}"
    );
    let run = "runs/my-houses";
    fornax(folder, &["eval", run]);
    // One row more would cut the test part anew, through what was trained on.
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text + "3,100,1\n").unwrap();
    let output = start(folder, &["eval", run]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && error.contains("the data has changed"),
        "{error}"
    );
    assert!(
        error.contains("100 test examples then and are 101 now") || error.contains("differ"),
        "{error}"
    );
}

#[test]
fn a_folder_of_pictures_needs_no_recipe() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    for i in 0..20 {
        picture(
            &folder.join(format!("leaves/green/{i}.png")),
            [20, 150 + i, 30],
        );
        picture(
            &folder.join(format!("leaves/red/{i}.png")),
            [200 + i, 20, 30],
        );
    }
    let told = fornax(folder, &["train", "leaves", "--set", "epochs=2"]);
    assert!(
        told.contains("read as: pictures of 3 x") && told.contains("-> 2 classes: green, red"),
        "{told}"
    );
    fornax(folder, &["predict", "runs/leaves", "leaves/red/3.png"]);
}

#[test]
fn a_text_of_ones_own_is_learnt_and_gone_on_with() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    fs::write(folder.join("abc.txt"), "abcdefgh\n".repeat(400)).unwrap();
    let set = "data.name=text data.path=abc.txt data.context=18 data.steps=60 epochs=3 \
               batch_size=8 model.layers=1 model.heads=2 model.width=32 \
               optimizer.learning_rate=0.01";
    let mut args = vec!["train", "shakespeare-gpt", "--out", "run"];
    args.extend(set.split_whitespace().flat_map(|set| ["--set", set]));
    json(folder, &args);
    let figures = json(folder, &["eval", "run"]);
    assert!(
        figures["validation_perplexity"].as_f64().unwrap() < 1.5,
        "{figures}"
    );
    let greedy = ["generate", "run", "--prompt", "cdef", "--temperature", "0"];
    let told = json(folder, &[&greedy[..], &["--max-tokens", "40"]].concat());
    // Beyond the context, too.
    let wanted = "gh\nabcdefgh\nabcdefgh\nabcdefgh\nabcdefgh\nab";
    assert_eq!(told["text"], wanted[..40], "{told}");
    let stopped = [&greedy[..], &["--stop", "bcd"]].concat();
    assert_eq!(json(folder, &stopped)["text"], "gh\na");
    let shown = fornax(folder, &[&greedy[..], &["--max-tokens", "4"]].concat());
    assert_eq!(shown, "cdefgh\na\n");
    let beams = [
        "generate",
        "run",
        "--prompt",
        "cdef",
        "--beams",
        "3",
        "--max-tokens",
        "5",
    ];
    assert_eq!(json(folder, &beams)["text"], "gh\nab");
    let told = fornax(folder, &["inspect", "run"]);
    assert!(told.contains("gpt2"), "{told}");
    // Evaluating on other text than what was held out would flatter or slander.
    let text = fs::read_to_string(folder.join("abc.txt")).unwrap();
    fs::write(folder.join("abc.txt"), format!("{text}hgfedcba\n")).unwrap();
    let output = start(folder, &["eval", "run"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && error.contains("has changed"),
        "{error}"
    );
    for (args, part) in [
        (vec!["predict", "run", "abc"], "fornax generate"),
        (
            vec!["generate", "run", "--prompt", "xyz"],
            "the character 'x'",
        ),
        (
            vec!["generate", "run", "--prompt", "a", "--chat"],
            "conversations",
        ),
        (
            vec!["generate", "run", "--prompt", "a", "--top-p", "2"],
            "--top-p",
        ),
        (vec!["generate", "nothing", "--prompt", "a"], "nothing"),
    ] {
        let output = start(folder, &args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && error.contains(part),
            "{args:?}: {error}"
        );
    }
}

/// Numbers in words, to be written in figures the other way round: what is read last is written
/// first.
fn numbers(path: &Path) {
    let names = ["zero", "one", "two", "three", "four"];
    let mut lines = String::new();
    for length in 1..=4 {
        for i in 0..5usize.pow(length) {
            let digits: Vec<usize> = (0..length).map(|k| i / 5usize.pow(k) % 5).collect();
            let read: Vec<&str> = digits.iter().map(|&d| names[d]).collect();
            let write: Vec<String> = digits.iter().rev().map(usize::to_string).collect();
            lines += &format!("{}\t{}\n", read.join(" "), write.join(" "));
        }
    }
    fs::write(path, lines).unwrap();
}

#[test]
fn pairs_of_texts_are_learnt_and_translated() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    numbers(&folder.join("numbers.tsv"));
    let set = "data.name=pairs data.path=numbers.tsv data.vocabulary=300 data.context=16 \
               epochs=12 batch_size=16 model.layers=1 model.heads=2 model.width=32 \
               model.dropout=0 optimizer.learning_rate=0.01 regularization.label_smoothing=0";
    for (model, recipe) in [
        ("transformer", "translate-en-es-transformer"),
        ("t5", "translate-es-en-t5"),
    ] {
        let mut args = vec!["train", recipe, "--out", model];
        args.extend(set.split_whitespace().flat_map(|set| ["--set", set]));
        let report = json(folder, &args);
        assert!(report["test_accuracy"].as_f64().unwrap() > 0.95, "{report}");
        let figures = json(folder, &["eval", model]);
        assert_eq!(figures["test_bleu"], report["test_bleu"]);
        let read = ["generate", model, "--temperature", "0", "--prompt"];
        let prompt = "one two three";
        let told = json(folder, &[&read[..], &[prompt]].concat());
        assert_eq!(told["text"], "3 2 1", "{told}");
        // What is read is not shown before what is written.
        let shown = fornax(folder, &[&read[..], &[prompt]].concat());
        assert_eq!(shown, "3 2 1\n");
        let several = fornax(folder, &[&read[..], &[prompt, "--prompt", "four"]].concat());
        assert_eq!(several, "3 2 1\n\n4\n\n");
        let beams = json(
            folder,
            &["generate", model, "--beams", "3", "--prompt", prompt],
        );
        assert_eq!(beams["text"], "3 2 1");
        assert!(fornax(folder, &["inspect", model]).contains(model));
    }
    let long = "one ".repeat(100);
    for (args, part) in [
        (
            vec!["generate", "transformer", "--prompt", &long],
            "at most 64",
        ),
        (vec!["predict", "t5", "one"], "fornax generate"),
        (
            vec!["train", "translate-es-en-t5", "--set", "model.name=gpt2"],
            "transformer or t5",
        ),
        (
            vec!["train", "translate-es-en-t5", "--set", "data.languages=en"],
            "en-es",
        ),
        (
            vec![
                "train",
                "translate-es-en-t5",
                "--set",
                "data.tokenizer=characters",
                "--set",
                "data.name=pairs",
                "--set",
                "data.path=numbers.tsv",
            ],
            "data.tokenizer",
        ),
    ] {
        let output = start(folder, &args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && error.contains(part),
            "{args:?}: {error}"
        );
    }
}

#[test]
fn what_is_taken_out_of_a_text_is_filled_in() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let count: Vec<String> = (10..40).map(|i| i.to_string()).collect();
    fs::write(
        folder.join("count.txt"),
        (count.join(" ") + "\n").repeat(60),
    )
    .unwrap();
    let set = "data.name=text data.path=count.txt data.vocabulary=400 data.context=24 \
               data.steps=100 epochs=4 batch_size=16 model.layers=1 model.heads=2 model.width=32 \
               optimizer.learning_rate=0.01";
    let mut args = vec!["train", "shakespeare-t5", "--out", "run"];
    args.extend(set.split_whitespace().flat_map(|set| ["--set", set]));
    json(folder, &args);
    let figures = json(folder, &["eval", "run"]);
    assert!(
        figures["validation_accuracy"].as_f64().unwrap() > 0.9,
        "{figures}"
    );
}
