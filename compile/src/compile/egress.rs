//! Egress objects.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use egress_policy::{Cidr, EncryptedHello, HostPattern, Identity, Port, Protocol, Route, Rule, Upgrade};

use super::digest::Digest;
use super::diagnostic_sink::Issues;
use super::list::List;
use super::namespace::Namespaces;
use super::route::{Group, Groups};
use super::upstream::{Limits, OwnCluster, Settings, separated};
use super::{Invalid, Objects, POLICY_NAMESPACES_ANNOTATION, address, annotations, host};
use crate::budget::{self, Content, Usage};
use crate::manifest::spec::{Egress, MatchRef, PortSpec, Source};
use crate::manifest::{Body, Kind, Object, ObjectRef};

const ROUTE_GROUPS: &str = "specs.smi-spec.io/v1alpha4";
const SETTINGS: &str = "policy.openservicemesh.io/v1alpha1";

/// What one Egress object grants.
#[derive(Debug)]
pub(super) struct Policy<'s> {
    /// Which object it is.
    pub(super) reference: &'s ObjectRef,
    /// To whom.
    pub(super) sources: BTreeSet<Identity>,
    /// What, in the order of documents.
    pub(super) rules: Vec<PolicyRule>,
    /// What its rules cost each identity.
    pub(super) usage: Usage,
    /// What its lists hold.
    content: Content,
    /// Whether none of its sources has room for it.
    pub(super) is_crowded_out: bool,
    /// When it was made, where a server says.
    pub(super) made: Option<&'s str>,
    /// The clusters that its rules name.
    pub(super) clusters: Vec<OwnCluster>,
    /// The same rules and clusters for sources of other namespaces, where the clusters must not be shared.
    apart: Option<(Vec<PolicyRule>, Vec<OwnCluster>)>,
    /// The field that names the settings of those.
    pub(super) settings_field: String,
    /// What there is to say about it.
    pub(super) issues: Issues<'s>,
}

impl Policy<'_> {
    /// What it costs the control plane, for the sources that it has now.
    pub(super) fn memory(&self) -> usize {
        budget::memory(self.content, &self.usage, self.sources.len())
    }

    /// Whether an identity is of another namespace.
    pub(super) fn is_foreign_to(&self, identity: &Identity) -> bool {
        self.issues.namespace() != identity.namespace()
    }

    pub(super) fn rules_for(&self, identity: &Identity) -> &[PolicyRule] {
        match &self.apart {
            Some((rules, _)) if self.is_foreign_to(identity) => rules,
            _ => &self.rules,
        }
    }

    pub(super) fn clusters_for(&self, identity: &Identity) -> &[OwnCluster] {
        match &self.apart {
            Some((_, clusters)) if self.is_foreign_to(identity) => clusters,
            _ => &self.clusters,
        }
    }
}

/// Reads all Egress objects.
pub(super) fn policies<'s>(
    objects: &Objects<'s>,
    groups: &Groups<'_>,
    settings: &Settings<'_>,
    namespaces: &Namespaces<'_>,
    encrypted_hello: EncryptedHello,
) -> Vec<Policy<'s>> {
    let mut policies = Vec::new();
    for (reference, object) in objects {
        if let Body::Egress(egress) = &object.body {
            let issues = Issues::new(object);
            let settings_field = "spec.matches".to_owned();
            let reader = Reader {
                reference,
                object,
                egress,
                groups,
                settings,
                namespaces,
                encrypted_hello,
                settings_field,
                issues,
            };
            policies.push(reader.policy());
        }
    }
    policies
}

/// A rule, shared by all identities to whom it is granted.
#[derive(Clone, Debug)]
pub(super) struct PolicyRule {
    pub(super) rule: Arc<Rule>,
    pub(super) digest: Digest,
}

/// A list that all rules of an object share. `None`: anything.
type Part<T> = Result<Option<List<T>>, Invalid>;

struct Parts {
    addresses: Part<Cidr>,
    hosts: Part<HostPattern>,
    routes: Part<Arc<Route>>,
    upgrades: Result<Vec<Upgrade>, Invalid>,
    encrypted_hello: Result<Option<EncryptedHello>, Invalid>,
    /// `None`: no settings of its own.
    limits: Result<Option<Limits>, Invalid>,
}

