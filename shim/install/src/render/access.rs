//! The service account and what it may do: `deploy/rbac.yaml`, and `deploy/console-write.yaml` where that is asked for.

use egress_compile::manifest::yaml;
use serde_json::{Value, json};

use crate::names::Names;

const ROLE: &str = include_str!("../../../../deploy/rbac.yaml");
const WRITING: &str = include_str!("../../../../deploy/console-write.yaml");
/// The namespace that it is written for.
const WRITTEN_FOR: &str = "osm-system";

/// Its objects, for a namespace.
pub(super) fn objects(names: &Names) -> Vec<Value> {
    read(ROLE, names)
}

/// What lets the console write.
pub(super) fn writing(names: &Names) -> Vec<Value> {
    read(WRITING, names)
}

fn read(text: &str, names: &Names) -> Vec<Value> {
    // A test reads them.
    let documents = yaml::parse(text).unwrap_or_default();
    let mut objects: Vec<Value> = documents.into_iter().map(|document| document.value).collect();
    for object in &mut objects {
        rename(&mut object["metadata"], &names.namespace);
        for subject in object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
            rename(subject, &names.namespace);
        }
    }
    objects
}

fn rename(of: &mut Value, namespace: &str) {
    if of["namespace"] == WRITTEN_FOR {
        of["namespace"] = json!(namespace);
    } else if let Some(map) = of.as_object_mut() {
        // Indexing made one where there was none.
        map.retain(|_, value| !value.is_null());
    }
}

/// One thing that the service account may do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rule {
    pub(crate) namespace: Option<String>,
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) name: Option<String>,
    pub(crate) verb: String,
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { namespace, group, resource, verb, .. } = self;
        let dot = if group.is_empty() { "" } else { "." };
        write!(f, "{verb} {resource}{dot}{group}")?;
        namespace.iter().try_for_each(|namespace| write!(f, " in {namespace}"))
    }
}

/// Everything that it may do, one by one.
pub(crate) fn rules(names: &Names) -> Vec<Rule> {
    let list = |rule: &Value, key: &str| -> Vec<String> {
        rule[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut all = Vec::new();
    for object in objects(names) {
        let namespace = object["metadata"]["namespace"].as_str().map(str::to_owned);
        for rule in object["rules"].as_array().into_iter().flatten() {
            let mut only: Vec<Option<String>> = list(rule, "resourceNames").into_iter().map(Some).collect();
            if only.is_empty() {
                only.push(None);
            }
            for group in list(rule, "apiGroups") {
                for resource in list(rule, "resources") {
                    for verb in list(rule, "verbs") {
                        all.extend(only.iter().map(|name| Rule {
                            namespace: namespace.clone(),
                            group: group.clone(),
                            resource: resource.clone(),
                            name: name.clone(),
                            verb: verb.clone(),
                        }));
                    }
                }
            }
        }
    }
    all
}
