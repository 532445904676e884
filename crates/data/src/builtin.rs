//! The datasets that Fornax knows by name. `digits`, `iris` and
//! `breast-cancer` are part of the program; the others are fetched with
//! `scripts/fetch-data NAME`.

use crate::dataset::{Dataset, Features, InMemory, SharedDataset};
use crate::error::{Error, Result};
use crate::file;
use crate::idx;
use crate::locate::locate;
use crate::schema::{Input, Schema, TargetKind};
use crate::table::{CsvOptions, HeaderRow, Task, parse_csv};
use std::path::Path;

const DIGITS: &[u8] = include_bytes!("../assets/digits.csv.gz");
const IRIS: &[u8] = include_bytes!("../assets/iris.csv");
const BREAST_CANCER: &[u8] = include_bytes!("../assets/breast_cancer.csv.gz");

/// A dataset known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Builtin {
    /// The name.
    pub name: &'static str,
    /// What it is, in a line.
    pub description: &'static str,
    /// Whether it is part of the program, so that nothing need be fetched.
    pub embedded: bool,
}

const fn builtin(name: &'static str, embedded: bool, description: &'static str) -> Builtin {
    Builtin {
        name,
        description,
        embedded,
    }
}

/// Every dataset known by name.
pub const LIST: &[Builtin] = &[
    builtin("digits", true, "1,797 handwritten digits, grey, 8x8"),
    builtin("iris", true, "150 irises of 3 species by 4 measures"),
    builtin(
        "breast-cancer",
        true,
        "569 tumours, malignant or benign, by 30 measures",
    ),
    builtin("wine", false, "178 wines of 3 growers by 13 measures"),
    builtin("diabetes", false, "442 patients by 10 measures; regression"),
    builtin("mnist", false, "70,000 handwritten digits, grey, 28x28"),
    builtin(
        "fashion-mnist",
        false,
        "70,000 articles of clothing of 10 kinds, grey, 28x28",
    ),
];

/// A dataset as it was published: whole, or in a training and a test part.
#[derive(Clone)]
pub struct Published {
    /// The training part, or everything.
    pub train: SharedDataset,
    /// The test part, if the publisher made one.
    pub test: Option<SharedDataset>,
}

impl Published {
    /// The training part, which is everything if there is no test part.
    pub fn whole(self) -> SharedDataset {
        self.train
    }

    fn one(data: InMemory) -> Self {
        Published {
            train: data.shared(),
            test: None,
        }
    }
}

/// Loads a dataset by name; `data_dir` is the `--data` folder (see [`locate`]).
///
/// # Errors
/// If no dataset has that name, it is not fetched, or its files are damaged.
///
/// ```
/// use fornax_data::{Dataset, builtin};
///
/// let digits = builtin::load("digits", None)?.whole();
/// assert_eq!(digits.len(), 1797);
/// assert_eq!(digits.schema().sample_shape(), [1, 8, 8]);
/// # Ok::<(), fornax_data::Error>(())
/// ```
pub fn load(name: &str, data_dir: Option<&Path>) -> Result<Published> {
    match name {
        "digits" => digits().map(Published::one),
        "iris" => {
            measured("iris", "iris.csv".as_ref(), IRIS.to_vec(), IRIS_COLUMNS).map(Published::one)
        }
        "breast-cancer" => {
            let columns = breast_cancer_columns();
            let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
            measured(
                name,
                "breast_cancer.csv.gz".as_ref(),
                BREAST_CANCER.to_vec(),
                &columns,
            )
            .map(Published::one)
        }
        "wine" => {
            let path = locate(name, data_dir)?.join("wine_data.csv");
            measured(name, &path, file::read(&path)?, WINE_COLUMNS).map(Published::one)
        }
        "diabetes" => diabetes(&locate(name, data_dir)?).map(Published::one),
        "mnist" => {
            let classes = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
            published_idx(name, &locate(name, data_dir)?, &classes)
        }
        "fashion-mnist" => {
            let classes = [
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ];
            published_idx(name, &locate(name, data_dir)?, &classes)
        }
        _ => Err(Error::UnknownDataset {
            name: name.into(),
            known: LIST.iter().map(|d| d.name).collect::<Vec<_>>().join(", "),
        }),
    }
}

