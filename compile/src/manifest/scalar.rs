use std::borrow::Cow;

use saphyr_parser::{ScalarStyle, Tag};
use serde_json::{Number, Value};

/// Resolves a scalar by the core schema of YAML 1.2 (§10.3), as far as JSON can represent it.
///
/// # Errors
/// Returns a message and a remedy.
pub(super) fn resolve_scalar(
    text: Cow<'_, str>,
    style: ScalarStyle,
    tag: Option<&Tag>,
) -> Result<Value, (String, &'static str)> {
    let Some(tag) = tag else {
        return match style {
            ScalarStyle::Plain => resolve_plain(text),
            ScalarStyle::SingleQuoted
            | ScalarStyle::DoubleQuoted
            | ScalarStyle::Literal
            | ScalarStyle::Folded => Ok(Value::String(text.into_owned())),
        };
    };
    // `!` alone means "not resolved", so a string.
    if core_tag(tag) == Some("str") || (tag.handle.is_empty() && tag.suffix == "!") {
        return Ok(Value::String(text.into_owned()));
    }
    let value = resolve_plain(text)?;
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
        Err((format!("tag `{handle}{suffix}` is not allowed here"), "write the value without a tag"))
    }
}

/// The name of one of YAML's own tags.
pub(super) fn core_tag(tag: &Tag) -> Option<&str> {
    if tag.is_yaml_core_schema() { Some(&tag.suffix) } else { None }
}

fn resolve_plain(text: Cow<'_, str>) -> Result<Value, (String, &'static str)> {
    match &*text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" => return Ok(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Value::Bool(false)),
        _ => {}
    }
    if let Some(number) = parse_integer(&text) {
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

/// Resolves a plain scalar by YAML 1.1, as Go's parser does. Returns a value only if it differs from YAML 1.2.
pub(super) fn resolve_yaml_1_1(text: &str) -> Option<Value> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Some(Value::Bool(true)),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Some(Value::Bool(false)),
        _ => {}
    }
    if text.starts_with('_') {
        return None;
    }
    let number = text.replace('_', "");
    let (is_negative, unsigned) = match number.strip_prefix('-') {
        Some(unsigned) => (true, unsigned),
        None => (false, number.strip_prefix('+').unwrap_or(&number)),
    };
    let signed = |digits: &str, radix| {
        let value = i64::try_from(parse_digits(digits, radix)?).ok()?;
        Some(Value::from(if is_negative { value.checked_neg()? } else { value }))
    };
    if let Some(binary) = unsigned.strip_prefix("0b") {
        return signed(binary, 2);
    }
    match (unsigned.strip_prefix('0'), unsigned.as_bytes()) {
        (Some(octal), [_, b'0'..=b'7', ..]) => signed(octal, 8),
        (_, [b'0'..=b'9', ..]) if text.contains('_') => signed(unsigned, 10),
        _ => None,
    }
}

fn parse_integer(text: &str) -> Option<Number> {
    if let Some(octal) = text.strip_prefix("0o") {
        return parse_digits(octal, 8).map(Number::from);
    }
    if let Some(hexadecimal) = text.strip_prefix("0x") {
        return parse_digits(hexadecimal, 16).map(Number::from);
    }
    match text.strip_prefix('-') {
        Some(rest) if !rest.starts_with(['+', '-']) => text.parse::<i64>().ok().map(Number::from),
        Some(_) => None,
        None => parse_digits(text.strip_prefix('+').unwrap_or(text), 10).map(Number::from),
    }
}

fn parse_digits(text: &str, radix: u32) -> Option<u64> {
    // `from_str_radix` would take a sign.
    if text.starts_with(['+', '-']) { None } else { u64::from_str_radix(text, radix).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn plain_scalars_of_yaml_1_1_differ_where_kubectl_does() {
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
            assert_eq!(resolve_yaml_1_1(text), expected, "{text}");
        }
    }

    #[test]
    fn plain_scalars_follow_the_core_schema() {
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
            assert_eq!(resolve_plain(text.into()), Ok(expected), "{text}");
        }
        for text in [".inf", "-.INF", ".nan", "1e999"] {
            assert!(resolve_plain(text.into()).is_err(), "{text}");
        }
    }
}
