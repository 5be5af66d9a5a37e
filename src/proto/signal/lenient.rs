//! Reading fields as clients send them: numbers as strings, missing fields, fields of an unexpected type.
//!
//! A field that cannot be used counts as missing: pages put anything into the objects that the client sends on
//! (protocol document, section 1.2).

use serde::{Deserialize as _, Deserializer};
use serde_json::Value;

/// Text; a number becomes its text.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => text,
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    })
}

/// `true` or `"true"`; everything else is false.
pub(super) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Bool(flag) => flag,
        Value::String(text) => text == "true",
        _ => false,
    })
}

/// A whole number, from a number or a numeric string; fractions are cut off, what does not fit becomes the nearest
/// value, and what is no number becomes 0.
pub(super) fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let number = match Value::deserialize(deserializer)? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    // `as` from a float saturates, and makes NaN zero.
    Ok(number.map_or(0, |number: f64| number as u32))
}
