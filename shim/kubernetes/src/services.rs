//! The services of the mesh, and the pods behind them. A plain value: no I/O.
//!
//! Whoever may write an EndpointSlice can put any address into it, and nodes lead the cluster address of a service
//! there. So an endpoint counts as a pod of the mesh only if the slice names a pod of its own namespace whose status
//! has the address: only kubelets may write that. Pods and slices do not enter the store. They change all the time;
//! what a service comes to by them seldom does.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use egress_compile::manifest::spec::{Backends, Endpoints, ServicePort, Workload};
use egress_compile::manifest::{Body, Kind, Object, ParsedFile};
use egress_compile::store::{Change, FileUpdate};
use egress_policy::{Address, Port};

use super::object::{Item, Key, file};

/// The label of a slice with the name of its service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// The number of answers of the API server for which the address of an ended pod still counts, while a slice names it: the
/// slice is corrected a moment after its pod is gone. There is one every ten seconds, and none while the API server
/// is away, where nobody corrects slices.
const GRACE: u8 = 6;
/// The number of answers of the API server for which a namespace is not awaited after waiting was in vain: some ten minutes.
/// Else whoever writes slices could have every address of theirs waited for.
const DISTRUST: u8 = 60;

/// Every Service, Pod and EndpointSlice of the cluster, reduced to what matters.
#[derive(Debug, Default)]
pub(super) struct Services {
    namespaces: BTreeMap<String, Namespace>,
    /// The number of pods by address.
    taken: HashMap<Address, usize>,
    /// The addresses of pods that have ended, where a slice named the pod.
    left: HashMap<Address, Left>,
    /// The services that may have to be resolved again.
    stale: BTreeSet<Key>,
    /// The services that keep what they had because a slice names a pod that may be known in a moment: slices and
    /// pods arrive by different watches. Without this every late pod would close the connections to its service.
    waiting: BTreeSet<Key>,
    /// True if the API server has no EndpointSlices.
    without_slices: bool,
}

#[derive(Debug, Default)]
struct Namespace {
    is_monitored: bool,
    services: BTreeMap<String, Change>,
    /// The backends of its services, as they were last.
    resolved: BTreeMap<String, Backends>,
    /// The number of answers of the API server for which nothing is awaited.
    distrust: u8,
    slices: BTreeMap<String, Slice>,
    pods: BTreeMap<String, Pod>,
    /// The number of pods that are alike, as services see them.
    groups: BTreeMap<Arc<Group>, usize>,
    /// The slices of a service.
    slices_of: BTreeMap<String, BTreeSet<String>>,
    /// The slices that name a pod.
    naming: BTreeMap<String, BTreeSet<String>>,
}

/// Pods with the same labels and service account. Most pods have many like them.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    labels: BTreeMap<String, String>,
    service_account: String,
}

#[derive(Debug)]
struct Pod {
    group: Arc<Group>,
    addresses: Vec<Address>,
    host_network: bool,
}

/// A pod that had an address.
#[derive(Debug)]
struct Left {
    pod: Key,
    /// The number of answers of the API server since then.
    age: u8,
}

#[derive(Debug, PartialEq)]
struct Slice {
    service: String,
    endpoints: Vec<Endpoint>,
    ports: Vec<Port>,
}

#[derive(Debug, PartialEq)]
struct Endpoint {
    /// Its address, or a text that is none.
    address: Result<Address, String>,
    /// The pod of the slice's namespace that it names.
    pod: Option<String>,
}

/// The backends of a service as its slices and pods are now.
#[derive(Debug, Default)]
struct Found {
    backends: Backends,
    /// True if all endpoints that are no pods name one that may be on its way.
    may_come: bool,
}

impl Services {
    /// Returns whether this is a kind whose objects are kept here.
    pub(super) const fn keeps(kind: Kind) -> bool {
        matches!(kind, Kind::Service | Kind::Pod | Kind::EndpointSlice)
    }

    /// The objects of a kind.
    pub(super) fn keys(&self, kind: Kind) -> Vec<Key> {
        let mut keys = Vec::new();
        for (namespace, content) in &self.namespaces {
            let mut add = |names: &mut dyn Iterator<Item = &String>| {
                keys.extend(names.map(|name| (namespace.clone(), name.clone())));
            };
            if kind == Kind::Service {
                add(&mut content.services.keys());
            } else if kind == Kind::Pod {
                add(&mut content.pods.keys());
            } else if kind == Kind::EndpointSlice {
                add(&mut content.slices.keys());
            }
        }
        keys
    }

