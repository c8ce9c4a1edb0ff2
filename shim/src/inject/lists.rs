//! What is left out of the interception: by the MeshConfig for all pods, by annotations for one.
//!
//! Merged as Open Service Mesh does: ports of the mesh first, blocks of the pod first, each once.

use egress_compile::manifest::spec::{MeshConfig, Traffic};
use ipnet::IpNet;

use super::Refusal;
use super::pod::Annotations;
use crate::interception::{Interception, interface, unique};

const OUTBOUND_PORTS: &str = "openservicemesh.io/outbound-port-exclusion-list";
const INBOUND_PORTS: &str = "openservicemesh.io/inbound-port-exclusion-list";
const EXCLUDED_BLOCKS: &str = "openservicemesh.io/outbound-ip-range-exclusion-list";
const INCLUDED_BLOCKS: &str = "openservicemesh.io/outbound-ip-range-inclusion-list";

/// What is intercepted of a pod.
pub(super) fn interception(mesh: &MeshConfig, pod: Annotations<'_>) -> Result<Interception, Refusal> {
    let none = Traffic::default();
    let traffic = mesh.traffic.as_ref().unwrap_or(&none);
    // Nothing intercepts what comes in, but a mistake there was one before too.
    ports_of_pod(pod, INBOUND_PORTS)?;
    let mesh_ports = ports_of_mesh("outboundPortExclusionList", &traffic.outbound_port_exclusion_list)?;
    let ports = mesh_ports.into_iter().chain(ports_of_pod(pod, OUTBOUND_PORTS)?);
    let blocks = |annotation, field, list| -> Result<Vec<IpNet>, Refusal> {
        let of_pod = blocks_of_pod(pod, annotation)?;
        Ok(unique(of_pod.into_iter().chain(blocks_of_mesh(field, list)?)))
    };
    Ok(Interception {
        exclude_ports: unique(ports),
        exclude_blocks: blocks(
            EXCLUDED_BLOCKS,
            "outboundIPRangeExclusionList",
            &traffic.outbound_ip_range_exclusion_list,
        )?,
        include_blocks: blocks(
            INCLUDED_BLOCKS,
            "outboundIPRangeInclusionList",
            &traffic.outbound_ip_range_inclusion_list,
        )?,
        exclude_interfaces: unique(of_mesh(
            "networkInterfaceExclusionList",
            &traffic.network_interface_exclusion_list,
            |name| interface(name),
        )?),
        ..Interception::default()
    })
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
