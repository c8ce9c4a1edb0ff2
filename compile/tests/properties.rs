//! Properties of any set of objects, in terms of the verdicts that follow from them.

#[path = "../../policy/tests/naive/mod.rs"]
#[allow(dead_code, reason = "documents are made of manifests here")]
mod naive;

use std::net::SocketAddr;
use std::sync::LazyLock;

use egress_compile::store::{Change, FileUpdate, Store};
use egress_compile::{CompileOptions, Compiled, compile};
use egress_policy::Policy;
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use serde_json::{Value, json};

use self::naive::{Traffic, Verdict, decide, expected, verdict};

const ACCOUNTS: [&str; 3] = ["app", "other", "third"];

/// The questions about each service account.
static QUESTIONS: LazyLock<Vec<(SocketAddr, Traffic<'static>)>> = LazyLock::new(|| {
    let mut questions = Vec::new();
    for address in ["10.0.0.1", "1.1.1.1", "203.0.113.1", "2001:db8::1"] {
        for port in [80, 443, 5432] {
            let to = SocketAddr::new(address.parse().expect("an address"), port);
            let tls = |name, encrypted| Traffic::Tls { name, encrypted };
            let http = |authority, method, path, upgrade| Traffic::Http {
                authority: Some(authority),
                method,
                path,
                upgrade,
                headers: &[("x-a", "11")],
            };
            let traffic = [
                Traffic::TimedOut,
                tls(None, false),
                tls(Some("a.org"), false),
                tls(Some("a.org"), true),
                tls(Some("x.a.org"), false),
                tls(Some("b.org"), false),
                http("a.org", "GET", "/get", None),
                http("a.org", "GET", "/get", Some("websocket")),
                http("a.org", "POST", "/a/b", None),
                http("x.a.org", "GET", "/x", None),
                http("b.org", "GET", "/", None),
                http("10.0.0.1", "GET", "/", None),
            ];
            questions.extend(traffic.map(|traffic| (to, traffic)));
        }
    }
    questions
});

/// An object, or the lists of one that are still to be put in order.
type Object = Value;

fn listed(of: &'static [&'static str]) -> impl Strategy<Value = Value> {
    prop_oneof![
        1 => Just(Value::Null),
        3 => subsequence(of, 0..=of.len()).prop_shuffle().prop_map(|list| json!(list)),
    ]
}

fn annotations() -> impl Strategy<Value = Value> {
    (prop::option::weighted(0.3, Just("websocket")), prop::option::weighted(0.3, Just("allow-outer")))
        .prop_map(|(upgrades, ech)| {
            let mut annotations = json!({});
            for (name, value) in [("upgrades", upgrades), ("ech", ech)] {
                if let Some(value) = value {
                    annotations[format!("openservicemesh.io/egress-{name}")] = json!(value);
                }
            }
            annotations
        })
}

fn egress() -> impl Strategy<Value = Object> {
    let port =
        (select(vec![80, 443, 5432]), select(vec!["http", "http", "HTTPS", "tcp", "tcp-server-first"]))
            .prop_map(|(number, protocol)| json!({"number": number, "protocol": protocol}));
    (
        annotations(),
        subsequence(ACCOUNTS.to_vec(), 0..=3).prop_shuffle(),
        listed(&["a.org", "A.org.", "*.a.org", "b.org"]),
        listed(&["10.0.0.0/8", "10.1.2.3/8", "1.1.1.1/32", "2001:db8::/32"]),
        prop::collection::vec(port, 0..4),
        subsequence(vec!["g", "h", "none"], 0..=3).prop_shuffle(),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(annotations, accounts, hosts, addresses, ports, groups, with_settings)| {
            let sources: Vec<Value> = accounts.iter().map(|account| source(account)).collect();
            let settings = with_settings.then(|| settings("limits"));
            let matches: Vec<Value> = groups.iter().map(|group| reference(group)).chain(settings).collect();
            let mut object = json!({
                "apiVersion": "policy.openservicemesh.io/v1alpha1",
                "kind": "Egress",
                "metadata": {"namespace": "n", "annotations": annotations},
                "spec": {
                    "sources": sources, "hosts": hosts, "ipAddresses": addresses, "ports": ports,
                },
            });
            if let Some(spec) = object["spec"].as_object_mut() {
                // An absent list means anything, and one that is there and empty nothing.
                spec.retain(|_, value| !value.is_null());
                if !matches.is_empty() {
                    spec.insert("matches".to_owned(), json!(matches));
                }
            }
            object
        })
}

