//! The values that the user gives in files and settings.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use egress_compile::manifest::yaml;
use serde_json::{Value, json};

use super::{FREE_FORM_KEYS, Values, merge, resolve, set, table, unsupported};

/// The values that the user gave, with known keys only.
#[derive(Clone, Debug, PartialEq)]
pub struct UserValues {
    /// The values, as a tree.
    pub tree: Value,
    /// Warnings about values that have no effect.
    pub ignored: Vec<String>,
}

impl UserValues {
    /// Reads files, then settings; later ones override earlier ones.
    ///
    /// # Errors
    /// Fails when a file cannot be read, a setting is malformed, or a key is unknown.
    pub fn read(files: &[impl AsRef<Path>], settings: &[String]) -> Result<Self> {
        let mut tree = json!({});
        for file in files {
            let path = file.as_ref();
            merge(
                &mut tree,
                read_values_file(path)
                    .with_context(|| format!("cannot use the values of {}", path.display()))?,
            );
        }
        for setting in settings {
            set::apply_setting(&mut tree, setting).map_err(|why| anyhow!("`--set {setting}`: {why}"))?;
        }
        let mut ignored = Vec::new();
        filter_keys(&mut tree, &serde_json::to_value(Values::default())?, "", &mut ignored)?;
        // Finds wrong types while the file or setting is known.
        resolve(&tree)?;
        Ok(Self { tree, ignored })
    }
}

fn read_values_file(path: &Path) -> Result<Value> {
    let bytes = std::fs::read(path)?;
    let documents = yaml::parse_bytes(&bytes).map_err(|error| {
        let place = error.position.map(|at| format!("line {}: ", at.line)).unwrap_or_default();
        anyhow!("{place}{error}: {}", error.advice)
    })?;
    let mut documents = documents.into_iter().map(|document| document.value);
    match (documents.next(), documents.next()) {
        (None, _) => Ok(json!({})),
        (Some(value @ Value::Object(_)), None) => Ok(value),
        (Some(_), None) => bail!("it is not a mapping of keys to values"),
        (Some(_), Some(_)) => bail!("it contains several documents: use one file for each"),
    }
}

/// Removes the values of Open Service Mesh that have no effect, with a warning, and refuses unknown keys.
fn filter_keys(tree: &mut Value, known: &Value, path: &str, ignored: &mut Vec<String>) -> Result<()> {
    if FREE_FORM_KEYS.contains(&path) {
        return Ok(());
    }
    let (Value::Object(tree), Value::Object(known)) = (tree, known) else { return Ok(()) };
    for key in tree.keys().cloned().collect::<Vec<_>>() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        if let Some(below) = known.get(&key) {
            filter_keys(tree.get_mut(&key).unwrap_or(&mut Value::Null), below, &path, ignored)?;
        } else if let Some(why) = unsupported::find_reason(&path) {
            tree.remove(&key);
            ignored.push(format!("value `{path}` of Open Service Mesh has no effect: {why}"));
        } else {
            let near =
                find_similar_key(&path).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            bail!("value `{path}` is unknown{near}; docs/install.md lists all values");
        }
    }
    Ok(())
}

/// Finds the known key that is most similar to a text.
fn find_similar_key(path: &str) -> Option<String> {
    let lower = path.to_lowercase();
    let supported = table().into_iter().map(|(key, _)| key);
    supported
        .chain(unsupported::UNSUPPORTED_KEYS.iter().map(|(key, _)| (*key).to_owned()))
        .map(|key| (strsim::normalized_damerau_levenshtein(&lower, &key.to_lowercase()), key))
        .filter(|(similarity, _)| *similarity > 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, key)| key)
}
