//! Conversion of an object of the API server to one of ours, by the same reader as for files.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::api::{ApiResource, DynamicObject};
use serde_json::{Map, Value, json};

use egress_compile::manifest::{Kind, LAST_APPLIED, ObjectRef, Revision, parse_value, restore_empty_fields};
use egress_compile::store::Change;

/// The prefix of our annotations. Others do not matter, and some change all the time.
const OURS: &str = "openservicemesh.io/";

/// The key of an object: namespace (empty for kinds that have none) and name.
pub(crate) type Key = (String, String);

/// An object as it is now.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    /// The key.
    pub(crate) key: Key,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Its content, or why that cannot be read.
    pub(crate) change: Change,
    /// Its status.
    pub(crate) status: Observed,
    /// True from its deletion on, which finalizers may delay.
    pub(crate) is_being_deleted: bool,
}

/// The status of an object, as the API server has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Observed {
    /// The unique identifier.
    pub(crate) uid: String,
    /// The generation: counts changes of the specification.
    pub(crate) generation: Option<i64>,
    /// `status.conditions`.
    pub(crate) conditions: Value,
    /// `status.programmed`.
    pub(crate) programmed: Option<String>,
}

/// The statuses of policies, by their keys.
pub(crate) type Statuses = Arc<BTreeMap<Key, Arc<Observed>>>;

/// The key of an object.
pub(super) fn key(object: &DynamicObject) -> Key {
    let metadata = &object.metadata;
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

/// The name of an object in problems.
pub(super) fn file(kind: Kind, (namespace, name): &Key) -> Arc<str> {
    ObjectRef::new(kind, namespace, name).to_string().into()
}

/// Returns whether an annotation is one of ours.
#[must_use]
pub fn is_ours(annotation: &str) -> bool {
    annotation.starts_with(OURS)
}

/// Reads an object.
pub(crate) fn read(kind: Kind, resource: &ApiResource, object: DynamicObject) -> Item {
    let key = key(&object);
    let is_being_deleted = object.metadata.deletion_timestamp.is_some();
    let labels = object.metadata.labels.unwrap_or_default();
    let mut ours = object.metadata.annotations.unwrap_or_default();
    // It changes with whatever is applied, so only what it says of empty fields is kept.
    let applied = ours.remove(LAST_APPLIED);
    let ours: BTreeMap<String, String> = ours.into_iter().filter(|(name, _)| is_ours(name)).collect();
    let mut map = if let Value::Object(map) = object.data { map } else { Map::new() };
    restore_empty_fields(kind, &mut map, applied.as_deref());
    // Others write it, and it says nothing that is asked for: it must not look like a change.
    let mut status = map.remove("status").unwrap_or_default();
    let conditions = status.get_mut("conditions").map(Value::take).unwrap_or_default();
    let programmed = status["programmed"].as_str().map(str::to_owned);
    let uid = object.metadata.uid.unwrap_or_default();
    let revision =
        Revision { uid: uid.clone(), version: object.metadata.resource_version.clone().unwrap_or_default() };
    let observed = Observed { uid, generation: object.metadata.generation, conditions, programmed };
    if kind == Kind::Pod {
        // Of a pod it says which addresses are its own.
        let [phase, addresses] = ["phase", "podIPs"].map(|field| status[field].take());
        map.insert("status".to_owned(), json!({"phase": phase, "podIPs": addresses}));
    }
    // What a list holds does not say what it is.
    map.insert("apiVersion".to_owned(), json!(resource.api_version));
    map.insert("kind".to_owned(), json!(resource.kind));
    map.insert(
        "metadata".to_owned(),
        json!({
            "namespace": key.0, "name": key.1, "labels": labels, "annotations": ours,
            "generation": object.metadata.generation,
            "creationTimestamp": object.metadata.creation_timestamp,
        }),
    );
    let change = match parse_value(&file(kind, &key), Value::Object(map)) {
        Ok(mut parsed) => {
            for object in &mut parsed.objects {
                Arc::make_mut(object).metadata.revision = revision.clone();
            }
            Change::Read(parsed)
        }
        // What a control plane that starts now would not know must not count (decision 25).
        Err(problems) => Change::Void(problems),
    };
    Item { key, labels, change, status: observed, is_being_deleted }
}