/// A training and a test set as MNIST's files are called.
fn published_idx(name: &str, folder: &Path, classes: &[&str]) -> Result<Published> {
    let part = |prefix: &str| {
        let samples = idx::find(folder, &format!("{prefix}-images-idx3-ubyte"))?;
        let labels = idx::find(folder, &format!("{prefix}-labels-idx1-ubyte"))?;
        idx::dataset(name, samples, labels, Some(classes))
    };
    Ok(Published {
        train: part("train")?.shared(),
        test: Some(part("t10k")?.shared()),
    })
}

/// 64 pixels of 0 to 16 in a line, then the class.
fn digits() -> Result<InMemory> {
    let path = Path::new("digits.csv.gz");
    let options = CsvOptions {
        header: HeaderRow::No,
        task: Some(Task::Classification),
        ..CsvOptions::default()
    };
    let table = parse_csv(path, DIGITS.to_vec(), &options)?;
    let Features::Floats(pixels) = table.features() else {
        unreachable!("CSV gives floats")
    };
    let features = Features::Bytes {
        data: pixels.iter().map(|&p| p as u8).collect(),
        divisor: 16.0,
    };
    let schema = Schema {
        name: "digits".into(),
        input: Input::Image {
            channels: 1,
            height: 8,
            width: 8,
        },
        target: table.schema().target.clone(),
    };
    InMemory::new(schema, features, table.targets().clone())
}

const IRIS_COLUMNS: &[&str] = &["sepal length", "sepal width", "petal length", "petal width"];

const WINE_COLUMNS: &[&str] = &[
    "alcohol",
    "malic acid",
    "ash",
    "alcalinity of ash",
    "magnesium",
    "total phenols",
    "flavanoids",
    "nonflavanoid phenols",
    "proanthocyanins",
    "colour intensity",
    "hue",
    "od280/od315 of diluted wines",
    "proline",
];

/// Ten measures of the cell nuclei: their mean, standard error and worst value.
fn breast_cancer_columns() -> Vec<String> {
    let measures = [
        "radius",
        "texture",
        "perimeter",
        "area",
        "smoothness",
        "compactness",
        "concavity",
        "concave points",
        "symmetry",
        "fractal dimension",
    ];
    let columns = |kind: &str| measures.map(|m| format!("{kind} {m}"));
    ["mean", "error of", "worst"]
        .into_iter()
        .flat_map(columns)
        .collect()
}

/// scikit-learn's layout: the first line has the number of samples, the number
/// of features and the classes' names; the class's number is the last column.
fn measured(name: &str, path: &Path, bytes: Vec<u8>, columns: &[&str]) -> Result<InMemory> {
    let bytes = match file::is_gzip(&bytes) {
        true => file::gunzip(path, &bytes, 1 << 24)?,
        false => bytes,
    };
    let first = bytes.split(|&b| b == b'\n').next().unwrap_or_default();
    let first = String::from_utf8_lossy(first);
    let classes: Vec<String> = first.trim().split(',').skip(2).map(String::from).collect();
    let options = CsvOptions {
        header: HeaderRow::No,
        skip_lines: 1,
        task: Some(Task::Classification),
        ..CsvOptions::default()
    };
    let data = parse_csv(path, bytes, &options)?;
    let mut schema = data.schema().clone();
    schema.name = name.into();
    if let Input::Table(table) = &mut schema.input {
        for (column, name) in table.columns.iter_mut().zip(columns) {
            column.name = name.to_string();
        }
    }
    if let TargetKind::Classes { names } = &mut schema.target {
        if names.len() != classes.len() {
            return Err(Error::format(
                path,
                "line 1",
                format!("names {} classes, but {} occur", classes.len(), names.len()),
                "fetch the file again",
            ));
        }
        *names = classes;
    }
    InMemory::new(schema, data.features().clone(), data.targets().clone())
}

