//! Services of the mesh: they are not egress. Whether an identity may connect to one is the mesh's own
//! rule: permissive mode, else TrafficTargets, which are decided by the destination's port here.

use std::collections::{BTreeMap, BTreeSet};

use egress_policy::{Address, Identity, InMesh, Port};

use super::issues::Issues;
use super::{CompileOptions, Compiler, MONITORED_LABEL, Objects};
use crate::manifest::spec::{Endpoints, Service, ServicePort, Subject, TrafficTarget, Workload};
use crate::manifest::{Body, Kind, Object, ObjectRef};

/// What the mesh says of its own services.
#[derive(Clone, Debug, Default)]
pub(super) struct Mesh {
    permissive: bool,
    services: Vec<MeshService>,
    /// Who may connect to which service account, on which port.
    targets: BTreeMap<Identity, BTreeSet<(Identity, Option<Port>)>>,
}

#[derive(Clone, Debug)]
struct MeshService {
    name: String,
    addresses: Vec<Address>,
    ports: Vec<Port>,
    accounts: BTreeSet<Identity>,
}

impl Mesh {
    /// The services as they are for one identity.
    pub(super) fn for_identity(&self, identity: &Identity) -> Vec<InMesh> {
        let targets = self.targets.get(identity);
        let may = |service: &MeshService, port: Port| {
            self.permissive
                || targets.is_some_and(|targets| {
                    targets.iter().any(|(account, only)| {
                        service.accounts.contains(account) && only.is_none_or(|only| only == port)
                    })
                })
        };
        let mut entries = Vec::new();
        for service in &self.services {
            for allowed in [true, false] {
                let ports: Vec<Port> =
                    service.ports.iter().copied().filter(|port| may(service, *port) == allowed).collect();
                if !ports.is_empty() {
                    let (service, addresses) = (service.name.clone(), service.addresses.clone());
                    entries.push(InMesh { service, addresses, ports, allowed });
                }
            }
        }
        entries
    }
}

/// Reads Services of monitored namespaces, and who is behind them.
pub(super) fn mesh(
    objects: &Objects<'_>,
    options: &CompileOptions,
    permissive: bool,
    compiler: &mut Compiler,
) -> Mesh {
    let label = |object: &Object| object.metadata.labels.as_ref()?.get(MONITORED_LABEL).cloned();
    let monitored: BTreeSet<&str> = objects
        .values()
        .filter(|object| object.reference.kind == Kind::Namespace)
        .filter(|object| label(object).as_deref() == Some(options.mesh_name.as_str()))
        .map(|object| object.reference.name.as_str())
        .collect();
    let mut mesh = Mesh { permissive, ..Mesh::default() };
    for (reference, object) in objects {
        if let Body::Service(spec) = &object.body
            && monitored.contains(reference.namespace.as_str())
        {
            mesh.services.extend(service(reference, spec, objects));
        }
        if let Body::TrafficTarget(spec) = &object.body {
            target(object, spec, &mut mesh, compiler);
        }
    }
    mesh
}

/// The service's own addresses, or those of its pods where it has none.
fn service(reference: &ObjectRef, spec: &Service, objects: &Objects<'_>) -> Vec<MeshService> {
    let ObjectRef { kind: _, namespace, name } = reference;
    let accounts = accounts(namespace, spec, objects);
    let made = |addresses: Vec<Address>, ports: Vec<Port>| {
        let service =
            MeshService { name: format!("{namespace}/{name}"), addresses, ports, accounts: accounts.clone() };
        (!service.addresses.is_empty() && !service.ports.is_empty()).then_some(service)
    };
    let own = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let own: BTreeSet<Address> = own.filter_map(|text| text.parse().ok()).collect();
    if !own.is_empty() {
        let own = own.into_iter().collect();
        return made(own, ports(spec.ports.as_deref())).into_iter().collect();
    }
    let mut found = Vec::new();
    for (other, object) in objects {
        let Body::Endpoints(_, endpoints) = &object.body else { continue };
        let of = if other.kind == Kind::EndpointSlice {
            let labels = object.metadata.labels.as_ref();
            labels.and_then(|labels| labels.get("kubernetes.io/service-name")).map_or("", String::as_str)
        } else {
            other.name.as_str()
        };
        if other.namespace == *namespace && of == name {
            found.extend(
                subsets(endpoints).into_iter().filter_map(|(addresses, ports)| made(addresses, ports)),
            );
        }
    }
    found
}

