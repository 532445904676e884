//! A task of one's own for the trainer, an autoencoder that squeezes digits through eight numbers,
//! and a callback that looks at it: `cargo run --release --example own_task`

use fornax::data::Batch;
use fornax::prelude::*;
use fornax::train::{Outcome, Task};

#[derive(Module)]
struct Autoencoder {
    encoder: Sequential,
    decoder: Sequential,
}

/// The output is to be the input.
struct Reconstruct;

impl Task<Autoencoder> for Reconstruct {
    fn outcome(&self, model: &Autoencoder, batch: &Batch) -> Outcome {
        let code = model.encoder.forward(&batch.x.flatten(1, -1));
        let output = model.decoder.forward(&code).reshape(batch.x.shape());
        let error = (output.detach() - &batch.x).abs();
        Outcome {
            loss: (output - &batch.x).square().mean(..),
            metrics: vec![("mae", error.mean(..))],
        }
    }
}

/// Stops when the pictures are good enough.
struct GoodEnough(f64);

impl Callback<Autoencoder> for GoodEnough {
    fn epoch(&mut self, record: &EpochRecord, _: &Autoencoder) -> fornax::train::Result<Flow> {
        let reached = record
            .validation
            .as_ref()
            .is_some_and(|scores| scores.loss < self.0);
        Ok(if reached { Flow::Stop } else { Flow::Continue })
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let digits = builtin::load("digits", None)?.whole();
    let parts = Holdout::new().validation(0.2).split(&digits)?;
    let layers = |sizes: [usize; 3]| {
        let first = Sequential::new().push(Linear::new(sizes[0], sizes[1]));
        first
            .push(GELU::new())
            .push(Linear::new(sizes[1], sizes[2]))
    };
    let mut model = Autoencoder {
        encoder: layers([64, 128, 8]),
        decoder: layers([8, 128, 64]),
    };
    let config = TrainConfig {
        epochs: 100,
        schedule: ScheduleRecipe::named("cosine"),
        ..TrainConfig::default()
    };
    Trainer::new(config)
        .callback(Progress::new())
        .callback(GoodEnough(0.016))
        .fit_task(
            &Reconstruct,
            &mut model,
            &parts.train,
            parts.validation.as_ref(),
        )?;
    Ok(())
}