impl Parts {
    /// What the lists hold. Routes are counted by what points at them: they belong to their groups.
    fn content(&self) -> Content {
        fn measure<T>(part: &Part<T>) -> Content {
            let list = part.as_ref().ok().and_then(Option::as_ref);
            list.map_or_else(Content::default, |list| Content {
                items: list.items.len(),
                bytes: list.digest.length,
            })
        }
        let (addresses, hosts) = (measure(&self.addresses), measure(&self.hosts));
        let items = addresses.items.saturating_add(hosts.items).saturating_add(measure(&self.routes).items);
        Content { items, bytes: addresses.bytes.saturating_add(hosts.bytes) }
    }
}

struct Reader<'a, 's> {
    reference: &'s ObjectRef,
    object: &'s Object,
    egress: &'s Egress,
    groups: &'a Groups<'a>,
    settings: &'a Settings<'a>,
    namespaces: &'a Namespaces<'a>,
    /// What becomes of encrypted ClientHellos where the object does not say it.
    encrypted_hello: EncryptedHello,
    settings_field: String,
    issues: Issues<'s>,
}

/// What an object grants to each of its sources.
#[derive(Default)]
struct Granted {
    rules: Vec<PolicyRule>,
    clusters: Vec<OwnCluster>,
    usage: Usage,
    content: Content,
}

