//! A training step has the same bits on one thread and on two. A process of its own for each.

use fornax_models::causal::next_token_loss;
use fornax_models::{CausalLm, Gpt2, Gpt2Config};
use fornax_nn::{AdamW, Group, Module, Optimizer};
use fornax_tensor::cpu::pool;
use fornax_tensor::{Tensor, manual_seed, value_and_grad};
use std::process::Command;

/// A checksum of all parameters after two steps, with dropout.
fn trained() -> u64 {
    manual_seed(11);
    let config = Gpt2Config {
        vocab_size: 65,
        n_positions: 64,
        n_embd: 96,
        n_layer: 2,
        n_head: 3,
        ..Gpt2Config::default()
    };
    let mut model = Gpt2::new(&config).unwrap();
    let ids = Tensor::randint(0, 65, [6, 64]);
    let mut optimizer = AdamW::new(1e-2).group(Group::vectors().weight_decay(0.0));
    for _ in 0..2 {
        let (_, grads) = value_and_grad(&model, |m| {
            next_token_loss(&m.forward_logits(&ids, None), &ids)
        });
        optimizer.step(&mut model, grads).unwrap();
    }
    let bits = model
        .named_parameters()
        .into_iter()
        .flat_map(|(_, t)| t.to_vec::<f32>());
    bits.fold(0, |sum, v| {
        (sum ^ v.to_bits() as u64)
            .wrapping_mul(0x100_0000_01b3)
            .rotate_left(7)
    })
}

#[test]
fn a_step_has_the_same_bits_at_any_thread_count() {
    // The test runs itself with the variable that tells it how many threads to use.
    let (threads, is_child) = (
        std::env::var("FORNAX_THREADS").unwrap_or_default(),
        std::env::var("FORNAX_TEST_CHILD").is_ok(),
    );
    if is_child {
        println!("sum {:016x} on {}", trained(), pool::threads());
        assert_eq!(pool::threads().to_string(), threads);
        return;
    }
    let sums = ["1", "2"].map(|threads| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--nocapture", "--test-threads=1"])
            .env("FORNAX_THREADS", threads)
            .env("FORNAX_TEST_CHILD", "1")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).unwrap();
        let at = text.find("sum ").unwrap_or_else(|| panic!("{text}"));
        text[at..at + 20].to_owned()
    });
    assert_eq!(sums[0], sums[1]);
}
