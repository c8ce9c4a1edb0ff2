//! Diagnostics from errors of serde.

use crate::manifest::Diagnostic;

/// Makes a diagnostic from the message of a serde error.
pub(super) fn describe_serde_error(message: &str) -> Diagnostic {
    let message = message.replace('"', "`").replace("``", "`");
    let (message, expected) = match message.split_once(", expected ") {
        Some((what, expected)) => {
            let what = what.replace("type: map", "type: mapping").replace("type: sequence", "type: list");
            (what, Some(translate_type(expected)))
        }
        None => (message, None),
    };
    if let Some(field) = quoted(&message).next() {
        if message.starts_with("unknown field") {
            let known: Vec<&str> = expected.as_deref().map(quoted).into_iter().flatten().collect();
            return Diagnostic::error(format!("unknown field `{field}`"))
                .advice(suggest_field(field, &known));
        }
        if message.starts_with("missing field") {
            return Diagnostic::error(format!("missing field `{field}`")).advice(format!("add `{field}`"));
        }
    }
    let Some(expected) = expected else {
        return Diagnostic::error(message);
    };
    let advice = match expected.as_str() {
        "a boolean" => {
            "write `true` or `false` without quotes: yes, no, on and off are not booleans in YAML 1.2"
        }
        "a string" => "put the value in quotes",
        "a whole number" => "write a number without quotes",
        "a list" => "write a list: each item on a line of its own that begins with `- `",
        _ => "write the value as the API describes it",
    };
    Diagnostic::error(format!("{message}, expected {expected}")).advice(advice)
}

/// Translates names of Rust types into terms of YAML.
fn translate_type(expected: &str) -> String {
    match expected {
        "i64" | "u32" => "a whole number".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a mapping".to_owned(),
        other if other.starts_with("struct ") => "a mapping".to_owned(),
        other => other.to_owned(),
    }
}

fn suggest_field(field: &str, known: &[&str]) -> String {
    let near = known.iter().map(|name| (distance(field, name), *name)).min();
    match near {
        Some((edits, name)) if edits <= 2.min(name.len() / 2) => format!("did you mean `{name}`?"),
        Some(_) => format!("the fields here are `{}`", known.join("`, `")),
        None => "remove it".to_owned(),
    }
}

/// Returns the words in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Counts the letters to insert, remove or replace, ignoring case.
fn distance(a: &str, b: &str) -> usize {
    strsim::levenshtein(&a.to_ascii_lowercase(), &b.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_field_gets_the_nearest_name() {
        for (field, known, expected) in [
            ("host", &["sources", "hosts", "ports"][..], "did you mean `hosts`?"),
            ("ipaddresses", &["ipAddresses", "ports"], "did you mean `ipAddresses`?"),
            ("ip", &["sources", "hosts"], "the fields here are `sources`, `hosts`"),
            ("x", &[], "remove it"),
        ] {
            assert_eq!(suggest_field(field, known), expected, "{field}");
        }
    }
}
