//! The engine against a model that looks at every rule, one after the other.

mod naive;

use std::net::SocketAddr;

use egress_policy::{Decision, Document, Grant, Policy};
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use serde_json::{Value, json};

use self::naive::{Traffic, Verdict, ask, document, expected, policy, verdict};

const HOSTS: [&str; 6] = ["a.org", "b.org", "x.a.org", "*.a.org", "*.org", "*.x.a.org"];
const BLOCKS: [&str; 7] =
    ["10.0.0.0/8", "10.1.0.0/16", "10.0.0.1/32", "0.0.0.0/0", "2001:db8::/32", "2001:db8::1/128", "::/0"];
const ADDRESSES: [&str; 6] =
    ["10.0.0.1", "10.1.9.9", "1.2.3.4", "2001:db8::1", "2001:db9::1", "::ffff:10.0.0.1"];
/// Patterns of paths. The model knows them by hand, like those of headers below.
const PATHS: [&str; 5] = ["/", "/get", "/a.*", "/x|/y", ".*"];

/// A list of some, or no list.
fn some(of: &'static [&'static str]) -> impl Strategy<Value = Option<Vec<&'static str>>> {
    prop::option::of(subsequence(of, 0..3.min(of.len() + 1)).prop_shuffle())
}

fn route() -> impl Strategy<Value = Value> {
    const WANTED: [(&str, &str); 5] =
        [("host", "a\\.org"), ("host", "10\\.0\\.0\\.1"), ("host", ".*"), ("x-a", "[0-9]+"), ("x-a", "/get")];
    let header = select(WANTED.to_vec()).prop_map(|(name, value)| json!({"name": name, "value": value}));
    (
        prop::option::of(select(PATHS.to_vec())),
        some(&["GET", "POST", "get"]),
        prop::collection::vec(header, 0..2),
    )
        .prop_map(|(path, methods, headers)| {
            let route = json!({"name": "g/m", "headers": headers});
            given(route, &[("path", json!(path)), ("methods", json!(methods))])
        })
}

/// An object with these fields too, but for those that are null.
fn given(mut object: Value, fields: &[(&str, Value)]) -> Value {
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        object[*name] = value.clone();
    }
    object
}

/// All of a rule but where it comes from.
fn rule() -> impl Strategy<Value = Value> {
    let tcp = Just(vec![]);
    let https = (some(&HOSTS), prop::option::of(select(vec!["refuse", "allow-outer"])))
        .prop_map(|(hosts, hello)| vec![("hosts", json!(hosts)), ("encryptedHello", json!(hello))]);
    let routes = prop::option::of(prop::collection::vec(route(), 0..3));
    let http = (some(&HOSTS), routes, some(&["websocket"])).prop_map(|(hosts, routes, upgrades)| {
        vec![("hosts", json!(hosts)), ("routes", json!(routes)), ("upgrades", json!(upgrades))]
    });
    let protocol = prop_oneof![
        1 => tcp.prop_map(|parts| ("tcp", parts)),
        2 => https.prop_map(|parts| ("https", parts)),
        3 => http.prop_map(|parts| ("http", parts)),
    ];
    (protocol, select(vec![443_u16, 80]), some(&BLOCKS), prop::option::of(Just("a.org:80"))).prop_map(
        |((protocol, parts), port, addresses, cluster)| {
            let rule = json!({"name": "spec.ports[0]", "port": port, "protocol": protocol});
            let rule = given(rule, &[("addresses", json!(addresses)), ("cluster", json!(cluster))]);
            given(rule, &parts)
        },
    )
}

/// Rules that say where they come from.
fn rules() -> impl Strategy<Value = Vec<Value>> {
    prop::collection::vec(rule(), 0..8).prop_map(|mut rules| {
        for (n, rule) in rules.iter_mut().enumerate() {
            rule["policy"] = json!(format!("ns/p{n}"));
        }
        rules
    })
}

/// Services of the mesh; most of the time there are none.
fn in_mesh() -> impl Strategy<Value = Vec<Value>> {
    let service = (
        subsequence(ADDRESSES.to_vec(), 0..3),
        subsequence(vec![443, 80], 0..3),
        any::<bool>(),
    )
        .prop_map(|(addresses, ports, allowed)| {
            json!({"service": "ns/s", "addresses": addresses, "ports": ports, "allowed": allowed})
        });
    prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec(service, 1..4)]
}

fn to() -> impl Strategy<Value = SocketAddr> {
    (select(ADDRESSES.to_vec()), select(vec![443_u16, 80, 81]))
        .prop_map(|(address, port)| SocketAddr::new(address.parse().expect("valid"), port))
}

