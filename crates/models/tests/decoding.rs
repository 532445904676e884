//! Decoding with a cache gives what whole sequences give, and runs one plan from the second step on.

use fornax_models::{
    CausalLm, Gpt2, Gpt2Config, Llama, LlamaConfig, Seq2SeqLm, T5, T5Config, Transformer,
    TransformerConfig,
};
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

fn llama() -> Llama {
    let config = LlamaConfig {
        vocab_size: 50,
        hidden_size: 24,
        intermediate_size: 40,
        num_hidden_layers: 3,
        num_attention_heads: 6,
        num_key_value_heads: Some(2),
        initializer_range: 0.3,
        ..LlamaConfig::default()
    };
    Llama::new(&config).unwrap()
}

#[test]
fn llama_decodes() {
    manual_seed(8);
    let model = llama();
    agrees(&model);
    one_plan(&model);
}

/// Two texts, one of them shorter, are read; what is written with a cache is what the decoder
/// gives for the whole.
fn writes_alike(model: &dyn Seq2SeqLm, vocab: i64) {
    let ids = Tensor::randint(1, vocab, [2, 7]);
    let mask = Tensor::arange(7, DType::I64).lt(&Tensor::from_vec(vec![7i64, 4], [2, 1]));
    let states = model.encode(&ids, Some(&mask));
    let memory = model.memory(&states, Some(&mask));
    let mut cache = model.init_cache(&states, Some(&mask), 10);
    let mut written = Tensor::full([2, 1], model.start_token() as f64, DType::I64);
    let mut next = written.clone();
    let mut made = Vec::new();
    for step in 0..10 {
        let before = plans_made();
        let logits = model.decode_step(&next, &mut cache);
        logits.eval();
        made.push(plans_made() - before);
        let whole = model.decode(&written, &memory).select(1, -1);
        let difference = (&whole - &logits).abs().max(..).item();
        assert!(
            difference < 1e-4 * whole.abs().max(..).item(),
            "step {step}: {difference}"
        );
        let best = logits.argmax(-1).to_vec::<i64>();
        assert_eq!(best, whole.argmax(-1).to_vec::<i64>(), "step {step}");
        next = Tensor::from_vec(best, [2, 1]);
        written = Tensor::cat(&[written, next.clone()], 1);
        written.eval();
    }
    assert!(made[2..].iter().all(|&n| n == 0), "plans made: {made:?}");
    // The second beam's text goes on in both rows.
    let mut cache = model.init_cache(&states, Some(&mask), 10);
    let start = written.narrow(1, 0, 3);
    model.decode_step(&start, &mut cache).eval();
    cache.select_rows(&[1, 1]);
    let logits = model.decode_step(&written.narrow(1, 3, 1), &mut cache);
    let (a, b) = (logits.select(0, 0), logits.select(0, 1));
    let whole = model.decode(&written.narrow(1, 0, 4), &memory);
    let want = whole.select(1, -1).select(0, 1);
    assert!((&b - &want).abs().max(..).item() < 1e-4 * want.abs().max(..).item());
    assert_eq!(a.shape(), b.shape());
}

#[test]
fn t5_decodes() {
    manual_seed(9);
    for feed_forward in ["relu", "gated-gelu"] {
        let config = T5Config {
            vocab_size: 50,
            d_model: 24,
            d_kv: 8,
            d_ff: 40,
            num_layers: 2,
            num_heads: 3,
            feed_forward_proj: feed_forward.to_owned(),
            tie_word_embeddings: feed_forward == "relu",
            ..T5Config::default()
        };
        writes_alike(&T5::new(&config).unwrap(), 50);
    }
}

#[test]
fn the_transformer_decodes() {
    manual_seed(10);
    for norm_first in [false, true] {
        let config = TransformerConfig {
            source_vocab: 50,
            target_vocab: 50,
            d_model: 24,
            nhead: 3,
            num_encoder_layers: 2,
            num_decoder_layers: 2,
            dim_feedforward: 40,
            norm_first,
            ..TransformerConfig::default()
        };
        writes_alike(&Transformer::new(&config).unwrap(), 50);
    }
}

#[test]
fn caches_beyond_the_context_are_refused() {
    let message = |make: &dyn Fn()| {
        let error = std::panic::catch_unwind(std::panic::AssertUnwindSafe(make)).unwrap_err();
        error.downcast_ref::<String>().unwrap().clone()
    };
    let (gpt2, llama) = (gpt2(), llama());
    let models: [(&str, &dyn CausalLm); 2] = [("Gpt2", &gpt2), ("Llama", &llama)];
    for (name, model) in models {
        let context = model.context();
        let text = message(&|| drop(model.init_cache(1, context + 1)));
        let told = format!(
            "{name}: {} tokens are more than the {context} positions",
            context + 1
        );
        assert_eq!(text, told);
        assert_eq!(model.init_cache(1, context).room(), context);
    }
}
