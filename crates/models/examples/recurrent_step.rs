//! The time of a training step of a character model, and where it goes:
//! `recurrent_step [lstm|gru|rnn] [highest|high|medium] [steps]`.

use fornax_models::{CharRnn, CharRnnConfig, RecurrentKind};
use fornax_nn::{AdamW, CrossEntropyLoss, Layer, Loss, Optimizer};
use fornax_tensor::trace::{Trace, with_trace};
use fornax_tensor::{Precision, Tensor, manual_seed, set_precision, value_and_grad};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let kind = match args.next().as_deref() {
        Some("gru") => RecurrentKind::Gru,
        Some("rnn") => RecurrentKind::Rnn,
        _ => RecurrentKind::Lstm,
    };
    let precision: Precision = args.next().map_or(Ok(Precision::Highest), |p| p.parse())?;
    set_precision(precision);
    let steps: usize = args.next().map_or(Ok(30), |n| n.parse())?;
    manual_seed(1);
    let mut net = CharRnn::new(&CharRnnConfig {
        kind,
        ..CharRnnConfig::default()
    })?;
    let (x, y) = (
        Tensor::randint(0, 65, [32, 64]),
        Tensor::randint(0, 65, [32 * 64]),
    );
    x.eval();
    y.eval();
    let mut optimizer = AdamW::new(1e-3).weight_decay(0.01);
    let mut times = Vec::new();
    let mut last = 0.0;
    let mut step = || -> Result<f64, Box<dyn std::error::Error>> {
        let (loss, grads) = value_and_grad(&net, |net| {
            CrossEntropyLoss::default().forward(&net.forward(&x).reshape([32 * 64, 65]), &y)
        });
        optimizer.step(&mut net, grads)?;
        Ok(loss.item())
    };
    for _ in 0..steps + 3 {
        let start = Instant::now();
        last = step()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let times = &mut times[3..];
    times.sort_by(f64::total_cmp);
    println!(
        "{kind:?} {precision}: median {:.2} ms, least {:.2} ms, loss {last:.4}",
        times[steps / 2],
        times[0]
    );
    with_trace(Trace::Totals, step)?;
    Ok(())
}