fn source(account: &str) -> Value {
    json!({"kind": "ServiceAccount", "name": account, "namespace": "n"})
}

fn reference(group: &str) -> Value {
    json!({"apiGroup": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "name": group})
}

fn settings(name: &str) -> Value {
    json!({"apiGroup": "policy.openservicemesh.io/v1alpha1", "kind": "UpstreamTrafficSetting", "name": name})
}

/// The objects that policies reference: groups of two matches, of one, of none and of an invalid one, and
/// connection settings.
fn groups() -> Vec<Object> {
    let limits = |name: &str, timeout: &str| {
        json!({
            "apiVersion": "policy.openservicemesh.io/v1alpha1", "kind": "UpstreamTrafficSetting",
            "metadata": {"name": name, "namespace": "n"},
            "spec": {"host": "a.org", "connectionSettings": {"tcp": {"connectTimeout": timeout}}},
        })
    };
    let group = |name: &str, matches: Value| {
        json!({
            "apiVersion": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup",
            "metadata": {"name": name, "namespace": "n"}, "spec": {"matches": matches},
        })
    };
    vec![
        group(
            "g",
            json!([{"name": "get", "pathRegex": "/get", "methods": ["GET"]}, {"name": "a", "pathRegex": "/a.*"}]),
        ),
        group(
            "h",
            json!([{"name": "x", "pathRegex": "/x|/y", "headers": [{"X-A": "[0-9]+"}, {"host": ".*"}]}]),
        ),
        group("none", json!([])),
        group("bad", json!([{"name": "bad", "pathRegex": "("}])),
        limits("limits", "5s"),
        limits("bad-limits", "soon"),
    ]
}

/// Policies with names.
fn policies() -> impl Strategy<Value = Vec<Object>> {
    prop::collection::vec(egress(), 1..5).prop_map(|mut policies| {
        for (n, policy) in policies.iter_mut().enumerate() {
            policy["metadata"]["name"] = json!(format!("p{n}"));
        }
        policies
    })
}

/// Compiles files; what they hold can be read.
fn compiled(files: &[Vec<Object>]) -> Compiled {
    let mut store = Store::default();
    for (number, objects) in files.iter().enumerate() {
        let text: String = objects.iter().map(|object| format!("---\n{object}\n")).collect();
        let update = FileUpdate::read(format!("{number}.yaml").into(), text.as_bytes());
        assert!(matches!(update.change, Change::Read(_)), "{update:?}");
        store.apply(update);
    }
    compile(&store, &CompileOptions::default(), None)
}

/// Every answer to every question, for every service account.
fn verdicts(compiled: &Compiled) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for account in ACCOUNTS {
        let document = compiled.document(&format!("n/{account}").parse().expect("an identity"));
        let policy = Policy::new(document.as_ref().clone()).expect("the engine takes what we make");
        verdicts.extend(QUESTIONS.iter().map(|(to, traffic)| verdict(&decide(&policy, *to, *traffic))));
    }
    verdicts
}

fn of(policies: &[Object]) -> Vec<Verdict> {
    verdicts(&compiled(&[groups(), policies.to_vec()]))
}

/// Fails where something is allowed by `less` and refused by `more`.
fn only_adds(less: &[Verdict], more: &[Verdict]) -> Result<(), TestCaseError> {
    for (n, (less, more)) in less.iter().zip(more).enumerate() {
        let question = &QUESTIONS[n % QUESTIONS.len()];
        prop_assert!(less.is_none() || more.is_some(), "{question:?}: {less:?} became {more:?}");
    }
    Ok(())
}

/// Puts the lists of an object into another order: each is turned by so much.
fn turned(object: &Object, by: usize) -> Object {
    match object {
        Value::Array(list) => {
            let mut list: Vec<Value> = list.iter().map(|item| turned(item, by)).collect();
            let middle = if list.is_empty() { 0 } else { by % list.len() };
            list.rotate_left(middle);
            if by % 2 == 1 {
                list.reverse();
            }
            Value::Array(list)
        }
        Value::Object(map) => map.iter().map(|(name, value)| (name.clone(), turned(value, by))).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => object.clone(),
    }
}

