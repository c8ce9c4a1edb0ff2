//! DNS over TCP: a workload resolves a name before it connects, and long responses come over TCP.
//!
//! A sidecar intercepts TCP only, so queries over UDP bypass it. A truncated response is retried over TCP to
//! port 53, which is a connection like any other.

use egress_policy::{Document, Mode, Protocol};

use super::lint;
use crate::Compiled;
use crate::manifest::spec::Traffic;
use crate::manifest::{Body, Diagnostic, Severity};
use crate::store::Store;

const DNS_PORT: u16 = 53;
/// The most identities that a message lists.
const MAX_NAMED: usize = 3;

/// Reports, once for the mesh, that DNS over TCP is refused for identities whose rules list names. Where
/// anything might allow it, nothing is reported: the address of the name server is not known here.
pub(super) fn check_dns_over_tcp(store: &Store, compiled: &Compiled) -> Option<Diagnostic> {
    let index = store.index();
    let config = compiled.mesh_config().and_then(|reference| index.objects.get(reference));
    if let Some(Body::MeshConfig(config)) = config.map(|object| &object.body)
        && config.traffic.as_ref().is_some_and(may_be_excluded)
    {
        return None;
    }
    let documents = compiled.documents.values().filter(|document| is_refused(document));
    let identities: Vec<String> = documents.map(|document| format!("`{}`", document.identity)).collect();
    if identities.is_empty() {
        return None;
    }
    let more = match identities.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named = identities.into_iter().take(MAX_NAMED).collect::<Vec<_>>().join(", ");
    let message = format!(
        "no rule allows DNS over TCP (port {DNS_PORT}) for {named}{more}: queries over UDP bypass the sidecar, but a \
         response that is too long for UDP is retried over TCP and refused"
    );
    let advice = "if you expect such responses, add an Egress with `ipAddresses: [NAME-SERVER/32]` and `ports: \
                  [{number: 53, protocol: tcp}]`, or add that block to the MeshConfig's \
                  `spec.traffic.outboundIPRangeExclusionList`";
    Some(match config {
        Some(config) => lint(Severity::Info, config, "spec.traffic", message),
        None => Diagnostic::new(Severity::Info, message),
    })
    .map(|diagnostic| diagnostic.advice(advice))
}

/// Returns true if connections to a name server may be excluded from interception.
fn may_be_excluded(traffic: &Traffic) -> bool {
    let Traffic {
        enable_egress: _,
        enable_permissive_traffic_policy_mode: _,
        outbound_ip_range_exclusion_list: excluded,
        outbound_ip_range_inclusion_list: included,
        outbound_port_exclusion_list: ports,
        inbound_port_exclusion_list: _,
        network_interface_exclusion_list: interfaces,
        inbound_external_authorization: _,
    } = traffic;
    let lists = [excluded, included, interfaces];
    lists.into_iter().flatten().any(|list| !list.is_empty())
        || ports.iter().flatten().any(|port| *port == i64::from(DNS_PORT))
}

/// Returns true if an identity has rules that list names, and all DNS over TCP is refused.
fn is_refused(document: &Document) -> bool {
    let lets_out = || {
        let by_rule =
            document.rules.iter().any(|rule| rule.port.get() == DNS_PORT && rule.protocol == Protocol::Tcp);
        let in_mesh = document.in_mesh.iter();
        by_rule
            || in_mesh
                .filter(|service| service.allowed)
                .any(|service| service.ports.iter().any(|port| port.get() == DNS_PORT))
    };
    document.mode == Mode::Enforce
        && document.rules.iter().any(|rule| rule.hosts.as_ref().is_some_and(|hosts| !hosts.is_empty()))
        && !lets_out()
}
