//! How good a model is: accuracy, precision and recall, ROC curves; BLEU of translations.
//!
//! Metrics are computed on the host in `f64`, from tensors or plain slices, and agree with
//! scikit-learn's functions of the same names, or sacrebleu's.

mod bleu;
mod classification;
mod confusion;
mod roc;

pub use bleu::bleu;
pub use classification::{accuracy, predictions, top_k};
pub use confusion::{Average, ConfusionMatrix};
pub use roc::{auroc, auroc_one_vs_rest};
