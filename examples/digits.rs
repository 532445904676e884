//! A network for handwritten digits in fifteen lines: `cargo run --release --example digits`

use fornax::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let digits = builtin::load("digits", None)?.whole();
    let parts = Holdout::new().test(0.2).validation(0.1).split(&digits)?;
    let mut model = Sequential::new()
        .push(Flatten::default())
        .push(Linear::new(64, 128))
        .push(ReLU)
        .push(Linear::new(128, 10));
    let config = TrainConfig {
        epochs: 20,
        ..TrainConfig::default()
    };
    Trainer::new(config).callback(Progress::new()).fit(
        &mut model,
        &parts.train,
        parts.validation.as_ref(),
    )?;
    let test = evaluate(&model, &Loader::new(parts.test.unwrap()))?;
    println!(
        "test accuracy: {:.1}%",
        100.0 * test.scores.get("accuracy").unwrap()
    );
    Ok(())
}
