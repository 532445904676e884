//! A run: one training by a recipe, in a folder of its own that holds everything about it.
//!
//! ```text
//! recipe.toml         the complete recipe
//! data.json           what the examples are and how they are scaled, for predictions
//! metrics.jsonl       one line per epoch, and one for the test
//! tokenizer.json      in place of data.json: how text becomes tokens
//! model.safetensors   the trained weights
//! checkpoint/         where the run stands
//! curves.png          loss and metrics by epoch
//! confusion.png       on the test data, for classes
//! .lock               empty; locked while a process trains
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use fornax_data::text::Tokenizer;
use fornax_data::{Loader, Preprocess, Schema, SharedDataset, Splits};
use fornax_nn::{Module, Summary};
use fornax_tensor::io::{is_leftover, remove_leftovers, write_atomic};
use fornax_tensor::with_precision;

use crate::callback::{Callback, EpochRecord, Flow, ForAny, rounded};
use crate::data::Data;
use crate::error::{Error, Result, io};
use crate::lock::{self, Lock};
use crate::model::{self, Network};
use crate::plot::{self, Line, Panel};
use crate::progress::thousands;
use crate::recipe::Recipe;
use crate::text::{self, Text, TextModel};
use crate::trainer::{Evaluation, Part, TrainConfig, Trainer, evaluate, loaders, log_line};

const RECIPE: &str = "recipe.toml";
const DATA: &str = "data.json";
const TOKENIZER: &str = "tokenizer.json";
const MODEL: &str = "model.safetensors";
const CURVES: &str = "curves.png";
const CONFUSION: &str = "confusion.png";
/// Examples per batch where nothing is learnt.
const BATCH: usize = 256;

/// What a model must know about its data after training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct About {
    schema: Schema,
    preprocess: Preprocess,
    /// The part that [`Trained::evaluate`] takes.
    held_out: Part,
}

/// The same of a run on text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct AboutText {
    /// The part that [`TrainedText::evaluate`] takes.
    held_out: Option<Part>,
}

/// What a run learns from, and the network that learns.
// There is one for each run, which is no matter of bytes.
#[allow(clippy::large_enum_variant)]
enum Work {
    /// Examples of their own each, such as pictures.
    Examples(Data, Network),
    /// One long text, or texts in pairs.
    Text(Text, TextModel),
}

impl Work {
    /// Loads the data and builds the network. Whatever is wrong with a recipe is found here, before
    /// anything is written.
    fn prepare(recipe: &Recipe, folder: Option<&Path>) -> Result<Self> {
        if recipe.data.is_text() {
            let text = Text::load(recipe, folder)?;
            let model = TextModel::new(recipe, &text.tokenizer)?;
            return Ok(Work::Text(text, model));
        }
        let data = Data::load(recipe, folder)?;
        let Splits {
            train, validation, ..
        } = &data.parts;
        let network = model::build(&recipe.model, data.schema(), recipe.seed)?;
        // Images give even one example many values per channel, rows of neurons do not.
        let model = &recipe.model;
        let norms =
            model.name == "mlp" && model.batch_norm == Some(true) && !model.hidden().is_empty();
        if norms && recipe.batch_size.min(train.len()) == 1 {
            return Err(Error::Recipe(format!(
                "model.batch_norm needs at least 2 examples in a batch, but batch_size is {} and \
                 there are {} training examples",
                recipe.batch_size,
                train.len()
            )));
        }
        loaders(
            &TrainConfig::from(recipe),
            Some(&data.preprocess),
            &data.augment,
            train,
            validation.as_ref(),
        )?;
        Ok(Work::Examples(data, network))
    }

    fn network(&self) -> &dyn Module {
        match self {
            Work::Examples(_, network) => network,
            Work::Text(_, model) => model,
        }
    }
}

/// A training by a recipe in a folder.
pub struct Run {
    folder: PathBuf,
    recipe: Recipe,
    work: Work,
    lock: Lock,
    resume: bool,
}

