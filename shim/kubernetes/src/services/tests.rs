use std::collections::BTreeMap;

use egress_compile::CompileOptions;
use egress_compile::manifest::spec::Backends;
use egress_compile::manifest::{Body, Kind, ObjectRef};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::object::{Item, Key};
use super::{DISTRUST, GRACE};
use crate::cluster::tests::{item, list, namespace};
use crate::cluster_cache::{ClusterCache, Event};

const KINDS: [Kind; 4] = [Kind::Namespace, Kind::Service, Kind::Pod, Kind::EndpointSlice];

fn pod(namespace: &str, name: &str, addresses: &[&str], more: &Value) -> Item {
    let addresses: Vec<Value> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
    let mut rest = json!({
        "labels": { "app": "a" },
        "spec": { "serviceAccountName": "a", "containers": [] },
        "status": { "phase": "Running", "podIPs": addresses },
    });
    json_patch::merge(&mut rest, more);
    item(Kind::Pod, namespace, name, &rest)
}

fn service(name: &str, address: &str) -> Item {
    let spec = json!({ "clusterIP": address, "selector": { "app": "a" }, "ports": [{ "port": 80 }] });
    item(Kind::Service, "n", name, &json!({ "spec": spec }))
}

fn slice(name: &str, service: &str, endpoints: &Value) -> Item {
    let labels = json!({ "kubernetes.io/service-name": service });
    let ports = json!([{ "port": 8080, "protocol": "TCP" }]);
    let rest = json!({ "labels": labels, "addressType": "IPv4", "endpoints": endpoints, "ports": ports });
    item(Kind::EndpointSlice, "n", name, &rest)
}

fn of_pod(address: &str, pod: &str) -> Value {
    json!({ "addresses": [address], "targetRef": { "kind": "Pod", "namespace": "n", "name": pod } })
}

/// A mesh with namespace `n`, and pod `p` in it.
fn ready() -> ClusterCache {
    let mut cache = ClusterCache::new(&CompileOptions::default(), KINDS);
    for kind in KINDS {
        list(&mut cache, kind, vec![]);
    }
    cache.apply_event(Event::Applied(Kind::Namespace, namespace("n", Some("osm"))));
    cache.apply_event(Event::Applied(Kind::Pod, pod("n", "p", &["10.0.0.1", "fd00::1"], &json!({}))));
    let _ = cache.publish();
    cache
}

fn apply(cache: &mut ClusterCache, kind: Kind, item: Item) {
    cache.apply_event(Event::Applied(kind, item));
}

fn delete(cache: &mut ClusterCache, kind: Kind, name: &str) {
    cache.apply_event(Event::Deleted(kind, ("n".to_owned(), name.to_owned())));
}

fn backends(cache: &mut ClusterCache, name: &str) -> Option<Backends> {
    let store = cache.publish().store;
    let object = store.object(&ObjectRef::new(Kind::Service, "n", name))?;
    if let Body::Service(service) = &object.body { service.backends.clone() } else { None }
}

fn untrusted_reason(cache: &mut ClusterCache) -> Option<String> {
    backends(cache, "s").expect("a service").untrusted_reason
}

/// The API server answers so often.
fn ticks(cache: &mut ClusterCache, count: u8) {
    for _ in 0..count {
        cache.apply_event(Event::ServerAvailable);
    }
}

