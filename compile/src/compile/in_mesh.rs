//! Services of the mesh, which are not egress. The mesh's own rules decide whether an identity may connect to a
//! service: permissive mode, or else TrafficTargets, which are applied here by the destination's port.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use egress_policy::{Address, Identity, InMesh, Port};

use super::diagnostic_sink::DiagnosticSink;
use super::{CompileOptions, MONITORED_LABEL, Objects, StatusCollector, digest};
use crate::manifest::spec::{Backends, Endpoints, Service, ServicePort, Subject, TrafficTarget, Workload};
use crate::manifest::{Body, Kind, Object, ObjectRef};

/// The most destinations (address and port) of one service: a hundred times as many as large services have.
/// Every sidecar of the mesh gets all of them, so the author of a service must not be able to make it a
/// million.
const MAX_SERVICE_DESTINATIONS: usize = 10_000;
/// The most destinations of all services of a namespace.
const MAX_NAMESPACE_DESTINATIONS: usize = 50_000;

/// The services of the mesh, and the identities that may connect to them.
#[derive(Clone, Debug, Default)]
pub(super) struct Mesh {
    /// The view of identities that no TrafficTarget names as a source: most of them.
    common: View,
    /// The views of the other identities.
    own: BTreeMap<Identity, View>,
}

/// The services that one identity may reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) services: Arc<[InMesh]>,
    /// The digest of the services, so that a thousand of them are not serialized again for each identity.
    pub(super) digest: String,
}

impl Default for View {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl View {
    fn new(services: Vec<InMesh>) -> Self {
        Self { digest: digest(&services), services: services.into() }
    }

    fn reuse(&mut self, before: &Self) {
        if self == before {
            self.services = Arc::clone(&before.services);
        }
    }
}

#[derive(Clone, Debug)]
struct MeshService {
    name: String,
    addresses: Vec<Address>,
    ports: Vec<Port>,
    accounts: BTreeSet<Identity>,
}

/// The service accounts and ports that each identity may connect to.
type Targets = BTreeMap<Identity, BTreeSet<(Identity, Option<Port>)>>;

impl Mesh {
    /// The view of one identity.
    pub(super) fn view(&self, identity: &Identity) -> &View {
        self.own.get(identity).unwrap_or(&self.common)
    }

