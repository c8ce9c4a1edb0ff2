use std::borrow::Cow;

use saphyr_parser::{ScalarStyle, Tag};
use serde_json::{Number, Value};

/// What a scalar means by the core schema of YAML 1.2 (§10.3), as far as JSON can say it.
///
/// # Errors
/// With a message and what to do.
pub(super) fn resolve(
    text: Cow<'_, str>,
    style: ScalarStyle,
    tag: Option<&Tag>,
) -> Result<Value, (String, &'static str)> {
    let Some(tag) = tag else {
        return match style {
            ScalarStyle::Plain => plain(text),
            ScalarStyle::SingleQuoted
            | ScalarStyle::DoubleQuoted
            | ScalarStyle::Literal
            | ScalarStyle::Folded => Ok(Value::String(text.into_owned())),
        };
    };
    // `!` alone says: not resolved, so a string.
    if core_tag(tag) == Some("str") || (tag.handle.is_empty() && tag.suffix == "!") {
        return Ok(Value::String(text.into_owned()));
    }
    let value = plain(text)?;
    let fits = match core_tag(tag) {
        Some("null") => value.is_null(),
        Some("bool") => value.is_boolean(),
        Some("int") => value.is_i64() || value.is_u64(),
        Some("float") => value.is_number(),
        Some(_) | None => false,
    };
    if fits {
        Ok(value)
    } else {
        let Tag { handle, suffix } = tag;
        Err((format!("tag `{handle}{suffix}` does not fit here"), "write the value without a tag"))
    }
}

/// The name of a tag of YAML itself.
pub(super) fn core_tag(tag: &Tag) -> Option<&str> {
    if tag.is_yaml_core_schema() { Some(&tag.suffix) } else { None }
}

fn plain(text: Cow<'_, str>) -> Result<Value, (String, &'static str)> {
    match &*text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" => return Ok(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Value::Bool(false)),
        _ => {}
    }
    if let Some(number) = integer(&text) {
        return Ok(Value::Number(number));
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(&text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(&*text, ".nan" | ".NaN" | ".NAN") {
        return Err((format!("number `{text}` is not finite"), "put the value in quotes if it is text"));
    }
    // Rust's parser alone would take `inf` and `nan` too.
    if text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+' | b'e' | b'E'))
        && let Ok(float) = text.parse::<f64>()
    {
        return Number::from_f64(float).map(Value::Number).ok_or_else(|| {
            (format!("number `{text}` is too large"), "put the value in quotes if it is text")
        });
    }
    Ok(Value::String(text.into_owned()))
}

/// What a plain scalar means by YAML 1.1, as Go's reader of it has it, where that is something else than by
/// YAML 1.2.
pub(super) fn yaml_1_1(text: &str) -> Option<Value> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Some(Value::Bool(true)),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Some(Value::Bool(false)),
        _ => {}
    }
    if text.starts_with('_') {
        return None;
    }
    let number = text.replace('_', "");
    let (sign, unsigned) = match number.strip_prefix('-') {
        Some(unsigned) => (-1, unsigned),
        None => (1, number.strip_prefix('+').unwrap_or(&number)),
    };
    let signed = |radix, digits_of: &str| {
        let value = i64::try_from(digits(digits_of, radix)?).ok()?;
        Some(Value::from(sign * value))
    };
    match unsigned.as_bytes() {
        [b'0', b'b', ..] => signed(2, &unsigned[2..]),
        [b'0', b'0'..=b'7', ..] => signed(8, &unsigned[1..]),
        [b'0'..=b'9', ..] if text.contains('_') => signed(10, unsigned),
        _ => None,
    }
}

fn integer(text: &str) -> Option<Number> {
    if let Some(octal) = text.strip_prefix("0o") {
        return digits(octal, 8).map(Number::from);
    }
    if let Some(hexadecimal) = text.strip_prefix("0x") {
        return digits(hexadecimal, 16).map(Number::from);
    }
    match text.strip_prefix('-') {
        Some(rest) if !rest.starts_with(['+', '-']) => text.parse::<i64>().ok().map(Number::from),
        Some(_) => None,
        None => digits(text.strip_prefix('+').unwrap_or(text), 10).map(Number::from),
    }
}

fn digits(text: &str, radix: u32) -> Option<u64> {
    // `from_str_radix` would take a sign.
    if text.starts_with(['+', '-']) { None } else { u64::from_str_radix(text, radix).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_kubectl_reads_otherwise() {
        for (text, expected) in [
            ("0644", Some(json!(420))),
            ("-010", Some(json!(-8))),
            ("0b11", Some(json!(3))),
            ("1_000", Some(json!(1000))),
            ("yes", Some(json!(true))),
            ("Off", Some(json!(false))),
            ("0", None),
            ("644", None),
            ("089", None),
            ("0x1F", None),
            ("0.5", None),
            ("_1", None),
            ("1_a", None),
            ("yEs", None),
            ("", None),
        ] {
            assert_eq!(yaml_1_1(text), expected, "{text}");
        }
    }

    #[test]
    fn plain_scalars_of_the_core_schema() {
        for (text, expected) in [
            ("", json!(null)),
            ("~", json!(null)),
            ("null", json!(null)),
            ("nUll", json!("nUll")),
            ("true", json!(true)),
            ("FALSE", json!(false)),
            ("yes", json!("yes")),
            ("no", json!("no")),
            ("on", json!("on")),
            ("off", json!("off")),
            ("y", json!("y")),
            ("80", json!(80)),
            ("-1", json!(-1)),
            ("+5", json!(5)),
            ("010", json!(10)),
            ("0o17", json!(15)),
            ("0x1F", json!(31)),
            ("0x+1", json!("0x+1")),
            ("18446744073709551615", json!(18_446_744_073_709_551_615_u64)),
            ("99999999999999999999", json!(1e20)),
            ("1.5", json!(1.5)),
            ("1e3", json!(1000.0)),
            (".5", json!(0.5)),
            ("1.2.3.4", json!("1.2.3.4")),
            ("10.0.0.0/8", json!("10.0.0.0/8")),
            ("1_000", json!("1_000")),
            ("12:30", json!("12:30")),
            ("-", json!("-")),
            ("--1", json!("--1")),
            ("inf", json!("inf")),
            ("nan", json!("nan")),
            ("e", json!("e")),
            ("*.a.org", json!("*.a.org")),
        ] {
            assert_eq!(plain(text.into()), Ok(expected), "{text}");
        }
        for text in [".inf", "-.INF", ".nan", "1e999"] {
            assert!(plain(text.into()).is_err(), "{text}");
        }
    }
}
