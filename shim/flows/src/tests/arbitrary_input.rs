//! Property tests with arbitrary input: recorded text is plain and short, and no output breaks.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::{
    Address, SocketAddress, address, socket_address::PortSpecifier,
};
use envoy_types::pb::envoy::data::accesslog::v3::{
    AccessLogCommon, HttpAccessLogEntry, HttpRequestProperties, HttpResponseProperties, TcpAccessLogEntry,
};
use envoy_types::pb::google::protobuf::Any;
use proptest::prelude::*;

use super::*;
use crate::access_log::grpc;
use egress_envoy::FILTER_STATES;

/// Text that a workload may choose: short and long, plain and hostile, sometimes with a meaning.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[ -~]{0,40}",
        "[a-z0-9.:*-]{0,40}",
        "(\\PC|[\u{0}-\u{1f}\u{7f}-\u{9f}\u{200b}-\u{202e}\u{2066}-\u{2069}\u{feff}]){0,600}",
        Just("x".repeat(64 << 10)),
        Just("\u{1b}[2J".repeat(16 << 10)),
        Just("# \r\n- evil.org # x".to_owned()),
        Just("\u{85}\u{2028}- evil.org".to_owned()),
    ]
}

fn decision() -> impl Strategy<Value = String> {
    prop_oneof![
        text(),
        Just("allow audit - - sni-not-allowed".to_owned()),
        Just("deny no-rule - -".to_owned()),
        (text(), text()).prop_map(|(policy, rule)| format!("deny host-not-allowed {policy} {rule}")),
        text().prop_map(|more| format!("allow audit a b {more}")),
    ]
}

fn addresses() -> impl Strategy<Value = String> {
    prop_oneof![text(), Just("192.0.2.1".to_owned()), Just("2001:db8::1".to_owned())]
}

fn common(address: String, port: u32, states: [Vec<u8>; 3]) -> AccessLogCommon {
    let destination = SocketAddress {
        address,
        port_specifier: Some(PortSpecifier::PortValue(port)),
        ..SocketAddress::default()
    };
    let state = |bytes: Vec<u8>| {
        // A valid `BytesValue` up to 127 bytes.
        let length = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
        Any { type_url: String::new(), value: [vec![0x0a, length], bytes].concat() }
    };
    let states = states.into_iter().map(state);
    AccessLogCommon {
        downstream_local_address: Some(Address {
            address: Some(address::Address::SocketAddress(destination)),
        }),
        filter_state_objects: FILTER_STATES.iter().map(|key| (*key).to_owned()).zip(states).collect(),
        ..AccessLogCommon::default()
    }
}

/// Checks every output for an observation.
fn check_outputs(node: &str, observation: Option<Observation>) {
    let Some(observation) = observation else { return };
    let table = new_table(10);
    let app = identity("shop/app");
    table.record(&app, node, day(0), vec![Some(observation)]);
    let flows = table.list_page(&FlowQuery::default()).flows;
    let is_plain = |text: &str| text.chars().all(|c| c == '…' || c == ' ' || c.is_ascii_graphic());
    let all_plain = |text: &str| text.lines().all(is_plain) && !text.contains('\r');
    let [flow] = &flows[..] else { panic!("{flows:?}") };
    let line = text::format_line(flow);
    assert!(line.lines().count() == 1 && all_plain(&line) && line.len() < 2_000, "{line}");
    let json = serde_json::to_string(flow).expect("JSON");
    assert!(is_plain(&json) && json.len() < 6_000, "{json}");
    let suggestion = Suggestion::for_identity(&app, &flows);
    let yaml = suggestion.to_yaml();
    assert!(all_plain(&yaml), "{yaml}");
    let policies = store(&yaml);
    let problems: Vec<_> = policies.diagnostics().collect();
    assert!(problems.is_empty(), "{problems:?}\n{yaml}");
    // No text of a comment becomes part of a policy: only the observed name or address is allowed.
    let compiled = compile(&policies, &CompileOptions::default(), None);
    for rule in &compiled.document(&app).rules {
        let hosts: Vec<String> =
            rule.hosts.iter().flat_map(|hosts| hosts.iter()).map(ToString::to_string).collect();
        let host = flow.name.as_deref().unwrap_or_default().to_ascii_lowercase();
        assert!(
            hosts.iter().all(|one| host.starts_with(one.as_str()) && !one.contains('*')),
            "{hosts:?} {yaml}"
        );
    }
    let simulation = Simulation::run(&flows, None, &compiled, 15001).expect("it compiles");
    assert!(all_plain(&simulation.to_string()), "{simulation}");
}

proptest! {
    #[test]
    fn arbitrary_lines_yield_safe_output(line in text()) {
        check_outputs("p", crate::access_log::json::read_line(&line).ok());
    }

    #[test]
    fn arbitrary_fields_of_lines_yield_safe_output(
        decision in decision(), name in text(), method in text(), path in text(), address in addresses(), port: u16,
        is_request: bool, has_columns: bool, refused in proptest::option::of(text()),
    ) {
        let mut line = serde_json::json!({
            "kind": if is_request { "request" } else { "connection" },
            "dialled": format!("{address}:{port}"), "decision": decision, "name": name, "server_name": name,
            "authority": name, "method": method, "path": path, "upgrade": path, "refused": refused,
        });
        if has_columns {
            for (column, word) in ["verdict", "reason", "policy", "rule", "would_refuse"].iter().zip(decision.split(' ')) {
                line[*column] = word.into();
            }
        }
        check_outputs(&name, crate::access_log::json::read_line(&line.to_string()).ok());
    }

    #[test]
    fn arbitrary_fields_of_entries_yield_safe_output(
        decision in decision(), name in proptest::collection::vec(any::<u8>(), 0..200), authority in text(),
        path in text(), address in addresses(), port in 0..100_000_u32, method: i32, node in text(),
    ) {
        let states = [decision.into_bytes(), name.clone(), name];
        let common_properties = Some(common(address, port, states));
        check_outputs(&node, grpc::read_connection(&TcpAccessLogEntry {
            common_properties: common_properties.clone(), ..TcpAccessLogEntry::default()
        }));
        let headers = |key: &str| HashMap::from([(key.to_owned(), path.clone())]);
        check_outputs(&node, grpc::read_request(&HttpAccessLogEntry {
            common_properties,
            request: Some(HttpRequestProperties {
                request_method: method, authority, path: path.clone(), request_headers: headers("upgrade"),
                ..HttpRequestProperties::default()
            }),
            response: Some(HttpResponseProperties {
                response_headers: headers("x-egress-denied"), ..HttpResponseProperties::default()
            }),
            ..HttpAccessLogEntry::default()
        }));
    }
}