/// What a finished run has to say.
#[derive(Debug, Clone)]
pub struct Report {
    /// The run's folder.
    pub folder: PathBuf,
    /// The recipe's name.
    pub recipe: String,
    /// The record of each epoch.
    pub history: Vec<EpochRecord>,
    /// The figures on the test data, if there is any.
    pub test: Option<Evaluation>,
    /// Parameters of the network.
    pub parameters: usize,
    /// Seconds of training in this process, validation and checkpoints included.
    pub seconds: f64,
    /// What the network can be used for.
    pub purpose: Purpose,
}

/// What a trained network can be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Predictions about examples.
    Predict,
    /// Writing text.
    Generate,
    /// Nothing beyond what was learnt, such as to guess hidden words.
    Evaluate,
}

impl Report {
    /// One flat JSON object; the test's figures have names that begin with `test_`.
    pub fn to_json(&self) -> Value {
        let mut object = serde_json::Map::new();
        object.insert("event".into(), json!("end"));
        object.insert("recipe".into(), json!(self.recipe));
        object.insert("out".into(), json!(self.folder));
        object.insert("epochs".into(), json!(self.history.len()));
        let best = self.history.iter().rfind(|record| record.best);
        object.insert("best_epoch".into(), json!(best.map(|record| record.epoch)));
        object.insert("parameters".into(), json!(self.parameters));
        object.insert("seconds".into(), json!(rounded(self.seconds)));
        if let Some(test) = &self.test {
            object.extend(test.to_json("test_"));
        }
        Value::Object(object)
    }
}

impl Run {
    /// Prepares a new run in `folder`, which must not exist or be empty. Nothing is written
    /// before everything that can be wrong with recipe and data has been found.
    ///
    /// # Errors
    /// If the folder is in use, the data cannot be had, or the network does not fit it.
    pub fn create(folder: &Path, recipe: Recipe, data: Option<&Path>) -> Result<Self> {
        must_be_free(folder)?;
        let work = Work::prepare(&recipe, data)?;
        let lock = Lock::take(folder)?;
        // Another process may have been quicker.
        must_be_free(folder)?;
        remove_leftovers(&folder.join(RECIPE));
        let run = Self {
            folder: folder.to_owned(),
            recipe,
            work,
            lock,
            resume: false,
        };
        run.start()?;
        Ok(run)
    }

    /// Goes on with the run in `folder`. With a recipe, it must be the run's own.
    ///
    /// # Errors
    /// As [`create`](Run::create), and if `folder` holds no run, one of another recipe, or one
    /// that another process is working on.
    pub fn resume(folder: &Path, recipe: Option<Recipe>, data: Option<&Path>) -> Result<Self> {
        if !folder.is_dir() {
            return Err(Error::Run(format!(
                "there is no run to resume in {}: no such folder",
                folder.display()
            )));
        }
        if !folder.join(RECIPE).exists() {
            // Killed before the first file was written.
            return match recipe {
                Some(recipe) if is_free(folder)? => Self::create(folder, recipe, data),
                _ => Err(Error::Run(format!(
                    "there is no run to resume in {}: it has no {RECIPE}",
                    folder.display()
                ))),
            };
        }
        let stored = read_recipe(folder)?;
        if let Some(recipe) = recipe
            && let Some(key) = stored.first_difference(&recipe)
        {
            return Err(Error::Run(format!(
                "the run in {} has another `{key}` than asked for; resume it without a recipe, \
                 --seed and --set, or start a new run",
                folder.display()
            )));
        }
        let lock = Lock::take(folder)?;
        for name in [RECIPE, DATA, TOKENIZER, MODEL, CURVES, CONFUSION] {
            remove_leftovers(&folder.join(name));
        }
        let work = Work::prepare(&stored, data)?;
        let run = Self {
            folder: folder.to_owned(),
            recipe: stored,
            work,
            lock,
            resume: true,
        };
        if run.files().iter().any(|name| !folder.join(name).exists()) {
            run.start()?;
        }
        Ok(run)
    }

