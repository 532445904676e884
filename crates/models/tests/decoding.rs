//! Decoding with a cache gives what whole sequences give, and runs one plan from the second step on.

use fornax_models::{CausalLm, Gpt2, Gpt2Config};
use fornax_tensor::{DType, Tensor, manual_seed, plans_made};

fn gpt2() -> Gpt2 {
    let config = Gpt2Config {
        vocab_size: 50,
        n_positions: 32,
        n_embd: 24,
        n_layer: 3,
        n_head: 3,
        initializer_range: 0.3,
        ..Gpt2Config::default()
    };
    Gpt2::new(&config).unwrap()
}

/// Continues two prompts, one of them shorter, greedily: with a cache, and by the whole sequence
/// again and again.
fn agrees(model: &dyn CausalLm) {
    const PADDING: usize = 2;
    let steps = 9;
    let mut ids = Tensor::randint(1, model.vocab() as i64, [2, 6]);
    let mut cache = model.init_cache(2, 6 + steps).pad_left(&[0, PADDING]);
    let mut logits = model.decode_step(&ids, &mut cache);
    for step in 0..steps {
        let time = ids.dim(1);
        let full = (0..2 * time).map(|i| (i < time || i >= time + PADDING) as i64);
        let mask = Tensor::from_vec(full.collect(), [2, time]);
        let whole = model.forward_logits(&ids, Some(&mask)).select(1, -1);
        let difference = (&whole - &logits).abs().max(..).item();
        assert!(
            difference < 1e-4 * whole.abs().max(..).item(),
            "step {step}: {difference}"
        );
        let next = logits.argmax(-1).reshape([2, 1]);
        assert_eq!(
            next.to_vec::<i64>(),
            whole.argmax(-1).to_vec::<i64>(),
            "step {step}"
        );
        logits = model.decode_step(&next, &mut cache);
        ids = Tensor::cat(&[ids, next], 1);
        ids.eval();
    }
    assert_eq!(cache.room(), 0);
}

/// Decodes with sampled tokens, as a generation loop does.
fn one_plan(model: &dyn CausalLm) {
    let mut cache = model.init_cache(1, 20);
    let prompt = Tensor::randint(0, model.vocab() as i64, [1, 5]);
    let mut scores = model.decode_step(&prompt, &mut cache).to_vec::<f32>();
    let mut made = Vec::new();
    for _ in 0..15 {
        let best = (0..scores.len())
            .max_by(|&a, &b| scores[a].total_cmp(&scores[b]))
            .unwrap();
        let before = plans_made();
        let next = Tensor::from_vec(vec![best as i64], [1, 1]);
        scores = model.decode_step(&next, &mut cache).to_vec::<f32>();
        made.push(plans_made() - before);
    }
    assert!(
        made[1..].iter().all(|&n| n == 0),
        "plans made at each step: {made:?}"
    );
    assert!(made[0] > 0, "the counter counts");
}

#[test]
fn gpt2_decodes() {
    manual_seed(7);
    let model = gpt2();
    agrees(&model);
    one_plan(&model);
}

#[test]
fn an_empty_row_of_padding_gives_numbers() {
    let model = gpt2();
    let mut cache = model.init_cache(2, 4).pad_left(&[0, 3]);
    let logits = model.decode_step(&Tensor::zeros([2, 2], DType::I64), &mut cache);
    assert!(logits.is_finite().all(..).item() == 1.0);
}