impl<'s> Reader<'_, 's> {
    fn policy(mut self) -> Policy<'s> {
        // Nothing is made of a list that is too long, not even problems.
        let fits = self.check_sizes();
        let sources = if fits.is_ok() { self.sources() } else { BTreeSet::new() };
        let mut granted = fits.and_then(|()| self.granted(sources.len())).unwrap_or_default();
        if sources.is_empty() && self.issues.lack_permission() {
            // It contributes nothing to anybody.
            granted = Granted::default();
        }
        let Granted { mut rules, clusters, usage, content } = granted;
        rules.sort_by(|a, b| a.rule.cmp(&b.rule));
        let namespace = &self.reference.namespace;
        let has_foreign = sources.iter().any(|identity| identity.namespace() != namespace);
        let apart = (has_foreign && !clusters.is_empty()).then(|| separated(&rules, &clusters, namespace));
        Policy {
            reference: self.reference,
            sources,
            rules,
            usage,
            content,
            is_crowded_out: false,
            made: self.object.metadata.creation_timestamp.as_deref(),
            clusters,
            apart,
            settings_field: self.settings_field,
            issues: self.issues,
        }
    }

    /// Checks the lengths of lists.
    fn check_sizes(&mut self) -> Result<(), Invalid> {
        let Egress { sources, hosts, ip_addresses, ports, matches } = self.egress;
        let length = |list: &Option<Vec<String>>| list.as_ref().map_or(0, Vec::len);
        let split = "split the object into several";
        let lists = [
            ("sources", sources.len(), budget::MAX_SOURCES, split),
            ("hosts", length(hosts), budget::MAX_HOSTS, "name domains by a wildcard, as in `*.example.com`"),
            ("ipAddresses", length(ip_addresses), budget::MAX_ADDRESSES, "join blocks that lie side by side"),
            ("ports", ports.len(), budget::MAX_PORTS, split),
            ("matches", matches.as_ref().map_or(0, Vec::len), budget::MAX_MATCHES, "join route groups"),
        ];
        let mut fits = Ok(());
        for (noun, amount, limit, remedy) in lists {
            if let Some(excess) = budget::list(noun, amount, limit, remedy) {
                self.issues.too_large(&format!("spec.{noun}"), excess, "the object");
                fits = Err(Invalid);
            }
        }
        fits
    }

    /// What each of so many sources is granted.
    fn granted(&mut self, sources: usize) -> Result<Granted, Invalid> {
        // Everything is read, so that every problem is named at once.
        let lists = self.empty_lists();
        let parts = Parts {
            limits: self.references(),
            addresses: self.addresses(),
            hosts: self.hosts(),
            routes: self.routes(),
            upgrades: annotations::upgrades(self.object, &mut self.issues),
            encrypted_hello: annotations::encrypted_hello(self.object, &mut self.issues),
        };
        if self.egress.ports.is_empty() {
            self.issues.warning(
                "spec.ports",
                "there are no ports, so nothing is granted",
                Some("add a port"),
            );
        }
        let egress = self.egress;
        let mut ports = Vec::with_capacity(egress.ports.len());
        for (i, port) in egress.ports.iter().enumerate() {
            ports.extend(self.rule(&format!("spec.ports[{i}]"), port, &parts));
        }
        lists?;
        let usage = ports.iter().fold(Usage::default(), |usage, port| usage.plus(port.usage()));
        let references = || budget::references(usage.references(sources), budget::MAX_REFERENCES);
        if let Some(excess) = usage.excess().or_else(references) {
            self.issues.too_large("spec", excess, "the object");
            return Err(Invalid);
        }
        let mut granted = Granted { usage, content: parts.content(), ..Granted::default() };
        for port in &ports {
            port.grant(&mut granted);
        }
        Ok(granted)
    }

    fn sources(&mut self) -> BTreeSet<Identity> {
        if self.egress.sources.is_empty() {
            let message = "there are no sources, so the policy applies to nobody";
            self.issues.info("spec.sources", message, Some("add a source of kind `ServiceAccount`"));
        }
        let mut identities = BTreeSet::new();
        for (i, Source { kind, name, namespace }) in self.egress.sources.iter().enumerate() {
            if kind != "ServiceAccount" {
                let message = format!("`{kind}` is not a kind of source, so this one grants nothing");
                self.issues.error(
                    &format!("spec.sources[{i}].kind"),
                    message,
                    Some("write `ServiceAccount`"),
                );
                continue;
            }
            match Identity::new(namespace, name) {
                Ok(identity) if self.namespaces.permit(&self.reference.namespace, &identity) => {
                    identities.insert(identity);
                }
                Ok(identity) => {
                    let own = &self.reference.namespace;
                    let message = format!(
                        "`{identity}` is in another namespace, which objects of `{own}` may not grant to, so this \
                         source grants nothing"
                    );
                    let advice = format!(
                        "move the object to namespace `{namespace}`, annotate that Namespace with \
                         `{POLICY_NAMESPACES_ANNOTATION}: {own}`, or list `{own}` in `--policy-namespaces` \
                         (`osm.egress.policyNamespaces`)"
                    );
                    self.issues.not_permitted(&format!("spec.sources[{i}]"), message, &advice);
                }
                Err(error) => {
                    let advice = "name the service account and its namespace as Kubernetes has them: until then this source grants nothing";
                    self.issues.error(&format!("spec.sources[{i}]"), error.to_string(), Some(advice));
                }
            }
        }
        identities
    }

    /// Checks `matches` as OSM's webhook does, with its words, and looks settings up. Whether the
    /// object may grant anything.
    fn references(&mut self) -> Result<Option<Limits>, Invalid> {
        let mut valid = true;
        let mut count = 0;
        let mut limits = None;
        let egress = self.egress;
        for (i, MatchRef { api_group, kind, name }) in egress.matches.iter().flatten().enumerate() {
            let field = format!("spec.matches[{i}]");
            let expected = match api_group.as_str() {
                ROUTE_GROUPS => "HTTPRouteGroup",
                SETTINGS => "UpstreamTrafficSetting",
                other => {
                    valid = false;
                    let message = format!(
                        "Expected 'matches.apiGroup' to be one of [{ROUTE_GROUPS} {SETTINGS}], got: {other}"
                    );
                    self.issues.error(&format!("{field}.apiGroup"), message, Some(NO_OBJECT));
                    continue;
                }
            };
            if kind != expected {
                valid = false;
                let message =
                    format!("Expected 'matches.kind' for match '{name}' to be '{expected}', got: {kind}");
                self.issues.error(&format!("{field}.kind"), message, Some(NO_OBJECT));
            } else if api_group == SETTINGS {
                count += 1;
                let target = ObjectRef::new(Kind::UpstreamTrafficSetting, &self.reference.namespace, name);
                match self.settings.get(&target) {
                    Some(Ok(found)) => {
                        limits = Some(*found);
                        self.settings_field = field;
                    }
                    Some(Err(Invalid)) => {
                        valid = false;
                        let advice = "correct the settings: until then the object grants nothing";
                        self.issues.wrong_reference(&field, format!("{target} is invalid"), advice);
                    }
                    None => {
                        valid = false;
                        self.issues.wrong_reference(&field, format!("there is no {target}"), NO_OBJECT);
                    }
                }
            }
        }
        if count > 1 {
            valid = false;
            let message = "Cannot have more than 1 UpstreamTrafficSetting match";
            self.issues.error("spec.matches", message, Some(NO_OBJECT));
        }
        if valid { Ok(limits) } else { Err(Invalid) }
    }

    /// Refuses lists that are there and empty, as they are left when every entry is commented out. Only an absent
    /// list means "any": a slip must not grant more than what was written before it.
    fn empty_lists(&mut self) -> Result<(), Invalid> {
        let Egress { sources: _, hosts, ip_addresses, ports: _, matches } = self.egress;
        let is_empty = |list: &Option<Vec<String>>| list.as_ref().is_some_and(Vec::is_empty);
        let lists = [
            ("hosts", is_empty(hosts), "add a host, or remove the field if any name is meant"),
            (
                "ipAddresses",
                is_empty(ip_addresses),
                "add a block, or remove the field if any address is meant",
            ),
            (
                "matches",
                matches.as_ref().is_some_and(Vec::is_empty),
                "add a reference, or remove the field if any request is meant",
            ),
        ];
        let mut valid = Ok(());
        for (noun, empty, remedy) in lists {
            if empty {
                let advice = format!("{remedy}: until then the object grants nothing");
                let message = "the list is there and empty, so it allows nothing";
                self.issues.error(&format!("spec.{noun}"), message, Some(&advice));
                valid = Err(Invalid);
            }
        }
        valid
    }

    fn addresses(&mut self) -> Part<Cidr> {
        let Some(texts) = self.egress.ip_addresses.as_deref() else { return Ok(None) };
        let advice = "correct or remove this block: until then the object grants nothing";
        address::blocks(texts, "spec.ipAddresses", advice, &mut self.issues)
            .map(|blocks| Some(List::new(blocks)))
    }

    fn hosts(&mut self) -> Part<HostPattern> {
        let Some(texts) = self.egress.hosts.as_deref() else { return Ok(None) };
        host::patterns(texts, "spec.hosts", &mut self.issues).map(|hosts| Some(List::new(hosts)))
    }

    fn routes(&mut self) -> Part<Arc<Route>> {
        let mut valid = true;
        let groups = self.groups;
        let mut named: BTreeMap<ObjectRef, &Group> = BTreeMap::new();
        let egress = self.egress;
        for (i, reference) in egress.matches.iter().flatten().enumerate() {
            if reference.api_group != ROUTE_GROUPS || reference.kind != "HTTPRouteGroup" {
                continue;
            }
            let field = format!("spec.matches[{i}]");
            if !egress.ports.iter().any(|port| port.protocol.eq_ignore_ascii_case("http")) {
                let message = "route groups are looked at for protocol `http` only, and no port has it";
                self.issues.warning(&field, message, None);
            }
            let target = ObjectRef::new(Kind::HttpRouteGroup, &self.reference.namespace, &reference.name);
            match groups.get(&target) {
                Some(Ok(group)) => {
                    named.insert(target, group);
                }
                Some(Err(Invalid)) => {
                    valid = false;
                    let message = format!("{target} is invalid");
                    let advice = "correct the group: until then the http rules of the object grant nothing";
                    self.issues.wrong_reference(&field, message, advice);
                }
                None => {
                    valid = false;
                    let message = format!("there is no {target}");
                    let advice = "add the group to the policy's own namespace, or remove this match: until then the http rules of the object grant nothing";
                    self.issues.wrong_reference(&field, message, advice);
                }
            }
        }
        let count = named.values().map(|group| group.len()).sum();
        let remedy = "name fewer route groups";
        if let Some(excess) = budget::list("routes", count, budget::MAX_ROUTES, remedy) {
            self.issues.too_large("spec.matches", excess, "the http rules of the object");
            valid = false;
        }
        if !valid {
            return Err(Invalid);
        }
        let groups: Vec<&Group> = named.into_values().collect();
        Ok((!groups.is_empty()).then(|| Group::merge(&groups)))
    }

    /// The rule of a port, if everything that it is made of is valid.
    fn rule(&mut self, field: &str, spec: &PortSpec, parts: &Parts) -> Result<PortRule, Invalid> {
        let port = self.port(field, spec);
        let protocol = self.protocol(field, spec);
        let (port, protocol) = (port?, protocol?);
        let (hosts, routes) = match protocol {
            Protocol::Tcp => (None, None),
            Protocol::Https => (parts.hosts.clone()?, None),
            Protocol::Http => {
                let hosts = parts.hosts.clone()?;
                if hosts.is_none() {
                    let advice = "add `hosts`; for any host, use protocol `tcp`";
                    let message = "protocol `http` without hosts grants nothing, as in OSM";
                    self.issues.error(&format!("{field}.protocol"), message, Some(advice));
                    return Err(Invalid);
                }
                (hosts, parts.routes.clone()?)
            }
        };
        let addresses = parts.addresses.clone()?;
        let names_choose_addresses = hosts.is_some() && addresses.is_none();
        let (upgrades, encrypted_hello) = (parts.upgrades.clone()?, parts.encrypted_hello?);
        let ObjectRef { kind: _, namespace, name } = self.reference;
        let bare = Rule {
            policy: format!("{namespace}/{name}"),
            name: field.to_owned(),
            port,
            protocol,
            addresses: None,
            hosts: None,
            routes: None,
            upgrades: if protocol == Protocol::Http { upgrades } else { Vec::new() },
            encrypted_hello: match (protocol, encrypted_hello) {
                (Protocol::Https, Some(said)) => said,
                // A hidden name then reaches only what the visible one's servers serve. At an address that the
                // workload chose it could reach anything, so there somebody must say so.
                (Protocol::Https, None) if names_choose_addresses => self.encrypted_hello,
                (Protocol::Https, None) | (Protocol::Tcp | Protocol::Http, _) => EncryptedHello::Refuse,
            },
            cluster: None,
        };
        Ok(PortRule { digest: Digest::of(&bare), bare, addresses, hosts, routes, limits: parts.limits? })
    }

    fn port(&mut self, field: &str, spec: &PortSpec) -> Result<Port, Invalid> {
        let port = u16::try_from(spec.number).ok().and_then(Port::new);
        if port.is_none() {
            let message = format!("`{}` is not a port, so this one grants nothing", spec.number);
            self.issues.error(&format!("{field}.number"), message, Some("a port is 1 to 65535"));
        }
        port.ok_or(Invalid)
    }

    fn protocol(&mut self, field: &str, spec: &PortSpec) -> Result<Protocol, Invalid> {
        let field = format!("{field}.protocol");
        let lower = spec.protocol.to_ascii_lowercase();
        let protocol = match lower.as_str() {
            "http" => Protocol::Http,
            "https" => Protocol::Https,
            "tcp" | "tcp-server-first" => Protocol::Tcp,
            _ => {
                let message = format!("`{}` is not a protocol, so this port grants nothing", spec.protocol);
                let advice = "write `http`, `https`, `tcp` or `tcp-server-first`";
                self.issues.error(&field, message, Some(advice));
                return Err(Invalid);
            }
        };
        if protocol == Protocol::Tcp && self.egress.hosts.as_ref().is_some_and(|hosts| !hosts.is_empty()) {
            let message = format!("hosts are not looked at for protocol `{lower}`");
            let advice = "to decide by name use `https` or `http`; to decide by address add `ipAddresses`";
            self.issues.warning(&field, message, Some(advice));
        }
        Ok(protocol)
    }
}

