//! What is left out of the interception: by the MeshConfig for all pods, by annotations for one.
//!
//! Merged as Open Service Mesh does: ports of the mesh first, blocks of the pod first, each once.

use egress_compile::manifest::spec::{MeshConfig, Traffic};
use ipnet::IpNet;

use super::annotations::Annotations;
use super::{Change, PodAnnotations, Refusal};
use crate::interception::{Interception, interface, unique};

const OUTBOUND_PORTS: &str = "openservicemesh.io/outbound-port-exclusion-list";
const INBOUND_PORTS: &str = "openservicemesh.io/inbound-port-exclusion-list";
const EXCLUDED_BLOCKS: &str = "openservicemesh.io/outbound-ip-range-exclusion-list";
const INCLUDED_BLOCKS: &str = "openservicemesh.io/outbound-ip-range-inclusion-list";

/// What is intercepted of a pod, and what there is to warn of.
pub(super) fn interception(
    mesh: &MeshConfig,
    pod: Annotations<'_>,
    permitted: PodAnnotations,
) -> Result<(Interception, Vec<String>), Refusal> {
    let none = Traffic::default();
    let traffic = mesh.traffic.as_ref().unwrap_or(&none);
    let mut changes = Changes { permitted, warnings: Vec::new() };
    // Nothing intercepts what comes in, but a mistake there was one before too.
    ports_of_pod(pod, INBOUND_PORTS)?;
    let of_mesh_ports = ports_of_mesh("outboundPortExclusionList", &traffic.outbound_port_exclusion_list)?;
    let of_pod = ports_of_pod(pod, OUTBOUND_PORTS)?;
    changes.less(OUTBOUND_PORTS, of_pod.iter().filter(|port| !of_mesh_ports.contains(port)))?;
    let exclude_ports = unique(of_mesh_ports.into_iter().chain(of_pod));

    let field = "outboundIPRangeExclusionList";
    let excluded = blocks_of_mesh(field, &traffic.outbound_ip_range_exclusion_list)?;
    let of_pod = blocks_of_pod(pod, EXCLUDED_BLOCKS)?;
    changes.less(EXCLUDED_BLOCKS, of_pod.iter().filter(|block| !excluded.contains(block)))?;
    let exclude_blocks = unique(of_pod.into_iter().chain(excluded));

    let field = "outboundIPRangeInclusionList";
    let included = blocks_of_mesh(field, &traffic.outbound_ip_range_inclusion_list)?;
    let of_pod = blocks_of_pod(pod, INCLUDED_BLOCKS)?;
    if included.is_empty() {
        changes.only(INCLUDED_BLOCKS, &of_pod)?;
    } else if of_pod.iter().any(|block| !included.contains(block)) {
        changes.permit(INCLUDED_BLOCKS, Change::More)?;
    }
    let include_blocks = unique(of_pod.into_iter().chain(included));

    let exclude_interfaces = unique(of_mesh(
        "networkInterfaceExclusionList",
        &traffic.network_interface_exclusion_list,
        |name| interface(name),
    )?);
    let interception = Interception {
        exclude_ports,
        exclude_blocks,
        include_blocks,
        exclude_interfaces,
        ..Interception::default()
    };
    Ok((interception, changes.warnings))
}

/// What a pod changes by its annotations.
struct Changes {
    permitted: PodAnnotations,
    warnings: Vec<String>,
}

impl Changes {
    fn permit(&self, annotation: &'static str, change: Change) -> Result<(), Refusal> {
        if self.permitted.permits(change) { Ok(()) } else { Err(Refusal::Annotation { annotation, change }) }
    }

    /// These are not intercepted.
    fn less<T: ToString>(
        &mut self,
        annotation: &'static str,
        items: impl Iterator<Item = T>,
    ) -> Result<(), Refusal> {
        let items: Vec<String> = items.map(|item| item.to_string()).collect();
        if items.is_empty() {
            return Ok(());
        }
        self.permit(annotation, Change::Less)?;
        self.warnings
            .push(format!("by annotation `{annotation}` nothing is intercepted to {}", short(&items)));
        Ok(())
    }

    /// Nothing else is intercepted than these.
    fn only(&mut self, annotation: &'static str, blocks: &[IpNet]) -> Result<(), Refusal> {
        if blocks.is_empty() {
            return Ok(());
        }
        self.permit(annotation, Change::Less)?;
        let items: Vec<String> = blocks.iter().map(ToString::to_string).collect();
        let items = short(&items);
        self.warnings.push(format!("by annotation `{annotation}` nothing is intercepted but to {items}"));
        Ok(())
    }
}

/// The first of some items: an API server cuts long warnings.
fn short(items: &[String]) -> String {
    let shown: Vec<&str> = items.iter().take(3).map(String::as_str).collect();
    match items.len().saturating_sub(shown.len()) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim)
}

fn ports_of_pod(pod: Annotations<'_>, annotation: &'static str) -> Result<Vec<u16>, Refusal> {
    let Some(text) = pod.get(annotation) else { return Ok(Vec::new()) };
    let port = |text: &str| text.parse().ok().filter(|port| *port > 0);
    items(text)
        .map(|value| port(value).ok_or_else(|| Refusal::Port { value: value.to_owned(), annotation }))
        .collect()
}

fn blocks_of_pod(pod: Annotations<'_>, annotation: &'static str) -> Result<Vec<IpNet>, Refusal> {
    let Some(text) = pod.get(annotation) else { return Ok(Vec::new()) };
    items(text)
        .map(|value| value.parse().map_err(|_| Refusal::Block { value: value.to_owned(), annotation }))
        .collect()
}

fn ports_of_mesh(field: &str, list: &Option<Vec<i64>>) -> Result<Vec<u16>, Refusal> {
    let port = |number: &i64| u16::try_from(*number).ok().filter(|port| *port > 0);
    of_mesh(field, list, |number| port(number).ok_or_else(|| format!("`{number}` is not a port")))
}

fn blocks_of_mesh(field: &str, list: &Option<Vec<String>>) -> Result<Vec<IpNet>, Refusal> {
    of_mesh(field, list, |text| text.parse().map_err(|_| format!("`{text}` is not a block of addresses")))
}

/// Reads a list of the MeshConfig. A mistake must not leave out, or in, what nobody meant.
fn of_mesh<T, U>(
    field: &str,
    list: &Option<Vec<T>>,
    read: impl Fn(&T) -> Result<U, String>,
) -> Result<Vec<U>, Refusal> {
    let list = list.as_deref().unwrap_or_default();
    let refusal = |i, problem| Refusal::MeshConfig { field: format!("spec.traffic.{field}[{i}]"), problem };
    list.iter().enumerate().map(|(i, item)| read(item).map_err(|problem| refusal(i, problem))).collect()
}
