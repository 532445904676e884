//! `fornax list`: what is built in.

use clap::ValueEnum;
use serde_json::json;

use crate::Outcome;
use crate::output::{Table, json_line, line};
use fornax::data::builtin;
use fornax::train::recipe::{self, schema};
use fornax::train::{Recipe, bench, hub};

/// List the built-in recipes, models, pretrained weights, data sets and workloads, or the keys of
/// recipes
#[derive(clap::Args)]
pub struct Args {
    /// What to list; without it, everything but the keys
    what: Option<What>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum What {
    Recipes,
    Models,
    /// Trained models that are ready to use by their name, once fetched
    Pretrained,
    Datasets,
    Workloads,
    /// Every key of a recipe with its default
    Keys,
}

pub fn run(args: Args) -> Outcome {
    let all = [
        What::Recipes,
        What::Models,
        What::Pretrained,
        What::Datasets,
        What::Workloads,
    ];
    let wanted = args.what.map_or(all.to_vec(), |what| vec![what]);
    for (index, what) in wanted.iter().enumerate() {
        let (kind, rows) = entries(*what)?;
        if args.json {
            for (name, about) in rows {
                let mut object = json!({"kind": kind, "name": name, "description": about});
                if let Some(known) = hub::PRETRAINED.iter().find(|known| known.name == name) {
                    object["folder"] = json!(known.folder());
                }
                json_line(&object)?;
            }
            continue;
        }
        if index > 0 {
            line("")?;
        }
        let mut table = Table::new(&[kind, ""]);
        for (name, about) in rows {
            table.row([name, about]);
        }
        table.print()?;
    }
    Ok(())
}

type Entries = (&'static str, Vec<(String, String)>);

fn entries(what: What) -> Result<Entries, Box<dyn std::error::Error>> {
    let choices = |path: &str| -> Vec<String> {
        match schema::find(path).map(|key| key.kind) {
            Some(schema::Kind::Choice(words)) => words.iter().map(|word| (*word).into()).collect(),
            _ => Vec::new(),
        }
    };
    Ok(match what {
        What::Recipes => {
            let mut rows = Vec::new();
            for name in recipe::names() {
                rows.push((name.to_owned(), Recipe::load(name, &[])?.description));
            }
            ("recipe", rows)
        }
        What::Models => {
            let about = |name: &str| match name {
                "mlp" => "multilayer perceptron: layers, neurons, activation, dropout, batch norm",
                "cnn" => "blocks of 3x3 convolutions and pooling, then dense layers",
                "lenet" => {
                    "two 3x3 convolutions (32, 64), each with max-pooling, then dense 128; ReLU"
                }
                "vit" => "Vision Transformer: layers, heads, width, patch",
                "gpt2" => {
                    "Transformer that predicts the next token of a text: layers, heads, width"
                }
                "bert" => "Transformer that guesses hidden words of a text: layers, heads, width",
                "t5" => {
                    "Transformer that writes a text about another, or what is taken out of one: \
                     layers, heads, width"
                }
                "transformer" => {
                    "encoder and decoder of 2017, for texts in pairs: layers, heads, width"
                }
                _ => "",
            };
            let names = choices("model.name").into_iter();
            let rows = names.map(|name| (name.clone(), about(&name).to_owned()));
            ("model", rows.collect())
        }
        What::Pretrained => {
            let rows = hub::PRETRAINED.iter().map(|known| {
                let state = match known.folder() {
                    Some(folder) => format!("fetched: {}", folder.display()),
                    None => format!("not fetched: scripts/fetch-data {}", known.name),
                };
                (known.name.to_owned(), format!("{}; {state}", known.about))
            });
            ("pretrained", rows.collect())
        }
        What::Datasets => {
            let about = |name: &str| match name {
                "csv" => "a CSV file of yours: --set data.path=FILE".to_owned(),
                "text" => {
                    "a text of yours, a file or a folder of .txt: --set data.path=FILE".to_owned()
                }
                "shakespeare" => {
                    "Shakespeare's works, 5 MB of text; scripts/fetch-data shakespeare".to_owned()
                }
                "pairs" => {
                    "a file of yours, on each line a text to read, a tab and a text to write: \
                     --set data.path=FILE"
                        .to_owned()
                }
                "verses" => {
                    "31,084 verses in English and Spanish; scripts/fetch-data verses".to_owned()
                }
                "images" => "a folder of yours, class/image.png: --set data.path=DIR".to_owned(),
                name => {
                    let known = builtin::LIST.iter().find(|known| known.name == name);
                    known.map_or(String::new(), |known| match known.embedded {
                        true => format!("{}; embedded", known.description),
                        false => format!("{}; scripts/fetch-data {name}", known.description),
                    })
                }
            };
            let names = choices("data.name").into_iter();
            (
                "dataset",
                names.map(|name| (name.clone(), about(&name))).collect(),
            )
        }
        What::Workloads => {
            let rows = bench::WORKLOADS.iter();
            let rows = rows.map(|workload| (workload.name.into(), workload.about.into()));
            ("workload", rows.collect())
        }
        What::Keys => {
            let rows = schema::KEYS.iter().map(|key| {
                let mut about = format!("{}; {}", key.help, key.kind.expected());
                if !key.default.is_empty() {
                    about += &format!("; default {}", key.default);
                }
                if let Some((_, defaults)) = key.otherwise {
                    let each = defaults.iter();
                    let each = each.map(|(word, default)| format!("{default} with {word}"));
                    about += &format!(", but {}", each.collect::<Vec<_>>().join(", "));
                }
                if let Some((path, words)) = key.only {
                    about += &format!("; with {path} = {}", words.join(", "));
                }
                (key.path.to_owned(), about)
            });
            ("key", rows.collect())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_listed_is_described() {
        for what in [What::Models, What::Datasets, What::Recipes] {
            for (name, about) in entries(what).unwrap().1 {
                assert!(!about.is_empty(), "{name}");
            }
        }
    }
}