/// What one port of an object comes to, before rules are made of it.
#[derive(Debug)]
struct PortRule {
    /// The rule without its lists.
    bare: Rule,
    digest: Digest,
    addresses: Option<List<Cidr>>,
    hosts: Option<List<HostPattern>>,
    routes: Option<List<Arc<Route>>>,
    /// `None`: no clusters of its own.
    limits: Option<Limits>,
}

impl PortRule {
    /// The names that have clusters of their own: with settings, and where they are resolved.
    fn named(&self) -> Option<&List<HostPattern>> {
        self.hosts.as_ref().filter(|_| self.limits.is_some() && self.addresses.is_none())
    }

    /// What its rules cost.
    fn usage(&self) -> Usage {
        // With the name of the field.
        let length = |digest: Option<Digest>| digest.map_or(0, |digest| digest.length + 13);
        let rules = self.named().map_or(1, |hosts| hosts.items.len());
        let blocks = self.addresses.as_ref().map_or(0, |blocks| blocks.items.len());
        let routes = self.routes.as_ref().map_or(0, |routes| routes.items.len());
        let hosts = self.hosts.as_ref().map_or(1, |hosts| hosts.items.len().max(1));
        let each = Usage {
            rules: 1,
            routes,
            pattern_bytes: self.routes.as_ref().map_or(0, |routes| routes.pattern_bytes),
            clusters: usize::from(self.limits.is_some()),
            // And a comma.
            document_bytes: self.digest.length
                + 1
                + if self.limits.is_some() { CLUSTER } else { 0 }
                + length(self.addresses.as_ref().map(|list| list.digest))
                + length(self.routes.as_ref().map(|list| list.digest)),
            entries: 0,
        };
        let hosts_bytes = length(self.hosts.as_ref().map(|list| list.digest));
        let all = Usage {
            entries: hosts.saturating_mul(blocks.saturating_mul(2).saturating_add(1)),
            // Names of clusters repeat their hosts.
            document_bytes: if self.named().is_some() { hosts_bytes.saturating_mul(2) } else { hosts_bytes },
            ..Usage::default()
        };
        each.times(rules).plus(all)
    }