    /// What [`start`](Self::start) writes last.
    fn files(&self) -> &'static [&'static str] {
        match self.work {
            Work::Examples(..) => &[DATA],
            Work::Text(..) => &[DATA, TOKENIZER],
        }
    }

    /// Writes what is known before training.
    fn start(&self) -> Result<()> {
        fs::create_dir_all(&self.folder).map_err(io("create", &self.folder))?;
        write_text(&self.folder.join(RECIPE), &self.recipe.to_toml())?;
        let about = match &self.work {
            Work::Examples(data, _) => serde_json::to_string_pretty(&About {
                schema: data.schema().clone(),
                preprocess: data.preprocess.clone(),
                held_out: Part::of(held_out(&data.parts).1)?,
            }),
            Work::Text(text, _) => {
                let path = self.folder.join(TOKENIZER);
                write_text(&path, &text.tokenizer.to_json())?;
                let part = text.held_out().map(|(_, part)| Part::of_batches(part));
                serde_json::to_string_pretty(&AboutText {
                    held_out: part.transpose()?,
                })
            }
        };
        write_text(&self.folder.join(DATA), &about.expect("plain data"))
    }

    /// The recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// How much data there is and how it was read, in a few lines for people.
    pub fn describe(&self) -> Vec<String> {
        let data = match &self.work {
            Work::Examples(data, _) => data,
            Work::Text(text, _) => return text.about.clone(),
        };
        let count = |n: usize| thousands(n as f64);
        let size = |part: &Option<SharedDataset>| count(part.as_ref().map_or(0, |p| p.len()));
        let parts = &data.parts;
        vec![
            format!(
                "data: {} for training, {} for validation, {} for the test",
                count(parts.train.len()),
                size(&parts.validation),
                size(&parts.test),
            ),
            format!("read as: {}", data.schema()),
        ]
    }

    /// The run's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The network's layers.
    pub fn summary(&self) -> Summary {
        match &self.work {
            Work::Examples(data, network) => summary(network, data.schema(), &self.recipe),
            Work::Text(_, model) => summary_of_text(model, &self.recipe),
        }
    }

    /// Trains, tests, and writes weights and pictures.
    ///
    /// # Errors
    /// As [`Trainer::fit`], and if files cannot be written.
    pub fn train(self, callbacks: Vec<Box<dyn Callback<dyn Module>>>) -> Result<Report> {
        with_precision(self.recipe.precision(), || self.train_and_test(callbacks))
    }

    fn train_and_test(mut self, callbacks: Vec<Box<dyn Callback<dyn Module>>>) -> Result<Report> {
        let started = Instant::now();
        let (folder, recipe) = (&self.folder, &self.recipe);
        let history = match &mut self.work {
            Work::Examples(data, network) => {
                trainer(folder, recipe, &self.lock, self.resume, callbacks)
                    .preprocess(data.preprocess.clone())
                    .augment(data.augment.clone())
                    .fit(network, &data.parts.train, data.parts.validation.as_ref())?
            }
            Work::Text(text, model) => {
                let task = model.task(recipe, &text.tokenizer)?;
                let (train, validation) = (text.train.clone(), text.validation.clone());
                trainer(folder, recipe, &self.lock, self.resume, callbacks)
                    .fit_batches(&task, model, train, validation)?
            }
        };
        let seconds = started.elapsed().as_secs_f64();

        fornax_nn::save(self.work.network(), self.folder.join(MODEL))?;
        plot_curves(&self.folder, &self.recipe.name, &history)?;
        let test = match &self.work {
            Work::Examples(data, network) => match &data.parts.test {
                Some(part) => Some(test(network, part, &data.preprocess)?),
                None => None,
            },
            Work::Text(text, model) => match &text.test {
                Some(_) => Some(text::evaluate(&self.recipe, model, text)?.1),
                None => None,
            },
        };
        if let Some(test) = &test {
            let mut line = serde_json::Map::new();
            line.insert("event".into(), json!("test"));
            line.extend(test.to_json(""));
            log_line(&self.folder, &Value::Object(line))?;
            plot_confusion(&self.folder, &self.recipe.name, test)?;
        }
        Ok(Report {
            purpose: match &self.work {
                Work::Examples(..) => Purpose::Predict,
                Work::Text(_, model) if model.writes() => Purpose::Generate,
                Work::Text(..) => Purpose::Evaluate,
            },
            parameters: self.work.network().num_parameters(),
            folder: self.folder,
            recipe: self.recipe.name,
            history,
            test,
            seconds,
        })
    }
}

