//! A network as a plain struct and a training loop by hand:
//! `cargo run --release --example own_loop`

use fornax::prelude::*;

/// Learns a curve from points of it.
#[derive(Module)]
struct Curve {
    hidden: Linear,
    output: Linear,
}

impl Curve {
    fn forward(&self, x: &Tensor) -> Tensor {
        self.output.forward(&self.hidden.forward(x).tanh())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    manual_seed(1);
    let mut model = Curve {
        hidden: Linear::new(1, 64),
        output: Linear::new(64, 1),
    };
    let mut optimizer = AdamW::new(1e-2).weight_decay(0.0);
    let x = Tensor::linspace(-3.0, 3.0, 256, DType::F32).reshape([256, 1]);
    let y = (&x * 2.0).sin() * (&x * 0.5).cos();

    for step in 0..=1000 {
        // Everything inside the closure is recorded; the gradients have the parameters' names.
        let (loss, grads) =
            value_and_grad(&model, |model| (model.forward(&x) - &y).square().mean(..));
        optimizer.step(&mut model, grads)?;
        if step % 200 == 0 {
            println!("step {step:4}  loss {:.6}", loss.item());
        }
    }

    // Derivatives of the trained network, of any order: dy/dx and d2y/dx2 at 0.5.
    let at = Tensor::from_vec(vec![0.5f32], [1, 1]);
    let slope = |x: &Tensor| grad(x, |x| model.forward(x).sum(..));
    let curvature = grad(&at, |x| slope(x).sum(..));
    println!(
        "at 0.5: slope {:.3}, curvature {:.3}",
        slope(&at).item(),
        curvature.item()
    );
    Ok(())
}
