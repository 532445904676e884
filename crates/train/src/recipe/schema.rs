//! Every key of a recipe: its type, its range, its default, and which choice it belongs to.
//!
//! This table is the single truth: reading a recipe, `--set`, the defaults, the resolved recipe in
//! the run's folder and its comments all come from it.

/// What a value may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// A whole number in a range, both ends included.
    Int(i64, i64),
    /// A number in a range, both ends included.
    Float(f64, f64),
    /// true or false.
    Bool,
    /// Any text.
    Text,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// One whole number or a list of them, each in the range.
    Ints(i64, i64),
    /// A list of texts.
    Texts,
}

impl Kind {
    /// What an error says was expected.
    pub fn expected(&self) -> String {
        match *self {
            Kind::Int(low, i64::MAX) => format!("a whole number, at least {low}"),
            Kind::Int(low, high) => format!("a whole number from {low} to {high}"),
            Kind::Float(low, f64::INFINITY) => format!("a number, at least {low}"),
            Kind::Float(low, high) => format!("a number from {low} to {high}"),
            Kind::Bool => "true or false".into(),
            Kind::Text => "a text in quotes".into(),
            Kind::Choice(words) => format!("one of \"{}\"", words.join("\", \"")),
            Kind::Ints(low, _) => {
                format!("a whole number or a list of them, each at least {low}")
            }
            Kind::Texts => "a list of texts".into(),
        }
    }
}

