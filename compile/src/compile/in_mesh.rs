//! Services of the mesh: they are not egress. Whether an identity may connect to one is the mesh's own
//! rule: permissive mode, else TrafficTargets, which are decided by the destination's port here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use egress_policy::{Address, Identity, InMesh, Port};

use super::diagnostic_sink::Issues;
use super::{CompileOptions, Compiler, MONITORED_LABEL, Objects, digest};
use crate::manifest::spec::{Backends, Endpoints, Service, ServicePort, Subject, TrafficTarget, Workload};
use crate::manifest::{Body, Kind, Object, ObjectRef};

/// The most destinations, each an address and a port, of one service. A hundred times what large ones have; every
/// sidecar of the mesh gets all of them, so the author of a service must not be able to make it a million.
const MAX_OF_SERVICE: usize = 10_000;
/// The most destinations of all services of a namespace.
const MAX_OF_NAMESPACE: usize = 50_000;

/// What the mesh says of its own services.
#[derive(Clone, Debug, Default)]
pub(super) struct Mesh {
    /// As they are for identities that no TrafficTarget names as a source: for most.
    common: View,
    /// As they are for the others.
    own: BTreeMap<Identity, View>,
}

/// The services as they are for an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) services: Arc<[InMesh]>,
    /// Stands for the services in versions, so that a thousand of them are not read again for each identity.
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

    fn share(&mut self, before: &Self) {
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

/// Who may connect to which service account, on which port.
type Targets = BTreeMap<Identity, BTreeSet<(Identity, Option<Port>)>>;

impl Mesh {
    /// The services as they are for one identity.
    pub(super) fn view(&self, identity: &Identity) -> &View {
        self.own.get(identity).unwrap_or(&self.common)
    }

    /// With the very values of before where they are equal: comparing them then costs nothing.
    pub(super) fn sharing(mut self, before: &Self) -> Self {
        self.common.share(&before.common);
        for (identity, view) in &mut self.own {
            view.share(before.view(identity));
        }
        self
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
    let behind = Behind::new(objects);
    let mut services = Vec::new();
    let mut destinations: BTreeMap<&str, usize> = BTreeMap::new();
    let mut targets = Targets::new();
    for (reference, object) in objects {
        if let Body::Service(spec) = &object.body
            && monitored.contains(reference.namespace.as_str())
        {
            let of_namespace = destinations.entry(reference.namespace.as_str()).or_default();
            services.extend(service(object, spec, &behind, of_namespace, compiler));
        }
        if let Body::TrafficTarget(spec) = &object.body {
            target(object, spec, &mut targets, compiler);
        }
    }
    let common = View::new(entries(&services, |_, _| permissive));
    if permissive {
        return Mesh { common, own: BTreeMap::new() };
    }
    // One target may name thousands of sources, for all of which the services are the same.
    let mut views: BTreeMap<BTreeSet<(Identity, Option<Port>)>, View> = BTreeMap::new();
    let own = targets.into_iter().map(|(identity, targets)| {
        let view = views.get(&targets).cloned().unwrap_or_else(|| {
            let may = |service: &MeshService, port: Port| {
                targets.iter().any(|(account, only)| {
                    service.accounts.contains(account) && only.is_none_or(|only| only == port)
                })
            };
            let view = View::new(entries(&services, may));
            views.insert(targets, view.clone());
            view
        });
        (identity, view)
    });
    Mesh { common, own: own.collect() }
}

fn entries(services: &[MeshService], may: impl Fn(&MeshService, Port) -> bool) -> Vec<InMesh> {
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

/// What may be behind services, found by where it is.
#[derive(Default)]
struct Behind<'s> {
    /// By namespace.
    workloads: BTreeMap<&'s str, Vec<&'s Workload>>,
    /// By namespace and the name of the service.
    endpoints: BTreeMap<(&'s str, &'s str), Vec<&'s Endpoints>>,
}

impl<'s> Behind<'s> {
    fn new(objects: &Objects<'s>) -> Self {
        let mut behind = Self::default();
        for (reference, object) in objects {
            let namespace = reference.namespace.as_str();
            if let Body::Workload(_, workload) = &object.body {
                behind.workloads.entry(namespace).or_default().push(workload);
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
                behind.endpoints.entry((namespace, service)).or_default().push(endpoints);
            }
        }
        behind
    }

    /// What the files say is behind a service. Whoever writes them is trusted.
    fn backends(&self, namespace: &str, name: &str, spec: &Service) -> Backends {
        let workloads = self.workloads.get(namespace).into_iter().flatten();
        let selected = workloads.filter(|workload| spec.selects(&workload.labels));
        let endpoints = self.endpoints.get(&(namespace, name)).into_iter().flatten();
        Backends {
            accounts: selected.map(|workload| workload.service_account.clone()).collect(),
            endpoints: endpoints.flat_map(|endpoints| subsets(endpoints)).collect(),
            doubt: None,
        }
    }
}

/// The service's own addresses, or those of its pods where it has none.
///
/// A service that may have other endpoints than pods does not count with its own addresses: nodes lead those to its
/// endpoints, which may be anywhere.
fn service(
    object: &Object,
    spec: &Service,
    behind: &Behind<'_>,
    of_namespace: &mut usize,
    compiler: &mut Compiler,
) -> Vec<MeshService> {
    if spec.is_alias() {
        return Vec::new();
    }
    let ObjectRef { kind: _, namespace, name } = &object.reference;
    let from_files;
    let backends = match &spec.backends {
        Some(backends) => backends,
        None => {
            from_files = behind.backends(namespace, name, spec);
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
    if let Some(doubt) = &backends.doubt {
        let what = if own.is_empty() { "some of its endpoints are" } else { "its cluster address is" };
        let mut issues = Issues::new(object);
        issues.warning(
            "spec",
            format!("{what} not in the mesh, so egress policy decides about connections there: {doubt}"),
            Some("remove that endpoint, or list the addresses in `ipAddresses` of an Egress"),
        );
        compiler.describe(issues, 0);
    }
    let made: Vec<MeshService> = if own.is_empty() {
        let endpoints = backends.endpoints.iter().cloned();
        endpoints.filter_map(|(addresses, ports)| made(addresses, ports)).collect()
    } else if backends.doubt.is_none() {
        let own = own.into_iter().collect();
        made(own, ServicePort::tcp(spec.ports.as_deref())).into_iter().collect()
    } else {
        Vec::new()
    };
    let count = made.iter().map(|part| part.addresses.len().saturating_mul(part.ports.len()));
    let count = count.fold(0, usize::saturating_add);
    let (most, of) = if count > MAX_OF_SERVICE {
        (MAX_OF_SERVICE, "a service")
    } else if of_namespace.saturating_add(count) > MAX_OF_NAMESPACE {
        (MAX_OF_NAMESPACE, "a namespace")
    } else {
        *of_namespace += count;
        return made;
    };
    let mut issues = Issues::new(object);
    let message = format!(
        "it is not in the mesh, so egress policy decides about connections there: with its {count} addresses and \
         ports there would be more than the {most} of {of}"
    );
    issues.warning("spec.ports", message, Some("give it fewer ports"));
    compiler.describe(issues, 0);
    Vec::new()
}

fn subsets(endpoints: &Endpoints) -> Vec<(Vec<Address>, Vec<Port>)> {
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

fn target(object: &Object, spec: &TrafficTarget, targets: &mut Targets, compiler: &mut Compiler) {
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
    let destination = destination.filter(|destination| {
        let is_own = destination.namespace() == namespace;
        if !is_own {
            let message = format!("`{destination}` is in another namespace, so the target grants nothing");
            let advice = "put the TrafficTarget into the namespace of its destination, as SMI has it";
            issues.error("spec.destination.namespace", message, Some(advice));
        }
        is_own
    });
    if spec.rules.as_deref().is_none_or(<[_]>::is_empty) {
        let message = "there are no rules, so the target grants nothing, as in OSM";
        issues.warning("spec.rules", message, Some("name a route group or a TCP route"));
    }
    let may = spec.rules.as_deref().is_some_and(|rules| !rules.is_empty());
    for (i, source) in spec.sources.iter().flatten().enumerate() {
        let source = subject(source, namespace, &format!("spec.sources[{i}]"), &mut issues);
        if let (Some(source), Some(destination), Ok(port), true) = (source, &destination, port, may) {
            targets.entry(source).or_default().insert((destination.clone(), port));
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
