//! A table of a model's layers, like Keras's.

use crate::Layer;
use crate::module::{Kind, Module, Path, short_type_name};
use fornax_tensor::{DType, Shape, Tensor};
use std::cell::RefCell;
use std::fmt;

/// One line of a [`Summary`].
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Name and type, such as `conv1 (Conv2d)`.
    pub layer: String,
    /// The shape of its output; empty brackets stand for a scalar. `None` where it reported none.
    pub output: Option<Vec<usize>>,
    /// The number of its parameters.
    pub parameters: usize,
}

/// A table of a model's layers in the order in which they ran, with output shapes and parameters.
/// Its `Display` is meant for people; see [`summary`].
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// The model's type.
    pub model: String,
    /// The layers, then parameters that belong to none.
    pub rows: Vec<Row>,
    /// The number of parameters.
    pub total: usize,
    /// How many of them train.
    pub trainable: usize,
}

impl Summary {
    /// How many parameters are frozen.
    pub fn frozen(&self) -> usize {
        self.total - self.trainable
    }
}

/// What a layer reported while a summary listened.
struct Report {
    address: usize,
    type_name: &'static str,
    output: Vec<usize>,
}

thread_local! {
    static LISTENING: RefCell<Option<Vec<Report>>> = const { RefCell::new(None) };
}

/// Reports a layer's output to a [`summary`] that listens, and returns it. The last call of every
/// layer's forward pass; costs nothing otherwise.
pub fn note_output<M: Module>(layer: &M, output: Tensor) -> Tensor {
    LISTENING.with_borrow_mut(|listening| {
        if let Some(reports) = listening {
            reports.push(Report {
                address: std::ptr::from_ref(layer) as usize,
                type_name: short_type_name::<M>(),
                output: output.shape().to_vec(),
            });
        }
    });
    output
}

/// The layers of a model that takes one `f32` input of this shape (the batch included). Only
/// shapes are inferred; nothing is computed.
///
/// ```
/// use fornax_nn::{Linear, ReLU, Sequential, summary};
/// let net = Sequential::new().push(Linear::new(784, 128)).push(ReLU).push(Linear::new(128, 10));
/// let table = summary(&net, [1, 784]);
/// assert_eq!(table.total, 101_770);
/// println!("{table}");
/// ```
///
/// # Panics
/// If the input does not fit the model.
#[track_caller]
pub fn summary<L: Layer>(model: &L, input: impl Into<Shape>) -> Summary {
    let x = Tensor::zeros(input, DType::F32);
    summary_of(model, |model| model.forward(&x))
}