/// A trainer of models of any type, that leaves what it does in `folder`.
fn trainer<M: Module + 'static>(
    folder: &Path,
    recipe: &Recipe,
    lock: &Lock,
    resume: bool,
    callbacks: Vec<Box<dyn Callback<dyn Module>>>,
) -> Trainer<'static, M> {
    let mut trainer = Trainer::new(TrainConfig::from(recipe))
        .folder(folder)
        .lock(lock.clone())
        .callback(Curves::new(folder, &recipe.name));
    if resume {
        trainer = trainer.resume();
    }
    let callbacks = callbacks.into_iter().map(ForAny);
    callbacks.fold(trainer, Trainer::callback)
}

/// A trained network with what it must know to be used.
pub struct Trained {
    /// The run's folder.
    pub folder: PathBuf,
    /// The recipe.
    pub recipe: Recipe,
    /// The network.
    pub network: Network,
    /// What the examples are.
    pub schema: Schema,
    /// What is done to every example.
    pub preprocess: Preprocess,
    held_out: Part,
}

impl Trained {
    /// Loads the network of the run in `folder`.
    ///
    /// # Errors
    /// If there is no run, it has no weights yet, or its files do not belong together.
    pub fn load(folder: &Path) -> Result<Self> {
        let recipe = read_recipe(folder)?;
        if recipe.data.is_text() {
            return Err(Error::Run(format!(
                "the run in {} learnt from text; use `fornax generate` or `fornax eval`",
                folder.display()
            )));
        }
        let About {
            schema,
            preprocess,
            held_out,
        } = read_about(folder)?;
        preprocess.check(&schema)?;
        let mut network = model::build(&recipe.model, &schema, recipe.seed)?;
        load_weights(&mut network, folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            recipe,
            network,
            schema,
            preprocess,
            held_out,
        })
    }

    /// The network's layers.
    pub fn summary(&self) -> Summary {
        summary(&self.network, &self.schema, &self.recipe)
    }

    /// Evaluates the network on the run's test data, or on its validation data where it has none;
    /// says which.
    ///
    /// # Errors
    /// If the data cannot be had.
    pub fn evaluate(&self, data: Option<&Path>) -> Result<(&'static str, Evaluation)> {
        let parts = Data::load(&self.recipe, data)?.parts;
        let (name, part) = held_out(&parts);
        if part.schema().target != self.schema.target {
            return Err(Error::Run(format!(
                "the data has changed since the run in {}: it has other classes now",
                self.folder.display()
            )));
        }
        let changes = self.held_out.changes_to(&Part::of(part)?, name);
        if let Some(changes) = changes {
            return Err(Error::Run(format!(
                "the data has changed since the run in {}: {changes}; use `predict` on new data",
                self.folder.display(),
            )));
        }
        let judge = || test(&self.network, part, &self.preprocess);
        Ok((name, with_precision(self.recipe.precision(), judge)?))
    }
}

/// A trained model of text with its tokenizer.
pub struct TrainedText {
    /// The run's folder.
    pub folder: PathBuf,
    /// The recipe.
    pub recipe: Recipe,
    /// The network.
    pub model: TextModel,
    /// Between text and tokens.
    pub tokenizer: Tokenizer,
}

impl TrainedText {
    /// Loads the model of the run in `folder`.
    ///
    /// # Errors
    /// If there is no run on text, it has no weights yet, or its files do not belong together.
    pub fn load(folder: &Path) -> Result<Self> {
        let recipe = read_recipe(folder)?;
        if !recipe.data.is_text() {
            return Err(Error::Run(format!(
                "the run in {} learnt from \"{}\", which is no text",
                folder.display(),
                recipe.data.name
            )));
        }
        let tokenizer = Tokenizer::open(folder.join(TOKENIZER))?;
        let mut model = TextModel::new(&recipe, &tokenizer)?;
        load_weights(&mut model, folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            recipe,
            model,
            tokenizer,
        })
    }

    /// The network's layers.
    pub fn summary(&self) -> Summary {
        summary_of_text(&self.model, &self.recipe)
    }

    /// Evaluates the network on the test's pairs, or on the end of the run's text; says which.
    ///
    /// # Errors
    /// If the text cannot be had or there is no such part.
    pub fn evaluate(&self, data: Option<&Path>) -> Result<(&'static str, Evaluation)> {
        let text = Text::load(&self.recipe, data)?;
        if text.tokenizer.to_json() != self.tokenizer.to_json() {
            return Err(Error::Run(format!(
                "the text has changed since the run in {}: it makes another tokenizer now",
                self.folder.display()
            )));
        }
        let AboutText { held_out } = read_about(&self.folder)?;
        if let (Some(was), Some((name, part))) = (held_out, text.held_out())
            && let Some(changes) = was.changes_to(&Part::of_batches(part)?, name)
        {
            return Err(Error::Run(format!(
                "the text has changed since the run in {}: {changes}",
                self.folder.display()
            )));
        }
        with_precision(self.recipe.precision(), || {
            text::evaluate(&self.recipe, &self.model, &text)
        })
    }
}

