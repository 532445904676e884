//! From `[data]` and `[augment]` of a recipe to what a trainer takes.

use std::path::{Path, PathBuf};

use fornax_data::table::{CsvOptions, HeaderRow, Missing, Task, read_csv};
use fornax_data::{
    Augment, Colour, Dataset, Holdout, ImageFolder, ImageForm, ImageParts, Preprocess, Scaling,
    Schema, SharedDataset, Splits, builtin,
};

use crate::error::{Error, Result};
use crate::recipe::{AugmentRecipe, DataRecipe, Recipe};

/// The data of a run.
#[derive(Clone)]
pub struct Data {
    /// Training, validation and test parts.
    pub parts: Splits,
    /// What is done to every example, fitted on the training part.
    pub preprocess: Preprocess,
    /// Random changes of training images.
    pub augment: Vec<Augment>,
}

impl Data {
    /// What the examples are.
    pub fn schema(&self) -> &Schema {
        self.parts.train.schema()
    }

    /// Loads and cuts what `recipe` asks for; `folder` is where fetched data sets lie, see
    /// [`fornax_data::locate`].
    ///
    /// The test part is the publisher's, or else always the same cut, so that runs with different
    /// seeds compare. The validation part too is the publisher's, or else cut from the rest by the
    /// recipe's seed. Targets that are numbers are standardised by the training part.
    ///
    /// # Errors
    /// If the data is missing, damaged, too small to be cut as the recipe says, or of a kind that
    /// one of the recipe's keys is not for.
    pub fn load(recipe: &Recipe, folder: Option<&Path>) -> Result<Self> {
        let read = read(&recipe.data, folder)?;
        let share = recipe.data.validation;
        let parts = if read.validation.is_none() && share > 0.0 {
            let cut = Holdout::new().validation(share).seed(recipe.seed);
            let cut = cut.split(&read.train)?;
            Splits::new(cut.train, cut.validation, read.test)?
        } else {
            read
        };
        let schema = parts.train.schema();
        if schema.classes().is_none() && recipe.regularization.label_smoothing > 0.0 {
            return Err(Error::Recipe(format!(
                "regularization.label_smoothing is for classes, but the target of \"{}\" is a \
                 number; leave it out",
                schema.name
            )));
        }
        let scaling = match recipe.data.normalize.as_deref() {
            Some("none") => Scaling::None,
            Some("min_max") => Scaling::MinMax,
            _ => Scaling::Standard,
        };
        Ok(Self {
            preprocess: Preprocess::fit(&parts.train, &scaling)?
                .standardize_target(&parts.train)?,
            augment: augmentation(&recipe.augment),
            parts,
        })
    }
}

/// The data in the parts it comes in, with a test part at any rate.
fn read(recipe: &DataRecipe, folder: Option<&Path>) -> Result<Splits> {
    let path = recipe.path.as_deref().unwrap_or_default();
    let (train, validation, test) = match recipe.name.as_str() {
        "csv" => (read_csv(path, &csv_options(recipe))?.shared(), None, None),
        "images" => images(Path::new(path), form(recipe))?,
        name => {
            let published = builtin::load(name, folder)?;
            (published.train, None, published.test)
        }
    };
    if test.is_some() {
        return Ok(Splits::new(train, validation, test)?);
    }
    let cut = Holdout::new().test(recipe.test.unwrap_or(0.2));
    let cut = cut.split(&train)?;
    Ok(Splits::new(cut.train, validation, cut.test)?)
}

type Parts = (SharedDataset, Option<SharedDataset>, Option<SharedDataset>);

/// A folder of classes, or one of parts with classes in them.
fn images(path: &Path, form: ImageForm) -> Result<Parts> {
    let Some(parts) = ImageParts::find(path)? else {
        return Ok((ImageFolder::open(path, form)?.load()?.shared(), None, None));
    };
    let train = ImageFolder::open(&parts.train, form)?.load()?.shared();
    let names = train.schema().classes().unwrap_or_default();
    let other = |folder: Option<PathBuf>| -> Result<Option<SharedDataset>> {
        let Some(folder) = folder else {
            return Ok(None);
        };
        let pictures = ImageFolder::open_with_classes(&folder, form, names)?;
        Ok(Some(pictures.load()?.shared()))
    };
    let (validation, test) = (other(parts.validation)?, other(parts.test)?);
    Ok((train, validation, test))
}

fn csv_options(recipe: &DataRecipe) -> CsvOptions {
    let columns = |names: &[String]| names.iter().map(|name| name.as_str().into()).collect();
    let plain = CsvOptions::default();
    CsvOptions {
        header: match recipe.header.as_deref() {
            Some("yes") => HeaderRow::Yes,
            Some("no") => HeaderRow::No,
            _ => HeaderRow::Auto,
        },
        delimiter: recipe.delimiter.as_deref().and_then(|word| match word {
            "tab" => Some('\t'),
            "space" => Some(' '),
            mark => mark.chars().next(),
        }),
        skip_lines: recipe.skip_lines.unwrap_or(plain.skip_lines),
        target: recipe.target.as_deref().map(Into::into),
        task: recipe.task.as_deref().map(|task| match task {
            "regression" => Task::Regression,
            _ => Task::Classification,
        }),
        ignore: columns(&recipe.ignore),
        categorical: columns(&recipe.categorical),
        numeric: columns(&recipe.numeric),
        missing: match recipe.missing.as_deref() {
            Some("mean") => Missing::Mean,
            Some("most_frequent") => Missing::MostFrequent,
            _ => Missing::Error,
        },
        missing_markers: recipe
            .missing_markers
            .clone()
            .unwrap_or(plain.missing_markers),
        max_categories: recipe.max_categories.unwrap_or(plain.max_categories),
    }
}