#[test]
fn only_a_pods_own_address_is_in_the_mesh() {
    let as_described = |kind: &str, namespace: &str, name: &str| {
        let target = json!({ "kind": kind, "namespace": namespace, "name": name });
        json!([{ "addresses": ["10.0.0.1"], "targetRef": target }])
    };
    for (what, endpoints, is_pod) in [
        ("nothing", json!([]), true),
        ("the pod", json!([of_pod("10.0.0.1", "p")]), true),
        ("its other address", json!([of_pod("fd00::1", "p")]), true),
        ("the same in other letters", json!([of_pod("FD00:0::1", "p")]), true),
        ("the pod twice", json!([of_pod("10.0.0.1", "p"), of_pod("10.0.0.1", "p")]), true),
        ("an address that it has not", json!([of_pod("198.51.100.7", "p")]), false),
        ("one of two", json!([of_pod("10.0.0.1", "p"), of_pod("198.51.100.7", "p")]), false),
        ("no pod", json!([{ "addresses": ["10.0.0.1"] }]), false),
        ("a pod that there is not", json!([of_pod("10.0.0.1", "q")]), false),
        ("another kind", as_described("Node", "n", "p"), false),
        ("another namespace", as_described("Pod", "other", "p"), false),
        (
            "no namespace",
            json!([{ "addresses": ["10.0.0.1"], "targetRef": { "kind": "Pod", "name": "p" } }]),
            false,
        ),
        ("its node's address", json!([of_pod("192.0.2.1", "host")]), false),
        ("what it had", json!([of_pod("10.0.0.3", "done")]), false),
        ("a name", json!([of_pod("example.org", "p")]), false),
        ("what cannot be read", json!([{ "addresses": 5 }]), false),
    ] {
        let mut cache = ready();
        apply(&mut cache, Kind::Namespace, namespace("other", Some("osm")));
        apply(&mut cache, Kind::Pod, pod("other", "p", &["10.0.0.1"], &json!({})));
        let host = json!({ "spec": { "hostNetwork": true } });
        apply(&mut cache, Kind::Pod, pod("n", "host", &["192.0.2.1"], &host));
        let done = json!({ "status": { "phase": "Succeeded" } });
        apply(&mut cache, Kind::Pod, pod("n", "done", &["10.0.0.3"], &done));
        for (name, address) in [("s", "10.96.0.1"), ("headless", "None")] {
            apply(&mut cache, Kind::Service, service(name, address));
            apply(&mut cache, Kind::EndpointSlice, slice(name, name, &endpoints));
        }
        let found = backends(&mut cache, "headless").expect("a service");
        assert_eq!(
            (untrusted_reason(&mut cache).is_none(), found.untrusted_reason.is_none()),
            (is_pod, is_pod),
            "{what}"
        );
        // What is no pod's is not in the mesh, and what is a pod's is all the same.
        let addresses: Vec<String> =
            found.endpoints.iter().flat_map(|(addresses, _)| addresses).map(ToString::to_string).collect();
        assert!(addresses.iter().all(|address| ["10.0.0.1", "fd00::1"].contains(&&**address)), "{what}");
        assert_eq!(addresses.is_empty(), !is_pod && what != "one of two" || what == "nothing", "{what}");
    }
}

#[test]
fn the_first_endpoint_that_is_no_pod_is_named() {
    let mut cache = ready();
    apply(&mut cache, Kind::Service, service("s", "10.96.0.1"));
    let foreign = json!([{ "addresses": ["198.51.100.7"] }, { "addresses": ["198.51.100.8"] }]);
    apply(&mut cache, Kind::EndpointSlice, slice("x", "s", &foreign));
    let expected =
        "EndpointSlice `x` has `198.51.100.7` (and 1 more), which is not the own address of a pod here";
    assert_eq!(untrusted_reason(&mut cache).as_deref(), Some(expected));
    // A slice of another service says nothing about this one.
    apply(&mut cache, Kind::EndpointSlice, slice("x", "another", &foreign));
    assert_eq!(untrusted_reason(&mut cache), None);
}

#[test]
fn without_slices_nobody_knows() {
    let mut cache = ready();
    apply(&mut cache, Kind::Service, service("s", "10.96.0.1"));
    assert_eq!(untrusted_reason(&mut cache), None);
    cache.apply_event(Event::Absent(Kind::EndpointSlice));
    assert!(untrusted_reason(&mut cache).expect("a untrusted_reason").contains("has no EndpointSlices"));
    list(&mut cache, Kind::EndpointSlice, vec![slice("x", "s", &json!([of_pod("10.0.0.1", "p")]))]);
    assert_eq!(untrusted_reason(&mut cache), None);
}

