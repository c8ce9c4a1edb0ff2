//! Random documents and connections from few parts, so that many of them match.

use std::net::SocketAddr;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

use crate::naive::Traffic;

const HOSTS: [&str; 6] = ["a.org", "b.org", "x.a.org", "*.a.org", "*.org", "*.x.a.org"];
const BLOCKS: [&str; 7] =
    ["10.0.0.0/8", "10.1.0.0/16", "10.0.0.1/32", "0.0.0.0/0", "2001:db8::/32", "2001:db8::1/128", "::/0"];
const ADDRESSES: [&str; 6] =
    ["10.0.0.1", "10.1.9.9", "1.2.3.4", "2001:db8::1", "2001:db9::1", "::ffff:10.0.0.1"];
/// Patterns of paths. The model knows them by hand, like those of headers below.
const PATHS: [&str; 5] = ["/", "/get", "/a.*", "/x|/y", ".*"];

/// Makes a list of some, or no list.
fn some(of: &'static [&'static str]) -> impl Strategy<Value = Option<Vec<&'static str>>> {
    prop::option::of(subsequence(of, 0..3.min(of.len() + 1)).prop_shuffle())
}

fn route() -> impl Strategy<Value = Value> {
    const WANTED: [(&str, &str); 6] = [
        ("host", "a\\.org"),
        ("host", "10\\.0\\.0\\.1"),
        ("host", "2001:db8::1"),
        ("host", ".*"),
        ("x-a", "[0-9]+"),
        ("x-a", "/get"),
    ];
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

/// Adds fields to an object, without those that are null.
pub(crate) fn given(mut object: Value, fields: &[(&str, Value)]) -> Value {
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        object[*name] = value.clone();
    }
    object
}

/// Makes a rule without its origin.
pub(crate) fn rule() -> impl Strategy<Value = Value> {
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

/// Makes rules with an origin.
pub(crate) fn rules() -> impl Strategy<Value = Vec<Value>> {
    prop::collection::vec(rule(), 0..8).prop_map(|mut rules| {
        for (n, rule) in rules.iter_mut().enumerate() {
            rule["policy"] = json!(format!("ns/p{n}"));
        }
        rules
    })
}

/// Makes services of the mesh; most of the time there are none.
pub(crate) fn in_mesh() -> impl Strategy<Value = Vec<Value>> {
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

pub(crate) fn to() -> impl Strategy<Value = SocketAddr> {
    (select(ADDRESSES.to_vec()), select(vec![443_u16, 80, 81]))
        .prop_map(|(address, port)| SocketAddr::new(address.parse().expect("valid"), port))
}

pub(crate) fn traffic() -> impl Strategy<Value = Traffic<'static>> {
    const NAMES: [&str; 8] = ["a.org", "A.ORG.", "b.org", "x.a.org", "y.x.a.org", "c.net", "org", "a..org"];
    const AUTHORITIES: [&str; 23] = [
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
        "[2001:0db8:0:0::1]",
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
    const ASKED: [&str; 18] = [
        "/",
        "/get",
        "/get?x",
        "/get#x",
        "/getx",
        "/a",
        "/ab/c",
        "/a?/x",
        "/x",
        "/y",
        "/z",
        "",
        "?",
        "/a\nb",
        "/a/..;/x",
        "/a/%252e%2E;v/x",
        "/a/...;/x",
        "/a?/..;/x",
    ];
    const UPGRADES: [&str; 4] = ["websocket", "WebSocket", "foo", ""];
    const HEADERS: [&[(&str, &str)]; 7] = [
        &[],
        &[("x-a", "11")],
        &[("x-a", "/get")],
        &[("x-b", ""), ("x-a", "a.org"), ("host", "c.net")],
        &[("x-a", "11"), ("x-a", "a.org")],
        &[("x-a", "a.org"), ("x-b", ""), ("x-a", "11")],
        &[("x-a", "11"), ("x-a", "12")],
    ];
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
    prop_oneof![1 => Just(Traffic::BrokenTls), 1 => Just(Traffic::TimedOut), 6 => tls, 12 => http]
}

/// Makes many connections, so that rules of many parts match some.
pub(crate) fn questions() -> impl Strategy<Value = Vec<(SocketAddr, Traffic<'static>)>> {
    prop::collection::vec((to(), traffic()), 40)
}
