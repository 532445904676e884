//! Every loss against PyTorch, with each reduction and option.

#[path = "../../tensor/tests/support/mod.rs"]
mod support;

use fornax_nn::loss::*;
use fornax_tensor::Tensor;
use support::compare::check_op;
use support::{Attrs, Fixture};

#[test]
fn losses() {
    let fixture = Fixture::open(env!("CARGO_MANIFEST_DIR"), "losses");
    fixture.check_all(|case, dtype| check_op(case, dtype, |op, a, x| vec![loss(op, a, x)]));
}

fn loss(op: &str, a: Attrs, x: &[Tensor]) -> Tensor {
    let reduction = match a.text("reduction") {
        "mean" => Reduction::Mean,
        "sum" => Reduction::Sum,
        "none" => Reduction::None,
        _ => Reduction::BatchMean,
    };
    let third = x.get(2).cloned();
    let ignored = if a.has("ignore_index") {
        a.int("ignore_index") as i64
    } else {
        -100
    };
    let loss: Box<dyn Loss> = match op {
        "cross_entropy" | "cross_entropy_soft" => {
            let loss = CrossEntropyLoss::default()
                .ignore_index(ignored)
                .reduction(reduction);
            let loss = loss.label_smoothing(a.float_or("label_smoothing", 0.0));
            Box::new(if let Some(w) = third {
                loss.weight(w)
            } else {
                loss
            })
        }
        "nll" => {
            let loss = NLLLoss::default()
                .ignore_index(ignored)
                .reduction(reduction);
            Box::new(if let Some(w) = third {
                loss.weight(w)
            } else {
                loss
            })
        }
        "mse" => Box::new(MSELoss::default().reduction(reduction)),
        "l1" => Box::new(L1Loss::default().reduction(reduction)),
        "huber" => Box::new(
            HuberLoss::default()
                .delta(a.float("delta"))
                .reduction(reduction),
        ),
        "smooth_l1" => Box::new(
            SmoothL1Loss::default()
                .beta(a.float("beta"))
                .reduction(reduction),
        ),
        "bce" => {
            let loss = BCELoss::default().reduction(reduction);
            Box::new(if let Some(w) = third {
                loss.weight(w)
            } else {
                loss
            })
        }
        "bce_with_logits" => {
            let loss = BCEWithLogitsLoss::default().reduction(reduction);
            Box::new(if let Some(w) = third {
                loss.pos_weight(w)
            } else {
                loss
            })
        }
        "kl_div" => Box::new(
            KLDivLoss::default()
                .log_target(a.flag("log_target", false))
                .reduction(reduction),
        ),
        _ => panic!("the test knows no {op}"),
    };
    loss.forward(&x[0], &x[1])
}
