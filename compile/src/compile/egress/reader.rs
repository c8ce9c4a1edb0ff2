//! Decoding of one Egress object.

use std::collections::BTreeSet;
use std::sync::Arc;

use egress_policy::{Cidr, EncryptedHello, HostPattern, Identity, Port, Protocol, Route, Rule, Upgrade};

use super::Policy;
use super::port_rule::{Granted, PortRule};
use crate::budget::{self, Content, Usage};
use crate::compile::diagnostic_sink::DiagnosticSink;
use crate::compile::digest::Digest;
use crate::compile::list::List;
use crate::compile::namespace::Namespaces;
use crate::compile::route::Groups;
use crate::compile::upstream::{Limits, Settings, separate_clusters};
use crate::compile::{Invalid, POLICY_NAMESPACES_ANNOTATION, address, annotations, host};
use crate::manifest::spec::{Egress, PortSpec, Source};
use crate::manifest::{Object, ObjectRef};

/// A list that all rules of an object share. `None` means anything.
pub(super) type Part<T> = Result<Option<List<T>>, Invalid>;

struct Parts {
    addresses: Part<Cidr>,
    hosts: Part<HostPattern>,
    routes: Part<Arc<Route>>,
    upgrades: Result<Vec<Upgrade>, Invalid>,
    encrypted_hello: Result<Option<EncryptedHello>, Invalid>,
    /// The connection settings; `None` if the object references none.
    limits: Result<Option<Limits>, Invalid>,
}

