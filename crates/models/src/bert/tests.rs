use super::*;
use crate::pretrained::load_tensors;
use fornax_tensor::value_and_grad;

fn tiny() -> BertConfig {
    BertConfig {
        vocab_size: 30,
        hidden_size: 8,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        intermediate_size: 16,
        max_position_embeddings: 6,
        ..BertConfig::default()
    }
}

#[test]
fn embeddings_have_length_one_and_ignore_padding() {
    let model = Bert::new(&tiny()).unwrap();
    let ids = Tensor::from_vec(vec![4i64, 5, 6, 0, 0], [1, 5]);
    let mask = Tensor::from_vec(vec![1i64, 1, 1, 0, 0], [1, 5]);
    let padded = model.embed(&ids, Some(&mask));
    let alone = model.embed(&ids.narrow(1, 0, 3), None);
    assert!((padded.square().sum(..).item() - 1.0).abs() < 1e-5);
    assert!((padded - alone).abs().max(..).item() < 1e-6);
}

#[test]
fn files_of_one_head_load_as_another() {
    let source = BertForMaskedLM::new(&tiny()).unwrap();
    let mut state = source.state_dict();
    for (name, _) in &mut state {
        *name = name
            .replace("LayerNorm.weight", "LayerNorm.gamma")
            .replace("LayerNorm.bias", "LayerNorm.beta");
    }
    let mut model = Bert::without_pooler(&tiny()).unwrap();
    let unexpected = load_tensors(&mut model, state).unwrap();
    assert_eq!(unexpected.len(), 5, "{unexpected:?}");
    assert!(
        unexpected
            .iter()
            .all(|name| name.starts_with("cls.predictions"))
    );
    let ids = Tensor::from_vec(vec![4i64, 5, 6], [1, 3]);
    let input = BertInput::default();
    let states = |bert: &Bert| bert.forward(&ids, input).to_vec::<f32>();
    assert_eq!(states(&model), states(&source.bert));
    let error = load_tensors(&mut Bert::new(&tiny()).unwrap(), source.state_dict()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("`pooler.dense.weight` is missing"),
        "{error}"
    );
}

#[test]
fn dropout_and_checkpoints_train() {
    let config = BertConfig {
        checkpoint: true,
        ..tiny()
    };
    let model = BertForSequenceClassification::new(&config).unwrap();
    let ids = Tensor::from_vec(vec![4i64, 5, 6, 7], [2, 2]);
    let segments = Tensor::from_vec(vec![0i64, 1, 0, 0], [2, 2]);
    let input = BertInput {
        mask: None,
        segments: Some(&segments),
    };
    let (loss, grads) = value_and_grad(&model, |m| m.forward(&ids, input).square().mean(..));
    assert!(loss.item().is_finite());
    assert_eq!(grads.len(), model.named_parameters().len());
}
