use super::*;
use crate::{Gpt2, Gpt2Config};
use fornax_tensor::manual_seed;
use serde_json::Value;

fn tiny(vocab: usize, context: usize) -> Gpt2 {
    manual_seed(3);
    Gpt2::new(&Gpt2Config {
        vocab_size: vocab,
        n_positions: context,
        n_embd: 16,
        n_layer: 2,
        n_head: 2,
        // So that scores differ.
        initializer_range: 0.6,
        ..Gpt2Config::default()
    })
    .unwrap()
}

fn go(_: usize, _: u32) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn options(most: usize, sampling: Sampling) -> Options {
    Options {
        most,
        sampling,
        ends: Vec::new(),
    }
}

/// Scores of what follows, without a cache.
fn plain(model: &Gpt2, text: &[u32]) -> Vec<f32> {
    let ids = text.iter().map(|&id| i64::from(id)).collect();
    let ids = Tensor::from_vec(ids, [1, text.len()]);
    let logits = model.forward_logits(&ids, None);
    logits.select(1, -1).to_vec::<f32>()
}

#[test]
fn greedy_text_is_that_of_the_model_without_a_cache() {
    let model = tiny(20, 24);
    let prompt = vec![3, 1, 4];
    let text = &generate(
        &model,
        std::slice::from_ref(&prompt),
        &options(12, Sampling::greedy()),
        go,
    )[0];
    let mut so_far = prompt;
    for &token in text {
        let scores = plain(&model, &so_far);
        let best = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert!(best - scores[token as usize] < 1e-4);
        so_far.push(token);
    }
    assert_eq!(text.len(), 12);
}

#[test]
fn prompts_of_unequal_length_give_what_each_gives_alone() {
    let model = tiny(20, 32);
    let prompts = [vec![3, 1, 4, 1, 5, 9], vec![2], vec![7, 7, 7]];
    for sampling in [Sampling::greedy(), warm(5)] {
        let options = options(10, sampling);
        let together = generate(&model, &prompts, &options, go);
        for (row, prompt) in prompts.iter().enumerate() {
            let mut alone = Vec::new();
            // The text's number is part of its random choices.
            let before = vec![prompt.clone(); row + 1];
            alone.extend(generate(&model, &before, &options, go).pop().unwrap());
            assert_eq!(together[row], alone, "prompt {row}");
        }
    }
}

fn warm(seed: u64) -> Sampling {
    Sampling {
        temperature: 1.0,
        seed,
        ..Sampling::greedy()
    }
}

