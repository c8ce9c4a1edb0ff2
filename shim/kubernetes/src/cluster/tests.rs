use std::collections::BTreeMap;

use egress_compile::CompileOptions;
use egress_compile::manifest::{Body, Kind};
use egress_compile::store::Change;
use kube::api::{ApiResource, DynamicObject};
use proptest::prelude::*;
use serde_json::{Value, json};

use tokio::sync::{mpsc, watch};

use super::WAITING;
use crate::cluster_cache::{ClusterCache, Event};
use crate::object::{self, Item};
use egress_core::source::Availability;

const KINDS: [Kind; 3] = [Kind::Namespace, Kind::Egress, Kind::ServiceAccount];

pub(crate) fn item(kind: Kind, namespace: &str, name: &str, rest: &Value) -> Item {
    let mut value = json!({ "metadata": {
        "name": name, "namespace": namespace, "resourceVersion": "7", "uid": "u",
        "managedFields": [{ "manager": "kubectl", "fieldsV1": { "f:spec": {} } }],
        "annotations": { "kubectl.kubernetes.io/last-applied-configuration": "{}" },
    }});
    let map = value.as_object_mut().expect("an object");
    for (key, part) in rest.as_object().into_iter().flatten() {
        if key == "labels" {
            map["metadata"]["labels"] = part.clone();
        } else {
            map.insert(key.clone(), part.clone());
        }
    }
    let object: DynamicObject = serde_json::from_value(value).expect("an object of an API server");
    let version = kind.versions()[0];
    let group = kind.group();
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let resource = ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version,
        kind: kind.to_string(),
        plural: String::new(),
    };
    object::read(kind, &resource, object)
}

pub(crate) fn namespace(name: &str, mesh: Option<&str>) -> Item {
    let labels: BTreeMap<&str, &str> =
        mesh.into_iter().map(|mesh| ("openservicemesh.io/monitored-by", mesh)).collect();
    item(Kind::Namespace, "", name, &json!({ "labels": labels, "status": { "phase": "Active" } }))
}

fn egress(namespace: &str, name: &str, host: &str) -> Item {
    let source = json!({ "kind": "ServiceAccount", "name": "a", "namespace": "b" });
    let spec =
        json!({ "sources": [source], "hosts": [host], "ports": [{ "number": 80, "protocol": "http" }] });
    item(Kind::Egress, namespace, name, &json!({ "spec": spec, "status": { "conditions": [] } }))
}