/// Two files: the features, separated by spaces, and the target.
fn diabetes(folder: &Path) -> Result<InMemory> {
    let read = |name: &str| -> Result<(std::path::PathBuf, String)> {
        let path = folder.join(name);
        let bytes = file::gunzip(&path, &file::read(&path)?, 1 << 24)?;
        Ok((path, String::from_utf8_lossy(&bytes).into_owned()))
    };
    let (path, features) = read("diabetes_data_raw.csv.gz")?;
    let (target_path, target) = read("diabetes_target.csv.gz")?;
    let (rows, values) = (features.lines().count(), target.lines().count());
    if rows != values {
        return Err(Error::format(
            &target_path,
            "the file",
            format!("has {values} lines for {rows} patients"),
            "fetch the dataset again",
        ));
    }
    let mut text = String::from("age sex bmi bp s1 s2 s3 s4 s5 s6 progression\n");
    for (x, y) in features.lines().zip(target.lines()) {
        text += &format!("{} {}\n", x.trim(), y.trim());
    }
    let options = CsvOptions {
        header: HeaderRow::Yes,
        delimiter: Some(' '),
        task: Some(Task::Regression),
        ..CsvOptions::default()
    };
    let data = parse_csv(&path, text.into_bytes(), &options)?;
    let mut schema = data.schema().clone();
    schema.name = "diabetes".into();
    InMemory::new(schema, data.features().clone(), data.targets().clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::class_counts;

    fn column(data: &dyn Dataset, number: usize) -> &str {
        match &data.schema().input {
            Input::Table(table) => &table.columns[number].name,
            _ => panic!("not a table"),
        }
    }

    fn row(data: &dyn Dataset, i: usize) -> Vec<f32> {
        let mut x = vec![0.0; data.schema().sample_len()];
        data.read(i, &mut x).unwrap();
        x
    }

    #[test]
    fn the_embedded_sets_are_what_they_were_published_as() {
        let digits = load("digits", None).unwrap().whole();
        let counts = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180];
        assert_eq!(class_counts(digits.as_ref()), counts);
        assert_eq!(
            row(digits.as_ref(), 0)[..6],
            [0.0, 0.0, 0.3125, 0.8125, 0.5625, 0.0625]
        );

        let iris = load("iris", None).unwrap().whole();
        assert_eq!(class_counts(iris.as_ref()), [50, 50, 50]);
        assert_eq!(
            iris.schema().classes().unwrap(),
            ["setosa", "versicolor", "virginica"]
        );
        assert_eq!(row(iris.as_ref(), 149), [5.9, 3.0, 5.1, 1.8]);
        assert_eq!(column(iris.as_ref(), 2), "petal length");

        let cancer = load("breast-cancer", None).unwrap().whole();
        assert_eq!(class_counts(cancer.as_ref()), [212, 357]);
        assert_eq!(cancer.schema().sample_shape(), [30]);
        assert_eq!(cancer.schema().classes().unwrap(), ["malignant", "benign"]);
        assert_eq!(column(cancer.as_ref(), 29), "worst fractal dimension");
    }

    #[test]
    fn embedded_names_are_marked_and_unknown_ones_refused() {
        let tmp = tempfile::tempdir().unwrap();
        for d in LIST {
            assert_eq!(
                load(d.name, Some(tmp.path())).is_ok(),
                d.embedded,
                "{}",
                d.name
            );
        }
        let text = load("imagenet", None).err().unwrap().to_string();
        assert!(text.contains("digits, iris"), "{text}");
    }

    #[test]
    #[ignore = "needs `scripts/fetch-data mnist fashion-mnist wine diabetes`"]
    fn the_fetched_sets_are_what_they_were_published_as() {
        for (name, samples, test, shape) in [
            ("mnist", 60_000, Some(10_000), vec![1, 28, 28]),
            ("fashion-mnist", 60_000, Some(10_000), vec![1, 28, 28]),
            ("wine", 178, None, vec![13]),
            ("diabetes", 442, None, vec![10]),
        ] {
            let set = load(name, None).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(set.train.len(), samples, "{name}");
            assert_eq!(set.test.map(|test| test.len()), test, "{name}");
            assert_eq!(set.train.schema().sample_shape(), shape, "{name}");
        }
    }
}
