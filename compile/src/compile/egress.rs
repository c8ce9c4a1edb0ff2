//! Egress objects.

use std::collections::BTreeSet;

use egress_policy::{Cidr, EncryptedHello, HostPattern, Identity, Port, Protocol, Route, Rule, Upgrade};

use super::issues::Issues;
use super::namespace::Namespaces;
use super::route::Groups;
use super::upstream::{Limits, OwnCluster, Settings, separated};
use super::{Invalid, Objects, POLICY_NAMESPACES_ANNOTATION, address, annotations, host};
use crate::manifest::spec::{Egress, MatchRef, PortSpec, Source};
use crate::manifest::{Body, Kind, Object, ObjectRef};

const ROUTE_GROUPS: &str = "specs.smi-spec.io/v1alpha4";
const SETTINGS: &str = "policy.openservicemesh.io/v1alpha1";

/// What one Egress object grants.
#[derive(Debug)]
pub(super) struct Policy<'s> {
    /// To whom.
    pub(super) sources: BTreeSet<Identity>,
    /// What.
    pub(super) rules: Vec<Rule>,
    /// The clusters that its rules name.
    pub(super) clusters: Vec<OwnCluster>,
    /// The same rules and clusters for sources of other namespaces, where the clusters must not be shared.
    apart: Option<(Vec<Rule>, Vec<OwnCluster>)>,
    /// The field that names the settings of those.
    pub(super) settings_field: String,
    /// What there is to say about it.
    pub(super) issues: Issues<'s>,
}

impl Policy<'_> {
    /// Whether an identity is of another namespace.
    pub(super) fn is_foreign_to(&self, identity: &Identity) -> bool {
        self.issues.namespace() != identity.namespace()
    }

    pub(super) fn rules_for(&self, identity: &Identity) -> &[Rule] {
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
) -> Vec<Policy<'s>> {
    let mut policies = Vec::new();
    for (reference, object) in objects {
        if let Body::Egress(egress) = &object.body {
            let issues = Issues::new(object);
            let settings_field = "spec.matches".to_owned();
            let reader =
                Reader { reference, object, egress, groups, settings, namespaces, settings_field, issues };
            policies.push(reader.policy());
        }
    }
    policies
}

/// What a list of an object says. `None`: anything.
type Part<T> = Result<Option<Vec<T>>, Invalid>;

struct Parts {
    addresses: Part<Cidr>,
    hosts: Part<HostPattern>,
    routes: Part<Route>,
    upgrades: Result<Vec<Upgrade>, Invalid>,
    encrypted_hello: Result<EncryptedHello, Invalid>,
    /// `None`: no settings of its own.
    limits: Result<Option<Limits>, Invalid>,
}

struct Reader<'a, 's> {
    reference: &'s ObjectRef,
    object: &'s Object,
    egress: &'s Egress,
    groups: &'a Groups<'a>,
    settings: &'a Settings<'a>,
    namespaces: &'a Namespaces<'a>,
    settings_field: String,
    issues: Issues<'s>,
}

impl<'s> Reader<'_, 's> {
    fn policy(mut self) -> Policy<'s> {
        let sources = self.sources();
        // Everything is read, so that every problem is named at once.
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
        let (mut rules, mut clusters) = (Vec::new(), Vec::new());
        for (i, port) in self.egress.ports.iter().enumerate() {
            if let Ok(granted) = self.rule(&format!("spec.ports[{i}]"), port, &parts) {
                rules.extend(granted.0);
                clusters.extend(granted.1);
            }
        }
        if sources.is_empty() && self.issues.lack_permission() {
            // It contributes nothing to anybody.
            (rules, clusters) = (Vec::new(), Vec::new());
        }
        let namespace = &self.reference.namespace;
        let has_foreign = sources.iter().any(|identity| identity.namespace() != namespace);
        let apart = (has_foreign && !clusters.is_empty()).then(|| separated(&rules, &clusters, namespace));
        Policy { sources, rules, clusters, apart, settings_field: self.settings_field, issues: self.issues }
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

    fn addresses(&mut self) -> Part<Cidr> {
        let texts = self.egress.ip_addresses.as_deref();
        if texts.is_some_and(<[String]>::is_empty) {
            let message = "the list is empty, which means any address";
            self.issues.warning("spec.ipAddresses", message, Some("remove the field, or add a block"));
        }
        match texts {
            None | Some([]) => Ok(None),
            Some(texts) => {
                let advice = "correct or remove this block: until then the object grants nothing";
                address::blocks(texts, "spec.ipAddresses", advice, &mut self.issues).map(Some)
            }
        }
    }

    fn hosts(&mut self) -> Part<HostPattern> {
        let texts = self.egress.hosts.as_deref();
        if texts.is_some_and(<[String]>::is_empty) {
            let message = "the list is empty, which for https means any host";
            self.issues.warning("spec.hosts", message, Some("remove the field, or add a host"));
        }
        match texts {
            None | Some([]) => Ok(None),
            Some(texts) => host::patterns(texts, "spec.hosts", &mut self.issues).map(Some),
        }
    }

    fn routes(&mut self) -> Part<Route> {
        let mut valid = true;
        let mut routes: Option<Vec<Route>> = None;
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
            match self.groups.get(&target) {
                Some(Ok(group)) => routes.get_or_insert_default().extend(group.iter().cloned()),
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
        if let Some(routes) = &mut routes {
            routes.sort_unstable();
            routes.dedup();
        }
        if valid { Ok(routes) } else { Err(Invalid) }
    }

    /// The rules of a port, if everything that they are made of is valid, and the clusters that they name.
    fn rule(
        &mut self,
        field: &str,
        spec: &PortSpec,
        parts: &Parts,
    ) -> Result<(Vec<Rule>, Vec<OwnCluster>), Invalid> {
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
        let (upgrades, encrypted_hello) = (parts.upgrades.clone()?, parts.encrypted_hello?);
        let ObjectRef { kind: _, namespace, name } = self.reference;
        let rule = Rule {
            policy: format!("{namespace}/{name}"),
            name: field.to_owned(),
            port,
            protocol,
            addresses,
            hosts,
            routes,
            upgrades: if protocol == Protocol::Http { upgrades } else { Vec::new() },
            encrypted_hello: if protocol == Protocol::Https {
                encrypted_hello
            } else {
                EncryptedHello::Refuse
            },
            cluster: None,
        };
        Ok(match parts.limits? {
            None => (vec![rule], Vec::new()),
            Some(limits) => with_clusters(&rule, limits),
        })
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

/// A rule with settings: one cluster for each name that it resolves, or one for the addresses dialled.
fn with_clusters(rule: &Rule, limits: Limits) -> (Vec<Rule>, Vec<OwnCluster>) {
    let resolved = rule.hosts.as_deref().filter(|_| rule.addresses.is_none());
    let named = |host: Option<&HostPattern>| {
        let cluster = OwnCluster::new(host, rule.port, limits);
        let hosts = host.map_or_else(|| rule.hosts.clone(), |host| Some(vec![host.clone()]));
        (Rule { hosts, cluster: Some(cluster.name.clone()), ..rule.clone() }, cluster)
    };
    match resolved {
        Some(hosts) => hosts.iter().map(|host| named(Some(host))).unzip(),
        None => std::iter::once(named(None)).unzip(),
    }
}

const NO_OBJECT: &str = "correct or remove this match: until then the object grants nothing";
