//! The JSON of `/status`: the control plane writes it, and the command line reads it.
//!
//! A missing field is read as empty, so that a command line of one version can read the status of another.

use std::collections::BTreeMap;

use egress_core::policy_status::PolicyStatus;
use egress_core::proxies::Proxy;
use serde::{Deserialize, Serialize};

/// The state of a control plane at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// The version of the program.
    pub version: String,
    /// The reason for which the source cannot be read now.
    pub source_unavailable: Option<String>,
    /// True if proxies are served.
    pub serving: bool,
    /// The mode of connections that no rule allows, where neither an object nor an annotation sets one.
    pub mesh_mode: String,
    /// The result of reading each object.
    pub objects: Vec<ObjectStatus>,
    /// The conditions of each policy.
    pub policies: Vec<PolicyStatus>,
    /// All problems of objects and files.
    pub diagnostics: Vec<Diagnostic>,
    /// The identities that some policy names, and their documents.
    pub identities: BTreeMap<String, IdentityStatus>,
    /// The connected proxies.
    pub proxies: Vec<ProxyStatus>,
    /// True if proxies report their decisions (`serve --flow-log`).
    pub flow_log: bool,
}

/// A proxy, and what an operator should know about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyStatus {
    /// The proxy.
    #[serde(flatten)]
    pub proxy: Proxy,
    /// Warnings for an operator, as sentences.
    pub warnings: Vec<String>,
}

/// The document of one identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IdentityStatus {
    /// The document's version.
    pub document: String,
    /// Its mode.
    pub mode: String,
    /// The number of its rules.
    pub rules: usize,
}

/// A reference to an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ObjectName {
    /// The kind.
    pub kind: String,
    /// The namespace; empty for kinds that have none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// The name.
    pub name: String,
}

/// The result of reading an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectStatus {
    /// The object.
    pub object: ObjectName,
    /// The file that it stands in.
    pub file: String,
    /// The line on which it begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// True if none of its problems is an error, so that all of it applies.
    pub accepted: bool,
    /// The generation that a server gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// The number of rules that it contributes.
    pub rules: usize,
    /// Its problems.
    pub diagnostics: Vec<Diagnostic>,
}

/// A problem or hint, with its place and the remedy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Diagnostic {
    /// The severity: `error`, `warning` or `info`.
    pub severity: String,
    /// The file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line in that file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The column in that line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    /// The object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectName>,
    /// The path of the field in that object, as in `spec.ports[0].protocol`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The problem, in one line.
    pub message: String,
    /// The remedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl From<&egress_compile::manifest::ObjectRef> for ObjectName {
    fn from(object: &egress_compile::manifest::ObjectRef) -> Self {
        Self {
            kind: object.kind.as_str().to_owned(),
            namespace: object.namespace.clone(),
            name: object.name.clone(),
        }
    }
}

impl From<&egress_compile::ObjectStatus> for ObjectStatus {
    fn from(object: &egress_compile::ObjectStatus) -> Self {
        Self {
            object: ObjectName::from(&object.object),
            file: object.file.clone(),
            line: object.line,
            accepted: object.accepted,
            generation: object.generation,
            rules: object.rules,
            diagnostics: object.diagnostics.iter().map(Diagnostic::from).collect(),
        }
    }
}

impl From<&egress_compile::manifest::Diagnostic> for Diagnostic {
    fn from(problem: &egress_compile::manifest::Diagnostic) -> Self {
        Self {
            severity: problem.severity.as_str().to_owned(),
            file: problem.file.as_deref().map(str::to_owned),
            line: problem.position.map(|position| position.line),
            column: problem.position.map(|position| position.column),
            object: problem.object.as_ref().map(ObjectName::from),
            field: problem.field.clone(),
            message: problem.message.clone(),
            advice: problem.advice.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use egress_compile::store::{FileUpdate, Store};
    use egress_compile::{CompileOptions, compile};
    use serde_json::json;

    use super::*;

    /// The JSON of a status is that of the compiler's own types, which `check -o json` prints.
    #[test]
    fn the_json_equals_that_of_the_compiler() {
        let text = "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata: {name: p, namespace: n}\n\
            spec:\n  sources: [{kind: ServiceAccount, name: a, namespace: n}]\n  hosts: [a.org, \"*\"]\n  \
            ports: [{number: 443, protocol: htps}]\n";
        let mut store = Store::default();
        store.apply(FileUpdate::read("p.yaml".into(), text.as_bytes()));
        let compiled = compile(&store, &CompileOptions::default(), None);
        assert!(compiled.statuses.values().any(|object| !object.diagnostics.is_empty()));
        for object in compiled.statuses.values() {
            assert_eq!(json!(ObjectStatus::from(object)), json!(object));
            for problem in &object.diagnostics {
                assert_eq!(json!(Diagnostic::from(problem)), json!(problem));
            }
        }
    }

    /// A status of another version may lack fields, and have others.
    #[test]
    fn a_status_of_another_version_is_read() {
        let status: Status =
            serde_json::from_value(json!({ "flowLog": true, "new": 1, "proxies": [{ "node": "n" }] }))
                .expect("a status");
        assert!(status.flow_log);
        assert_eq!(status.proxies[0].proxy.node, "n");
    }
}