impl Parts {
    /// Measures the lists. Routes count only as references, because they belong to their groups.
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

/// The reader of one Egress object.
pub(super) struct Reader<'a, 's> {
    pub(super) reference: &'s ObjectRef,
    pub(super) object: &'s Object,
    pub(super) egress: &'s Egress,
    pub(super) groups: &'a Groups<'a>,
    pub(super) settings: &'a Settings<'a>,
    pub(super) namespaces: &'a Namespaces<'a>,
    /// The default treatment of encrypted ClientHellos.
    pub(super) encrypted_hello: EncryptedHello,
    pub(super) settings_field: String,
    pub(super) sink: DiagnosticSink<'s>,
}

impl<'s> Reader<'_, 's> {
    /// Reads the object into a policy.
    pub(super) fn read_policy(mut self) -> Policy<'s> {
        // A list that is too long is not processed at all, not even for diagnostics.
        let fits = self.check_sizes();
        let sources = if fits.is_ok() { self.read_sources() } else { BTreeSet::new() };
        let mut granted = fits.and_then(|()| self.compile_grants(sources.len())).unwrap_or_default();
        if sources.is_empty() && self.sink.lacks_permission() {
            // The object contributes nothing to any identity.
            granted = Granted::default();
        }
        let Granted { mut rules, clusters, usage, content } = granted;
        rules.sort_by(|a, b| a.rule.cmp(&b.rule));
        let namespace = &self.reference.namespace;
        let has_foreign = sources.iter().any(|identity| identity.namespace() != namespace);
        let apart =
            (has_foreign && !clusters.is_empty()).then(|| separate_clusters(&rules, &clusters, namespace));
        Policy {
            reference: self.reference,
            sources,
            rules,
            usage,
            content,
            is_over_shared_budget: false,
            made: self.object.metadata.creation_timestamp.as_deref(),
            clusters,
            apart,
            settings_field: self.settings_field,
            sink: self.sink,
        }
    }

    /// Checks the lengths of lists.
    fn check_sizes(&mut self) -> Result<(), Invalid> {
        let Egress { sources, hosts, ip_addresses, ports, matches } = self.egress;
        let length = |list: &Option<Vec<String>>| list.as_ref().map_or(0, Vec::len);
        let split = "split the object";
        let lists = [
            ("sources", sources.len(), budget::MAX_SOURCES, split),
            ("hosts", length(hosts), budget::MAX_HOSTS, "use wildcards such as `*.example.com`"),
            ("ipAddresses", length(ip_addresses), budget::MAX_ADDRESSES, "merge adjacent blocks"),
            ("ports", ports.len(), budget::MAX_PORTS, split),
            ("matches", matches.as_ref().map_or(0, Vec::len), budget::MAX_MATCHES, "merge route groups"),
        ];
        let mut fits = Ok(());
        for (noun, amount, limit, remedy) in lists {
            if let Some(excess) = budget::check_list(noun, amount, limit, remedy) {
                self.sink.too_large(&format!("spec.{noun}"), excess, "the object");
                fits = Err(Invalid);
            }
        }
        fits
    }

    /// Compiles the grants to each of `sources` sources.
    fn compile_grants(&mut self, sources: usize) -> Result<Granted, Invalid> {
        // Everything is read, so that every diagnostic is reported at once.
        let lists = self.check_empty_lists();
        let parts = Parts {
            limits: self.check_references(),
            addresses: self.read_addresses(),
            hosts: self.read_hosts(),
            routes: self.read_routes(),
            upgrades: annotations::read_upgrades(self.object, &mut self.sink),
            encrypted_hello: annotations::read_encrypted_hello(self.object, &mut self.sink),
        };
        if self.egress.ports.is_empty() {
            self.sink.warning("spec.ports", "there are no ports, so nothing is granted", Some("add a port"));
        }
        let egress = self.egress;
        let mut ports = Vec::with_capacity(egress.ports.len());
        for (i, port) in egress.ports.iter().enumerate() {
            ports.extend(self.read_port_rule(&format!("spec.ports[{i}]"), port, &parts));
        }
        lists?;
        let usage = ports.iter().fold(Usage::default(), |usage, port| usage.plus(port.usage()));
        let references = || budget::check_references(usage.count_references(sources), budget::MAX_REFERENCES);
        if let Some(excess) = usage.excess().or_else(references) {
            self.sink.too_large("spec", excess, "the object");
            return Err(Invalid);
        }
        let mut granted = Granted { usage, content: parts.content(), ..Granted::default() };
        for port in &ports {
            port.grant(&mut granted);
        }
        Ok(granted)
    }

    /// Reads the identities that the object may grant access to.
    fn read_sources(&mut self) -> BTreeSet<Identity> {
        if self.egress.sources.is_empty() {
            let message = "there are no sources, so the policy applies to no workload";
            self.sink.info("spec.sources", message, Some("add a source of kind `ServiceAccount`"));
        }
        let mut identities = BTreeSet::new();
        for (i, Source { kind, name, namespace }) in self.egress.sources.iter().enumerate() {
            if kind != "ServiceAccount" {
                let message = format!("source kind `{kind}` is not supported, so this source grants nothing");
                self.sink.error(&format!("spec.sources[{i}].kind"), message, Some("write `ServiceAccount`"));
                continue;
            }
            match Identity::new(namespace, name) {
                Ok(identity) if self.namespaces.permits(&self.reference.namespace, &identity) => {
                    identities.insert(identity);
                }
                Ok(identity) => {
                    let own = &self.reference.namespace;
                    let message = format!(
                        "`{identity}` is in another namespace, and objects in `{own}` may not grant access to it, so this \
                         source grants nothing"
                    );
                    let advice = format!(
                        "move the object to namespace `{namespace}`, annotate that Namespace with \
                         `{POLICY_NAMESPACES_ANNOTATION}: {own}`, or list `{own}` in `--policy-namespaces` \
                         (`osm.egress.policyNamespaces`)"
                    );
                    self.sink.not_permitted(&format!("spec.sources[{i}]"), message, &advice);
                }
                Err(error) => {
                    let advice = "use the name and namespace of a Kubernetes service account; until then this source grants nothing";
                    self.sink.error(&format!("spec.sources[{i}]"), error.to_string(), Some(advice));
                }
            }
        }
        identities
    }

    /// Refuses lists that are present but empty, which remain when every entry is commented out. Only an absent
    /// list means "any", so that a mistake never grants more than before.
    fn check_empty_lists(&mut self) -> Result<(), Invalid> {
        let Egress { sources: _, hosts, ip_addresses, ports: _, matches } = self.egress;
        let is_empty = |list: &Option<Vec<String>>| list.as_ref().is_some_and(Vec::is_empty);
        let lists = [
            ("hosts", is_empty(hosts), "add a host, or remove the field to allow any name"),
            ("ipAddresses", is_empty(ip_addresses), "add a block, or remove the field to allow any address"),
            (
                "matches",
                matches.as_ref().is_some_and(Vec::is_empty),
                "add a reference, or remove the field to allow any request",
            ),
        ];
        let mut valid = Ok(());
        for (noun, empty, remedy) in lists {
            if empty {
                let advice = format!("{remedy}; until then the object grants nothing");
                let message = "the list is present but empty, so it allows nothing";
                self.sink.error(&format!("spec.{noun}"), message, Some(&advice));
                valid = Err(Invalid);
            }
        }
        valid
    }

    fn read_addresses(&mut self) -> Part<Cidr> {
        let Some(texts) = self.egress.ip_addresses.as_deref() else { return Ok(None) };
        let advice = "correct or remove this block; until then the object grants nothing";
        address::read_blocks(texts, "spec.ipAddresses", advice, &mut self.sink)
            .map(|blocks| Some(List::new(blocks)))
    }

    fn read_hosts(&mut self) -> Part<HostPattern> {
        let Some(texts) = self.egress.hosts.as_deref() else { return Ok(None) };
        host::read_patterns(texts, "spec.hosts", &mut self.sink).map(|hosts| Some(List::new(hosts)))
    }

    /// Reads the rule of a port, if all of its parts are valid.
    fn read_port_rule(&mut self, field: &str, spec: &PortSpec, parts: &Parts) -> Result<PortRule, Invalid> {
        let port = self.read_port(field, spec);
        let protocol = self.read_protocol(field, spec);
        let (port, protocol) = (port?, protocol?);
        let (hosts, routes) = match protocol {
            Protocol::Tcp => (None, None),
            Protocol::Https => (parts.hosts.clone()?, None),
            Protocol::Http => {
                let hosts = parts.hosts.clone()?;
                if hosts.is_none() {
                    let advice = "add `hosts`; for any host, use protocol `tcp`";
                    let message = "protocol `http` without hosts grants nothing, as in OSM";
                    self.sink.error(&format!("{field}.protocol"), message, Some(advice));
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
                (Protocol::Https, Some(treatment)) => treatment,
                // With a name that chooses the address, a hidden name reaches only the servers of the visible
                // one. At an address that the workload chose it could reach anything, so that must be allowed
                // explicitly.
                (Protocol::Https, None) if names_choose_addresses => self.encrypted_hello,
                (Protocol::Https, None) | (Protocol::Tcp | Protocol::Http, _) => EncryptedHello::Refuse,
            },
            cluster: None,
        };
        Ok(PortRule { digest: Digest::of(&bare), bare, addresses, hosts, routes, limits: parts.limits? })
    }

    fn read_port(&mut self, field: &str, spec: &PortSpec) -> Result<Port, Invalid> {
        let port = u16::try_from(spec.number).ok().and_then(Port::new);
        if port.is_none() {
            let message = format!("`{}` is not a port number, so this entry grants nothing", spec.number);
            self.sink.error(&format!("{field}.number"), message, Some("use a port from 1 to 65535"));
        }
        port.ok_or(Invalid)
    }

    fn read_protocol(&mut self, field: &str, spec: &PortSpec) -> Result<Protocol, Invalid> {
        let field = format!("{field}.protocol");
        let lower = spec.protocol.to_ascii_lowercase();
        let protocol = match lower.as_str() {
            "http" => Protocol::Http,
            "https" => Protocol::Https,
            "tcp" | "tcp-server-first" => Protocol::Tcp,
            _ => {
                let message =
                    format!("`{}` is not a supported protocol, so this port grants nothing", spec.protocol);
                let advice = "write `http`, `https`, `tcp` or `tcp-server-first`";
                self.sink.error(&field, message, Some(advice));
                return Err(Invalid);
            }
        };
        if protocol == Protocol::Tcp && self.egress.hosts.as_ref().is_some_and(|hosts| !hosts.is_empty()) {
            let message = format!("hosts are ignored for protocol `{lower}`");
            let advice = "use `https` or `http` to filter by name, or add `ipAddresses` to filter by address";
            self.sink.warning(&field, message, Some(advice));
        }
        Ok(protocol)
    }
}
