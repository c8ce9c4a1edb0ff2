//! Egress objects.

use std::collections::BTreeSet;

use egress_policy::{Cidr, HostPattern, Identity, Port, Protocol, Route, Rule};

use super::issues::Issues;
use super::route::Groups;
use super::{Compiler, Invalid, Objects, address, host};
use crate::manifest::spec::{Egress, MatchRef, PortSpec, Source};
use crate::manifest::{Body, Kind, ObjectRef};

const ROUTE_GROUPS: &str = "specs.smi-spec.io/v1alpha4";
const SETTINGS: &str = "policy.openservicemesh.io/v1alpha1";

/// What one Egress object grants.
#[derive(Debug, Default)]
pub(super) struct Policy {
    /// To whom.
    pub(super) sources: BTreeSet<Identity>,
    /// What.
    pub(super) rules: Vec<Rule>,
}

/// Reads all Egress objects.
pub(super) fn policies(objects: &Objects<'_>, groups: &Groups<'_>, compiler: &mut Compiler) -> Vec<Policy> {
    let mut policies = Vec::new();
    for (reference, object) in objects {
        if let Body::Egress(egress) = &object.body {
            let mut reader = Reader { reference, egress, objects, groups, issues: Issues::new(object) };
            let policy = reader.policy();
            compiler.describe(reader.issues, policy.rules.len());
            policies.push(policy);
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
}

struct Reader<'a, 's> {
    reference: &'a ObjectRef,
    egress: &'a Egress,
    objects: &'a Objects<'s>,
    groups: &'a Groups<'s>,
    issues: Issues<'a>,
}

impl Reader<'_, '_> {
    fn policy(&mut self) -> Policy {
        let sources = self.sources();
        // Everything is read, so that every problem is named at once.
        let references_are_valid = self.references();
        let parts = Parts { addresses: self.addresses(), hosts: self.hosts(), routes: self.routes() };
        if self.egress.ports.is_empty() {
            self.issues.warning(
                "spec.ports",
                "there are no ports, so nothing is granted",
                Some("add a port"),
            );
        }
        let rules: Vec<Rule> = self
            .egress
            .ports
            .iter()
            .enumerate()
            .filter_map(|(i, port)| self.rule(&format!("spec.ports[{i}]"), port, &parts).ok())
            .collect();
        Policy { sources, rules: if references_are_valid { rules } else { Vec::new() } }
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
                Ok(identity) => {
                    identities.insert(identity);
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
    fn references(&mut self) -> bool {
        let mut valid = true;
        let mut settings = 0;
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
                settings += 1;
                let target = ObjectRef::new(Kind::UpstreamTrafficSetting, &self.reference.namespace, name);
                if self.objects.contains_key(&target) {
                    self.issues.info(&field, "connection settings are not applied yet", None);
                } else {
                    valid = false;
                    let message = format!("there is no {target}");
                    self.issues.error(&field, message, Some(NO_OBJECT));
                }
            }
        }
        if settings > 1 {
            valid = false;
            let message = "Cannot have more than 1 UpstreamTrafficSetting match";
            self.issues.error("spec.matches", message, Some(NO_OBJECT));
        }
        valid
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
                    self.issues.error(
                        &field,
                        message,
                        Some("correct the group: until then the http rules of the object grant nothing"),
                    );
                }
                None => {
                    valid = false;
                    let message = format!("there is no {target}");
                    self.issues.error(&field, message, Some("add the group to the policy's own namespace, or remove this match: until then the http rules of the object grant nothing"));
                }
            }
        }
        if let Some(routes) = &mut routes {
            routes.sort_unstable();
            routes.dedup();
        }
        if valid { Ok(routes) } else { Err(Invalid) }
    }

    /// The rule of a port, if everything that it is made of is valid.
    fn rule(&mut self, field: &str, spec: &PortSpec, parts: &Parts) -> Result<Rule, Invalid> {
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
        let ObjectRef { kind: _, namespace, name } = self.reference;
        Ok(Rule {
            policy: format!("{namespace}/{name}"),
            name: field.to_owned(),
            port,
            protocol,
            addresses,
            hosts,
            routes,
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

const NO_OBJECT: &str = "correct or remove this match: until then the object grants nothing";