/// One key of a recipe.
#[derive(Debug)]
pub struct Key {
    /// The dotted path, for example `optimizer.learning_rate`.
    pub path: &'static str,
    /// What its value may be.
    pub kind: Kind,
    /// The value where a recipe gives none, as TOML; empty for "not set".
    pub default: &'static str,
    /// Another default under some choices: the key of the choice, then each choice with the
    /// default that it brings.
    pub otherwise: Option<(&'static str, &'static [(&'static str, &'static str)])>,
    /// The choice the key belongs to: it is refused under any other value of that key.
    pub only: Option<(&'static str, &'static [&'static str])>,
    /// What it does, in a few words.
    pub help: &'static str,
}

const fn key(path: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Key {
    Key {
        path,
        kind,
        default,
        otherwise: None,
        only: None,
        help,
    }
}

impl Key {
    const fn only(mut self, path: &'static str, values: &'static [&'static str]) -> Self {
        self.only = Some((path, values));
        self
    }

    const fn otherwise(
        mut self,
        path: &'static str,
        defaults: &'static [(&'static str, &'static str)],
    ) -> Self {
        self.otherwise = Some((path, defaults));
        self
    }

    /// The default where `choice` tells the words chosen so far by their keys.
    pub fn default_for<'a>(&self, choice: impl Fn(&str) -> Option<&'a str>) -> &'static str {
        let other = self.otherwise.and_then(|(path, defaults)| {
            let word = choice(path)?;
            defaults.iter().find(|(when, _)| *when == word)
        });
        other.map_or(self.default, |(_, default)| default)
    }
}

/// Activations that a recipe's network can have.
pub const ACTIVATIONS: &[&str] = &[
    "relu",
    "leaky_relu",
    "elu",
    "gelu",
    "gelu_tanh",
    "silu",
    "mish",
    "softplus",
    "sigmoid",
    "tanh",
    "hardswish",
];
const DATASETS: &[&str] = &[
    "digits",
    "iris",
    "breast-cancer",
    "wine",
    "diabetes",
    "mnist",
    "fashion-mnist",
    "csv",
    "images",
    "text",
    "shakespeare",
    "pairs",
    "verses",
];
/// The data sets that are one long text.
pub const TEXTS: &[&str] = &["text", "shakespeare"];
/// Those that are texts in pairs: one to read and one to write.
pub const PAIRS: &[&str] = &["pairs", "verses"];
const TEXTS_AND_PAIRS: &[&str] = &["text", "shakespeare", "pairs", "verses"];
/// The others.
const EXAMPLES: &[&str] = &[
    "digits",
    "iris",
    "breast-cancer",
    "wine",
    "diabetes",
    "mnist",
    "fashion-mnist",
    "csv",
    "images",
];
/// The networks that are Transformers.
const TRANSFORMERS: &[&str] = &["vit", "gpt2", "bert", "t5", "transformer"];
const OPTIMIZERS: &[&str] = &["sgd", "adam", "adamw", "adagrad", "adafactor", "rmsprop"];
const SCHEDULES: &[&str] = &[
    "constant",
    "step",
    "exponential",
    "cosine",
    "linear",
    "one_cycle",
];
const UNIT: Kind = Kind::Float(0.0, 1.0);
const POSITIVE: Kind = Kind::Float(0.0, f64::INFINITY);
const COUNT: Kind = Kind::Int(1, i64::MAX);

/// All keys, in the order in which the resolved recipe is written.
pub const KEYS: &[Key] = &[
    key("name", Kind::Text, "\"unnamed\"", "name of the recipe"),
    key("description", Kind::Text, "\"\"", "one line about it"),
    key(
        "seed",
        Kind::Int(0, i64::MAX),
        "0",
        "seed of everything random",
    ),
    key("epochs", COUNT, "20", "passes over the training data"),
    key(
        "batch_size",
        Kind::Int(1, 1 << 20),
        "64",
        "examples per step",
    ),
    key(
        "accumulate",
        COUNT,
        "1",
        "batches whose gradients make one step",
    ),
    key(
        "precision",
        Kind::Choice(&["highest", "high", "medium"]),
        "\"highest\"",
        "how exactly products of f32 are computed in training and evaluation; less is faster on \
         processors that multiply bf16",
    ),
    // data
    key(
        "data.name",
        Kind::Choice(DATASETS),
        "\"digits\"",
        "the data set",
    ),
    key(
        "data.path",
        Kind::Text,
        "",
        "CSV file, or folder of class/image.png, or of train, val and test with such in them; text \
         file, folder of .txt files, or .bin file of 16-bit tokens; of pairs: file with a text, a \
         tab, and the text to write about it on each line",
    )
    .only("data.name", &["csv", "images", "text", "pairs"]),
    key(
        "data.languages",
        Kind::Text,
        "\"en-es\"",
        "the language to read and that to write, folders of the data",
    )
    .only("data.name", &["verses"]),
    key(
        "data.target",
        Kind::Text,
        "",
        "column to predict; default: the last one",
    )
    .only("data.name", &["csv"]),
    key(
        "data.task",
        Kind::Choice(&["classification", "regression"]),
        "",
        "what the target is; default: classes if it is text or has few whole numbers",
    )
    .only("data.name", &["csv"]),
    key(
        "data.missing",
        Kind::Choice(&["error", "mean", "most_frequent"]),
        "\"error\"",
        "what replaces missing values",
    )
    .only("data.name", &["csv"]),
    key(
        "data.missing_markers",
        Kind::Texts,
        r#"["NA", "N/A", "NaN", "nan", "null", "NULL", "?"]"#,
        "texts that stand for a missing value, besides an empty cell",
    )
    .only("data.name", &["csv"]),
    key("data.ignore", Kind::Texts, "[]", "columns to leave out").only("data.name", &["csv"]),
    key(
        "data.categorical",
        Kind::Texts,
        "[]",
        "columns of categories that look like numbers",
    )
    .only("data.name", &["csv"]),
    key(
        "data.numeric",
        Kind::Texts,
        "[]",
        "columns of numbers that look like text",
    )
    .only("data.name", &["csv"]),
    key(
        "data.max_categories",
        Kind::Int(1, 10_000),
        "100",
        "more different texts in a column are refused",
    )
    .only("data.name", &["csv"]),
    key(
        "data.header",
        Kind::Choice(&["auto", "yes", "no"]),
        "\"auto\"",
        "whether the first line holds the columns' names; without, they are c0, c1, ...",
    )
    .only("data.name", &["csv"]),
    key(
        "data.delimiter",
        Kind::Choice(&[",", ";", "|", ":", "tab", "space"]),
        "",
        "what separates the cells; default: found out from the first line",
    )
    .only("data.name", &["csv"]),
    key(
        "data.skip_lines",
        Kind::Int(0, i64::MAX),
        "0",
        "lines to pass over at the top of the file",
    )
    .only("data.name", &["csv"]),
    key(
        "data.height",
        Kind::Int(1, 4096),
        "32",
        "pixels, images are resized to it",
    )
    .only("data.name", &["images"]),
    key(
        "data.width",
        Kind::Int(1, 4096),
        "32",
        "pixels, images are resized to it",
    )
    .only("data.name", &["images"]),
    key(
        "data.channels",
        Kind::Choice(&["grey", "rgb"]),
        "\"rgb\"",
        "colours of the images",
    )
    .only("data.name", &["images"]),
    key(
        "data.test",
        Kind::Float(0.01, 0.9),
        "0.2",
        "fraction kept for the test, where the data has no test part",
    )
    .only(
        "data.name",
        &[
            "digits",
            "iris",
            "breast-cancer",
            "wine",
            "diabetes",
            "csv",
            "images",
            "pairs",
            "verses",
        ],
    )
    .otherwise("data.name", &[("pairs", "0.05"), ("verses", "0.03")]),
    key(
        "data.validation",
        Kind::Float(0.0, 0.9),
        "0.1",
        "fraction of the training data kept for validation, where the data has no such part; 0: \
         none; of text, its end",
    ),
    key(
        "data.normalize",
        Kind::Choice(&["standard", "min_max", "none"]),
        "\"standard\"",
        "of inputs, by the training data: standard: mean 0, deviation 1; min_max: from 0 to 1",
    )
    .only("data.name", EXAMPLES),
    key(
        "data.tokenizer",
        Kind::Text,
        "\"characters\"",
        "\"characters\", \"bpe\" (learnt from the text), or a file or folder of a tokenizer",
    )
    .only("data.name", TEXTS_AND_PAIRS)
    .otherwise("data.name", &[("pairs", "\"bpe\""), ("verses", "\"bpe\"")]),
    key(
        "data.vocabulary",
        Kind::Int(256, 1 << 16),
        "1024",
        "tokens that \"bpe\" learns",
    )
    .only("data.name", TEXTS_AND_PAIRS),
    key(
        "data.context",
        Kind::Int(1, 1 << 20),
        "64",
        "tokens that the network sees at once; pairs with a longer text are left out",
    )
    .only("data.name", TEXTS_AND_PAIRS),
    key(
        "data.steps",
        COUNT,
        "",
        "batches of an epoch, drawn at random from the text; default: as many as cover it once",
    )
    .only("data.name", TEXTS),
    key(
        "data.masked",
        Kind::Float(0.01, 0.9),
        "0.15",
        "share of tokens that are hidden from a network that guesses them",
    )
    .only("data.name", TEXTS),
    // augmentation
    key(
        "augment.shift",
        Kind::Int(0, 64),
        "0",
        "images move by up to this many pixels",
    )
    .only("data.name", EXAMPLES),
    key(
        "augment.flip",
        Kind::Bool,
        "false",
        "images are mirrored left to right half of the time",
    )
    .only("data.name", EXAMPLES),
    key(
        "augment.rotate",
        Kind::Float(0.0, 180.0),
        "0.0",
        "images turn by up to this many degrees",
    )
    .only("data.name", EXAMPLES),
    key(
        "augment.scale",
        Kind::Float(0.0, 0.9),
        "0.0",
        "images grow or shrink by up to this fraction",
    )
    .only("data.name", EXAMPLES),
    key(
        "augment.erase",
        UNIT,
        "0.0",
        "probability that a random rectangle is blanked",
    )
    .only("data.name", EXAMPLES),
    // model
    key(
        "model.name",
        Kind::Choice(&[
            "mlp",
            "cnn",
            "lenet",
            "vit",
            "gpt2",
            "bert",
            "t5",
            "transformer",
        ]),
        "\"mlp\"",
        "the network",
    ),
    key(
        "model.layers",
        Kind::Int(0, 1000),
        "2",
        "hidden layers, or blocks of a Transformer, of encoder and decoder each",
    )
    .only(
        "model.name",
        &["mlp", "vit", "gpt2", "bert", "t5", "transformer"],
    )
    .otherwise(
        "model.name",
        &[
            ("vit", "6"),
            ("gpt2", "4"),
            ("bert", "4"),
            ("t5", "3"),
            ("transformer", "3"),
        ],
    ),
    key(
        "model.heads",
        Kind::Int(1, 1 << 10),
        "4",
        "heads of each attention; they divide the width",
    )
    .only("model.name", TRANSFORMERS),
    key(
        "model.width",
        Kind::Int(1, 1 << 16),
        "128",
        "numbers that stand for a token or a patch",
    )
    .only("model.name", TRANSFORMERS),
    key(
        "model.patch",
        Kind::Int(1, 1 << 10),
        "4",
        "pixels of a patch's side",
    )
    .only("model.name", &["vit"]),
    key(
        "model.neurons",
        Kind::Ints(1, 1 << 24),
        "128",
        "neurons of each hidden layer, or a list with one number a layer",
    )
    .only("model.name", &["mlp"]),
    key(
        "model.channels",
        Kind::Ints(1, 1 << 16),
        "[32, 64]",
        "channels of each block of the CNN",
    )
    .only("model.name", &["cnn"]),
    key(
        "model.convolutions",
        Kind::Int(1, 8),
        "2",
        "3x3 convolutions before each pooling",
    )
    .only("model.name", &["cnn"]),
    key(
        "model.dense",
        Kind::Ints(1, 1 << 24),
        "[128]",
        "neurons of the dense layers after the blocks",
    )
    .only("model.name", &["cnn"]),
    key(
        "model.activation",
        Kind::Choice(ACTIVATIONS),
        "\"relu\"",
        "activation of the hidden layers",
    )
    .only("model.name", &["mlp", "cnn"]),
    key(
        "model.batch_norm",
        Kind::Bool,
        "false",
        "batch normalisation in every hidden layer",
    )
    .only("model.name", &["mlp", "cnn", "lenet"]),
    key(
        "model.dropout",
        Kind::Float(0.0, 0.999),
        "0.0",
        "fraction of activations dropped in training",
    )
    .only(
        "model.name",
        &[
            "mlp",
            "cnn",
            "lenet",
            "vit",
            "gpt2",
            "bert",
            "t5",
            "transformer",
        ],
    ),
    key(
        "model.checkpoint",
        Kind::Bool,
        "false",
        "blocks are computed twice in training, to keep less in memory (gradient checkpointing)",
    )
    .only("model.name", TRANSFORMERS),
    // optimizer
    key(
        "optimizer.name",
        Kind::Choice(OPTIMIZERS),
        "\"adamw\"",
        "the optimizer",
    ),
    key(
        "optimizer.learning_rate",
        POSITIVE,
        "1e-3",
        "learning rate; a schedule scales it; relative to the parameters' size, and at \
         most 1/sqrt(step), in adafactor",
    )
    .otherwise(
        "optimizer.name",
        &[
            ("adagrad", "1e-2"),
            ("adafactor", "1e-2"),
            ("rmsprop", "1e-2"),
        ],
    ),
    key(
        "optimizer.weight_decay",
        POSITIVE,
        "0.0",
        "weight decay, decoupled in adamw and adafactor",
    )
    .otherwise("optimizer.name", &[("adamw", "0.01")]),
    key(
        "optimizer.decay",
        Kind::Choice(&["all", "matrices"]),
        "\"all\"",
        "what weight decay is for; matrices: not biases and norms",
    )
    .otherwise(
        "model.name",
        &[
            ("vit", "\"matrices\""),
            ("gpt2", "\"matrices\""),
            ("bert", "\"matrices\""),
            ("t5", "\"matrices\""),
            ("transformer", "\"matrices\""),
        ],
    ),
    key("optimizer.momentum", UNIT, "0.0", "momentum").only("optimizer.name", &["sgd", "rmsprop"]),
    key(
        "optimizer.nesterov",
        Kind::Bool,
        "false",
        "Nesterov's momentum",
    )
    .only("optimizer.name", &["sgd"]),
    key(
        "optimizer.beta1",
        UNIT,
        "0.9",
        "decay of the mean of gradients",
    )
    .only("optimizer.name", &["adam", "adamw"]),
    key(
        "optimizer.beta2",
        UNIT,
        "0.999",
        "decay of the mean of squared gradients",
    )
    .only("optimizer.name", &["adam", "adamw"]),
    key(
        "optimizer.alpha",
        UNIT,
        "0.99",
        "decay of the mean of squared gradients",
    )
    .only("optimizer.name", &["rmsprop"]),
    key(
        "optimizer.eps",
        POSITIVE,
        "1e-8",
        "added to the denominator",
    )
    .only("optimizer.name", &["adam", "adamw", "rmsprop", "adagrad"])
    .otherwise("optimizer.name", &[("adagrad", "1e-10")]),
    // schedule
    key(
        "schedule.name",
        Kind::Choice(SCHEDULES),
        "\"constant\"",
        "how the learning rate moves",
    ),
    key(
        "schedule.warmup",
        UNIT,
        "0.0",
        "fraction of the steps in which the rate rises from 0",
    )
    .only(
        "schedule.name",
        &["constant", "step", "exponential", "cosine", "linear"],
    ),
    key("schedule.every", COUNT, "10", "epochs between two drops").only("schedule.name", &["step"]),
    key(
        "schedule.gamma",
        UNIT,
        "0.1",
        "factor of each drop, or of each epoch",
    )
    .only("schedule.name", &["step", "exponential"])
    .otherwise("schedule.name", &[("exponential", "0.95")]),
    key(
        "schedule.final",
        UNIT,
        "0.0",
        "last rate, as a fraction of the first",
    )
    .only("schedule.name", &["cosine", "linear"]),
    key(
        "schedule.rise",
        Kind::Float(0.01, 0.99),
        "0.3",
        "fraction of the steps until the rate is highest",
    )
    .only("schedule.name", &["one_cycle"]),
    // regularization
    key(
        "regularization.l1",
        POSITIVE,
        "0.0",
        "times the sum of |weights|, added to the loss",
    ),
    key(
        "regularization.l2",
        POSITIVE,
        "0.0",
        "times the sum of squared weights, added to the loss",
    ),
    key(
        "regularization.label_smoothing",
        UNIT,
        "0.0",
        "share of the target spread over all classes, in training",
    ),
    key(
        "regularization.clip_norm",
        POSITIVE,
        "0.0",
        "largest norm of the gradient; 0: no limit",
    ),
    key(
        "regularization.clip_value",
        POSITIVE,
        "0.0",
        "largest entry of the gradient; 0: no limit",
    ),
    // early stopping and checkpoints
    key(
        "early_stopping.patience",
        Kind::Int(0, i64::MAX),
        "0",
        "epochs without a better validation loss before stopping; 0: never",
    ),
    key(
        "early_stopping.min_delta",
        POSITIVE,
        "0.0",
        "what counts as better",
    ),
    key(
        "best.keep",
        Kind::Bool,
        "true",
        "keep the weights of the epoch that was best on the validation data",
    ),
    key(
        "best.monitor",
        Kind::Choice(&["loss", "accuracy"]),
        "\"accuracy\"",
        "what best means; without validation data: nothing",
    ),
    key(
        "checkpoint.every_steps",
        Kind::Int(0, i64::MAX),
        "0",
        "steps between two checkpoints inside an epoch; 0: by time only",
    ),
    key(
        "checkpoint.every_seconds",
        POSITIVE,
        "30.0",
        "seconds between two checkpoints inside an epoch; 0: by steps only",
    ),
];

/// The key at `path`.
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Names that people bring from elsewhere.
const ALIASES: &[(&str, &str)] = &[
    ("lr", "optimizer.learning_rate"),
    ("wd", "optimizer.weight_decay"),
    ("hidden", "model.neurons"),
    ("units", "model.neurons"),
    ("batch", "batch_size"),
    ("num_epochs", "epochs"),
    ("kind", "optimizer.name"),
    ("type", "optimizer.name"),
];

/// The known path nearest to `path`, if any is near enough to be meant.
pub fn nearest(path: &str) -> Option<&'static str> {
    fn split(path: &str) -> (&str, &str) {
        path.rsplit_once('.').unwrap_or(("", path))
    }
    let (section, name) = split(path);
    let exact = KEYS.iter().find(|key| split(key.path).1 == name);
    let near = KEYS
        .iter()
        .filter_map(|key| {
            let (key_section, key_name) = split(key.path);
            let section_distance = strsim::damerau_levenshtein(key_section, section);
            let name_distance = strsim::damerau_levenshtein(key_name, name);
            let typo = section_distance <= 2 && name_distance <= 1 + name.len() / 4;
            typo.then_some((section_distance + name_distance, key.path))
        })
        .min()
        .map(|(_, path)| path);
    let alias = ALIASES.iter().find(|(alias, _)| *alias == name);
    near.or(exact.map(|key| key.path))
        .or(alias.map(|(_, path)| *path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_unique_and_conditions_name_real_choices() {
        for (index, key) in KEYS.iter().enumerate() {
            assert!(KEYS[..index].iter().all(|other| other.path != key.path));
            if let Some((path, values)) = key.only {
                let Some(Key {
                    kind: Kind::Choice(words),
                    ..
                }) = find(path)
                else {
                    panic!("{}: {path} is not a choice", key.path)
                };
                assert!(values.iter().all(|value| words.contains(value)));
            }
            if let Some((path, defaults)) = key.otherwise {
                // Its choice is made by the time the key is resolved.
                let earlier = KEYS[..index].iter().find(|key| key.path == path);
                let Some(Kind::Choice(words)) = earlier.map(|key| key.kind) else {
                    panic!("{}: {path} is no earlier choice", key.path)
                };
                assert!(defaults.iter().all(|(word, _)| words.contains(word)));
            }
        }
    }

    #[test]
    fn nearest_key() {
        assert_eq!(nearest("model.neurns"), Some("model.neurons"));
        assert_eq!(nearest("learning_rate"), Some("optimizer.learning_rate"));
        assert_eq!(nearest("epoch"), Some("epochs"));
        assert_eq!(nearest("optimiser.momentm"), Some("optimizer.momentum"));
        assert_eq!(nearest("optimizer.lr"), Some("optimizer.learning_rate"));
        assert_eq!(nearest("zzzzzzzzzzzzzzzzzzz"), None);
    }
}