/// The layers of any model, for which `forward` runs the forward pass.
#[track_caller]
pub fn summary_of<M: Module>(model: &M, forward: impl FnOnce(&M) -> Tensor) -> Summary {
    /// Puts back what was listening before, also when `forward` panics.
    struct Restore(Option<Vec<Report>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            LISTENING.set(self.0.take());
        }
    }
    let outer = Restore(LISTENING.replace(Some(Vec::new())));
    forward(model);
    let reports = LISTENING.take().unwrap_or_default();
    drop(outer);

    let mut path = Path::recording();
    let mut parameters: Vec<(String, usize, Vec<usize>)> = Vec::new();
    let (mut total, mut trainable) = (0, 0);
    model.visit(&mut path, &mut |e| {
        if e.kind == Kind::Param {
            let n = e.tensor.numel();
            parameters.push((e.path.to_owned(), n, e.tensor.shape().to_vec()));
            total += n;
            trainable += if e.trainable { n } else { 0 };
        }
    });

    // Layers without data may share an address; they are told apart by the order of the calls.
    let mut calls: Vec<usize> = vec![0; path.visited().len()];
    let mut rows: Vec<(String, Row)> = Vec::new();
    for report in reports {
        let place = (0..path.visited().len())
            .filter(|&i| {
                let v = &path.visited()[i];
                v.address == report.address && v.type_name == report.type_name
            })
            .min_by_key(|&i| calls[i]);
        let name = match place {
            Some(i) => {
                calls[i] += 1;
                if calls[i] > 1 {
                    continue; // A layer used twice is listed where it was used first.
                }
                path.visited()[i].path.clone()
            }
            None => String::new(), // A layer made on the fly, not part of the model.
        };
        let mut count = 0;
        if place.is_some() {
            parameters.retain(|(p, n, _)| {
                let own = crate::module::is_under(p, &name);
                count += if own { *n } else { 0 };
                !own
            });
        }
        let layer = match name.is_empty() {
            true => report.type_name.to_owned(),
            false => format!("{name} ({})", report.type_name),
        };
        let row = Row {
            layer,
            output: Some(report.output),
            parameters: count,
        };
        rows.push((name, row));
    }
    let mut rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
    rows.extend(parameters.into_iter().map(|(name, n, shape)| Row {
        layer: format!("{name} {shape:?}"),
        output: None,
        parameters: n,
    }));
    Summary {
        model: short_type_name::<M>().to_owned(),
        rows,
        total,
        trainable,
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cells: Vec<[String; 3]> = self
            .rows
            .iter()
            .map(|r| {
                let shape = r
                    .output
                    .as_ref()
                    .map_or("-".to_owned(), |s| format!("{s:?}"));
                [r.layer.clone(), shape, thousands(r.parameters)]
            })
            .collect();
        let head = ["Layer (type)", "Output shape", "Parameters"].map(str::to_owned);
        let width = |i: usize| {
            let all = cells.iter().chain([&head]).map(|c| c[i].chars().count());
            all.max().unwrap_or(0)
        };
        let (a, b, c) = (width(0), width(1), width(2));
        let rule = |ch: &str| ch.repeat(a + b + c + 4);
        writeln!(f, "{}", self.model)?;
        writeln!(f, "{}", rule("="))?;
        writeln!(f, "{:a$}  {:b$}  {:>c$}", head[0], head[1], head[2])?;
        writeln!(f, "{}", rule("-"))?;
        for [layer, shape, n] in &cells {
            writeln!(f, "{layer:a$}  {shape:b$}  {n:>c$}")?;
        }
        writeln!(f, "{}", rule("="))?;
        writeln!(f, "Total parameters      {}", thousands(self.total))?;
        writeln!(f, "Trainable parameters  {}", thousands(self.trainable))?;
        write!(f, "Frozen parameters     {}", thousands(self.frozen()))
    }
}

/// `1234567` as `1,234,567`.
pub fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Conv2d, Flatten, Identity, Linear, Module, Param, ReLU, Sequential};

    #[derive(Module)]
    struct Net {
        scale: Param,
        features: Sequential,
        head: Linear,
    }

    impl Layer for Net {
        fn forward(&self, x: &Tensor) -> Tensor {
            let x = self.features.forward(&(x * &*self.scale));
            self.head.forward(&Identity.forward(&x))
        }
    }

    fn net() -> Net {
        Net {
            scale: Param::new(Tensor::ones([1], DType::F32)),
            features: Sequential::new()
                .push(Conv2d::new(1, 4, 3).padding(1))
                .push(ReLU)
                .push(ReLU)
                .push(Flatten::default()),
            head: Linear::new(256, 1000),
        }
    }

    #[test]
    fn rows_follow_the_calls() {
        let mut net = net();
        net.freeze("features");
        let table = summary(&net, [2, 1, 8, 8]);
        let rows: Vec<_> = table
            .rows
            .iter()
            .map(|r| (r.layer.as_str(), r.parameters))
            .collect();
        assert_eq!(
            rows,
            [
                ("features.0 (Conv2d)", 40),
                ("features.1 (ReLU)", 0),
                ("features.2 (ReLU)", 0),
                ("features.3 (Flatten)", 0),
                ("Identity", 0),
                ("head (Linear)", 257_000),
                ("scale [1]", 1),
            ]
        );
        assert_eq!(table.rows[0].output.as_deref(), Some(&[2, 4, 8, 8][..]));
        assert_eq!((table.total, table.frozen()), (257_041, 40));
        let text = table.to_string();
        assert!(
            text.starts_with("Net\n===") && text.contains("257,000"),
            "{text}"
        );
        assert!(text.ends_with("Frozen parameters     40"), "{text}");
    }

    #[test]
    fn one_layer_is_a_model() {
        let table = summary(&Linear::new(2, 3), [0, 2]);
        assert_eq!(table.rows.len(), 1);
        assert_eq!(
            (table.rows[0].layer.as_str(), table.rows[0].parameters),
            ("Linear", 9)
        );
    }

    #[test]
    fn a_panic_leaves_nothing_listening() {
        let caught = std::panic::catch_unwind(|| summary(&Linear::new(2, 3), [1, 5]));
        assert!(caught.is_err());
        assert!(LISTENING.take().is_none());
    }

    #[test]
    fn digits_are_grouped() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_000_000), "1,000,000");
    }
}
