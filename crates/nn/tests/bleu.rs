//! BLEU against sacrebleu: `scripts/make-fixtures.py bleu`.

use fornax_nn::metrics::bleu;
use serde_json::Value;

#[test]
fn it_is_sacrebleus() {
    let cases = include_str!("fixtures/bleu.json");
    let cases: Vec<Value> = serde_json::from_str(cases).unwrap();
    assert!(cases.len() > 50);
    for case in cases {
        let texts =
            |name: &str| -> Vec<String> { serde_json::from_value(case[name].clone()).unwrap() };
        let (written, right) = (texts("translations"), texts("references"));
        let (found, expected) = (bleu(&written, &right), case["bleu"].as_f64().unwrap());
        assert!(
            (found - expected).abs() < 1e-9,
            "{written:?}: {found}, sacrebleu says {expected}"
        );
    }
}