/// Slices and pods come by different watches.
#[test]
fn a_slice_before_its_pod() {
    let mut cache = ready();
    let q = || pod("n", "q", &["10.0.0.2"], &json!({}));
    let both = json!([of_pod("10.0.0.1", "p"), of_pod("10.0.0.2", "q")]);
    // A new service is closed until the pod is known.
    apply(&mut cache, Kind::Service, service("s", "10.96.0.1"));
    apply(&mut cache, Kind::EndpointSlice, slice("x", "s", &both));
    assert!(untrusted_reason(&mut cache).is_some() && cache.is_waiting());
    apply(&mut cache, Kind::Pod, q());
    assert!(untrusted_reason(&mut cache).is_none() && !cache.is_waiting());
    // One that was good stays so for a moment.
    let more = json!([of_pod("10.0.0.1", "p"), of_pod("10.0.0.9", "late")]);
    apply(&mut cache, Kind::EndpointSlice, slice("x", "s", &more));
    assert!(untrusted_reason(&mut cache).is_none() && cache.is_waiting());
    apply(&mut cache, Kind::Pod, pod("n", "late", &[], &json!({})));
    assert!(untrusted_reason(&mut cache).is_none() && cache.is_waiting());
    apply(&mut cache, Kind::Pod, pod("n", "late", &["10.0.0.9"], &json!({})));
    assert!(untrusted_reason(&mut cache).is_none() && !cache.is_waiting());
    // Not for what names no pod.
    let foreign = json!([{ "addresses": ["198.51.100.7"] }, of_pod("10.0.0.8", "never")]);
    apply(&mut cache, Kind::EndpointSlice, slice("x", "s", &foreign));
    assert!(untrusted_reason(&mut cache).is_some() && !cache.is_waiting());
    // And who has it waited for in vain is not waited for again soon.
    apply(&mut cache, Kind::EndpointSlice, slice("x", "s", &both));
    assert!(untrusted_reason(&mut cache).is_none());
    let never = json!([of_pod("198.51.100.7", "never")]);
    apply(&mut cache, Kind::EndpointSlice, slice("x", "s", &never));
    assert!(untrusted_reason(&mut cache).is_none() && cache.is_waiting());
    cache.give_up();
    assert!(untrusted_reason(&mut cache).is_some() && !cache.is_waiting());
    apply(&mut cache, Kind::EndpointSlice, slice("x", "s", &both));
    assert!(untrusted_reason(&mut cache).is_none());
    apply(&mut cache, Kind::EndpointSlice, slice("x", "s", &never));
    assert!(untrusted_reason(&mut cache).is_some() && !cache.is_waiting());
    ticks(&mut cache, DISTRUST);
    apply(&mut cache, Kind::EndpointSlice, slice("x", "s", &both));
    let _ = cache.publish();
    apply(&mut cache, Kind::EndpointSlice, slice("x", "s", &never));
    assert!(untrusted_reason(&mut cache).is_none() && cache.is_waiting());
}

/// A list of pods takes long. What slices name that came meanwhile is a moment away.
#[test]
fn the_first_state_waits_for_pods() {
    let mut cache = ClusterCache::new(&CompileOptions::default(), KINDS);
    list(&mut cache, Kind::Namespace, vec![namespace("n", Some("osm"))]);
    list(&mut cache, Kind::Service, vec![service("s", "10.96.0.1")]);
    list(&mut cache, Kind::EndpointSlice, vec![slice("x", "s", &json!([of_pod("10.0.0.1", "p")]))]);
    list(&mut cache, Kind::Pod, vec![]);
    assert!(!cache.publish().availability.is_available());
    apply(&mut cache, Kind::Pod, pod("n", "p", &["10.0.0.1"], &json!({})));
    assert!(cache.has_changed() && cache.publish().availability.is_available());
    assert_eq!(untrusted_reason(&mut cache), None);
    let mut cache = ClusterCache::new(&CompileOptions::default(), KINDS);
    list(&mut cache, Kind::Namespace, vec![namespace("n", Some("osm"))]);
    list(&mut cache, Kind::Service, vec![service("s", "10.96.0.1")]);
    list(&mut cache, Kind::EndpointSlice, vec![slice("x", "s", &json!([of_pod("10.0.0.1", "p")]))]);
    list(&mut cache, Kind::Pod, vec![]);
    assert!(!cache.publish().availability.is_available());
    cache.give_up();
    assert!(cache.has_changed() && cache.publish().availability.is_available());
    assert!(untrusted_reason(&mut cache).is_some());
}