/// `kubectl apply` takes a field without a value out of an object that it changes, and only its note says that it was
/// there.
#[test]
fn lists_that_kubectl_took_out() {
    let read = |applied: &str| {
        let object = json!({
            "metadata": {
                "name": "p", "namespace": "n",
                "annotations": { "kubectl.kubernetes.io/last-applied-configuration": applied },
            },
            "spec": { "sources": [], "ports": [{ "number": 443, "protocol": "https" }] },
        });
        let resource = ApiResource {
            group: Kind::Egress.group().to_owned(),
            version: "v1alpha1".to_owned(),
            api_version: "policy.openservicemesh.io/v1alpha1".to_owned(),
            kind: "Egress".to_owned(),
            plural: String::new(),
        };
        let object: DynamicObject = serde_json::from_value(object).expect("an object of an API server");
        let Change::Read(parsed) = object::read(Kind::Egress, &resource, object).change else {
            panic!("{applied}")
        };
        let Body::Egress(egress) = &parsed.objects[0].body else { panic!("{applied}") };
        assert!(parsed.objects[0].metadata.annotations.as_ref().is_none_or(BTreeMap::is_empty));
        egress.hosts.clone()
    };
    assert_eq!(read(r#"{"spec":{"hosts":null}}"#), Some(vec![]));
    assert_eq!(read(r#"{"spec":{}}"#), None);
}

/// So does a current kubectl with an object that it creates, in lists as well.
#[test]
fn fields_of_routes_that_kubectl_took_out() {
    let read = |applied: &str| {
        let annotations = json!({ "kubectl.kubernetes.io/last-applied-configuration": applied });
        let object = json!({
            "metadata": { "name": "g", "namespace": "n", "annotations": annotations },
            "spec": { "matches": [{ "name": "m", "pathRegex": "/get" }] },
        });
        let resource = ApiResource {
            group: Kind::HttpRouteGroup.group().to_owned(),
            version: "v1alpha4".to_owned(),
            api_version: "specs.smi-spec.io/v1alpha4".to_owned(),
            kind: "HTTPRouteGroup".to_owned(),
            plural: String::new(),
        };
        let object: DynamicObject = serde_json::from_value(object).expect("an object of an API server");
        match object::read(Kind::HttpRouteGroup, &resource, object).change {
            Change::Read(parsed) => format!("{:?}", parsed.objects[0].body),
            other @ (Change::Unreadable(_) | Change::Void(_) | Change::Removed) => format!("{other:?}"),
        }
    };
    let whole = read(r#"{"spec":{"matches":[{"name":"m","pathRegex":"/get"}]}}"#);
    let other = read(r#"{"spec":{"matches":[{"name":"other","methods":null}]}}"#);
    assert_eq!(whole, other);
    for field in ["methods", "headers"] {
        let applied =
            format!(r#"{{"spec":{{"matches":[{{"name":"m","pathRegex":"/get","{field}":null}}]}}}}"#);
        assert_ne!(read(&applied), whole, "{field}");
    }
}

/// A finalizer may keep an object for hours after its deletion.
#[test]
fn an_egress_that_is_being_deleted_grants_nothing() {
    let deleted = |mut item: Item| {
        item.is_being_deleted = true;
        item
    };
    let other = || vec![egress("n", "p", "a.org"), deleted(egress("n", "q", "a.org"))];
    let mut cache = ready();
    list(&mut cache, Kind::Namespace, vec![namespace("n", Some("osm"))]);
    list(&mut cache, Kind::Egress, other());
    assert_eq!(files(&mut cache), ["Egress n/p", "Namespace n"]);
    cache.apply_event(Event::Applied(Kind::Egress, egress("n", "p", "b.org")));
    assert_eq!(files(&mut cache), ["Egress n/p", "Namespace n"]);
    cache.apply_event(Event::Applied(Kind::Egress, deleted(egress("n", "p", "b.org"))));
    assert_eq!(files(&mut cache), ["Namespace n"]);
    cache.apply_event(Event::Deleted(Kind::Egress, ("n".to_owned(), "p".to_owned())));
    assert_eq!(files(&mut cache), ["Namespace n"]);
}

/// The API server says by a timestamp that an object is being deleted.
#[test]
fn deletion_timestamps_are_read() {
    let value = json!({ "metadata": {
        "name": "p", "namespace": "n", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a.b/c"],
    }, "spec": {} });
    let object: DynamicObject = serde_json::from_value(value).expect("an object of an API server");
    let resource =
        ApiResource::from_gvk(&kube::api::GroupVersionKind::gvk(Kind::Egress.group(), "v1alpha1", "Egress"));
    assert!(object::read(Kind::Egress, &resource, object).is_being_deleted);
    assert!(!egress("n", "p", "a.org").is_being_deleted);
}

fn unreadable(namespace: &str, name: &str) -> Item {
    item(Kind::Egress, namespace, name, &json!({ "spec": { "sources": [], "ports": [], "host": "x" } }))
}

pub(crate) fn list(cache: &mut ClusterCache, kind: Kind, items: Vec<Item>) {
    cache.apply_event(Event::Begin(kind));
    for item in items {
        cache.apply_event(Event::Listed(kind, item));
    }
    cache.apply_event(Event::End(kind));
}

fn ready() -> ClusterCache {
    let mut cache = ClusterCache::new(&CompileOptions::default(), KINDS);
    for kind in KINDS {
        list(&mut cache, kind, vec![]);
    }
    cache
}

fn files(cache: &mut ClusterCache) -> Vec<String> {
    cache.publish().store.files().map(ToString::to_string).collect()
}

#[test]
fn no_status_is_written_before_all_is_read() {
    let mut cache = ClusterCache::new(&CompileOptions::default(), KINDS);
    list(&mut cache, Kind::Namespace, vec![namespace("n", Some("osm"))]);
    list(&mut cache, Kind::Egress, vec![egress("n", "p", "a.org")]);
    let state = cache.publish();
    assert!(state.store.is_empty());
    let expected = "the cluster was not read completely yet".to_owned();
    assert_eq!(state.availability, Availability::Unavailable { reason: expected });
    cache.apply_event(Event::WatchFailed(Kind::ServiceAccount, "no".to_owned()));
    assert_eq!(cache.publish().availability, Availability::Unavailable { reason: "no".to_owned() });
    cache.apply_event(Event::Absent(Kind::ServiceAccount));
    assert_eq!(cache.publish().availability, Availability::Available);
    assert_eq!(files(&mut cache), ["Egress n/p", "Namespace n"]);
    assert!(!cache.has_changed());
}

#[test]
fn only_namespaces_of_the_mesh_count() {
    let mut cache = ready();
    cache.apply_event(Event::Applied(Kind::Egress, egress("n", "p", "a.org")));
    cache.apply_event(Event::Applied(Kind::Egress, egress("other", "p", "a.org")));
    assert_eq!(files(&mut cache), [""; 0]);
    for (mesh, expected) in [
        (Some("osm"), &["Egress n/p", "Namespace n"][..]),
        (Some("another"), &["Namespace n"]),
        (Some("osm"), &["Egress n/p", "Namespace n"]),
        (None, &["Namespace n"]),
    ] {
        cache.apply_event(Event::Applied(Kind::Namespace, namespace("n", mesh)));
        assert_eq!(files(&mut cache), expected, "{mesh:?}");
    }
    cache.apply_event(Event::Applied(Kind::Namespace, namespace("n", Some("osm"))));
    cache.apply_event(Event::Deleted(Kind::Namespace, (String::new(), "n".to_owned())));
    assert_eq!(files(&mut cache), [""; 0]);
}

/// The mesh's own namespace has no sidecars, and so no label of the mesh.
#[test]
fn policies_of_named_namespaces_count_without_the_label() {
    let mut cache = ready();
    cache.apply_event(Event::Applied(Kind::Egress, egress("osm-system", "p", "a.org")));
    cache.apply_event(Event::Applied(
        Kind::ServiceAccount,
        item(Kind::ServiceAccount, "osm-system", "a", &json!({})),
    ));
    for mesh in [None, Some("osm"), Some("another")] {
        cache.apply_event(Event::Applied(Kind::Namespace, namespace("osm-system", mesh)));
        let count = files(&mut cache).iter().filter(|file| file.starts_with("Egress")).count();
        assert_eq!(count, 1, "{mesh:?}");
    }
    cache.apply_event(Event::Deleted(Kind::Egress, ("osm-system".to_owned(), "p".to_owned())));
    assert_eq!(files(&mut cache), ["Namespace osm-system"]);
}

#[test]
fn an_unreadable_object_harms_no_other_and_grants_nothing() {
    let mut cache = ready();
    cache.apply_event(Event::Applied(Kind::Namespace, namespace("n", Some("osm"))));
    cache.apply_event(Event::Applied(Kind::Egress, egress("n", "good", "a.org")));
    cache.apply_event(Event::Applied(Kind::Egress, egress("n", "turned", "b.org")));
    cache.apply_event(Event::Applied(Kind::Egress, unreadable("n", "turned")));
    cache.apply_event(Event::Applied(Kind::Egress, unreadable("n", "never")));
    let after = cache.publish().store;
    let count = |kind| after.index().objects.keys().filter(|object| object.kind == kind).count();
    assert_eq!((count(Kind::Namespace), count(Kind::Egress)), (1, 1));
    let problems: Vec<String> = after.diagnostics().map(|problem| problem.to_string()).collect();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[1].contains("Egress n/turned") && problems[1].contains("spec.host"), "{problems:?}");
    // It comes back as soon as it can be read, and goes when it is removed.
    cache.apply_event(Event::Applied(Kind::Egress, egress("n", "turned", "c.org")));
    cache.apply_event(Event::Deleted(Kind::Egress, ("n".to_owned(), "never".to_owned())));
    assert_eq!(cache.publish().store.diagnostics().count(), 0);
}

#[test]
fn what_others_write_is_no_change() {
    let mut cache = ready();
    cache.apply_event(Event::Applied(Kind::Namespace, namespace("n", Some("osm"))));
    cache.apply_event(Event::Applied(Kind::Egress, egress("n", "p", "a.org")));
    let _ = cache.publish();
    cache.apply_event(Event::Applied(Kind::Egress, egress("n", "p", "a.org")));
    list(&mut cache, Kind::Egress, vec![egress("n", "p", "a.org")]);
    assert!(!cache.has_changed());
    list(&mut cache, Kind::Egress, vec![]);
    assert!(cache.has_changed());
}

#[test]
fn while_the_server_is_away_the_state_stays() {
    let mut cache = ready();
    cache.apply_event(Event::Applied(Kind::Namespace, namespace("n", Some("osm"))));
    let before = cache.publish();
    cache.apply_event(Event::WatchFailed(Kind::Egress, "refused".to_owned()));
    cache.apply_event(Event::ServerUnavailable("gone".to_owned()));
    let away = cache.publish();
    assert_eq!(away.store, before.store);
    assert_eq!(away.availability, Availability::Unavailable { reason: "refused".to_owned() });
    cache.apply_event(Event::WatchRecovered(Kind::Egress));
    assert_eq!(cache.publish().availability, Availability::Unavailable { reason: "gone".to_owned() });
    cache.apply_event(Event::ServerAvailable);
    assert_eq!(cache.publish(), before);
}

/// A change of the cluster in a test.
#[derive(Clone, Debug)]
enum Step {
    Namespace(u8, bool),
    Egress(u8, u8, u8),
    Remove(Kind, u8, u8),
    Relist(Kind),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = prop::sample::select(vec![Kind::Namespace, Kind::Egress]);
    prop::collection::vec(
        prop_oneof![
            (0..3u8, any::<bool>()).prop_map(|(n, ours)| Step::Namespace(n, ours)),
            (0..3u8, 0..3u8, 0..3u8).prop_map(|(n, p, host)| Step::Egress(n, p, host)),
            (kind.clone(), 0..3u8, 0..3u8).prop_map(|(kind, n, p)| Step::Remove(kind, n, p)),
            kind.prop_map(Step::Relist),
        ],
        0..40,
    )
}

proptest! {
    /// Changes one by one, lists in between, and one list at the end say the same.
    #[test]
    fn changes_and_lists_give_equal_state(steps in steps()) {
        let mut now: BTreeMap<Kind, BTreeMap<object::Key, Item>> = BTreeMap::new();
        let mut live = ready();
        for step in steps {
            let applied = match step {
                Step::Namespace(n, ours) => {
                    (Kind::Namespace, namespace(&format!("n{n}"), ours.then_some("osm")))
                }
                Step::Egress(n, p, 0) => (Kind::Egress, unreadable(&format!("n{n}"), &format!("p{p}"))),
                Step::Egress(n, p, host) => {
                    (Kind::Egress, egress(&format!("n{n}"), &format!("p{p}"), &format!("h{host}.org")))
                }
                Step::Remove(kind, n, p) => {
                    let key = if kind == Kind::Namespace {
                        (String::new(), format!("n{n}"))
                    } else {
                        (format!("n{n}"), format!("p{p}"))
                    };
                    now.entry(kind).or_default().remove(&key);
                    live.apply_event(Event::Deleted(kind, key));
                    continue;
                }
                Step::Relist(kind) => {
                    let items = now.get(&kind).into_iter().flat_map(BTreeMap::values).cloned().collect();
                    list(&mut live, kind, items);
                    continue;
                }
            };
            now.entry(applied.0).or_default().insert(applied.1.key.clone(), applied.1.clone());
            live.apply_event(Event::Applied(applied.0, applied.1));
        }
        let mut fresh = ready();
        // The policies before the namespaces that make them count, which is the harder order.
        for kind in [Kind::Egress, Kind::Namespace] {
            let items = now.get(&kind).into_iter().flat_map(BTreeMap::values).cloned().collect();
            list(&mut fresh, kind, items);
        }
        prop_assert_eq!(live.publish(), fresh.publish());
    }
}

/// Publishes a burst of events in few states, and a single event at once.
#[tokio::test]
async fn a_burst_is_few_states() {
    let mut cache = ready();
    cache.apply_event(Event::Applied(Kind::Namespace, namespace("n", Some("osm"))));
    let (publish, mut states) = watch::channel(cache.publish());
    let (sender, events) = mpsc::channel(WAITING);
    for n in 0..500 {
        let event = Event::Applied(Kind::Egress, egress("n", &format!("p{n}"), "a.org"));
        sender.send(event).await.expect("room");
    }
    let statuses = watch::channel(crate::object::Statuses::default()).0;
    let task = tokio::spawn(super::run(cache, events, publish, statuses));
    let mut published = 0;
    while states.borrow_and_update().store.files().count() < 501 {
        states.changed().await.expect("a state");
        published += 1;
    }
    // One for each 15 ms that taking them in lasts, on a machine that has other things to do.
    assert!(published < 100, "{published} states of 500 events");
    let start = std::time::Instant::now();
    sender.send(Event::Deleted(Kind::Egress, ("n".to_owned(), "p7".to_owned()))).await.expect("room");
    states.changed().await.expect("a state");
    let took = start.elapsed();
    assert_eq!(states.borrow_and_update().store.files().count(), 500);
    // Some 3 ms, where the machine has time.
    assert!(took < std::time::Duration::from_millis(200), "{took:?}");
    drop(sender);
    task.await.expect("an end");
}
