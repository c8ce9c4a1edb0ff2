//! YAML of a configuration: blocks, and what is short in one line.

use std::collections::HashSet;
use std::fmt::Write;

use crate::value::{Field, Item, List, Object, Value};

/// The longest line, unless one value alone is longer.
const WIDTH: usize = 118;

/// Formats a value. A comment that several values share is written once, before the first of them.
#[must_use]
pub fn text(value: &Value) -> String {
    let mut writer = Writer { out: String::new(), written: HashSet::new() };
    match value {
        Value::Object(object) if !object.fields().is_empty() => writer.fields(object, 0),
        Value::List(list) if !list.items().is_empty() => writer.items(list, 0),
        Value::Absent
        | Value::Bool(_)
        | Value::Number(_)
        | Value::Text(_)
        | Value::List(_)
        | Value::Object(_) => writer.value(value, 0, 0),
    }
    writer.out
}

struct Writer<'a> {
    out: String,
    /// The comments that are written already.
    written: HashSet<&'a str>,
}

impl<'a> Writer<'a> {
    fn fields(&mut self, object: &'a Object, indent: usize) {
        for field in object.fields() {
            self.comment(&field.comment, indent);
            self.indent(indent);
            self.field(field, indent);
        }
    }

    fn items(&mut self, list: &'a List, indent: usize) {
        for item in list.items() {
            self.item(item, indent);
        }
    }

    /// Writes a field that begins on this line.
    fn field(&mut self, field: &'a Field, indent: usize) {
        scalar(&field.name, &mut self.out);
        self.out.push(':');
        self.value(&field.value, indent, indent + field.name.len() + 2);
    }

    fn item(&mut self, item: &'a Item, indent: usize) {
        self.comment(&item.comment, indent);
        let in_line = self.in_line(&item.value, indent + 2);
        match (&item.value, in_line) {
            (Value::Object(object), None) => {
                for (number, field) in object.fields().iter().enumerate() {
                    self.comment(&field.comment, if number == 0 { indent } else { indent + 2 });
                    self.indent(indent);
                    self.out.push_str(if number == 0 { "- " } else { "  " });
                    self.field(field, indent + 2);
                }
            }
            (value, _) => {
                self.indent(indent);
                self.out.push('-');
                self.value(value, indent + 2, indent + 2);
            }
        }
    }

    /// Writes a value after `name:` or `-`, on this line if it is short, and the end of the line.
    fn value(&mut self, value: &'a Value, indent: usize, column: usize) {
        if let Value::Text(text) = value
            && is_block(text)
        {
            self.out.push_str(" |\n");
            for line in text.lines() {
                if !line.is_empty() {
                    self.indent(indent + 2);
                    self.out.push_str(line);
                }
                self.out.push('\n');
            }
            return;
        }
        match (value, self.in_line(value, column)) {
            (Value::Object(object), None) => {
                self.out.push('\n');
                self.fields(object, indent + 2);
            }
            (Value::List(list), None) => {
                self.out.push('\n');
                self.items(list, indent);
            }
            (_, in_line) => {
                self.out.push(' ');
                self.out.push_str(&in_line.unwrap_or_default());
                self.out.push('\n');
            }
        }
    }

    /// The value in one line that begins at a column, if it fits and there is nothing to say about a part of it.
    fn in_line(&self, value: &Value, column: usize) -> Option<String> {
        let mut line = String::new();
        match value {
            Value::Object(object) if !object.fields().is_empty() => self.flow(value, &mut line)?,
            Value::List(list) if !list.items().is_empty() => self.flow(value, &mut line)?,
            Value::Absent
            | Value::Bool(_)
            | Value::Number(_)
            | Value::Text(_)
            | Value::List(_)
            | Value::Object(_) => {
                self.flow(value, &mut line)?;
                return Some(line);
            }
        }
        (column + line.len() <= WIDTH).then_some(line)
    }

    /// Writes a value in one line. A message with its type gets lines of its own, unless the type is all there is.
    fn flow(&self, value: &Value, line: &mut String) -> Option<()> {
        let has_comment = |comment: &str| !comment.is_empty() && !self.written.contains(comment);
        match value {
            Value::Absent => line.push_str("null"),
            Value::Bool(value) => line.push_str(if *value { "true" } else { "false" }),
            Value::Number(number) => line.push_str(&number.to_string()),
            Value::Text(text) if is_block(text) => return None,
            Value::Text(text) => scalar(text, line),
            Value::List(list) => {
                line.push('[');
                for (number, Item { comment, value }) in list.items().iter().enumerate() {
                    if has_comment(comment) {
                        return None;
                    }
                    line.push_str(if number > 0 { ", " } else { "" });
                    self.flow(value, line)?;
                }
                line.push(']');
            }
            Value::Object(object) => {
                if object.fields().len() > 1 && object.get("@type").is_some() {
                    return None;
                }
                line.push('{');
                for (number, Field { comment, name, value }) in object.fields().iter().enumerate() {
                    if has_comment(comment) {
                        return None;
                    }
                    line.push_str(if number > 0 { ", " } else { "" });
                    scalar(name, line);
                    line.push_str(": ");
                    self.flow(value, line)?;
                }
                line.push('}');
            }
        }
        Some(())
    }

    fn comment(&mut self, comment: &'a str, indent: usize) {
        if !comment.is_empty() && self.written.insert(comment) {
            self.out.push_str(&comment_lines(comment, indent));
        }
    }

    fn indent(&mut self, indent: usize) {
        self.out.extend(std::iter::repeat_n(' ', indent));
    }
}

