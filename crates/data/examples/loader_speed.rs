//! How long batches take to assemble: `cargo run --release -p fornax-data --example loader_speed [DATASET]`.

use fornax_data::{Augment, Loader, Preprocess, Scaling, builtin};
use std::time::Instant;

fn main() -> fornax_data::Result<()> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "digits".into());
    let start = Instant::now();
    let data = builtin::load(&name, None)?.whole();
    println!("read {name}: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    let start = Instant::now();
    let rule = Preprocess::fit(&data, &Scaling::Standard)?;
    println!(
        "fit the scaling: {:.1} ms",
        start.elapsed().as_secs_f64() * 1e3
    );
    let augmented = [Augment::random_crop(2), Augment::horizontal_flip()];
    for (label, steps) in [("plain", &[][..]), ("shift and flip", &augmented[..])] {
        for batch_size in [64, 512] {
            for threads in [0, 1] {
                let loader = Loader::new(data.clone())
                    .batch_size(batch_size)
                    .threads(threads)
                    .shuffle(1)
                    .preprocess(rule.clone())?
                    .augment(steps, 1)?;
                let start = Instant::now();
                let mut epoch = loader.epoch(0);
                let first = epoch.next().map(|b| b.map(|b| b.len())).transpose()?;
                let first_us = start.elapsed().as_secs_f64() * 1e6;
                let start = Instant::now();
                let mut batches = 0;
                for batch in epoch {
                    batch?;
                    batches += 1;
                }
                let us = start.elapsed().as_secs_f64() * 1e6 / f64::from(batches.max(1));
                println!(
                    "{label}, batch {batch_size}, {threads} thread(s): {us:.1} us a batch; \
                     the first of {:?} after {first_us:.0} us",
                    first.unwrap_or(0)
                );
            }
        }
    }
    Ok(())
}