/// What the run in `folder` knows about its data.
fn read_about<T: serde::de::DeserializeOwned>(folder: &Path) -> Result<T> {
    let path = folder.join(DATA);
    let text = fs::read_to_string(&path).map_err(io("read", &path))?;
    serde_json::from_str(&text).map_err(|error| Error::Run(format!("{}: {error}", path.display())))
}

fn load_weights(network: &mut impl fornax_nn::Module, folder: &Path) -> Result<()> {
    let path = folder.join(MODEL);
    if !path.exists() {
        return Err(Error::Run(format!(
            "{} has no {MODEL} yet; finish the run with --resume {0}",
            folder.display()
        )));
    }
    Ok(fornax_nn::load(network, &path)?)
}

fn summary_of_text(model: &TextModel, recipe: &Recipe) -> Summary {
    model.summary(&recipe.model.name, recipe.data.context.unwrap_or(64))
}

/// The part of the data to evaluate on: the best that there is, and its name.
fn held_out(parts: &Splits) -> (&'static str, &SharedDataset) {
    match (&parts.test, &parts.validation) {
        (Some(test), _) => ("test", test),
        (None, Some(validation)) => ("validation", validation),
        (None, None) => ("training", &parts.train),
    }
}

fn test(network: &Network, data: &SharedDataset, rule: &Preprocess) -> Result<Evaluation> {
    let loader = Loader::new(data.clone()).batch_size(BATCH);
    evaluate(network, &loader.preprocess(rule.clone())?)
}

fn summary(network: &Network, schema: &Schema, recipe: &Recipe) -> Summary {
    let mut shape = schema.sample_shape();
    shape.insert(0, 1);
    Summary {
        model: recipe.model.name.clone(),
        ..fornax_nn::summary(network, shape)
    }
}

/// The recipe of the run in `folder`.
///
/// # Errors
/// If there is none.
pub fn read_recipe(folder: &Path) -> Result<Recipe> {
    let path = folder.join(RECIPE);
    let lacking = match (folder.is_dir(), path.exists()) {
        (true, true) => None,
        (true, false) => Some(format!("it has no {RECIPE}")),
        (false, _) => Some("no such folder".into()),
    };
    if let Some(lacking) = lacking {
        let folder = folder.display();
        return Err(Error::Run(format!(
            "there is no run in {folder}: {lacking}"
        )));
    }
    let text = fs::read_to_string(&path).map_err(io("read", &path))?;
    Recipe::parse(&path.display().to_string(), &text, &[])
}

/// The first folder `runs/name`, `runs/name-2`, ... that is free.
///
/// # Errors
/// If one cannot be read.
pub fn free_folder(name: &str) -> Result<PathBuf> {
    let name: String = name
        .chars()
        .map(|c| {
            if c.is_alphanumeric() || "-_.".contains(c) {
                c
            } else {
                '-'
            }
        })
        .collect();
    let base = Path::new("runs");
    let mut folder = base.join(&name);
    let mut number = 2;
    while !is_free(&folder)? {
        folder = base.join(format!("{name}-{number}"));
        number += 1;
    }
    Ok(folder)
}

fn must_be_free(folder: &Path) -> Result<()> {
    if is_free(folder)? {
        return Ok(());
    }
    Err(Error::Run(format!(
        "{} exists and is not empty; choose another --out, or go on with --resume {0}",
        folder.display()
    )))
}

