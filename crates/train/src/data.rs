//! From `[data]` and `[augment]` of a recipe to what a trainer takes.

use std::path::Path;

use fornax_data::table::{CsvOptions, Missing, Task, read_csv};
use fornax_data::{
    Augment, Colour, Dataset, Holdout, ImageFolder, ImageForm, InMemory, Preprocess, Scaling,
    Schema, SharedDataset, Splits, builtin,
};

use crate::error::Result;
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
    /// seeds compare. The validation part is cut from the rest by the recipe's seed.
    ///
    /// # Errors
    /// If the data is missing, damaged, or too small to be cut as the recipe says.
    pub fn load(recipe: &Recipe, folder: Option<&Path>) -> Result<Self> {
        let (train, test) = read(&recipe.data, folder)?;
        let parts = match recipe.data.validation {
            share if share > 0.0 => {
                let cut = Holdout::new().validation(share).seed(recipe.seed);
                let cut = cut.split(&train)?;
                Splits::new(cut.train, cut.validation, test)?
            }
            _ => Splits::new(train, None, test)?,
        };
        let scaling = match recipe.data.normalize.as_str() {
            "none" => Scaling::None,
            "min_max" => Scaling::MinMax,
            _ => Scaling::Standard,
        };
        Ok(Self {
            preprocess: Preprocess::fit(parts.train.as_ref(), &scaling)?,
            augment: augmentation(&recipe.augment),
            parts,
        })
    }
}

/// The training data with what will be validation data, and the test data.
fn read(
    recipe: &DataRecipe,
    folder: Option<&Path>,
) -> Result<(SharedDataset, Option<SharedDataset>)> {
    let path = recipe.path.as_deref().unwrap_or_default();
    let whole = match recipe.name.as_str() {
        "csv" => read_csv(path, &csv_options(recipe))?.shared(),
        "images" => {
            let path = Path::new(path);
            let form = form(recipe);
            // Published sets often come as two folders.
            let (train, test) = (path.join("train"), path.join("test"));
            if train.is_dir() && test.is_dir() {
                let train = ImageFolder::open(&train, form)?;
                let names = train.schema().classes().unwrap_or_default().to_vec();
                let test = ImageFolder::open_with_classes(&test, form, &names)?;
                let load = |folder: &ImageFolder| InMemory::collect(folder).map(InMemory::shared);
                return Ok((load(&train)?, Some(load(&test)?)));
            }
            InMemory::collect(&ImageFolder::open(path, form)?)?.shared()
        }
        name => {
            let published = builtin::load(name, folder)?;
            if published.test.is_some() {
                return Ok((published.train, published.test));
            }
            published.whole()
        }
    };
    let cut = Holdout::new()
        .test(recipe.test.unwrap_or(0.2))
        .split(&whole)?;
    Ok((cut.train, cut.test))
}

fn csv_options(recipe: &DataRecipe) -> CsvOptions {
    CsvOptions {
        target: recipe.target.as_deref().map(Into::into),
        task: recipe.task.as_deref().map(|task| match task {
            "regression" => Task::Regression,
            _ => Task::Classification,
        }),
        drop: recipe
            .ignore
            .iter()
            .map(|name| name.as_str().into())
            .collect(),
        missing: match recipe.missing.as_deref() {
            Some("mean") => Missing::Mean,
            Some("most_frequent") => Missing::MostFrequent,
            _ => Missing::Error,
        },
        ..CsvOptions::default()
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