/// Adds to a list, which may be absent.
fn push(list: &mut Value, at: Index, item: Value) {
    let mut items = list.as_array().cloned().unwrap_or_default();
    items.insert(at.index(items.len() + 1), item);
    *list = Value::Array(items);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_engine_decides_by_the_document(policies in policies()) {
        let compiled = compiled(&[groups(), policies]);
        let mut expectation = Vec::new();
        for account in ACCOUNTS {
            let document = compiled.document(&format!("n/{account}").parse().expect("an identity"));
            let document = serde_json::to_value(&*document).expect("a document has a JSON form");
            expectation.extend(QUESTIONS.iter().map(|(to, traffic)| expected(&document, *to, *traffic)));
        }
        prop_assert_eq!(verdicts(&compiled), expectation);
    }

    #[test]
    fn one_more_policy_refuses_nothing_that_was_allowed(policies in policies(), more in egress()) {
        let before = of(&policies);
        let mut with = policies;
        with.push(more);
        let last = with.len() - 1;
        with[last]["metadata"]["name"] = json!("more");
        only_adds(&before, &of(&with))?;
    }

    #[test]
    fn an_invalid_part_allows_nothing_more(
        policies in policies(),
        which in any::<Index>(),
        what in 0..13_usize,
        at in any::<Index>(),
    ) {
        let mut worse = policies.clone();
        let policy = &mut worse[which.index(policies.len())];
        let spec = &mut policy["spec"];
        // What is empty grants nothing at all, and with something invalid in it, what does not look at it lives on.
        prop_assume!(spec["hosts"].as_array().is_none_or(|hosts| !hosts.is_empty()));
        match what {
            0 => push(&mut spec["hosts"], at, json!(*at.get(&["*", "10.0.0.1", "a*.org", "a.org:80", ""]))),
            1 => push(&mut spec["ipAddresses"], at, json!(*at.get(&["999.1.1.1/32", "10.0.0.1", "10.0.0.0/33", "/"]))),
            2 => push(&mut spec["ports"], at, json!({"number": 80, "protocol": "htttp"})),
            3 => push(&mut spec["ports"], at, json!({"number": *at.get(&[0, -1, 65_536]), "protocol": "tcp"})),
            4 => push(&mut spec["matches"], at, reference("missing")),
            5 => push(&mut spec["matches"], at, reference("bad")),
            6 => push(&mut spec["matches"], at, json!({"apiGroup": "apps/v1", "kind": "Deployment", "name": "g"})),
            7 => push(&mut spec["sources"], at, json!({"kind": "Deployment", "name": "app", "namespace": "n"})),
            8 => push(&mut spec["sources"], at, json!({"kind": "ServiceAccount", "name": "App_", "namespace": "n"})),
            9 => push(&mut spec["matches"], at, settings("bad-limits")),
            10 => push(&mut spec["matches"], at, settings("missing")),
            11 => policy["metadata"]["annotations"]["openservicemesh.io/egress-upgrades"] = json!("carrier-pigeon"),
            _ => policy["metadata"]["annotations"]["openservicemesh.io/egress-ech"] = json!("allow"),
        }
        only_adds(&of(&worse), &of(&policies))?;
    }

    #[test]
    fn an_invalid_policy_beside_others_changes_nothing(policies in policies(), mut bad in egress(), at in any::<Index>()) {
        let before = of(&policies);
        bad["metadata"]["name"] = json!("bad");
        push(&mut bad["spec"]["ipAddresses"], at, json!("10.0.0.0/33"));
        let mut with = policies;
        with.insert(at.index(with.len() + 1), bad);
        prop_assert_eq!(before, of(&with));
    }

    #[test]
    fn order_changes_nothing(policies in policies(), by in 0..12_usize, cut in any::<Index>()) {
        let before = of(&policies);
        // Of sources, hosts, blocks, ports, matches, routes, methods and headers.
        let mut objects: Vec<Object> = groups().into_iter().chain(policies).map(|object| turned(&object, by)).collect();
        // Of objects, and of files.
        let middle = by % objects.len();
        objects.rotate_left(middle);
        let rest = objects.split_off(cut.index(objects.len() + 1));
        prop_assert_eq!(&before, &verdicts(&compiled(&[objects.clone(), rest.clone()])));
        prop_assert_eq!(&before, &verdicts(&compiled(&[rest, objects])));
    }
}
