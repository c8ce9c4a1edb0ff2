//! The engine against a model that looks at every rule, one after the other.

use std::net::SocketAddr;

use egress_policy::{
    ApiVersion, Cidr, Decision, Destination, Document, EncryptedHello, Host, HostMatch, HostPattern,
    Identity, Mode, OnConnection, OnOpening, Opening, Policy, Port, Protocol, Rule,
};
use proptest::prelude::*;

fn host() -> impl Strategy<Value = HostPattern> {
    prop::sample::select(vec!["a.org", "b.org", "x.a.org", "*.a.org", "*.org", "*.x.a.org"])
        .prop_map(|text| text.parse().expect("valid"))
}

fn block() -> impl Strategy<Value = Cidr> {
    prop::sample::select(vec!["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "0.0.0.0/0", "2001:db8::/32"])
        .prop_map(|text| text.parse().expect("valid"))
}

fn rule() -> impl Strategy<Value = Rule> {
    (
        prop::sample::select(vec![Protocol::Tcp, Protocol::Https]),
        prop::sample::select(vec![443_u16, 8443]),
        prop::option::of(prop::collection::vec(block(), 0..3)),
        prop::option::of(prop::collection::vec(host(), 0..3)),
        0..20_u8,
    )
        .prop_map(|(protocol, port, addresses, hosts, n)| Rule {
            policy: format!("ns/p{n}"),
            name: "spec.ports[0]".to_owned(),
            port: Port::new(port).expect("valid"),
            protocol,
            addresses,
            hosts: hosts.filter(|_| protocol == Protocol::Https),
            routes: None,
            upgrades: vec![],
            encrypted_hello: EncryptedHello::Refuse,
            cluster: None,
        })
}

fn document(rules: Vec<Rule>) -> Document {
    let identity = Identity::new("ns", "sa").expect("valid");
    Document {
        api_version: ApiVersion::V1,
        identity,
        version: "v".to_owned(),
        mode: Mode::Enforce,
        rules,
        in_mesh: vec![],
    }
}

fn matches(pattern: &HostPattern, host: &str) -> bool {
    match pattern {
        HostPattern::Exact(name) => name.as_str() == host,
        HostPattern::Below(name) => host.ends_with(&format!(".{name}")),
    }
}

/// Where a TLS connection may go, by the words of the documentation.
fn model(rules: &[Rule], to: SocketAddr, name: &str) -> Option<Destination> {
    let mut resolved: Option<HostMatch> = None;
    for rule in rules.iter().filter(|rule| rule.port.get() == to.port()) {
        let listed = rule.addresses.as_ref().map(|blocks| blocks.iter().any(|block| block.contains(to.ip())));
        let named = rule.hosts.as_ref().map(|hosts| hosts.iter().any(|pattern| matches(pattern, name)));
        match (listed, named) {
            (Some(false), _) | (_, Some(false)) => {}
            (Some(true), _) | (None, None) => return Some(Destination::Dialled),
            (None, Some(true)) => {
                let exact = rule.hosts.iter().flatten().any(|host| host.to_string() == name);
                let matched = if exact { HostMatch::Exact } else { HostMatch::Wildcard };
                resolved = Some(resolved.map_or(matched, |other| other.min(matched)));
            }
        }
    }
    resolved.map(|matched| Destination::Resolved(Host::canonical(name).expect("valid"), matched))
}

fn engine(policy: &Policy, to: SocketAddr, name: &str) -> Option<Destination> {
    let opening = Opening::Tls { server_name: Some(name), encrypted: false };
    let decision = match policy.connection(to) {
        OnConnection::Decided(decision) => decision,
        OnConnection::NeedFirstBytes => match policy.opening(to, opening) {
            OnOpening::Decided(decision) => decision,
            OnOpening::EachRequest => panic!("no rule is for HTTP"),
        },
    };
    match decision {
        Decision::Allow(permit) => Some(permit.to),
        Decision::Deny(_) => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_engine_is_the_model(
        rules in prop::collection::vec(rule(), 0..8),
        address in prop::sample::select(vec!["10.1.2.3", "10.9.9.9", "1.2.3.4", "2001:db8::1"]),
        port in prop::sample::select(vec![443_u16, 8443, 80]),
        name in prop::sample::select(vec!["a.org", "b.org", "x.a.org", "y.x.a.org", "c.net"]),
    ) {
        let to = SocketAddr::new(address.parse().expect("valid"), port);
        let policy = Policy::new(document(rules.clone())).expect("valid");
        prop_assert_eq!(engine(&policy, to, name), model(&rules, to, name));
        // The order of rules means nothing, and one more never takes anything away.
        let mut reversed = rules.clone();
        reversed.reverse();
        let other = Policy::new(document(reversed)).expect("valid");
        prop_assert_eq!(engine(&other, to, name), model(&rules, to, name));
        let fewer = Policy::new(document(rules.into_iter().skip(1).collect())).expect("valid");
        prop_assert!(engine(&fewer, to, name).is_none() || engine(&policy, to, name).is_some());
    }

    #[test]
    fn a_document_survives_writing_and_reading(rules in prop::collection::vec(rule(), 0..8)) {
        let document = document(rules);
        let text = serde_json::to_string(&document).expect("writes");
        prop_assert_eq!(egress_policy::json::from_str::<Document>(&text).expect("reads"), document);
    }
}