/// A slice is corrected a moment after its pod is gone.
#[test]
fn a_pod_that_has_ended_counts_for_a_moment() {
    let finished = || pod("n", "p", &["10.0.0.1"], &json!({ "status": { "phase": "Failed" } }));
    let with_slice = || {
        let mut cache = ready();
        apply(&mut cache, Kind::Pod, pod("n", "another-like-it", &[], &json!({})));
        apply(&mut cache, Kind::Service, service("s", "10.96.0.1"));
        apply(&mut cache, Kind::EndpointSlice, slice("x", "s", &json!([of_pod("10.0.0.1", "p")])));
        assert_eq!(untrusted_reason(&mut cache), None);
        cache
    };
    let ends: [fn(&mut ClusterCache, Item); 2] =
        [|cache, _| delete(cache, Kind::Pod, "p"), |cache, item| apply(cache, Kind::Pod, item)];
    for end in ends {
        let mut cache = with_slice();
        end(&mut cache, finished());
        ticks(&mut cache, GRACE - 1);
        assert!(!cache.has_changed() && untrusted_reason(&mut cache).is_none());
        ticks(&mut cache, 1);
        cache.give_up();
        let _ = cache.publish();
        cache.give_up();
        assert!(untrusted_reason(&mut cache).is_some());
        // Until another has the address.
        let mut cache = with_slice();
        end(&mut cache, finished());
        apply(&mut cache, Kind::Pod, pod("elsewhere", "z", &["10.0.0.1"], &json!({})));
        let _ = cache.publish();
        cache.give_up();
        assert!(untrusted_reason(&mut cache).is_some());
    }
    // It was named by no slice, so there is nothing to correct.
    let mut cache = ready();
    delete(&mut cache, Kind::Pod, "p");
    apply(&mut cache, Kind::Service, service("s", "10.96.0.1"));
    apply(&mut cache, Kind::EndpointSlice, slice("x", "s", &json!([of_pod("10.0.0.1", "p")])));
    assert!(untrusted_reason(&mut cache).is_some());
}

/// Pods come and go all the time. The store changes when what is in the mesh does.
#[test]
fn pods_that_make_no_difference() {
    let mut cache = ready();
    apply(&mut cache, Kind::Service, service("s", "10.96.0.1"));
    apply(&mut cache, Kind::EndpointSlice, slice("x", "s", &json!([of_pod("10.0.0.1", "p")])));
    let _ = cache.publish();
    let same =
        json!({ "metadata": { "resourceVersion": "8" }, "status": { "conditions": [{ "type": "Ready" }] } });
    let other = json!({ "labels": { "app": "b" } });
    for (name, addresses, more) in [
        ("p", &["10.0.0.1", "fd00::1"][..], &same),
        ("another-like-it", &["10.0.0.2"], &json!({})),
        ("of-no-service", &["10.0.0.3"], &other),
    ] {
        apply(&mut cache, Kind::Pod, pod("n", name, addresses, more));
        assert!(!cache.has_changed(), "{name}");
    }
    // Nor do those that a service with an address has more of.
    let both = json!([of_pod("10.0.0.1", "p"), of_pod("10.0.0.2", "another-like-it")]);
    let before = cache.publish().store;
    apply(&mut cache, Kind::EndpointSlice, slice("x", "s", &both));
    apply(&mut cache, Kind::Pod, pod("elsewhere", "p", &["10.0.0.4"], &json!({})));
    for name in ["another-like-it", "of-no-service"] {
        delete(&mut cache, Kind::Pod, name);
    }
    assert!(!cache.has_changed());
    assert_eq!(cache.publish().store, before);
    // One of another service account does.
    let account = json!({ "spec": { "serviceAccountName": "b" } });
    apply(&mut cache, Kind::Pod, pod("n", "q", &[], &account));
    assert!(cache.has_changed());
    let accounts = backends(&mut cache, "s").expect("a service").accounts;
    assert_eq!(accounts.into_iter().collect::<Vec<_>>(), ["a", "b"]);
}

/// A rollout of thousands of pods costs what it changes.
#[test]
fn a_rollout_of_thousands_of_pods() {
    const PODS: usize = 5000;
    let address = |n: usize| format!("10.{}.{}.{}", n >> 16, (n >> 8) & 255, n & 255);
    let of = |n: usize| pod("n", &format!("p{n}"), &[&address(n)], &json!({}));
    let named = |first: usize| {
        let endpoints: Vec<Value> =
            (first..first + 100).map(|n| of_pod(&address(n), &format!("p{n}"))).collect();
        json!(endpoints)
    };
    let mut cache = ready();
    apply(&mut cache, Kind::Service, service("s", "10.96.0.1"));
    list(&mut cache, Kind::Pod, (0..PODS).map(of).collect());
    for first in (0..PODS).step_by(100) {
        apply(&mut cache, Kind::EndpointSlice, slice(&format!("x{first}"), "s", &named(first)));
    }
    assert_eq!(untrusted_reason(&mut cache), None);
    let start = std::time::Instant::now();
    let mut bursts = 0;
    for first in (0..PODS).step_by(100) {
        for n in first..first + 100 {
            apply(&mut cache, Kind::Pod, of(PODS + n));
            cache.apply_event(Event::Deleted(Kind::Pod, ("n".to_owned(), format!("p{n}"))));
            if n % 10 == 0 {
                assert!(!cache.has_changed(), "{n}");
                bursts += 1;
            }
        }
        apply(&mut cache, Kind::EndpointSlice, slice(&format!("x{first}"), "s", &named(PODS + first)));
    }
    assert_eq!(untrusted_reason(&mut cache), None);
    let took = start.elapsed();
    println!("{PODS} pods replaced in {bursts} bursts: {took:?}");
    assert!(took < std::time::Duration::from_secs(30), "{took:?}");
}