    /// Takes in an object that is new, or changed.
    pub(super) fn apply(&mut self, kind: Kind, item: Item) {
        let Item { key, labels, change, status: _, is_being_deleted: _ } = item;
        let body = read(&change).map(|object| &object.body);
        if kind == Kind::Pod {
            let pod = if let Some(Body::Workload(_, pod)) = body { Some(pod.clone()) } else { None };
            self.put_pod(&key, pod);
        } else if kind == Kind::EndpointSlice {
            let service = labels.get(SERVICE_LABEL).cloned().unwrap_or_default();
            let slice = if let Some(Body::Endpoints(_, endpoints)) = body {
                Slice::new(&key.0, service, endpoints)
            } else {
                Slice::unreadable(service)
            };
            self.put_slice(&key, Some(slice));
        } else {
            self.namespace(&key.0).services.insert(key.1.clone(), change);
            self.stale.insert(key);
        }
    }

    /// Takes away an object.
    pub(super) fn delete(&mut self, kind: Kind, key: &Key) {
        if kind == Kind::Pod {
            self.put_pod(key, None);
        } else if kind == Kind::EndpointSlice {
            self.put_slice(key, None);
        } else {
            self.namespace(&key.0).services.remove(&key.1);
            self.stale.insert(key.clone());
        }
    }

    /// A namespace belongs to the mesh from now on, or no longer.
    pub(super) fn monitor(&mut self, namespace: &str, is_monitored: bool) {
        self.namespace(namespace).is_monitored = is_monitored;
        self.mark(namespace, |_| true);
    }

    /// The API server has EndpointSlices, or it has none.
    pub(super) fn has_slices(&mut self, has: bool) {
        if self.without_slices != has {
            return;
        }
        self.without_slices = !has;
        let namespaces: Vec<String> = self.namespaces.keys().cloned().collect();
        for namespace in namespaces {
            self.mark(&namespace, |_| true);
        }
    }

    /// The API server answered, which it is asked for from time to time.
    pub(super) fn tick(&mut self) {
        let mut over = Vec::new();
        self.left.retain(|_, left| {
            left.age += 1;
            let stays = left.age < GRACE;
            if !stays {
                over.push(left.pod.clone());
            }
            stays
        });
        for pod in over {
            self.mark_naming(&pod);
        }
        for content in self.namespaces.values_mut() {
            content.distrust = content.distrust.saturating_sub(1);
        }
    }

    /// Returns whether a service waits for a pod.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Ends the waiting: what a slice names and nobody knows is no pod.
    pub(super) fn give_up(&mut self) {
        for key in std::mem::take(&mut self.waiting) {
            self.namespace(&key.0).distrust = DISTRUST;
            self.stale.insert(key);
        }
    }

    /// The services that may be different now, as they are.
    pub(super) fn resolve(&mut self) -> Vec<FileUpdate> {
        let stale = std::mem::take(&mut self.stale);
        let mut update = |key: Key| {
            let change = self.resolve_one(&key);
            FileUpdate { file: file(Kind::Service, &key), change }
        };
        stale.into_iter().map(&mut update).collect()
    }

    fn resolve_one(&mut self, key: &Key) -> Change {
        self.waiting.remove(key);
        let Some(content) = self.namespaces.get(&key.0) else { return Change::Removed };
        let change = content.services.get(&key.1).filter(|_| content.is_monitored);
        let Some(change @ Change::Read(ParsedFile { objects, notes })) = change else {
            let change = change.cloned().unwrap_or(Change::Removed);
            self.namespace(&key.0).resolved.remove(&key.1);
            return change;
        };
        let Some(Body::Service(service)) = read(change).map(|object| &object.body) else {
            return change.clone();
        };
        let Found { mut backends, may_come } = self.backends(&key.0, content, &key.1);
        let waits = may_come && content.distrust == 0;
        if waits
            && let Some(before) =
                content.resolved.get(&key.1).filter(|before| before.untrusted_reason.is_none())
        {
            backends = before.clone();
        }
        if !service.addresses().is_empty() {
            // Only that all are pods counts there, and not where these are today.
            backends.endpoints.clear();
        }
        let selected = content.groups.keys().filter(|group| service.selects(&group.labels));
        backends.accounts = selected.map(|group| group.service_account.clone()).collect();
        let with_backends = |object: &Arc<Object>| {
            let mut object = Object::clone(object);
            if let Body::Service(service) = &mut object.body {
                service.backends = Some(backends.clone());
            }
            Arc::new(object)
        };
        let parsed =
            ParsedFile { objects: objects.iter().map(with_backends).collect(), notes: notes.clone() };
        if waits {
            self.waiting.insert(key.clone());
        }
        self.namespace(&key.0).resolved.insert(key.1.clone(), backends);
        Change::Read(parsed)
    }