    /// Makes its rules: one, or with settings one for each name that has a cluster.
    fn grant(&self, granted: &mut Granted) {
        let zero = Digest::default();
        let (addresses, routes) = (self.addresses.as_ref(), self.routes.as_ref());
        let rule = |hosts: Option<Arc<[HostPattern]>>, cluster: Option<&OwnCluster>| Rule {
            addresses: addresses.map(|list| Arc::clone(&list.items)),
            hosts,
            routes: routes.map(|list| Arc::clone(&list.items)),
            cluster: cluster.map(|cluster| cluster.name.clone()),
            ..self.bare.clone()
        };
        let digest = |hosts: Digest, cluster: Option<&OwnCluster>| {
            let cluster = cluster.map_or(zero, |cluster| Digest::of(&cluster.name));
            let part = |digest: Option<Digest>| digest.unwrap_or(zero);
            let (addresses, routes) = (addresses.map(|list| list.digest), routes.map(|list| list.digest));
            Digest::join([&self.digest, &hosts, &part(addresses), &part(routes), &cluster])
        };
        let mut add = |hosts: Option<Arc<[HostPattern]>>, hosts_digest, cluster: Option<OwnCluster>| {
            let (rule, digest) = (rule(hosts, cluster.as_ref()), digest(hosts_digest, cluster.as_ref()));
            granted.rules.push(PolicyRule { rule: Arc::new(rule), digest });
            granted.clusters.extend(cluster);
        };
        let port = self.bare.port;
        match (self.limits, self.named()) {
            (Some(limits), Some(hosts)) => {
                for host in hosts.items.iter() {
                    let cluster = OwnCluster::new(Some(host), port, limits);
                    let hosts: Arc<[HostPattern]> = [host.clone()].into();
                    add(Some(Arc::clone(&hosts)), Digest::of(&hosts), Some(cluster));
                }
            }
            (limits, _) => {
                let (items, digest) = self
                    .hosts
                    .as_ref()
                    .map_or((None, zero), |list| (Some(Arc::clone(&list.items)), list.digest));
                add(items, digest, limits.map(|limits| OwnCluster::new(None, port, limits)));
            }
        }
    }
}

/// The most bytes that a cluster takes in a rule, without its host: the field, the port, and `@` with a namespace.
const CLUSTER: usize = 96;

const NO_OBJECT: &str = "correct or remove this match: until then the object grants nothing";
