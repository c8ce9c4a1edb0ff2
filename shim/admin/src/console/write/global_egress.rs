//! The switch of global egress in the text of a manifest: replaces one word, or nothing.

use egress_compile::manifest::{Object, Position, yaml};
use serde_json::Value;

const SWITCH_KEY: &str = "enableEgress";
const SWITCH_FIELD: &str = "spec.traffic.enableEgress";
/// Spellings of the switch.
const SWITCH_WORDS: [(&str, bool); 2] = [("true", true), ("false", false)];

/// Replaces the switch; returns the reason if it cannot be replaced exactly. Parsing the new text must give the same
/// value as the old one, except for the switch.
pub(super) fn replace_switch(bytes: &[u8], object: &Object, on: bool) -> Result<String, &'static str> {
    const CHANGED: &str = "the file has changed since it was read";
    let text = std::str::from_utf8(bytes).map_err(|_| CHANGED)?;
    let at = object.position(SWITCH_FIELD).ok_or(CHANGED)?;
    let key = byte_offset(text, at).ok_or(CHANGED)?;
    let value = find_value(text, key).ok_or("the value is not a plain `true` or `false`")?;
    let (word, _) = SWITCH_WORDS
        .into_iter()
        .find(|(word, _)| text[value..].strip_prefix(word).is_some_and(is_word_end))
        .ok_or("the value is not a plain `true` or `false`")?;
    let new = format!("{}{on}{}", &text[..value], &text[value + word.len()..]);
    if is_the_same(text, &new, object, on) { Ok(new) } else { Err("the value cannot be replaced on its own") }
}

/// Converts line and column to a byte offset.
fn byte_offset(text: &str, at: Position) -> Option<usize> {
    let (line, column) = (usize::try_from(at.line).ok()?, usize::try_from(at.column).ok()?);
    let start: usize = text.split_inclusive('\n').take(line.checked_sub(1)?).map(str::len).sum();
    let (within, _) = text.get(start..)?.char_indices().nth(column.checked_sub(1)?)?;
    Some(start + within)
}

/// Finds the value of the key at this offset, on the same line.
fn find_value(text: &str, key: usize) -> Option<usize> {
    let rest = &text[key..];
    let quote = ['"', '\''].into_iter().find(|quote| rest.starts_with(*quote));
    let mut behind = match quote {
        Some(quote) => rest[1..].strip_prefix(SWITCH_KEY)?.strip_prefix(quote)?,
        None => rest.strip_prefix(SWITCH_KEY)?,
    };
    behind = behind.trim_start_matches([' ', '\t']).strip_prefix(':')?.trim_start_matches([' ', '\t']);
    Some(text.len() - behind.len())
}

/// Returns true if a plain word ends here.
fn is_word_end(rest: &str) -> bool {
    rest.chars().next().is_none_or(|c| c.is_whitespace() || [',', '}', ']'].contains(&c))
}

fn is_the_same(before: &str, after: &str, object: &Object, on: bool) -> bool {
    let (Ok(before), Ok(after)) = (yaml::parse(before), yaml::parse(after)) else { return false };
    let different: Vec<_> = before.iter().zip(&after).filter(|(old, new)| old.value != new.value).collect();
    let is_switched = |old: &Value, new: &Value| {
        let mut wanted = old.clone();
        if let Some(switch) = wanted.pointer_mut("/spec/traffic/enableEgress") {
            *switch = Value::Bool(on);
        }
        wanted == *new && new["metadata"]["name"] == object.reference.name.as_str()
    };
    before.len() == after.len()
        && different.len() <= 1
        && different.iter().all(|(old, new)| is_switched(&old.value, &new.value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use egress_compile::manifest::parse;

    fn replace_switch_in(text: &str, on: bool) -> Result<String, &'static str> {
        let parsed = parse(&"mesh.yaml".into(), text.as_bytes()).expect("valid");
        let object = parsed.objects.iter().find(|object| object.reference.name == "osm-mesh-config");
        replace_switch(text.as_bytes(), object.expect("a MeshConfig"), on)
    }

    fn mesh(spec: &str) -> String {
        format!(
            "apiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\n\
             metadata: {{name: osm-mesh-config, namespace: osm-system}}\nspec: {spec}\n"
        )
    }

    #[test]
    fn one_word_is_replaced() {
        for spec in [
            "{traffic: {enableEgress: false}}",
            "{traffic: {enableEgress: false, enablePermissiveTrafficPolicyMode: false}}",
            "{traffic: {enablePermissiveTrafficPolicyMode: false, 'enableEgress': false }}",
            "{\"traffic\":{\"enableEgress\":false}}",
            "\n  traffic:\n    enableEgress:   false   # enableEgress: false",
            "\r\n  traffic:\r\n    enableEgress: false\r",
            "\n  observability: {x: 'ü \u{1f600}'}\n  traffic: {enableEgress: false}",
            "{observability: {x: 'ü \u{1f600}'}, traffic: {enableEgress: false}}",
        ] {
            let text = mesh(spec);
            let at = text.find("enableEgress").expect("there");
            let at = at + text[at..].find("false").expect("there");
            let expected = format!("{}true{}", &text[..at], &text[at + 5..]);
            assert_eq!(replace_switch_in(&text, true), Ok(expected.clone()), "{spec}");
            assert_eq!(replace_switch_in(&expected, false), Ok(text.clone()), "{spec}");
            assert_eq!(replace_switch_in(&text, false), Ok(text.clone()), "as it is already: {spec}");
        }
        let text = format!(
            "# enableEgress: false\n---\n{}---\n{}",
            mesh("{traffic: {enableEgress: false}}").replace("name: osm-mesh-config", "name: other"),
            mesh("{traffic: {enableEgress: false}}")
        );
        let new = replace_switch_in(&text, true).expect("switched");
        assert!(
            new.ends_with("{traffic: {enableEgress: true}}\n")
                && new.matches("enableEgress: true").count() == 1
        );
        let marked = format!("\u{feff}{}", mesh("{traffic: {enableEgress: false}}"));
        assert_eq!(replace_switch_in(&marked, true), Ok(marked.replace("false", "true")));
    }

    #[test]
    fn an_unusual_switch_is_not_replaced() {
        for spec in [
            "{traffic: {enableEgress: &a false, enablePermissiveTrafficPolicyMode: *a }}",
            "{traffic: {enablePermissiveTrafficPolicyMode: &a false, enableEgress: *a }}",
            "{traffic: {enableEgress: !!bool false}}",
            "\n  traffic:\n    enableEgress:\n      false",
            "\n  traffic:\n    ? enableEgress\n    : false",
        ] {
            let found = replace_switch_in(&mesh(spec), true);
            assert_eq!(found, Err("the value is not a plain `true` or `false`"), "{spec}");
        }
        let text = mesh("&s {traffic: {enableEgress: false}}");
        let twice = format!("{text}x: *s\n");
        if let Ok(parsed) = parse(&"mesh.yaml".into(), twice.as_bytes()) {
            assert!(replace_switch(twice.as_bytes(), &parsed.objects[0], true).is_err());
        }
        // The text has changed since it was parsed.
        let parsed = parse(&"mesh.yaml".into(), text.as_bytes()).expect("valid");
        for other in ["", "x", &format!("\n{text}"), &text.replace("enableEgress", "enableegress")] {
            assert!(replace_switch(other.as_bytes(), &parsed.objects[0], true).is_err(), "{other}");
        }
    }
}
