//! The service account and its roles: `deploy/rbac.yaml`, and `deploy/console-write.yaml` for a console that writes.

use egress_compile::manifest::yaml;
use serde_json::{Value, json};

use crate::names::Names;

const ROLE_YAML: &str = include_str!("../../../../deploy/rbac.yaml");
const CONSOLE_WRITE_YAML: &str = include_str!("../../../../deploy/console-write.yaml");
/// The namespace in these files.
const TEMPLATE_NAMESPACE: &str = "osm-system";

/// The service account and its roles, for a namespace.
pub(super) fn role_objects(names: &Names) -> Vec<Value> {
    read_objects(ROLE_YAML, names)
}

/// The roles for a console that writes.
pub(super) fn console_write_objects(names: &Names) -> Vec<Value> {
    read_objects(CONSOLE_WRITE_YAML, names)
}

fn read_objects(text: &str, names: &Names) -> Vec<Value> {
    // The files are compiled in, and a test parses them.
    let documents = yaml::parse(text).unwrap_or_default();
    let mut objects: Vec<Value> = documents.into_iter().map(|document| document.value).collect();
    for object in &mut objects {
        replace_namespace(&mut object["metadata"], &names.namespace);
        for subject in object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
            replace_namespace(subject, &names.namespace);
        }
    }
    objects
}

fn replace_namespace(target: &mut Value, namespace: &str) {
    if target["namespace"] == TEMPLATE_NAMESPACE {
        target["namespace"] = json!(namespace);
    } else if let Some(map) = target.as_object_mut() {
        // Indexing has added a null where there was no namespace.
        map.retain(|_, value| !value.is_null());
    }
}

/// A single permission of the service account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Permission {
    pub(crate) namespace: Option<String>,
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) name: Option<String>,
    pub(crate) verb: String,
}

impl std::fmt::Display for Permission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { namespace, group, resource, verb, .. } = self;
        let dot = if group.is_empty() { "" } else { "." };
        write!(f, "{verb} {resource}{dot}{group}")?;
        namespace.iter().try_for_each(|namespace| write!(f, " in {namespace}"))
    }
}

/// Lists the permissions of the service account one by one.
pub(crate) fn list_permissions(names: &Names) -> Vec<Permission> {
    let list = |rule: &Value, key: &str| -> Vec<String> {
        rule[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut all = Vec::new();
    for object in role_objects(names) {
        let namespace = object["metadata"]["namespace"].as_str().map(str::to_owned);
        for rule in object["rules"].as_array().into_iter().flatten() {
            let mut only: Vec<Option<String>> = list(rule, "resourceNames").into_iter().map(Some).collect();
            if only.is_empty() {
                only.push(None);
            }
            for group in list(rule, "apiGroups") {
                for resource in list(rule, "resources") {
                    for verb in list(rule, "verbs") {
                        all.extend(only.iter().map(|name| Permission {
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