    /// Reuses views that did not change, so that comparing them costs nothing.
    pub(super) fn reuse_views(mut self, before: &Self) -> Self {
        self.common.reuse(&before.common);
        for (identity, view) in &mut self.own {
            view.reuse(before.view(identity));
        }
        self
    }
}

/// Reads the Services of monitored namespaces and the service accounts behind them.
pub(super) fn read_mesh(
    objects: &Objects<'_>,
    options: &CompileOptions,
    permissive: bool,
    collector: &mut StatusCollector,
) -> Mesh {
    let label = |object: &Object| object.metadata.labels.as_ref()?.get(MONITORED_LABEL).cloned();
    let monitored: BTreeSet<&str> = objects
        .values()
        .filter(|object| object.reference.kind == Kind::Namespace)
        .filter(|object| label(object).as_deref() == Some(options.mesh_name.as_str()))
        .map(|object| object.reference.name.as_str())
        .collect();
    let index = BackendIndex::new(objects);
    let mut services = Vec::new();
    let mut destinations: BTreeMap<&str, usize> = BTreeMap::new();
    let mut targets = Targets::new();
    for (reference, object) in objects {
        if let Body::Service(spec) = &object.body
            && monitored.contains(reference.namespace.as_str())
        {
            let of_namespace = destinations.entry(reference.namespace.as_str()).or_default();
            services.extend(read_service(object, spec, &index, of_namespace, collector));
        }
        if let Body::TrafficTarget(spec) = &object.body {
            read_target(object, spec, &mut targets, collector);
        }
    }
    let common = View::new(list_entries(&services, |_, _| permissive));
    if permissive {
        return Mesh { common, own: BTreeMap::new() };
    }
    // One TrafficTarget may name thousands of sources, for which the services are the same.
    let mut views: BTreeMap<BTreeSet<(Identity, Option<Port>)>, View> = BTreeMap::new();
    let own = targets.into_iter().map(|(identity, targets)| {
        let view = views.get(&targets).cloned().unwrap_or_else(|| {
            let may = |service: &MeshService, port: Port| {
                targets.iter().any(|(account, only)| {
                    service.accounts.contains(account) && only.is_none_or(|only| only == port)
                })
            };
            let view = View::new(list_entries(&services, may));
            views.insert(targets, view.clone());
            view
        });
        (identity, view)
    });
    Mesh { common, own: own.collect() }
}

fn list_entries(services: &[MeshService], may: impl Fn(&MeshService, Port) -> bool) -> Vec<InMesh> {
    let mut entries = Vec::new();
    for service in services {
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

/// The possible backends of services, indexed by namespace.
#[derive(Default)]
struct BackendIndex<'s> {
    /// By namespace.
    workloads: BTreeMap<&'s str, Vec<&'s Workload>>,
    /// By namespace and the name of the service.
    endpoints: BTreeMap<(&'s str, &'s str), Vec<&'s Endpoints>>,
}

impl<'s> BackendIndex<'s> {
    fn new(objects: &Objects<'s>) -> Self {
        let mut index = Self::default();
        for (reference, object) in objects {
            let namespace = reference.namespace.as_str();
            if let Body::Workload(_, workload) = &object.body {
                index.workloads.entry(namespace).or_default().push(workload);
            }
            if let Body::Endpoints(_, endpoints) = &object.body {
                let service = if reference.kind == Kind::EndpointSlice {
                    let labels = object.metadata.labels.as_ref();
                    labels
                        .and_then(|labels| labels.get("kubernetes.io/service-name"))
                        .map_or("", String::as_str)
                } else {
                    reference.name.as_str()
                };
                index.endpoints.entry((namespace, service)).or_default().push(endpoints);
            }
        }
        index
    }

    /// The backends of a service according to files. The author of a file is trusted.
    fn backends(&self, namespace: &str, name: &str, spec: &Service) -> Backends {
        let workloads = self.workloads.get(namespace).into_iter().flatten();
        let selected = workloads.filter(|workload| spec.selects(&workload.labels));
        let endpoints = self.endpoints.get(&(namespace, name)).into_iter().flatten();
        Backends {
            accounts: selected.map(|workload| workload.service_account.clone()).collect(),
            endpoints: endpoints.flat_map(|endpoints| read_subsets(endpoints)).collect(),
            untrusted_reason: None,
        }
    }
}

/// The destinations of a service: its own addresses, or those of its pods if it has none.
///
/// A service with endpoints that may not be pods does not count by its own addresses: nodes forward those to
/// its endpoints, which may be anywhere.
fn read_service(
    object: &Object,
    spec: &Service,
    index: &BackendIndex<'_>,
    of_namespace: &mut usize,
    collector: &mut StatusCollector,
) -> Vec<MeshService> {
    if spec.is_alias() {
        return Vec::new();
    }
    let ObjectRef { kind: _, namespace, name } = &object.reference;
    let from_files;
    let backends = match &spec.backends {
        Some(backends) => backends,
        None => {
            from_files = index.backends(namespace, name, spec);
            &from_files
        }
    };
    let accounts = backends.accounts.iter().filter_map(|account| Identity::new(namespace, account).ok());
    let accounts: BTreeSet<Identity> = accounts.collect();
    let made = |addresses: Vec<Address>, ports: Vec<Port>| {
        let service =
            MeshService { name: format!("{namespace}/{name}"), addresses, ports, accounts: accounts.clone() };
        (!service.addresses.is_empty() && !service.ports.is_empty()).then_some(service)
    };
    let own = spec.addresses();
    if let Some(untrusted_reason) = &backends.untrusted_reason {
        let what = if own.is_empty() { "some of its endpoints are" } else { "its cluster address is" };
        let mut sink = DiagnosticSink::new(object);
        sink.warning(
            "spec",
            format!(
                "{what} not in the mesh, so egress policy applies to connections there: {untrusted_reason}"
            ),
            Some("remove that endpoint, or list the addresses in `ipAddresses` of an Egress"),
        );
        collector.record(sink, 0);
    }
    let made: Vec<MeshService> = if own.is_empty() {
        let endpoints = backends.endpoints.iter().cloned();
        endpoints.filter_map(|(addresses, ports)| made(addresses, ports)).collect()
    } else if backends.untrusted_reason.is_none() {
        let own = own.into_iter().collect();
        made(own, ServicePort::tcp(spec.ports.as_deref())).into_iter().collect()
    } else {
        Vec::new()
    };
    let count = made.iter().map(|part| part.addresses.len().saturating_mul(part.ports.len()));
    let count = count.fold(0, usize::saturating_add);
    let (limit, owner) = if count > MAX_SERVICE_DESTINATIONS {
        (MAX_SERVICE_DESTINATIONS, "a service")
    } else if of_namespace.saturating_add(count) > MAX_NAMESPACE_DESTINATIONS {
        (MAX_NAMESPACE_DESTINATIONS, "a namespace")
    } else {
        *of_namespace = of_namespace.saturating_add(count);
        return made;
    };
    let mut sink = DiagnosticSink::new(object);
    let message = format!(
        "the service does not count as part of the mesh, so egress policy applies to connections there: its {count} \
         destinations (addresses times ports) exceed the limit of {limit} for {owner}"
    );
    sink.warning("spec.ports", message, Some("reduce its ports or addresses"));
    collector.record(sink, 0);
    Vec::new()
}

fn read_subsets(endpoints: &Endpoints) -> Vec<(Vec<Address>, Vec<Port>)> {
    let addresses = |texts: &mut dyn Iterator<Item = &String>| -> Vec<Address> {
        texts.filter_map(|text| text.parse().ok()).collect()
    };
    let slice = endpoints.endpoints.iter().flatten().flat_map(|endpoint| &endpoint.addresses);
    let mut found = vec![(addresses(&mut slice.into_iter()), ServicePort::tcp(endpoints.ports.as_deref()))];
    for subset in endpoints.subsets.iter().flatten() {
        let mut texts = subset.addresses.iter().flatten().map(|address| &address.ip);
        found.push((addresses(&mut texts), ServicePort::tcp(subset.ports.as_deref())));
    }
    found
}

fn read_target(
    object: &Object,
    spec: &TrafficTarget,
    targets: &mut Targets,
    collector: &mut StatusCollector,
) {
    let mut sink = DiagnosticSink::new(object);
    let namespace = &object.reference.namespace;
    let port = match spec.destination.port {
        None => Ok(None),
        Some(number) => {
            let port = u16::try_from(number).ok().and_then(Port::new);
            if port.is_none() {
                let advice = "use a port from 1 to 65535; until then the target grants nothing";
                sink.error("spec.destination.port", format!("`{number}` is not a port number"), Some(advice));
            }
            port.map(Some).ok_or(())
        }
    };
    let destination = read_subject(&spec.destination, namespace, "spec.destination", &mut sink);
    let destination = destination.filter(|destination| {
        let is_own = destination.namespace() == namespace;
        if !is_own {
            let message = format!("`{destination}` is in another namespace, so the target grants nothing");
            let advice = "put the TrafficTarget into the namespace of its destination, as SMI requires";
            sink.error("spec.destination.namespace", message, Some(advice));
        }
        is_own
    });
    if spec.rules.as_deref().is_none_or(<[_]>::is_empty) {
        let message = "there are no rules, so the target grants nothing, as in OSM";
        sink.warning("spec.rules", message, Some("add a route group or a TCP route"));
    }
    let may = spec.rules.as_deref().is_some_and(|rules| !rules.is_empty());
    for (i, source) in spec.sources.iter().flatten().enumerate() {
        let source = read_subject(source, namespace, &format!("spec.sources[{i}]"), &mut sink);
        if let (Some(source), Some(destination), Ok(port), true) = (source, &destination, port, may) {
            targets.entry(source).or_default().insert((destination.clone(), port));
        }
    }
    collector.record(sink, 0);
}

fn read_subject(
    subject: &Subject,
    namespace: &str,
    field: &str,
    sink: &mut DiagnosticSink<'_>,
) -> Option<Identity> {
    if subject.kind != "ServiceAccount" {
        let message = format!("subject kind `{}` is not supported, so this subject is ignored", subject.kind);
        sink.error(&format!("{field}.kind"), message, Some("write `ServiceAccount`"));
        return None;
    }
    match Identity::new(subject.namespace.as_deref().unwrap_or(namespace), &subject.name) {
        Ok(identity) => Some(identity),
        Err(error) => {
            let advice = "use the name and namespace of a Kubernetes service account";
            sink.error(field, error.to_string(), Some(advice));
            None
        }
    }
}