fn subsets(endpoints: &Endpoints) -> Vec<(Vec<Address>, Vec<Port>)> {
    let addresses = |texts: &mut dyn Iterator<Item = &String>| -> Vec<Address> {
        texts.filter_map(|text| text.parse().ok()).collect()
    };
    let slice = endpoints.endpoints.iter().flatten().flat_map(|endpoint| &endpoint.addresses);
    let mut found = vec![(addresses(&mut slice.into_iter()), ports(endpoints.ports.as_deref()))];
    for subset in endpoints.subsets.iter().flatten() {
        let mut texts = subset.addresses.iter().flatten().map(|address| &address.ip);
        found.push((addresses(&mut texts), ports(subset.ports.as_deref())));
    }
    found
}

fn ports(ports: Option<&[ServicePort]>) -> Vec<Port> {
    let tcp = |port: &&ServicePort| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
    let number = |port: &ServicePort| Port::new(u16::try_from(port.port?).ok()?);
    let found: BTreeSet<Port> = ports.unwrap_or_default().iter().filter(tcp).filter_map(number).collect();
    found.into_iter().collect()
}

/// The service accounts of the pods that a service selects.
fn accounts(namespace: &str, spec: &Service, objects: &Objects<'_>) -> BTreeSet<Identity> {
    let selector = spec.selector.clone().unwrap_or_default();
    if selector.is_empty() {
        return BTreeSet::new();
    }
    let selects = |workload: &Workload| {
        selector.iter().all(|(key, value)| workload.labels.get(key).is_some_and(|other| other == value))
    };
    objects
        .iter()
        .filter(|(reference, _)| reference.namespace == namespace)
        .filter_map(
            |(_, object)| {
                if let Body::Workload(_, workload) = &object.body { Some(workload) } else { None }
            },
        )
        .filter(|workload| selects(workload))
        .filter_map(|workload| Identity::new(namespace, &workload.service_account).ok())
        .collect()
}

fn target(object: &Object, spec: &TrafficTarget, mesh: &mut Mesh, compiler: &mut Compiler) {
    let mut issues = Issues::new(object);
    let namespace = &object.reference.namespace;
    let port = match spec.destination.port {
        None => Ok(None),
        Some(number) => {
            let port = u16::try_from(number).ok().and_then(Port::new);
            if port.is_none() {
                let advice = "a port is 1 to 65535: until then the target grants nothing";
                issues.error("spec.destination.port", format!("`{number}` is not a port"), Some(advice));
            }
            port.map(Some).ok_or(())
        }
    };
    let destination = subject(&spec.destination, namespace, "spec.destination", &mut issues);
    if spec.rules.as_deref().is_none_or(<[_]>::is_empty) {
        let message = "there are no rules, so the target grants nothing, as in OSM";
        issues.warning("spec.rules", message, Some("name a route group or a TCP route"));
    }
    let may = spec.rules.as_deref().is_some_and(|rules| !rules.is_empty());
    for (i, source) in spec.sources.iter().flatten().enumerate() {
        let source = subject(source, namespace, &format!("spec.sources[{i}]"), &mut issues);
        if let (Some(source), Some(destination), Ok(port), true) = (source, &destination, port, may) {
            mesh.targets.entry(source).or_default().insert((destination.clone(), port));
        }
    }
    compiler.describe(issues, 0);
}

fn subject(subject: &Subject, namespace: &str, field: &str, issues: &mut Issues<'_>) -> Option<Identity> {
    if subject.kind != "ServiceAccount" {
        let message = format!("`{}` is not a kind of subject, so this one counts for nothing", subject.kind);
        issues.error(&format!("{field}.kind"), message, Some("write `ServiceAccount`"));
        return None;
    }
    match Identity::new(subject.namespace.as_deref().unwrap_or(namespace), &subject.name) {
        Ok(identity) => Some(identity),
        Err(error) => {
            let advice = "name the service account and its namespace as Kubernetes has them";
            issues.error(field, error.to_string(), Some(advice));
            None
        }
    }
}