#[test]
fn texts_end_by_token_or_by_word_of_the_listener_and_are_told_as_they_come() {
    let model = tiny(20, 32);
    let prompts = [vec![3, 1, 4], vec![2]];
    let whole = generate(&model, &prompts, &options(10, warm(1)), go);
    let mut told = vec![Vec::new(); 2];
    let heard = generate(&model, &prompts, &options(10, warm(1)), |row, token| {
        told[row].push(token);
        match told[0].len() == 4 && row == 0 {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    assert_eq!(heard, told);
    assert_eq!(heard[0], whole[0][..4]);
    assert_eq!(heard[1], whole[1]);
    let end = whole[0][3];
    let at = whole[0].iter().position(|&token| token == end).unwrap();
    let ended = Options {
        ends: vec![end],
        ..options(10, warm(1))
    };
    assert_eq!(generate(&model, &prompts, &ended, go)[0], whole[0][..at]);
}

#[test]
fn a_text_may_outgrow_the_context() {
    let model = tiny(20, 8);
    let long: Vec<u32> = (0..15).map(|i| i % 20).collect();
    for prompt in [vec![1], vec![1; 8], long] {
        let texts = generate(&model, &[prompt], &options(40, warm(2)), go);
        assert_eq!(texts[0].len(), 40);
    }
    let one = tiny(20, 1);
    // One token of context is enough to begin with, and never enough for two.
    assert_eq!(
        generate(&one, &[vec![1]], &options(1, warm(2)), go)[0].len(),
        1
    );
}

#[test]
fn choices_repeat_by_seed_and_follow_their_probabilities() {
    let sampling = warm(7);
    let scores = [0.0f32, 1.0, 2.0];
    let wanted = sampling.distribution(&scores, &[]);
    let mut counts = [0usize; 3];
    for step in 0..30_000 {
        let token = sampling.pick(&scores, &[], 0, step);
        assert_eq!(token, sampling.pick(&scores, &[], 0, step));
        counts[token as usize] += 1;
    }
    for (token, p) in wanted {
        let share = counts[token as usize] as f64 / 30_000.0;
        assert!((share - p).abs() < 0.01, "{token}: {share} for {p}");
    }
    let other = warm(8);
    let differs = |step| sampling.pick(&scores, &[], 0, step) != other.pick(&scores, &[], 0, step);
    assert!((0..100).any(differs));
}

#[test]
fn odd_scores_are_survived() {
    let nan = f32::NAN;
    for scores in [
        vec![nan, nan],
        vec![nan, 1.0],
        vec![f32::INFINITY, 1.0],
        vec![f32::NEG_INFINITY; 2],
    ] {
        for sampling in [
            Sampling::greedy(),
            Sampling {
                top_k: 1,
                top_p: 0.5,
                min_p: 0.5,
                ..warm(1)
            },
        ] {
            let all = sampling.distribution(&scores, &[0, 99]);
            let sum: f64 = all.iter().map(|(_, p)| p).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{scores:?}: {all:?}");
        }
    }
    assert_eq!(Sampling::greedy().pick(&[nan, 1.0, 1.0], &[], 0, 0), 1);
}

#[test]
fn distributions_are_those_of_transformers() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/sampling.json");
    let cases: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let numbers = |value: &Value| -> Vec<f64> {
        value
            .as_array()
            .unwrap()
            .iter()
            .map(|x| x.as_f64().unwrap())
            .collect()
    };
    let cases = cases.as_array().unwrap();
    assert!(cases.len() > 50);
    for case in cases {
        let scores: Vec<f32> = numbers(&case["scores"]).iter().map(|&x| x as f32).collect();
        let past: Vec<u32> = numbers(&case["past"]).iter().map(|&x| x as u32).collect();
        let number = |name: &str| case[name].as_f64().unwrap();
        let sampling = Sampling {
            temperature: number("temperature"),
            top_k: number("top_k") as usize,
            top_p: number("top_p"),
            min_p: number("min_p"),
            repetition_penalty: number("repetition_penalty"),
            seed: 0,
        };
        let wanted = numbers(&case["probabilities"]);
        let mut found = vec![0.0; wanted.len()];
        for (token, p) in sampling.distribution(&scores, &past) {
            found[token as usize] = p;
        }
        for (token, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            assert!(
                (found - wanted).abs() < 1e-5,
                "{case}: token {token}: {found}"
            );
        }
    }
}

#[test]
fn wide_beams_find_the_best_of_all_texts() {
    let (vocab, most) = (5, 3);
    let model = tiny(vocab, 8);
    let prompt = [2, 4];
    let mut all = Vec::new();
    for number in 0..vocab.pow(most) {
        let tokens: Vec<u32> = (0..most)
            .map(|i| (number / vocab.pow(i) % vocab) as u32)
            .collect();
        let mut text = prompt.to_vec();
        let mut sum = 0.0;
        for &token in &tokens {
            let scores = plain(&model, &text);
            let total: f64 = scores.iter().map(|&s| f64::from(s).exp()).sum();
            sum += f64::from(scores[token as usize]) - total.ln();
            text.push(token);
        }
        all.push((tokens, sum / 3.0));
    }
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    let found = beam_search(&model, &prompt, 25, most as usize, &[], 1.0);
    assert_eq!(found.len(), 25);
    for (beam, (tokens, score)) in found.iter().zip(&all).take(10) {
        assert_eq!(&beam.tokens, tokens);
        assert!((beam.score - score).abs() < 1e-4);
    }
    // A narrow search is greedy.
    let one = &beam_search(&model, &prompt, 1, most as usize, &[], 1.0)[0];
    let greedy = generate(
        &model,
        &[prompt.to_vec()],
        &options(3, Sampling::greedy()),
        go,
    );
    assert_eq!(one.tokens, greedy[0]);
    // A text that may end does, and does not hold the token that ended it.
    let end = all[0].0[1];
    let ended = beam_search(&model, &prompt, 25, most as usize, &[end], 0.0);
    assert!(ended.iter().all(|beam| !beam.tokens.contains(&end)));
}

/// Texts about several sources together are those about each alone, and each token is the best by
/// the model without a cache.
#[test]
fn a_text_about_another_does_not_depend_on_its_neighbours() {
    use crate::{T5, T5Config, Transformer, TransformerConfig};
    manual_seed(5);
    let t5 = T5::new(&T5Config {
        vocab_size: 20,
        d_model: 16,
        d_kv: 8,
        d_ff: 32,
        num_layers: 1,
        num_heads: 2,
        initializer_factor: 3.0,
        ..T5Config::default()
    });
    let transformer = Transformer::new(&TransformerConfig {
        source_vocab: 20,
        target_vocab: 20,
        d_model: 16,
        nhead: 2,
        num_encoder_layers: 1,
        num_decoder_layers: 2,
        dim_feedforward: 32,
        max_length: 12,
        ..TransformerConfig::default()
    });
    let models: [Box<dyn Seq2SeqLm>; 2] = [Box::new(t5.unwrap()), Box::new(transformer.unwrap())];
    let sources = [vec![3, 1, 4, 1, 5, 9, 2, 6, 5], vec![7], vec![8, 2, 8]];
    for model in models {
        let options = options(20, Sampling::greedy());
        let together = generate_seq2seq(&model, &sources, &options, go);
        for (source, text) in sources.iter().zip(&together) {
            let alone = generate_seq2seq(&model, std::slice::from_ref(source), &options, go);
            assert_eq!(&alone[0], text);
            assert_eq!(text.len(), 20.min(model.longest()));
            let mut read = vec![model.start_token()];
            let ids: Vec<i64> = source.iter().map(|&id| i64::from(id)).collect();
            let ids = Tensor::from_vec(ids, [1, source.len()]);
            for &token in text {
                let written = Tensor::from_vec(read.clone(), [1, read.len()]);
                let scores = model.forward_logits(&ids, None, &written).select(1, -1);
                let scores = scores.to_vec::<f32>();
                let best = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                assert!(best - scores[token as usize] < 1e-4);
                read.push(i64::from(token));
            }
        }
        let ends = Options {
            ends: vec![together[0][2]],
            ..options.clone()
        };
        let ended = generate_seq2seq(&model, &sources, &ends, go);
        let first = together[0]
            .iter()
            .position(|t| *t == together[0][2])
            .unwrap();
        assert_eq!(ended[0], together[0][..first]);
    }
}
