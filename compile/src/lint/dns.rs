//! Names have to be asked for before they are dialled, and long answers over TCP.
//!
//! A sidecar sees TCP only: questions over UDP go round it. An answer that is cut short there is asked for again over
//! TCP, to port 53, and that is a connection like any other.

use egress_policy::{Document, Mode, Protocol};

use super::lint;
use crate::Compiled;
use crate::manifest::spec::Traffic;
use crate::manifest::{Body, Problem, Severity};
use crate::store::Store;

const PORT: u16 = 53;
/// So many identities are named.
const NAMED: usize = 3;

/// What is said once for the mesh: nothing lets DNS over TCP out for identities whose rules list names. Where anything
/// might, nothing is said: the address of the name server is not known here.
pub(super) fn refused(store: &Store, compiled: &Compiled) -> Option<Problem> {
    let index = store.index();
    let config = compiled.mesh_config().and_then(|reference| index.objects.get(reference));
    if let Some(Body::MeshConfig(config)) = config.map(|object| &object.body)
        && config.traffic.as_ref().is_some_and(may_go_round)
    {
        return None;
    }
    let documents = compiled.documents.values().filter(|document| is_refused(document));
    let identities: Vec<String> = documents.map(|document| format!("`{}`", document.identity)).collect();
    if identities.is_empty() {
        return None;
    }
    let more = match identities.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named = identities.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
    let message = format!(
        "nothing here lets DNS over TCP (port {PORT}) out for {named}{more}: names resolve over UDP, which goes round the \
         sidecar, but an answer that is too long for UDP is asked for again over TCP, and refused"
    );
    let advice = "if such answers are to be expected: an Egress with `ipAddresses: [NAME-SERVER/32]` and `ports: \
                  [{number: 53, protocol: tcp}]`, or that block in the MeshConfig's \
                  `spec.traffic.outboundIPRangeExclusionList`";
    Some(match config {
        Some(config) => lint(Severity::Info, config, "spec.traffic", message),
        None => Problem::new(Severity::Info, message),
    })
    .map(|problem| problem.advice(advice))
}

/// Whether some connection to a name server may be one that the sidecar does not see.
fn may_go_round(traffic: &Traffic) -> bool {
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
        || ports.iter().flatten().any(|port| *port == i64::from(PORT))
}

/// Whether an identity has rules that list names, and all DNS over TCP is refused.
fn is_refused(document: &Document) -> bool {
    let lets_out = || {
        let by_rule =
            document.rules.iter().any(|rule| rule.port.get() == PORT && rule.protocol == Protocol::Tcp);
        let in_mesh = document.in_mesh.iter();
        by_rule
            || in_mesh
                .filter(|service| service.allowed)
                .any(|service| service.ports.iter().any(|port| port.get() == PORT))
    };
    document.mode == Mode::Enforce
        && document.rules.iter().any(|rule| rule.hosts.as_ref().is_some_and(|hosts| !hosts.is_empty()))
        && !lets_out()
}
