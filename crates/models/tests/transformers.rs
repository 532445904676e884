//! The architectures compute what HuggingFace's `transformers` (or PyTorch's layers) computes from the same
//! configuration, weights and inputs: outputs, losses, every gradient, and ten steps of training.

#[path = "../../tensor/tests/support/mod.rs"]
mod support;

use fornax_models::causal::{next_token_loss, token_loss};
use fornax_models::pretrained::load_tensors;
use fornax_models::seq2seq::smoothed_loss;
use fornax_models::{
    Bert, BertForMaskedLM, BertForSequenceClassification, BertForTokenClassification, BertInput,
    CausalLm, Gpt2, Llama, Pretrained, Seq2SeqLm, T5, Transformer, Vit,
};
use fornax_nn::{AdamW, CrossEntropyLoss, Layer, Loss, Optimizer};
use fornax_tensor::{DType, Tensor, value_and_grad};
use serde_json::Value;
use std::collections::BTreeMap;
use support::compare::compare;
use support::{Fixture, tensor, uniform};

/// One case of the fixture.
struct Case {
    fixture: Fixture,
    index: usize,
    json: Value,
}

/// What a model makes of a case's inputs: outputs by name, and the loss if there are labels.
type Run = (Vec<(&'static str, Tensor)>, Option<Tensor>);

/// The numbers of a parameter, by its place among the sorted names: scales of norms around 1, the
/// rest around 0.
fn recipe(index: u64, name: &str, shape: &[usize]) -> Vec<f64> {
    let (low, high) = match shape {
        [_] if name.ends_with("weight") => (0.7, 1.3),
        [_] => (-0.2, 0.2),
        [.., last] => {
            let bound = (1.5 / (*last as f64).sqrt()).min(1.0);
            (-bound, bound)
        }
        [] => unreachable!("parameters have axes"),
    };
    uniform(1000 + index, low, high, shape.iter().product())
}

impl Case {
    fn name(&self) -> &str {
        self.json["name"].as_str().unwrap()
    }

    /// An input, if the case has it: whole numbers are ids, others are numbers.
    fn input(&self, name: &str) -> Option<Tensor> {
        let stored = self.fixture.find(&format!("{}.in.{name}", self.index))?;
        let dtype = if stored.dtype == DType::F64 {
            DType::F32
        } else {
            stored.dtype
        };
        Some(tensor(&stored.values, &stored.shape, dtype))
    }

    fn model<M: Pretrained>(&self) -> M {
        assert_eq!(self.json["class"], M::ARCHITECTURE);
        let config = serde_json::from_value(self.json["config"].clone()).expect("a configuration");
        let mut model = M::from_config(&config).expect("a network");
        let shapes: BTreeMap<String, Vec<usize>> = model
            .named_parameters()
            .into_iter()
            .map(|(name, t)| (name, t.shape().to_vec()))
            .collect();
        let tensors = shapes
            .into_iter()
            .enumerate()
            .map(|(index, (name, shape))| {
                let values = recipe(index as u64, &name, &shape);
                (name, tensor(&values, &shape, DType::F32))
            });
        let unexpected = load_tensors(&mut model, tensors.collect()).expect("all tensors");
        assert!(unexpected.is_empty(), "{unexpected:?}");
        model
    }
}

/// Runs every case of a class; `f` is the model's forward pass.
fn follow<M: Pretrained>(f: impl Fn(&M, &Case) -> Run) {
    let cases = Fixture::open(env!("CARGO_MANIFEST_DIR"), "transformers").meta("cases");
    let cases = cases.as_array().unwrap().iter().enumerate();
    let mut count = 0;
    for (index, json) in cases.filter(|(_, c)| c["class"] == M::ARCHITECTURE) {
        let case = Case {
            fixture: Fixture::open(env!("CARGO_MANIFEST_DIR"), "transformers"),
            index,
            json: json.clone(),
        };
        count += 1;
        check(&case, &case.model::<M>(), &f);
        train(&case, case.model::<M>(), &f);
    }
    assert!(count > 0, "no cases of {}", M::ARCHITECTURE);
}

fn check<M: Pretrained>(case: &Case, model: &M, f: &impl Fn(&M, &Case) -> Run) {
    let (outputs, _) = f(model, case);
    let mut complaints: Vec<String> = outputs
        .iter()
        .filter_map(|(name, y)| {
            compare(
                &case.fixture,
                &format!("{}.{name}", case.index),
                y,
                None,
                false,
            )
        })
        .collect();
    if let Some(want) = case.json["loss"].as_f64() {
        let (loss, grads) = value_and_grad(model, |m| f(m, case).1.expect("a loss"));
        let loss = loss.item();
        if (loss - want).abs() > 1e-5 * want.abs() {
            complaints.push(format!("loss {loss}, expected {want}"));
        }
        let names: Vec<&str> = case.json["grads"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| n.as_str().unwrap())
            .collect();
        assert_eq!(grads.len(), names.len());
        for name in names {
            let key = format!("{}.grad.{name}", case.index);
            let grad = grads
                .get(name)
                .unwrap_or_else(|| panic!("no gradient of {name}"));
            complaints.extend(compare(&case.fixture, &key, grad, None, false));
        }
    }
    assert!(
        complaints.is_empty(),
        "{}:\n{}",
        case.name(),
        complaints.join("\n")
    );
}

fn train<M: Pretrained>(case: &Case, mut model: M, f: &impl Fn(&M, &Case) -> Run) {
    let Some(losses) = case.json["losses"].as_array() else {
        return;
    };
    let option = |name: &str| case.json["options"][name].as_f64().unwrap();
    let mut optimizer = AdamW::new(option("lr")).weight_decay(option("weight_decay"));
    for (step, want) in losses.iter().enumerate() {
        let (loss, grads) = value_and_grad(&model, |m| f(m, case).1.expect("a loss"));
        optimizer.step(&mut model, grads).unwrap();
        let (loss, want) = (loss.item(), want.as_f64().unwrap());
        assert!(
            (loss - want).abs() <= 1e-4 * want,
            "{}: loss {loss} at step {step}, expected {want}",
            case.name()
        );
    }
}

/// Outputs with zeros where the mask says padding.
fn at_tokens(y: Tensor, mask: Option<&Tensor>) -> Tensor {
    match mask {
        Some(m) => y * m.to_dtype(DType::F32).unsqueeze(-1),
        None => y,
    }
}

fn causal<M: Pretrained + CausalLm>() {
    follow(|model: &M, case| {
        let ids = case.input("input_ids").expect("ids");
        let mask = case.input("attention_mask");
        let logits = model.forward_logits(&ids, mask.as_ref());
        let loss = case.input("labels").map(|l| next_token_loss(&logits, &l));
        (vec![("logits", at_tokens(logits, mask.as_ref()))], loss)
    });
}

#[test]
fn gpt2() {
    causal::<Gpt2>();
}

#[test]
fn llama() {
    causal::<Llama>();
}

#[test]
fn t5() {
    follow(|model: &T5, case| {
        let (ids, mask) = (
            case.input("input_ids").unwrap(),
            case.input("attention_mask"),
        );
        let labels = case.input("labels").unwrap();
        let written = model.shift_right(&labels, 0);
        let states = model.encode(&ids, mask.as_ref());
        let logits = model.decode(&written, &model.memory(&states, mask.as_ref()));
        let loss = token_loss(&logits, &labels);
        let states = at_tokens(states, mask.as_ref());
        let outputs = vec![("logits", logits), ("encoder_last_hidden_state", states)];
        (outputs, Some(loss))
    });
}

#[test]
fn transformer() {
    follow(|model: &Transformer, case| {
        let (ids, mask) = (
            case.input("input_ids").unwrap(),
            case.input("attention_mask"),
        );
        let labels = case.input("labels").unwrap();
        let written = model.shift_right(&labels, 0);
        let logits = model.forward_logits(&ids, mask.as_ref(), &written);
        let loss = smoothed_loss(&logits, &labels, 0.1);
        (vec![("logits", logits)], Some(loss))
    });
}

#[test]
fn vit() {
    follow(|model: &Vit, case| {
        let logits = model.forward(&case.input("pixel_values").expect("images"));
        let labels = case.input("labels").expect("labels");
        let loss = CrossEntropyLoss::default().forward(&logits, &labels);
        (vec![("logits", logits)], Some(loss))
    });
}

/// Ids, mask and segments of a BERT case.
fn read(case: &Case) -> [Option<Tensor>; 3] {
    ["input_ids", "attention_mask", "token_type_ids"].map(|name| case.input(name))
}

#[test]
fn bert() {
    follow(|model: &Bert, case| {
        let [ids, mask, segments] = read(case);
        let (mask, segments) = (mask.as_ref(), segments.as_ref());
        let states = model.forward(&ids.unwrap(), BertInput { mask, segments });
        let pooled = model.pool(&states);
        let states = at_tokens(states, mask);
        (
            vec![("last_hidden_state", states), ("pooler_output", pooled)],
            None,
        )
    });
}

#[test]
fn bert_for_masked_lm() {
    follow(|model: &BertForMaskedLM, case| {
        let [ids, mask, segments] = read(case);
        let (mask, segments) = (mask.as_ref(), segments.as_ref());
        let logits = model.forward(&ids.unwrap(), BertInput { mask, segments });
        let loss = token_loss(&logits, &case.input("labels").unwrap());
        (vec![("logits", at_tokens(logits, mask))], Some(loss))
    });
}

#[test]
fn bert_for_sequence_classification() {
    follow(|model: &BertForSequenceClassification, case| {
        let [ids, mask, segments] = read(case);
        let (mask, segments) = (mask.as_ref(), segments.as_ref());
        let logits = model.forward(&ids.unwrap(), BertInput { mask, segments });
        let labels = case.input("labels").unwrap();
        let loss = CrossEntropyLoss::default().forward(&logits, &labels);
        (vec![("logits", logits)], Some(loss))
    });
}

#[test]
fn bert_for_token_classification() {
    follow(|model: &BertForTokenClassification, case| {
        let [ids, mask, segments] = read(case);
        let (mask, segments) = (mask.as_ref(), segments.as_ref());
        let logits = model.forward(&ids.unwrap(), BertInput { mask, segments });
        let loss = token_loss(&logits, &case.input("labels").unwrap());
        (vec![("logits", at_tokens(logits, mask))], Some(loss))
    });
}