    /// The endpoints of a service that are pods, and the first one that is none.
    fn backends(&self, namespace: &str, content: &Namespace, service: &str) -> Found {
        if self.without_slices {
            let untrusted_reason =
                "the API server has no EndpointSlices, which say where its endpoints are".to_owned();
            let backends = Backends { untrusted_reason: Some(untrusted_reason), ..Backends::default() };
            return Found { backends, may_come: false };
        }
        let mut may_come = true;
        let mut found: BTreeMap<&[Port], BTreeSet<Address>> = BTreeMap::new();
        let mut others = BTreeMap::new();
        let names = content.slices_of.get(service).into_iter().flatten();
        for (name, slice) in names.filter_map(|name| content.slices.get_key_value(name)) {
            for endpoint in &slice.endpoints {
                match self.pod_address(namespace, content, endpoint) {
                    Some(address) => drop(found.entry(&slice.ports).or_default().insert(address)),
                    None => {
                        may_come &= content.may_come(endpoint);
                        others.insert(endpoint.text(), name);
                    }
                }
            }
        }
        let more = match others.len().saturating_sub(1) {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        let untrusted_reason = others.first_key_value().map(|(address, slice)| {
            format!(
                "EndpointSlice `{slice}` has `{address}`{more}, which is not the own address of a pod here"
            )
        });
        let endpoints =
            found.into_iter().map(|(ports, addresses)| (addresses.into_iter().collect(), ports.to_vec()));
        let backends =
            Backends { accounts: BTreeSet::new(), endpoints: endpoints.collect(), untrusted_reason };
        Found { may_come: may_come && !others.is_empty(), backends }
    }

    /// The address of an endpoint, where it is the one of the pod that it names.
    fn pod_address(&self, namespace: &str, content: &Namespace, endpoint: &Endpoint) -> Option<Address> {
        let address = *endpoint.address.as_ref().ok()?;
        let name = endpoint.pod.as_ref()?;
        let has = content.pods.get(name).is_some_and(|pod| pod.addresses.contains(&address));
        let had = || {
            let left = self.left.get(&address);
            left.is_some_and(|left| left.pod.0 == namespace && left.pod.1 == *name)
        };
        (has || had()).then_some(address)
    }

    fn put_pod(&mut self, key: &Key, pod: Option<Workload>) {
        let content = self.namespace(&key.0);
        let before = content.pods.remove(&key.1);
        let had = before.as_ref().map(|pod| pod.addresses.clone()).unwrap_or_default();
        let mut regrouped = Vec::new();
        let mut has = Vec::new();
        if let Some(Workload { labels, service_account, addresses, host_network }) = pod {
            let group = Arc::new(Group { labels, service_account });
            let group = content.groups.get_key_value(&group).map_or(group, |(known, _)| Arc::clone(known));
            let count = content.groups.entry(Arc::clone(&group)).or_default();
            *count += 1;
            if *count == 1 {
                regrouped.push(Arc::clone(&group));
            }
            has.clone_from(&addresses);
            content.pods.insert(key.1.clone(), Pod { group, addresses, host_network });
        }
        if let Some(Pod { group, .. }) = before
            && let Some(count) = content.groups.get_mut(&group)
        {
            *count -= 1;
            if *count == 0 {
                content.groups.remove(&group);
                regrouped.push(group);
            }
        }
        let is_named = content.naming.contains_key(&key.1);
        for address in has.iter().filter(|address| !had.contains(address)) {
            *self.taken.entry(*address).or_default() += 1;
            // Whoever had it has it no more.
            if let Some(left) = self.left.remove(address) {
                self.mark_naming(&left.pod);
            }
        }
        for address in had.iter().filter(|address| !has.contains(address)) {
            let others = self.taken.get_mut(address).map_or(0, |count| {
                *count -= 1;
                *count
            });
            if others == 0 {
                self.taken.remove(address);
                if is_named {
                    self.left.insert(*address, Left { pod: key.clone(), age: 0 });
                }
            }
        }
        if had != has {
            self.mark_naming(key);
        }
        if !regrouped.is_empty() {
            self.mark(&key.0, |change| {
                let Some(Body::Service(service)) = read(change).map(|object| &object.body) else {
                    return false;
                };
                regrouped.iter().any(|group| service.selects(&group.labels))
            });
        }
    }

    fn put_slice(&mut self, key: &Key, slice: Option<Slice>) {
        let content = self.namespace(&key.0);
        let before = content.slices.remove(&key.1);
        if before == slice {
            content.slices.extend(slice.map(|slice| (key.1.clone(), slice)));
            return;
        }
        let mut stale = Vec::new();
        if let Some(before) = before {
            remove(&mut content.slices_of, &before.service, &key.1);
            for pod in before.endpoints.iter().filter_map(|endpoint| endpoint.pod.as_ref()) {
                remove(&mut content.naming, pod, &key.1);
            }
            stale.push(before.service);
        }
        if let Some(slice) = slice {
            content.slices_of.entry(slice.service.clone()).or_default().insert(key.1.clone());
            for pod in slice.endpoints.iter().filter_map(|endpoint| endpoint.pod.as_ref()) {
                content.naming.entry(pod.clone()).or_default().insert(key.1.clone());
            }
            stale.push(slice.service.clone());
            content.slices.insert(key.1.clone(), slice);
        }
        self.stale.extend(stale.into_iter().map(|service| (key.0.clone(), service)));
    }

    /// Marks the services of the slices that name a pod.
    fn mark_naming(&mut self, (namespace, pod): &Key) {
        let Some(content) = self.namespaces.get(namespace) else { return };
        let slices = content.naming.get(pod).into_iter().flatten();
        let services = slices.filter_map(|slice| Some(content.slices.get(slice)?.service.clone()));
        self.stale.extend(services.map(|service| (namespace.clone(), service)));
    }

    /// Marks services of a namespace.
    fn mark(&mut self, namespace: &str, is_meant: impl Fn(&Change) -> bool) {
        let Some(content) = self.namespaces.get(namespace) else { return };
        let services = content.services.iter().filter(|(_, change)| is_meant(change));
        self.stale.extend(services.map(|(name, _)| (namespace.to_owned(), name.clone())));
    }

    fn namespace(&mut self, name: &str) -> &mut Namespace {
        self.namespaces.entry(name.to_owned()).or_default()
    }
}

impl Namespace {
    /// Returns whether the pod of an endpoint may be on its way, or the news of its address.
    fn may_come(&self, endpoint: &Endpoint) -> bool {
        let pod = endpoint.pod.as_ref().filter(|_| endpoint.address.is_ok());
        pod.is_some_and(|pod| self.pods.get(pod).is_none_or(|pod| !pod.host_network))
    }
}

impl Slice {
    fn new(namespace: &str, service: String, read: &Endpoints) -> Self {
        let mut endpoints = Vec::new();
        for endpoint in read.endpoints.iter().flatten() {
            let pod = endpoint.target_ref.as_ref().and_then(|target| target.pod_of(namespace));
            endpoints.extend(endpoint.addresses.iter().map(|text| Endpoint {
                address: text.parse().map_err(|_| text.clone()),
                pod: pod.map(str::to_owned),
            }));
        }
        Self { service, endpoints, ports: ServicePort::tcp(read.ports.as_deref()) }
    }

    /// A slice that may hold anything.
    fn unreadable(service: String) -> Self {
        let address = Err("what cannot be read".to_owned());
        Self { service, endpoints: vec![Endpoint { address, pod: None }], ports: Vec::new() }
    }
}

impl Endpoint {
    fn text(&self) -> String {
        self.address.as_ref().map_or_else(Clone::clone, ToString::to_string)
    }
}

/// The object of a change that could be read.
fn read(change: &Change) -> Option<&Object> {
    match change {
        Change::Read(parsed) => parsed.objects.first().map(|object| &**object),
        Change::Unreadable(_) | Change::Void(_) | Change::Removed => None,
    }
}

fn remove(map: &mut BTreeMap<String, BTreeSet<String>>, key: &str, member: &str) {
    if let Some(members) = map.get_mut(key) {
        members.remove(member);
        if members.is_empty() {
            map.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