/// Formats a comment as lines of at most the width.
#[must_use]
pub fn comment_lines(comment: &str, indent: usize) -> String {
    let mut out = String::new();
    let mut column = 0;
    for word in comment.split_whitespace() {
        if column == 0 || column + 1 + word.len() > WIDTH {
            out.push_str(if column == 0 { "" } else { "\n" });
            out.extend(std::iter::repeat_n(' ', indent));
            out.push('#');
            column = indent + 1;
        }
        out.push(' ');
        out.push_str(word);
        column += 1 + word.len();
    }
    out.push('\n');
    out
}

/// Returns whether a text of lines is written as it is: no reader takes it for anything else.
fn is_block(text: &str) -> bool {
    let has_lines = text.lines().count() > 1 && text.ends_with('\n') && !text.ends_with("\n\n");
    let is_readable = |c: char| c == '\n' || is_visible(c);
    // The first line says how far all are indented.
    has_lines && !text.starts_with([' ', '\n']) && text.chars().all(is_readable)
}

/// Returns whether a character is visible, or a space. Some of Unicode's end lines in YAML.
fn is_visible(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')
}

/// Words that readers of YAML take for a boolean, for nothing, or for a number.
const RESERVED: [&str; 12] =
    ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf", "infinity"];

/// Writes a text without quotes where no reader can take it for anything else.
fn scalar(text: &str, out: &mut String) {
    let is_plain = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b' ' | b'.' | b'/' | b'-' | b'_'))
        && !text.ends_with(' ')
        && !RESERVED.contains(&text.to_ascii_lowercase().as_str());
    let has_escapes = text.contains(['\\', '"']) && !text.contains('\'') && text.chars().all(is_visible);
    if is_plain || is_duration(text) {
        out.push_str(text);
    } else if has_escapes {
        out.extend(["'", text, "'"]);
    } else {
        quoted(text, out);
    }
}

fn is_duration(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_digit())
        && text
            .strip_suffix('s')
            .is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit() || b == b'.'))
}

/// Writes a text in double quotes, in one line of ASCII.
fn quoted(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        // Writing to a string does not fail.
        let _ = match c {
            '"' | '\\' => write!(out, "\\{c}"),
            '\n' => out.write_str("\\n"),
            ' '..='~' => out.write_char(c),
            '\0'..='\u{ffff}' => write!(out, "\\u{:04x}", u32::from(c)),
            '\u{10000}'..=char::MAX => write!(out, "\\U{:08x}", u32::from(c)),
        };
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use egress_compile::manifest::yaml::parse;

    use super::*;
    use crate::config;

    fn read(value: &Value) -> serde_json::Value {
        parse(&text(value)).unwrap_or_else(|error| panic!("{error}: {}", text(value))).remove(0).value
    }

    #[test]
    fn what_is_written_is_read_again() {
        let odd = [
            "",
            " ",
            "yes",
            "Off",
            "0644",
            "5s",
            "1.5s",
            "s",
            "1e3s",
            ".5s",
            "1:30",
            "a: b",
            "a #b",
            "- a",
            "*",
            "é",
            "/a/b c",
            "a ",
            "two\nlines\n",
            "no end\nof line",
            "two ends\n\n",
            " indented\nx\n",
            "\n",
            "\nx\n",
            "tab\there\n",
            "# c\n",
            "'",
            "\\",
            "a'\"\\",
            "^a\\.b$",
            "a\u{85}\u{2028}\u{feff}\u{1f600}\u{7f}\r\n]}}\" # x",
            "nan",
            "%REQ(:PATH)%",
            "---\n...\n",
        ];
        let texts: Value = odd.into_iter().collect();
        let fields = odd.iter().enumerate().map(|(number, text)| {
            let mut object = Object::default();
            object.push("", &format!("{number} {text}"), config!({"a": [[*text], {"b": *text}]}));
            object
        });
        let fields: Value = fields.collect();
        for value in [
            config!({}),
            config!([]),
            config!({"a": [], "b": {}, "c": [{"d": 1_u32, "e": [true, false]}, [1_u32, [2_u32]]]}),
            config!({"texts": texts, "deep": {"fields": fields}}),
        ] {
            assert_eq!(read(&value), serde_json::to_value(&value).expect("JSON"), "{}", text(&value));
        }
    }

    #[test]
    fn comments_stand_before_their_value_and_only_once() {
        let long = "word ".repeat(40);
        let mut object = Object::default();
        object.push(&long, "long", 1_u32);
        let value = config!({
            /// One.
            "a": {"b": 1_u32, "c": [2_u32]},
            "list": [
                /// Of the item,
                /// in two lines.
                {"x": 1_u32},
                {
                    /// Of a field that comes first.
                    "w": 1_u32,
                },
                /// Of the item,
                /// in two lines.
                {"z": 1_u32},
            ],
            ..object,
        });
        let words = |count: usize| vec!["word"; count].join(" ");
        let expected = format!(
            "# One.\na: {{b: 1, c: [2]}}\nlist:\n# Of the item, in two lines.\n- {{x: 1}}\n# Of a field that comes \
             first.\n- w: 1\n- {{z: 1}}\n# {}\n# {}\nlong: 1\n",
            words(23),
            words(17)
        );
        assert_eq!(text(&value), expected);
    }

    #[test]
    fn long_values_and_messages_with_their_type_have_lines_of_their_own() {
        let value = config!({
            "short": {"@type": "a/b"},
            "message": {"@type": "a/b", "c": 1_u32},
            "long": {"name": "n".repeat(WIDTH), "other": ["x"]},
            "absent": None::<u32>,
        });
        let long = "n".repeat(WIDTH);
        let expected = format!(
            "short: {{\"@type\": a/b}}\nmessage:\n  \"@type\": a/b\n  c: 1\nlong:\n  name: {long}\n  other: [x]\n"
        );
        assert_eq!(text(&value), expected);
    }
}