#[test]
fn namespaces_that_do_not_count() {
    let mut cache = ready();
    apply(&mut cache, Kind::Service, service("s", "10.96.0.1"));
    assert!(backends(&mut cache, "s").is_some());
    apply(&mut cache, Kind::Namespace, namespace("n", None));
    assert!(backends(&mut cache, "s").is_none());
    apply(&mut cache, Kind::Namespace, namespace("n", Some("osm")));
    assert!(backends(&mut cache, "s").is_some());
    list(&mut cache, Kind::Service, vec![]);
    assert!(backends(&mut cache, "s").is_none());
}

fn steps() -> impl Strategy<Value = Vec<(Kind, Item, bool)>> {
    let address = prop::sample::select(vec!["10.0.0.1", "10.0.0.2", "198.51.100.7"]);
    let name = prop::sample::select(vec!["a", "b"]);
    let a_pod = (name.clone(), prop::option::of(address.clone()), 0..4u8).prop_map(|(name, address, n)| {
        let more = match n {
            0 => json!({ "spec": { "hostNetwork": true } }),
            1 => json!({ "status": { "phase": "Succeeded" } }),
            2 => json!({ "labels": { "app": "b" } }),
            _ => json!({}),
        };
        let addresses: Vec<&str> = address.into_iter().collect();
        (Kind::Pod, pod("n", name, &addresses, &more))
    });
    let endpoint = (address, name.clone()).prop_map(|(address, pod)| of_pod(address, pod));
    let a_slice = (name.clone(), name.clone(), prop::collection::vec(endpoint, 0..3))
        .prop_map(|(name, of, endpoints)| (Kind::EndpointSlice, slice(name, of, &json!(endpoints))));
    let a_service = (name, prop::sample::select(vec!["None", "10.96.0.1"]))
        .prop_map(|(name, address)| (Kind::Service, service(name, address)));
    let a_namespace =
        any::<bool>().prop_map(|is_ours| (Kind::Namespace, namespace("n", is_ours.then_some("osm"))));
    let step = prop_oneof![4 => a_pod, 4 => a_slice, 2 => a_service, 1 => a_namespace];
    prop::collection::vec((step, any::<bool>()).prop_map(|((kind, item), gone)| (kind, item, gone)), 0..30)
}

proptest! {
    /// However the objects came to be as they are: when all is quiet, the state follows from them.
    #[test]
    fn when_all_is_quiet_the_state_follows_from_the_objects(steps in steps()) {
        let mut now: BTreeMap<Kind, BTreeMap<Key, Item>> = BTreeMap::new();
        let mut live = ClusterCache::new(&CompileOptions::default(), KINDS);
        for kind in KINDS {
            list(&mut live, kind, vec![]);
        }
        for (kind, item, gone) in steps {
            let of_kind = now.entry(kind).or_default();
            if gone {
                of_kind.remove(&item.key);
                live.apply_event(Event::Deleted(kind, item.key));
            } else {
                of_kind.insert(item.key.clone(), item.clone());
                live.apply_event(Event::Applied(kind, item));
            }
            let _ = live.has_changed();
        }
        let mut fresh = ClusterCache::new(&CompileOptions::default(), KINDS);
        for kind in [Kind::EndpointSlice, Kind::Service, Kind::Pod, Kind::Namespace] {
            let items = now.get(&kind).into_iter().flat_map(BTreeMap::values).cloned().collect();
            list(&mut fresh, kind, items);
        }
        for cache in [&mut live, &mut fresh] {
            for _ in 0..GRACE {
                cache.apply_event(Event::ServerAvailable);
                let _ = cache.has_changed();
                cache.give_up();
                let _ = cache.has_changed();
            }
        }
        prop_assert_eq!(live.publish(), fresh.publish());
    }
}
