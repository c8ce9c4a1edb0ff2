//! JSON values as YAML, in blocks.

use serde_json::Value;

/// The text of a value.
#[must_use]
pub fn text(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out
}

/// Writes a value that begins on this line, with lines that follow indented by so many levels.
fn block(value: &Value, level: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (i, (key, value)) in map.iter().enumerate() {
                if i > 0 {
                    indent(level, out);
                }
                scalar(key, out);
                out.push(':');
                nested(value, level, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    indent(level, out);
                }
                out.push_str("- ");
                block(item, level + 1, out);
            }
        }
        Value::String(text) => match lines_of(text) {
            Some(lines) => literal(lines, level, out),
            None => line(|out| scalar(text, out), out),
        },
        // What is empty, a number or a boolean is written the same in both.
        Value::Object(_) | Value::Array(_) | Value::Number(_) | Value::Bool(_) | Value::Null => {
            line(|out| out.push_str(&value.to_string()), out);
        }
    }
}

/// Writes the value of a key.
fn nested(value: &Value, level: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            indent(level + 1, out);
            block(value, level + 1, out);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            indent(level, out);
            block(value, level, out);
        }
        Value::Object(_)
        | Value::Array(_)
        | Value::String(_)
        | Value::Number(_)
        | Value::Bool(_)
        | Value::Null => {
            out.push(' ');
            block(value, level, out);
        }
    }
}

/// The lines of a text that can be written as it is: several, which no reader takes for anything else.
fn lines_of(text: &str) -> Option<std::str::Lines<'_>> {
    let ends_once = text.ends_with('\n') && !text.ends_with("\n\n");
    let is_readable = text.chars().all(|c| c == '\n' || (!c.is_control() && c != '\u{feff}'));
    // The first line says how far all are indented.
    (ends_once && is_readable && text.len() > 1 && !text.starts_with([' ', '\n'])).then(|| text.lines())
}

fn literal(lines: std::str::Lines<'_>, level: usize, out: &mut String) {
    out.push_str("|\n");
    for text in lines {
        if !text.is_empty() {
            indent(level + 1, out);
            out.push_str(text);
        }
        out.push('\n');
    }
}

fn line(write: impl FnOnce(&mut String), out: &mut String) {
    write(out);
    out.push('\n');
}

fn indent(level: usize, out: &mut String) {
    out.extend(std::iter::repeat_n("  ", level));
}

/// A text without quotes where no reader can take it for anything else, else as in JSON.
pub fn scalar(text: &str, out: &mut String) {
    let is_plain = text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b' ' | b'.' | b'/' | b'-' | b'_'))
        && !text.ends_with(' ')
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
            .contains(&text.to_ascii_lowercase().as_str());
    if is_plain {
        out.push_str(text);
    } else {
        out.push_str(&Value::from(text).to_string());
    }
}

#[cfg(test)]
mod tests {
    use egress_compile::manifest::yaml::parse;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for value in [
            json!({"a": [], "b": {}, "c": [{"d": 1, "e": [true, null]}, [1, [2]]]}),
            json!({"text": "two\nlines\n", "list": ["x: |\n  y\n\n  z\n", "- a\n"]}),
            json!([
                "no end\nof line",
                "two ends\n\n",
                " indented\nx\n",
                "\n",
                "\nx\n",
                "tab\there\n",
                "# c\n"
            ]),
            json!({"yes": "yes", "0644": "0644", "": "", "é": "ü\n", "'": "---\n...\n", "trailing ": " x \n"}),
            json!({"deep": {"deeper": [{"text": "a\n b\n"}]}}),
        ] {
            let text = text(&value);
            let read = parse(&text).expect("valid").remove(0).value;
            assert_eq!(read, value, "{text}");
        }
    }
}
