//! The listing of every object of an API server.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{ApiServer, User};

/// Objects of every kind, as `KIND.GROUP NAMESPACE/NAME`, with their resource versions.
pub type Objects = BTreeMap<String, String>;

impl ApiServer<'_> {
    /// Lists every object of every kind that can be listed, except events.
    ///
    /// # Errors
    /// Fails if kubectl fails.
    pub fn objects(&self) -> Result<Objects> {
        let kinds = self.kubectl(User::Admin, &["api-resources", "--verbs=list", "-o", "name"])?;
        let kinds: Vec<&str> = kinds.lines().filter(|kind| !kind.starts_with("events")).collect();
        let list = self.kubectl(User::Admin, &["get", &kinds.join(","), "-A", "-o", "json"])?;
        let list: Value = serde_json::from_str(&list)?;
        let items = list["items"].as_array().context("a list without items")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(items
            .iter()
            .map(|object| {
                let group = text(&object["apiVersion"]);
                let group = group.split_once('/').map_or("", |(group, _)| group);
                let metadata = &object["metadata"];
                let id = format!(
                    "{}.{group} {}/{}",
                    text(&object["kind"]),
                    text(&metadata["namespace"]),
                    text(&metadata["name"])
                );
                (id, text(&metadata["resourceVersion"]))
            })
            .collect())
    }
}