/// Whether nothing would be overwritten in `folder`: it holds no more than what a run leaves that
/// was killed before its first file was whole.
fn is_free(folder: &Path) -> Result<bool> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(io("read", folder)(error)),
    };
    for entry in entries {
        let name = entry.map_err(io("read", folder))?.file_name();
        if name != lock::FILE && !is_leftover(&name, RECIPE.as_ref()) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    write_atomic(path, |file| file.write_all(text.as_bytes())).map_err(io("write", path))
}

/// Draws the curves anew while the run goes, so that one can look in.
struct Curves {
    folder: PathBuf,
    title: String,
    drawn: Instant,
    history: Vec<EpochRecord>,
}

/// Seconds between two drawings: one takes some hundredths of a second.
const BETWEEN_DRAWINGS: f64 = 20.0;

impl Curves {
    fn new(folder: &Path, title: &str) -> Self {
        Self {
            folder: folder.to_owned(),
            title: title.to_owned(),
            drawn: Instant::now(),
            history: Vec::new(),
        }
    }
}

impl<M: ?Sized> Callback<M> for Curves {
    fn start(&mut self, _: &crate::callback::Plan, history: &[EpochRecord]) -> Result<()> {
        self.history = history.to_vec();
        Ok(())
    }

    fn epoch(&mut self, record: &EpochRecord, _: &M) -> Result<Flow> {
        self.history.push(record.clone());
        if self.drawn.elapsed().as_secs_f64() >= BETWEEN_DRAWINGS {
            plot_curves(&self.folder, &self.title, &self.history)?;
            self.drawn = Instant::now();
        }
        Ok(Flow::Continue)
    }
}

fn plot_curves(folder: &Path, title: &str, history: &[EpochRecord]) -> Result<()> {
    let Some(first) = history.first() else {
        return Ok(());
    };
    let mut names = vec!["loss"];
    names.extend(first.train.metrics.iter().map(|(name, _)| name.as_str()));
    let panels = names.into_iter().map(|name| {
        let points = |validation: bool| -> Vec<(f64, f64)> {
            let scores = history.iter().filter_map(|record| {
                let scores = if validation {
                    record.validation.as_ref()
                } else {
                    Some(&record.train)
                };
                Some((record.epoch as f64, scores?.get(name)?))
            });
            scores.collect()
        };
        let lines = [("training", points(false)), ("validation", points(true))];
        Panel {
            title: name.to_owned(),
            percent: name == "accuracy",
            lines: lines
                .into_iter()
                .filter(|(_, points)| !points.is_empty())
                .map(|(name, points)| Line {
                    name: name.into(),
                    points,
                })
                .collect(),
        }
    });
    plot::curves(&folder.join(CURVES), title, &panels.collect::<Vec<_>>())
}

fn plot_confusion(folder: &Path, title: &str, evaluation: &Evaluation) -> Result<()> {
    let Some(classes) = &evaluation.classes else {
        return Ok(());
    };
    let rows: Vec<Vec<u64>> = classes.confusion.rows().map(<[u64]>::to_vec).collect();
    let title = format!(
        "{title}: {:.2}% of {} right",
        100.0 * classes.confusion.accuracy(),
        evaluation.samples
    );
    plot::confusion_matrix(&folder.join(CONFUSION), &title, &classes.names, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_tensor::Precision;
    use std::sync::mpsc;

    struct Tell(mpsc::Sender<Precision>);

    impl Callback<dyn Module> for Tell {
        fn step(
            &mut self,
            _: &crate::callback::StepEvent<'_>,
            _: &(dyn Module + 'static),
        ) -> Result<Flow> {
            self.0.send(Precision::current()).expect("somebody listens");
            Ok(Flow::Continue)
        }
    }

    #[test]
    fn a_run_has_the_precision_of_its_recipe() {
        let folder = tempfile::tempdir().unwrap();
        let set = ["epochs=1".to_owned(), "precision=medium".to_owned()];
        let recipe = Recipe::load("iris", &set).unwrap();
        let run = Run::create(&folder.path().join("run"), recipe, None).unwrap();
        let (tell, heard) = mpsc::channel();
        run.train(vec![Box::new(Tell(tell))]).unwrap();
        let heard: Vec<Precision> = heard.iter().collect();
        assert!(!heard.is_empty() && heard.iter().all(|&p| p == Precision::Medium));
        assert_eq!(Precision::current(), Precision::Highest);
    }
}
