//! The metrics against their textbook formulas.

#[path = "../../tensor/tests/support/mod.rs"]
mod support;

use fornax_nn::metrics::{
    Average, ConfusionMatrix, accuracy, auroc, auroc_one_vs_rest, predictions, top_k,
};
use fornax_tensor::{DType, Tensor};
use serde_json::Value;
use support::{Fixture, tensor, uniform, usizes};

fn near(what: &str, got: f64, expected: &Value) {
    let expected = expected.as_f64().expect("a number");
    assert!(
        (got - expected).abs() <= 1e-12,
        "{what}: {got}, expected {expected}"
    );
}

fn all_near(what: &str, got: &[f64], expected: &Value) {
    let expected = expected.as_array().expect("a list");
    assert_eq!(got.len(), expected.len(), "{what}");
    got.iter()
        .zip(expected)
        .for_each(|(g, e)| near(what, *g, e));
}

#[test]
fn of_several_classes() {
    let cases = Fixture::open(env!("CARGO_MANIFEST_DIR"), "metrics").meta("metrics");
    for case in cases["multiclass"].as_array().unwrap() {
        let (rows, classes) = (
            case["rows"].as_u64().unwrap() as usize,
            case["classes"].as_u64().unwrap() as usize,
        );
        let targets = usizes(&case["targets"]);
        let mut scores = uniform(
            case["scores"][0].as_u64().unwrap(),
            -2.0,
            2.0,
            rows * classes,
        );
        for (row, &t) in targets.iter().enumerate() {
            let at = &mut scores[row * classes + t];
            *at = (*at as f32 + 1.0) as f64;
        }
        let x = tensor(&scores, &[rows, classes], DType::F32);
        let t = Tensor::from_vec(
            targets.iter().map(|&t| t as i64).collect::<Vec<_>>(),
            [rows],
        );
        assert_eq!(predictions(&x), usizes(&case["predicted"]));
        near("accuracy", accuracy(&x, &t), &case["accuracy"]);
        for k in 1..=classes {
            near("top-k", top_k(&x, &t, k), &case["top_k"][k.to_string()]);
        }
        let mut confusion = ConfusionMatrix::new(classes);
        confusion.add_all(&targets, &predictions(&x));
        for (row, expected) in confusion.rows().zip(case["confusion"].as_array().unwrap()) {
            assert_eq!(
                row.iter().map(|&n| n as usize).collect::<Vec<_>>(),
                usizes(expected)
            );
        }
        near(
            "accuracy of the matrix",
            confusion.accuracy(),
            &case["accuracy"],
        );
        all_near(
            "precision",
            &confusion.precision_per_class(),
            &case["precision"],
        );
        all_near("recall", &confusion.recall_per_class(), &case["recall"]);
        all_near("F1", &confusion.f1_per_class(), &case["f1"]);
        let of = |a: Average| [confusion.precision(a), confusion.recall(a), confusion.f1(a)];
        all_near("macro", &of(Average::Macro), &case["macro"]);
        all_near("weighted", &of(Average::Weighted), &case["weighted"]);
        let mut areas = Vec::new();
        for (c, expected) in case["auroc"].as_array().unwrap().iter().enumerate() {
            let own: Vec<f64> = (0..rows).map(|r| scores[r * classes + c]).collect();
            let positive: Vec<bool> = targets.iter().map(|&t| t == c).collect();
            let area = auroc(&own, &positive);
            assert_eq!(area.is_none(), expected.is_null());
            if let Some(area) = area {
                near("AUROC", area, expected);
                areas.push(area);
            }
        }
        if areas.len() == classes {
            let mean = areas.iter().sum::<f64>() / classes as f64;
            let got = auroc_one_vs_rest(&scores, &targets, classes).expect("every class occurs");
            assert!((got - mean).abs() < 1e-12, "{got} {mean}");
        }
    }
}

#[test]
fn of_two_classes() {
    let cases = Fixture::open(env!("CARGO_MANIFEST_DIR"), "metrics").meta("metrics");
    for case in cases["binary"].as_array().unwrap() {
        let scores: Vec<f64> = case["scores"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v.as_f64().unwrap())
            .collect();
        let labels = usizes(&case["labels"]);
        let positive: Vec<bool> = labels.iter().map(|&l| l == 1).collect();
        let area = auroc(&scores, &positive);
        assert_eq!(area.is_none(), case["auroc"].is_null());
        if let Some(area) = area {
            near("AUROC", area, &case["auroc"]);
        }
        let mut confusion = ConfusionMatrix::new(2);
        let predicted: Vec<usize> = scores.iter().map(|&s| usize::from(s >= 0.5)).collect();
        confusion.add_all(&labels, &predicted);
        near(
            "precision",
            confusion.precision_per_class()[1],
            &case["precision"],
        );
        near("recall", confusion.recall_per_class()[1], &case["recall"]);
        near("F1", confusion.f1_per_class()[1], &case["f1"]);
        near("accuracy", confusion.accuracy(), &case["accuracy"]);
    }
}
