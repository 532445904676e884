//! Blocks that are computed twice in training give the same loss and the same gradients.

use fornax_models::causal::next_token_loss;
use fornax_models::{CausalLm, Gpt2, Gpt2Config, Llama, LlamaConfig, Seq2SeqLm, T5, T5Config};
use fornax_nn::Module;
use fornax_tensor::{Tensor, manual_seed, value_and_grad};

/// The loss and all gradients of a model made and run from one seed.
fn gradients<M: Module>(
    make: impl Fn() -> M,
    loss: impl Fn(&M) -> Tensor,
) -> Vec<(String, Vec<f32>)> {
    manual_seed(12);
    let model = make();
    let (loss, grads) = value_and_grad(&model, loss);
    let mut all = vec![("loss".to_owned(), loss.to_vec())];
    all.extend(grads.iter().map(|(name, g)| (name.to_owned(), g.to_vec())));
    all
}

#[test]
fn gpt2_with_dropout() {
    let ids = Tensor::randint(0, 40, [2, 8]);
    let run = |checkpoint: bool| {
        let config = Gpt2Config {
            vocab_size: 40,
            n_positions: 8,
            n_embd: 16,
            n_layer: 2,
            n_head: 2,
            checkpoint,
            ..Gpt2Config::default()
        };
        gradients(
            || Gpt2::new(&config).unwrap(),
            |m| next_token_loss(&m.forward_logits(&ids, None), &ids),
        )
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn llama() {
    let ids = Tensor::randint(0, 40, [2, 8]);
    let run = |checkpoint: bool| {
        let config = LlamaConfig {
            vocab_size: 40,
            hidden_size: 16,
            intermediate_size: 24,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: Some(2),
            checkpoint,
            ..LlamaConfig::default()
        };
        gradients(
            || Llama::new(&config).unwrap(),
            |m| next_token_loss(&m.forward_logits(&ids, None), &ids),
        )
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn t5_with_dropout() {
    let (read, labels) = (
        Tensor::randint(1, 40, [2, 7]),
        Tensor::randint(1, 40, [2, 5]),
    );
    let run = |checkpoint: bool| {
        let config = T5Config {
            vocab_size: 40,
            d_model: 16,
            d_kv: 8,
            d_ff: 24,
            num_layers: 2,
            num_heads: 2,
            checkpoint,
            ..T5Config::default()
        };
        gradients(
            || T5::new(&config).unwrap(),
            |m| {
                let written = m.shift_right(&labels, 0);
                next_token_loss(&m.forward_logits(&read, None, &written), &labels)
            },
        )
    };
    let (twice, once) = (run(true), run(false));
    for ((name, a), (_, b)) in twice.iter().zip(&once) {
        // The bias of distances gets its gradient from sums in another order.
        let scale = b.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
        let close = a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5 * scale);
        assert!(close, "{name}: {a:?} {b:?}");
    }
}
