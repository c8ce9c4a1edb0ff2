//! Traffic excluded from interception: by the MeshConfig for all pods, by annotations for one.
//!
//! The lists are merged as in Open Service Mesh: the mesh's ports first, the pod's address blocks first, without
//! duplicates.

use egress_compile::manifest::spec::{MeshConfig, Traffic};
use ipnet::IpNet;

use super::annotations::Annotations;
use super::{InjectionError, InterceptionChange, PodAnnotations};
use crate::interception::{Interception, deduplicate, parse_interface};

const OUTBOUND_PORTS: &str = "openservicemesh.io/outbound-port-exclusion-list";
const INBOUND_PORTS: &str = "openservicemesh.io/inbound-port-exclusion-list";
const EXCLUDED_BLOCKS: &str = "openservicemesh.io/outbound-ip-range-exclusion-list";
const INCLUDED_BLOCKS: &str = "openservicemesh.io/outbound-ip-range-inclusion-list";

/// Builds the interception of a pod, with the warnings about it.
pub(super) fn build_interception(
    mesh: &MeshConfig,
    pod: Annotations<'_>,
    permitted: PodAnnotations,
) -> Result<(Interception, Vec<String>), InjectionError> {
    let none = Traffic::default();
    let traffic = mesh.traffic.as_ref().unwrap_or(&none);
    let mut changes = AnnotationChanges { permitted, warnings: Vec::new() };
    // Inbound traffic is not intercepted, but an invalid list is refused as in Open Service Mesh.
    parse_pod_ports(pod, INBOUND_PORTS)?;
    let of_mesh_ports = parse_mesh_ports("outboundPortExclusionList", &traffic.outbound_port_exclusion_list)?;
    let of_pod = parse_pod_ports(pod, OUTBOUND_PORTS)?;
    changes.exclude(OUTBOUND_PORTS, of_pod.iter().filter(|port| !of_mesh_ports.contains(port)))?;
    let exclude_ports = deduplicate(of_mesh_ports.into_iter().chain(of_pod));

    let field = "outboundIPRangeExclusionList";
    let excluded = parse_mesh_blocks(field, &traffic.outbound_ip_range_exclusion_list)?;
    let of_pod = parse_pod_blocks(pod, EXCLUDED_BLOCKS)?;
    changes.exclude(EXCLUDED_BLOCKS, of_pod.iter().filter(|block| !excluded.contains(block)))?;
    let exclude_blocks = deduplicate(of_pod.into_iter().chain(excluded));

    let field = "outboundIPRangeInclusionList";
    let included = parse_mesh_blocks(field, &traffic.outbound_ip_range_inclusion_list)?;
    let of_pod = parse_pod_blocks(pod, INCLUDED_BLOCKS)?;
    if included.is_empty() {
        changes.limit_to(INCLUDED_BLOCKS, &of_pod)?;
    } else if of_pod.iter().any(|block| !included.contains(block)) {
        changes.check_permitted(INCLUDED_BLOCKS, InterceptionChange::Extend)?;
    }
    let include_blocks = deduplicate(of_pod.into_iter().chain(included));

    let exclude_interfaces = deduplicate(parse_mesh_list(
        "networkInterfaceExclusionList",
        &traffic.network_interface_exclusion_list,
        |name| parse_interface(name),
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

/// AnnotationChanges that a pod's annotations make to interception.
struct AnnotationChanges {
    permitted: PodAnnotations,
    warnings: Vec<String>,
}

impl AnnotationChanges {
    fn check_permitted(
        &self,
        annotation: &'static str,
        change: InterceptionChange,
    ) -> Result<(), InjectionError> {
        if self.permitted.permits(change) {
            Ok(())
        } else {
            Err(InjectionError::ForbiddenAnnotation { annotation, change })
        }
    }

    /// Checks and reports items that are excluded from interception.
    fn exclude<T: ToString>(
        &mut self,
        annotation: &'static str,
        items: impl Iterator<Item = T>,
    ) -> Result<(), InjectionError> {
        let items: Vec<String> = items.map(|item| item.to_string()).collect();
        if items.is_empty() {
            return Ok(());
        }
        self.check_permitted(annotation, InterceptionChange::Reduce)?;
        self.warnings
            .push(format!("annotation `{annotation}` excludes {} from interception", format_items(&items)));
        Ok(())
    }

    /// Checks and reports blocks to which interception is limited.
    fn limit_to(&mut self, annotation: &'static str, blocks: &[IpNet]) -> Result<(), InjectionError> {
        if blocks.is_empty() {
            return Ok(());
        }
        self.check_permitted(annotation, InterceptionChange::Reduce)?;
        let items: Vec<String> = blocks.iter().map(ToString::to_string).collect();
        let items = format_items(&items);
        self.warnings.push(format!("annotation `{annotation}` limits interception to {items}"));
        Ok(())
    }
}

/// Formats the first items: an API server truncates long warnings.
fn format_items(items: &[String]) -> String {
    let shown: Vec<&str> = items.iter().take(3).map(String::as_str).collect();
    match items.len().saturating_sub(shown.len()) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn split_list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim)
}

fn parse_pod_ports(pod: Annotations<'_>, annotation: &'static str) -> Result<Vec<u16>, InjectionError> {
    let Some(text) = pod.get(annotation) else { return Ok(Vec::new()) };
    let port = |text: &str| text.parse().ok().filter(|port| *port > 0);
    split_list(text)
        .map(|value| {
            port(value).ok_or_else(|| InjectionError::InvalidPort { value: value.to_owned(), annotation })
        })
        .collect()
}

fn parse_pod_blocks(pod: Annotations<'_>, annotation: &'static str) -> Result<Vec<IpNet>, InjectionError> {
    let Some(text) = pod.get(annotation) else { return Ok(Vec::new()) };
    split_list(text)
        .map(|value| {
            value.parse().map_err(|_| InjectionError::InvalidBlock { value: value.to_owned(), annotation })
        })
        .collect()
}

fn parse_mesh_ports(field: &str, list: &Option<Vec<i64>>) -> Result<Vec<u16>, InjectionError> {
    let port = |number: &i64| u16::try_from(*number).ok().filter(|port| *port > 0);
    parse_mesh_list(field, list, |number| port(number).ok_or_else(|| format!("`{number}` is not a port")))
}

fn parse_mesh_blocks(field: &str, list: &Option<Vec<String>>) -> Result<Vec<IpNet>, InjectionError> {
    parse_mesh_list(field, list, |text| {
        text.parse().map_err(|_| format!("`{text}` is not an address block, such as 10.0.0.0/8"))
    })
}

/// Parses a list of the MeshConfig. An invalid item is an error, so that no exclusion is lost or widened.
fn parse_mesh_list<T, U>(
    field: &str,
    list: &Option<Vec<T>>,
    read: impl Fn(&T) -> Result<U, String>,
) -> Result<Vec<U>, InjectionError> {
    let list = list.as_deref().unwrap_or_default();
    let refusal = |i, problem| InjectionError::InvalidMeshConfig {
        field: format!("spec.traffic.{field}[{i}]"),
        problem,
    };
    list.iter().enumerate().map(|(i, item)| read(item).map_err(|problem| refusal(i, problem))).collect()
}