fn traffic() -> impl Strategy<Value = Traffic<'static>> {
    const NAMES: [&str; 8] = ["a.org", "A.ORG.", "b.org", "x.a.org", "y.x.a.org", "c.net", "org", "a..org"];
    const AUTHORITIES: [&str; 22] = [
        "a.org",
        "A.org.",
        "a.org:80",
        "a.org:443",
        "a.org:81",
        "x.a.org",
        "y.x.a.org:80",
        "b.org",
        "c.net",
        "10.0.0.1",
        "10.0.0.1:80",
        "1.2.3.4:443",
        "[2001:db8::1]",
        "[2001:DB8::1]:80",
        "[::ffff:10.0.0.1]",
        "",
        "user@a.org",
        "a.org:",
        "a.org:+80",
        "127.1",
        "a b",
        "[a.org]",
    ];
    const METHODS: [&str; 5] = ["GET", "GET", "POST", "get", "CONNECT"];
    const ASKED: [&str; 14] = [
        "/", "/get", "/get?x", "/get#x", "/getx", "/a", "/ab/c", "/a?/x", "/x", "/y", "/z", "", "?", "/a\nb",
    ];
    const UPGRADES: [&str; 4] = ["websocket", "WebSocket", "foo", ""];
    const HEADERS: [&[(&str, &str)]; 4] =
        [&[], &[("x-a", "11")], &[("x-a", "/get")], &[("x-b", ""), ("x-a", "a.org"), ("host", "c.net")]];
    let tls = (prop::option::weighted(0.9, select(NAMES.to_vec())), prop::bool::weighted(0.2))
        .prop_map(|(name, encrypted)| Traffic::Tls { name, encrypted });
    let http = (
        prop::option::weighted(0.95, select(AUTHORITIES.to_vec())),
        select(METHODS.to_vec()),
        select(ASKED.to_vec()),
        prop::option::weighted(0.2, select(UPGRADES.to_vec())),
        select(HEADERS.to_vec()),
    )
        .prop_map(|(authority, method, path, upgrade, headers)| Traffic::Http {
            authority,
            method,
            path,
            upgrade,
            headers,
        });
    prop_oneof![1 => Just(Traffic::BrokenTls), 1 => Just(Traffic::Late), 6 => tls, 12 => http]
}

/// Many, so that rules of many parts meet what they are for.
fn questions() -> impl Strategy<Value = Vec<(SocketAddr, Traffic<'static>)>> {
    prop::collection::vec((to(), traffic()), 40)
}

fn answers(document: &Value, questions: &[(SocketAddr, Traffic<'_>)]) -> Vec<Verdict> {
    let policy = policy(document);
    questions.iter().map(|(to, traffic)| verdict(&ask(&policy, *to, *traffic))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_engine_is_the_model(
        mode in prop_oneof![8 => Just("enforce"), 1 => Just("audit"), 1 => Just("passthrough")],
        rules in rules(),
        in_mesh in in_mesh(),
        questions in questions(),
    ) {
        let whole = document(mode, &rules, &in_mesh);
        let policy = policy(&whole);
        for (to, traffic) in questions {
            let decision = ask(&policy, to, traffic);
            prop_assert_eq!(verdict(&decision), expected(&whole, to, traffic), "{} {:?}", to, traffic);
            // The rule that is named for it grants it alone, by its own cluster.
            if let Decision::Allow(permit) = &decision && let Grant::Rule(named) = &permit.by {
                let alone: Vec<Value> =
                    rules.iter().filter(|rule| rule["policy"] == *named.policy).cloned().collect();
                prop_assert_eq!(alone[0]["cluster"].as_str(), permit.cluster);
                let alone = document("enforce", &alone, &[]);
                prop_assert_eq!(expected(&alone, to, traffic), verdict(&decision), "{} {:?}", to, traffic);
            }
        }
    }

    #[test]
    fn the_order_of_rules_means_nothing(
        (rules, shuffled) in rules().prop_flat_map(|rules| (Just(rules.clone()), Just(rules).prop_shuffle())),
        (services, turned) in in_mesh().prop_flat_map(|list| (Just(list.clone()), Just(list).prop_shuffle())),
        questions in questions(),
    ) {
        let one = answers(&document("enforce", &rules, &services), &questions);
        let other = answers(&document("enforce", &shuffled, &turned), &questions);
        prop_assert_eq!(one, other);
    }

    #[test]
    fn one_more_rule_takes_nothing_away(
        rules in rules(),
        more in rule(),
        at in any::<Index>(),
        in_mesh in in_mesh(),
        questions in questions(),
    ) {
        let mut with = rules.clone();
        with.insert(at.index(rules.len() + 1), given(more, &[("policy", json!("ns/more"))]));
        let without = answers(&document("enforce", &rules, &in_mesh), &questions);
        let with = answers(&document("enforce", &with, &in_mesh), &questions);
        for ((without, with), question) in without.iter().zip(&with).zip(&questions) {
            // It may go where the new rule leads, which then comes first in the alphabet; nothing else changes.
            let kept = without.is_none() || with.is_some() && with <= without;
            prop_assert!(kept, "{question:?}: {without:?} became {with:?}");
        }
    }

    #[test]
    fn audit_lets_through_what_enforce_refuses_and_nothing_else_changes(
        rules in rules(),
        questions in questions(),
    ) {
        let enforce = policy(&document("enforce", &rules, &[]));
        let audit = policy(&document("audit", &rules, &[]));
        for (to, traffic) in questions {
            let (enforced, audited) = (ask(&enforce, to, traffic), ask(&audit, to, traffic));
            if enforced.is_allowed() {
                prop_assert_eq!(enforced, audited);
            } else {
                prop_assert_eq!(verdict(&audited), Some("dialled".to_owned()));
                prop_assert_eq!(audited.would_refuse(), Some(enforced.reason()));
            }
        }
    }

    #[test]
    fn a_document_survives_writing_and_reading(rules in rules(), in_mesh in in_mesh()) {
        let document: Document =
            serde_json::from_value(document("enforce", &rules, &in_mesh)).expect("a document");
        let text = serde_json::to_string(&document).expect("writes");
        let read: Document = egress_policy::json::from_str(&text).expect("reads");
        prop_assert_eq!(&read, &document);
        prop_assert_eq!(serde_json::from_str::<Document>(&text).expect("reads"), document);
        prop_assert!(Policy::new(read).is_ok());
    }
}
