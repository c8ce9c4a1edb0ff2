//! The engine against a model that looks at every rule, one after the other.

mod naive;

use std::net::SocketAddr;

use egress_policy::{Document, Policy};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

use self::naive::{Traffic, ask, document, expected, policy, verdict};

const HOSTS: [&str; 6] = ["a.org", "b.org", "x.a.org", "*.a.org", "*.org", "*.x.a.org"];
const BLOCKS: [&str; 7] =
    ["10.0.0.0/8", "10.1.0.0/16", "10.0.0.1/32", "0.0.0.0/0", "2001:db8::/32", "2001:db8::1/128", "::/0"];

/// The model knows these by hand.
const PATTERNS: [&str; 8] = ["/", "/get", "/a.*", "/x|/y", ".*", "[0-9]+", "a\\.org", "10\\.0\\.0\\.1"];

/// A list of some, or no list.
fn some(of: &'static [&'static str]) -> impl Strategy<Value = Option<Vec<&'static str>>> {
    prop::option::of(subsequence(of, 0..3).prop_shuffle())
}

fn route() -> impl Strategy<Value = Value> {
    let header = (select(vec!["host", "x-a"]), select(PATTERNS.to_vec()))
        .prop_map(|(name, value)| json!({"name": name, "value": value}));
    (
        prop::option::of(select(PATTERNS.to_vec())),
        some(&["GET", "POST", "get"]),
        prop::collection::vec(header, 0..2),
    )
        .prop_map(|(path, methods, headers)| {
            given(
                json!({"name": "g/m", "headers": headers}),
                &[("path", json!(path)), ("methods", json!(methods))],
            )
        })
}

/// An object with these fields too, but for those that are null.
fn given(mut object: Value, fields: &[(&str, Value)]) -> Value {
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        object[*name] = value.clone();
    }
    object
}

fn rule() -> impl Strategy<Value = Value> {
    (
        select(vec!["tcp", "https", "http", "http"]),
        select(vec![443_u16, 80]),
        some(&BLOCKS),
        some(&HOSTS),
        prop::option::of(prop::collection::vec(route(), 0..3)),
    )
        .prop_map(|(protocol, port, addresses, hosts, routes)| {
            let rule = json!({"name": "spec.ports[0]", "port": port, "protocol": protocol});
            let hosts = hosts.filter(|_| protocol != "tcp");
            let routes = routes.filter(|_| protocol == "http");
            let parts = [("addresses", json!(addresses)), ("hosts", json!(hosts)), ("routes", json!(routes))];
            given(rule, &parts)
        })
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

fn to() -> impl Strategy<Value = SocketAddr> {
    let addresses = vec!["10.0.0.1", "10.1.9.9", "1.2.3.4", "2001:db8::1", "2001:db9::1", "::ffff:10.0.0.1"];
    (select(addresses), select(vec![443_u16, 80, 81]))
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
    const HEADERS: [&[(&str, &str)]; 4] =
        [&[], &[("x-a", "11")], &[("x-a", "/get")], &[("x-b", ""), ("x-a", "a.org"), ("host", "c.net")]];
    prop_oneof![
        1 => Just(Traffic::BrokenTls),
        4 => (prop::option::weighted(0.9, select(NAMES.to_vec())), prop::bool::weighted(0.1))
            .prop_map(|(name, encrypted)| Traffic::Tls { name, encrypted }),
        8 => (
            prop::option::weighted(0.95, select(AUTHORITIES.to_vec())),
            select(vec!["GET", "GET", "POST", "get", "CONNECT"]),
            select(vec!["/", "/get", "/get?x", "/get#x", "/getx", "/a", "/ab/c", "/a?/x", "/x", "/y", "/z", "", "?", "/a\nb"]),
            select(HEADERS.to_vec()),
        )
            .prop_map(|(authority, method, path, headers)| Traffic::Http { authority, method, path, headers }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_engine_is_the_model(rules in rules(), to in to(), traffic in traffic()) {
        let policy = policy("enforce", &rules);
        let decision = ask(&policy, to, traffic);
        prop_assert_eq!(verdict(&decision), expected(&rules, to, traffic));
        // The rule that is named for it grants it alone.
        if let (true, Some(named)) = (decision.is_allowed(), decision.rule()) {
            let alone: Vec<Value> = rules.iter().filter(|rule| rule["policy"] == *named.policy).cloned().collect();
            prop_assert_eq!(expected(&alone, to, traffic), verdict(&decision));
        }
    }

    #[test]
    fn the_order_of_rules_means_nothing(
        (rules, shuffled) in rules().prop_flat_map(|rules| (Just(rules.clone()), Just(rules).prop_shuffle())),
        to in to(),
        traffic in traffic(),
    ) {
        let (one, other) = (policy("enforce", &rules), policy("enforce", &shuffled));
        prop_assert_eq!(verdict(&ask(&one, to, traffic)), verdict(&ask(&other, to, traffic)));
    }

    #[test]
    fn one_more_rule_takes_nothing_away(
        rules in rules(),
        more in rule(),
        at in any::<prop::sample::Index>(),
        to in to(),
        traffic in traffic(),
    ) {
        let mut with = rules.clone();
        with.insert(at.index(rules.len() + 1), given(more, &[("policy", json!("ns/more"))]));
        let (with, without) = (policy("enforce", &with), policy("enforce", &rules));
        let (with, without) = (verdict(&ask(&with, to, traffic)), verdict(&ask(&without, to, traffic)));
        // It may go to the dialled address now, which is what the new rule says; nothing else changes.
        prop_assert!(without.is_none() || with == without || with.as_deref() == Some("dialled"), "{without:?} became {with:?}");
    }

    #[test]
    fn audit_lets_through_what_enforce_refuses_and_nothing_else_changes(
        rules in rules(),
        to in to(),
        traffic in traffic(),
    ) {
        let (enforce, audit) = (policy("enforce", &rules), policy("audit", &rules));
        let (enforced, audited) = (ask(&enforce, to, traffic), ask(&audit, to, traffic));
        if enforced.is_allowed() {
            prop_assert_eq!(enforced, audited);
        } else {
            prop_assert_eq!(verdict(&audited), Some("dialled".to_owned()));
            prop_assert_eq!(audited.would_refuse(), Some(enforced.reason()));
        }
        let through = policy("passthrough", &rules);
        prop_assert_eq!(verdict(&ask(&through, to, traffic)), Some("passthrough".to_owned()));
    }

    #[test]
    fn a_document_survives_writing_and_reading(rules in rules()) {
        let document = document("enforce", &rules);
        let text = serde_json::to_string(&document).expect("writes");
        let read: Document = egress_policy::json::from_str(&text).expect("reads");
        prop_assert_eq!(&read, &document);
        prop_assert_eq!(serde_json::from_str::<Document>(&text).expect("reads"), document);
        prop_assert!(Policy::new(read).is_ok());
    }
}
