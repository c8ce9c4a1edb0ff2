//! What serde says, in words that help.

use crate::manifest::Problem;

/// Makes a problem of an error of serde.
pub(super) fn explain(message: &str) -> Problem {
    let message = message.replace('"', "`").replace("``", "`");
    let (message, expected) = match message.split_once(", expected ") {
        Some((what, expected)) => {
            let what = what.replace("type: map", "type: mapping").replace("type: sequence", "type: list");
            (what, Some(plain(expected)))
        }
        None => (message, None),
    };
    if let Some(field) = quoted(&message).next() {
        if message.starts_with("unknown field") {
            let known: Vec<&str> = expected.as_deref().map(quoted).into_iter().flatten().collect();
            return Problem::error(format!("unknown field `{field}`")).advice(unknown_field(field, &known));
        }
        if message.starts_with("missing field") {
            return Problem::error(format!("missing field `{field}`")).advice(format!("add `{field}`"));
        }
    }
    let Some(expected) = expected else {
        return Problem::error(message);
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
    Problem::error(format!("{message}, expected {expected}")).advice(advice)
}

/// The names of Rust's types, in the words of YAML.
fn plain(expected: &str) -> String {
    match expected {
        "i64" | "u32" => "a whole number".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a mapping".to_owned(),
        other if other.starts_with("struct ") => "a mapping".to_owned(),
        other => other.to_owned(),
    }
}

fn unknown_field(field: &str, known: &[&str]) -> String {
    let near = known.iter().map(|name| (distance(field, name), *name)).min();
    match near {
        Some((edits, name)) if edits <= 2.min(name.len() / 2) => format!("did you mean `{name}`?"),
        Some(_) => format!("the fields here are `{}`", known.join("`, `")),
        None => "remove it".to_owned(),
    }
}

/// The words in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// How many letters must be inserted, removed or replaced, letter case aside.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(!from.eq_ignore_ascii_case(&to));
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.chars().count()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_field_is_named() {
        for (field, known, expected) in [
            ("host", &["sources", "hosts", "ports"][..], "did you mean `hosts`?"),
            ("ipaddresses", &["ipAddresses", "ports"], "did you mean `ipAddresses`?"),
            ("ip", &["sources", "hosts"], "the fields here are `sources`, `hosts`"),
            ("x", &[], "remove it"),
        ] {
            assert_eq!(unknown_field(field, known), expected, "{field}");
        }
    }
}
