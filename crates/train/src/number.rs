//! Floats in JSON, which has no NaN and no infinities: those are written as the texts "NaN",
//! "Infinity" and "-Infinity", as Protocol Buffers write them.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use serde_json::{Value, json};

/// A number as JSON.
pub fn to_json(number: f64) -> Value {
    if number.is_finite() {
        json!(number)
    } else if number.is_nan() {
        json!("NaN")
    } else if number > 0.0 {
        json!("Infinity")
    } else {
        json!("-Infinity")
    }
}

/// What [`to_json`] wrote.
pub fn from_json(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some("NaN") => Some(f64::NAN),
        Some("Infinity") => Some(f64::INFINITY),
        Some("-Infinity") => Some(f64::NEG_INFINITY),
        _ => value.as_f64(),
    }
}

/// For `#[serde(with = "crate::number")]`.
pub fn serialize<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    to_json(*number).serialize(serializer)
}

/// For `#[serde(with = "crate::number")]`.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let value = Value::deserialize(deserializer)?;
    from_json(&value).ok_or_else(|| D::Error::custom(format!("{value} is no number")))
}

/// For `#[serde(with = "crate::number::named")]`: numbers with names, in their order.
pub mod named {
    use super::*;

    pub fn serialize<S: Serializer>(
        numbers: &[(String, f64)],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let pairs = numbers.iter();
        serializer.collect_seq(pairs.map(|(name, number)| (name, to_json(*number))))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<(String, f64)>, D::Error> {
        let pairs = Vec::<(String, Value)>::deserialize(deserializer)?;
        let numbers = pairs.into_iter().map(|(name, value)| {
            let number = from_json(&value);
            let number = number.ok_or_else(|| D::Error::custom(format!("{value} is no number")));
            Ok((name, number?))
        });
        numbers.collect()
    }
}