fn form(recipe: &DataRecipe) -> ImageForm {
    let colour = match recipe.channels.as_deref() {
        Some("grey") => Colour::Grey,
        _ => Colour::Rgb,
    };
    ImageForm::new(
        recipe.height.unwrap_or(32),
        recipe.width.unwrap_or(32),
        colour,
    )
}

fn augmentation(recipe: &AugmentRecipe) -> Vec<Augment> {
    let mut steps = Vec::new();
    if recipe.rotate > 0.0 || recipe.scale > 0.0 {
        steps.push(Augment::Affine {
            degrees: recipe.rotate as f32,
            scale: recipe.scale as f32,
            fill: 0.0,
        });
    }
    if recipe.shift > 0 {
        steps.push(Augment::random_crop(recipe.shift));
    }
    if recipe.flip {
        steps.push(Augment::horizontal_flip());
    }
    if recipe.erase > 0.0 {
        steps.push(Augment::Erase {
            p: recipe.erase as f32,
            fill: 0.0,
        });
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::schema;

    fn load(file: &Path, set: &[&str]) -> Result<Data> {
        let mut all = vec![
            "data.name=csv".to_owned(),
            format!("data.path={}", file.display()),
        ];
        all.extend(set.iter().map(|text| text.to_string()));
        Data::load(&Recipe::parse("r", "", &all)?, None)
    }

    #[test]
    fn a_recipe_that_says_nothing_reads_as_the_options_do() {
        let set = ["data.name=csv".to_owned(), "data.path=x".to_owned()];
        let recipe = Recipe::parse("r", "", &set).unwrap();
        assert_eq!(csv_options(&recipe.data), CsvOptions::default());
    }

    /// Each file is refused; following the message's remedy makes it good.
    #[test]
    fn remedies_are_keys_that_help() {
        let rows = "1,2,a\n3,4,b\n5,6,a\n7,8,b\n".repeat(5);
        let words: String = (0..120)
            .map(|i| format!("w{i},{},{}\n", i, i % 2))
            .collect();
        let folder = tempfile::tempdir().unwrap();
        for (text, set, key, remedy) in [
            (format!("2001,2002,y\n{rows}"), None, "data.header", "yes"),
            (format!("2001,price,y\n{rows}"), None, "data.header", "yes"),
            (
                format!("m,n,y\n{rows}x,2,a\n"),
                None,
                "data.categorical",
                "[\"m\"]",
            ),
            (
                format!("m,n,y\n{rows}x,2,a\n"),
                Some("data.missing=mean"),
                "data.missing_markers",
                "[\"x\"]",
            ),
            (
                format!("m,n,y\n{rows},2,a\n"),
                None,
                "data.missing",
                "most_frequent",
            ),
            (
                format!("m,n,y\n{words}"),
                None,
                "data.max_categories",
                "200",
            ),
            (format!("m,n,y\n{words}"), None, "data.ignore", "[\"m\"]"),
            (
                "1,2,a\n".into(),
                Some("data.header=yes"),
                "data.header",
                "no",
            ),
        ] {
            let file = folder.path().join("some.csv");
            std::fs::write(&file, text).unwrap();
            let set: Vec<&str> = set.into_iter().collect();
            let message = load(&file, &set).err().unwrap().to_string();
            assert!(message.contains(key), "{message} lacks {key}");
            for word in message.split(|c: char| !(c.is_ascii_lowercase() || "._".contains(c))) {
                let named = word
                    .strip_prefix("data.")
                    .is_some_and(|name| !name.is_empty());
                assert!(
                    !named || schema::find(word).is_some(),
                    "{message}: {word} is no key"
                );
            }
            let cured = format!("{key}={remedy}");
            let set: Vec<&str> = set
                .into_iter()
                .filter(|set| !set.starts_with(key))
                .collect();
            if let Err(error) = load(&file, &[&set[..], &[&cured]].concat()) {
                // One row is too few to cut, but it was read.
                assert!(error.to_string().contains("sample"), "{cured}: {error}");
            }
        }
    }

    #[test]
    fn cells_are_separated_as_the_recipe_says() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("some.csv");
        let rows = "1 2,5 a\n3 4,5 b\n".repeat(10);
        std::fs::write(&file, format!("# by hand\nm n y\n{rows}")).unwrap();
        let set = [
            "data.delimiter=space",
            "data.skip_lines=1",
            "data.categorical=[\"n\"]",
        ];
        let data = load(&file, &set).unwrap();
        assert_eq!(data.schema().sample_shape(), [3]);
    }

    #[test]
    fn a_key_for_classes_is_refused_for_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("some.csv");
        let rows: String = (0..50).map(|i| format!("{i},{}.5\n", 3 * i)).collect();
        std::fs::write(&file, format!("x,y\n{rows}")).unwrap();
        let error = load(&file, &["regularization.label_smoothing=0.1"]);
        let error = error.err().unwrap().to_string();
        assert!(error.contains("label_smoothing is for classes"), "{error}");
        let data = load(&file, &[]).unwrap();
        assert!(data.preprocess.target_scale() > 30.0);
    }
}
