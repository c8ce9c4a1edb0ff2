//! Suggestions: the smallest policies that allow what was denied, or allowed by audit mode alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;

use egress_compile::lint::shared_suffixes;
use egress_policy::{Host, Identity, Protocol, ReasonCode};
use jiff::Timestamp;

use super::{Flow, decision_record, protocol_name};
use egress_core::hash;
use egress_core::sanitize;
use egress_core::yaml;

/// The most destinations of one policy: `kubectl apply` stores a copy of an object in an annotation of at most 256 kB.
const MAX_DESTINATIONS_PER_POLICY: usize = 1_000;
/// The number of destinations from which a suggestion carries a warning: few programs need more.
const WARNING_THRESHOLD: usize = 200;
/// The most flows without a suggestion that are listed.
const MAX_LISTED_SKIPPED: usize = 100;

/// The suggested policies for an identity.
#[derive(Debug)]
pub struct Suggestion {
    identity: Identity,
    policies: Vec<Policy>,
    /// The flows that none of these policies allows, each with the reason.
    skipped: Vec<String>,
}

/// A policy for destinations with equal ports.
#[derive(Debug)]
struct Policy {
    ports: BTreeSet<Port>,
    destinations: Destinations,
}

#[derive(Debug)]
enum Destinations {
    Names(BTreeMap<String, DestinationUse>),
    Addresses(BTreeMap<IpAddr, DestinationUse>),
}

type Port = (u16, Protocol);

/// The use of one destination, over all of its flows.
#[derive(Debug, Clone, Default)]
struct DestinationUse {
    count: u64,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    ports: BTreeSet<Port>,
    requests: BTreeSet<String>,
}

impl DestinationUse {
    fn add(&mut self, flow: &Flow) {
        self.count = self.count.saturating_add(flow.count);
        self.first = Some(self.first.map_or(flow.first_seen, |first| first.min(flow.first_seen)));
        self.last = Some(self.last.map_or(flow.last_seen, |last| last.max(flow.last_seen)));
        self.ports.insert((flow.port, flow.protocol));
        self.requests.extend(flow.requests.iter().map(|sample| format!("{} {}", sample.method, sample.path)));
        if flow.more_requests {
            self.requests.insert("…".to_owned());
        }
    }
}

/// A policy entry that would allow a flow, or the reason why there is none.
enum Candidate {
    Name(String),
    Address(IpAddr),
    Skipped(&'static str),
}

/// The flow as an entry for an address sees it: TCP instead of HTTP, since an `http` rule allows names only.
fn as_address_flow(flow: &Flow) -> Flow {
    let mut flow = flow.clone();
    if flow.protocol == Protocol::Http {
        flow.protocol = Protocol::Tcp;
    }
    flow
}

impl Suggestion {
    /// Suggests policies for the flows of an identity that were denied, or allowed by audit mode alone.
    #[must_use]
    pub fn for_identity(identity: &Identity, flows: &[Flow]) -> Self {
        let mut names: BTreeMap<String, DestinationUse> = BTreeMap::new();
        let mut addresses: BTreeMap<IpAddr, DestinationUse> = BTreeMap::new();
        let mut skipped = Vec::new();
        let identity_text = identity.to_string();
        for flow in flows
            .iter()
            .filter(|flow| flow.identity == identity_text && flow.decision.verdict_label() != "allow")
        {
            for candidate in candidates(flow) {
                match candidate {
                    Candidate::Name(name) => names.entry(name).or_default().add(flow),
                    Candidate::Address(address) => {
                        addresses.entry(address).or_default().add(&as_address_flow(flow));
                    }
                    Candidate::Skipped(why) => skipped.push(format!(
                        "{} ({}): {}: {why}",
                        flow.destination(),
                        format_count(flow.count),
                        flow.decision.enforced_reason()
                    )),
                }
            }
        }
        skipped.sort();
        skipped.dedup();
        let mut policies = group_by_ports(names, Destinations::Names);
        policies.extend(group_by_ports(addresses, Destinations::Addresses));
        Self { identity: identity.clone(), policies, skipped }
    }

    /// Returns true if there is no policy to suggest.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// A warning if there are more destinations than a reviewer can judge one by one.
    #[must_use]
    pub fn size_warning(&self) -> Option<String> {
        let all: usize = self.policies.iter().map(|policy| policy.destinations.len()).sum();
        if all < WARNING_THRESHOLD {
            return None;
        }
        let mut text = format!("{all} destinations: the workload may crawl, scan, or send data out in names");
        let mut parents: BTreeMap<&str, usize> = BTreeMap::new();
        for policy in &self.policies {
            let Destinations::Names(names) = &policy.destinations else { continue };
            for (_, parent) in names.keys().filter_map(|name| name.split_once('.')) {
                *parents.entry(parent).or_default() += 1;
            }
        }
        if let Some((parent, count)) = parents.into_iter().max_by_key(|(_, count)| *count)
            && count >= WARNING_THRESHOLD
        {
            // Writing to a string cannot fail.
            let _ = write!(text, "; {count} are below {parent}");
        }
        Some(text)
    }

    /// Writes the manifests.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        let Self { identity, policies, skipped } = self;
        let mut text = format!(
            "# Destinations that {identity} was denied, or would be without audit mode. Written by `osm-egress suggest`.\n\
             # Keep only what it needs: this list holds whatever ran there, also what should not have run.\n"
        );
        if policies.is_empty() {
            text.push_str("# Nothing to suggest.\n");
        }
        if let Some(warning) = self.size_warning() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# MANY: {warning}.");
        }
        for line in skipped.iter().take(MAX_LISTED_SKIPPED) {
            let _ = writeln!(text, "# Not suggested: {line}");
        }
        if skipped.len() > MAX_LISTED_SKIPPED {
            let _ = writeln!(text, "# Not suggested: {} others", skipped.len() - MAX_LISTED_SKIPPED);
        }
        for policy in policies {
            text.push_str(&policy.to_yaml(identity));
        }
        text
    }
}

/// Makes policies of destinations with equal ports.
fn group_by_ports<K: Ord>(
    uses: BTreeMap<K, DestinationUse>,
    wrap: impl Fn(BTreeMap<K, DestinationUse>) -> Destinations,
) -> Vec<Policy> {
    let mut groups: BTreeMap<BTreeSet<Port>, BTreeMap<K, DestinationUse>> = BTreeMap::new();
    for (destination, usage) in uses {
        groups.entry(usage.ports.clone()).or_default().insert(destination, usage);
    }
    let mut policies = Vec::new();
    for (ports, uses) in groups {
        let mut uses = uses.into_iter();
        loop {
            let part: BTreeMap<K, DestinationUse> = uses.by_ref().take(MAX_DESTINATIONS_PER_POLICY).collect();
            if part.is_empty() {
                break;
            }
            policies.push(Policy { ports: ports.clone(), destinations: wrap(part) });
        }
    }
    policies
}

impl Destinations {
    fn len(&self) -> usize {
        match self {
            Self::Names(names) => names.len(),
            Self::Addresses(addresses) => addresses.len(),
        }
    }
}

impl Policy {
    fn to_yaml(&self, identity: &Identity) -> String {
        let Self { ports, destinations } = self;
        let (namespace, account) = (identity.namespace(), identity.service_account());
        let mut text = format!(
            "---\napiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata:\n  \
             name: {}\n  namespace: {namespace}\nspec:\n  sources:\n  - kind: ServiceAccount\n    \
             name: {account}\n    namespace: {namespace}\n",
            yaml_scalar(&self.name(account)),
            namespace = yaml_scalar(namespace),
            account = yaml_scalar(account),
        );
        match destinations {
            Destinations::Names(names) => {
                text.push_str("  hosts:\n");
                for (name, usage) in names {
                    let mut remarks = vec![usage.summary()];
                    if let Some(suffix) = shared_suffixes::find(name) {
                        remarks.push(format!("SHARED: anyone can get a name below {suffix}"));
                    }
                    let _ = writeln!(text, "  - {} # {}", yaml_scalar(name), remarks.join("; "));
                    text.push_str(&usage.request_lines());
                }
            }
            Destinations::Addresses(addresses) => {
                text.push_str(
                    "  # ADDRESSES: these connections showed no name. Find out who owns the addresses, and whether they are\n  \
                     # stable. Names show on the ports of `https` and `http` rules.\n  ipAddresses:\n",
                );
                for (address, usage) in addresses {
                    let length = if address.is_ipv4() { 32 } else { 128 };
                    // Quoted, because YAML reads an IPv6 address as a mapping.
                    let _ = writeln!(text, "  - \"{address}/{length}\" # {}", usage.summary());
                    text.push_str(&usage.request_lines());
                }
            }
        }
        text.push_str("  ports:\n");
        for (port, kind) in ports {
            let _ = writeln!(text, "  - number: {port}\n    protocol: {}", protocol_name(*kind));
        }
        text
    }

    /// The name of the object: account, port, and a hash of the content, so that a later suggestion does not replace it.
    fn name(&self, account: &str) -> String {
        let content: Vec<String> = match &self.destinations {
            Destinations::Names(names) => names.keys().cloned().collect(),
            Destinations::Addresses(addresses) => addresses.keys().map(ToString::to_string).collect(),
        };
        let mut parts: Vec<&[u8]> = content.iter().map(String::as_bytes).collect();
        let ports: Vec<String> =
            self.ports.iter().map(|(port, kind)| format!("{}-{port}", protocol_name(*kind))).collect();
        parts.extend(ports.iter().map(String::as_bytes));
        let hash: String = hash(parts).chars().take(6).collect();
        let port_part = match ports.as_slice() {
            [only] => only.clone(),
            _ => format!("{}-ports", ports.len()),
        };
        let account: String = account.chars().take(200).collect();
        format!("{account}-{port_part}-{hash}")
    }
}

/// Writes a text as YAML, in quotes if YAML would read another type: a host `no`, an account `0644`.
fn yaml_scalar(text: &str) -> String {
    let mut out = String::new();
    yaml::scalar(text, &mut out);
    out
}

impl DestinationUse {
    fn summary(&self) -> String {
        let day = |time: Option<Timestamp>| {
            time.map(|time| time.to_string().chars().take(10).collect::<String>()).unwrap_or_default()
        };
        let (first, last) = (day(self.first), day(self.last));
        let when = if first == last { first } else { format!("{first} to {last}") };
        format!("{}, {when}", format_count(self.count))
    }

    fn request_lines(&self) -> String {
        self.requests.iter().map(|request| format!("    # {}\n", sanitize::comment(request, 200))).collect()
    }
}

pub(super) fn format_count(count: u64) -> String {
    format!("{count} {}", if count == 1 { "time" } else { "times" })
}

/// The policy entries that would allow a flow.
fn candidates(flow: &Flow) -> Vec<Candidate> {
    let skip = |why| vec![Candidate::Skipped(why)];
    // Every code is listed, so that a new one is not suggested by accident.
    match decision_record::parse_reason_code(flow.decision.enforced_reason()) {
        Some(
            ReasonCode::NoPolicy
            | ReasonCode::NoRule
            | ReasonCode::TlsRequired
            | ReasonCode::FirstBytesTimeout
            | ReasonCode::TooManyPending
            | ReasonCode::SniAbsent
            | ReasonCode::SniNotAllowed
            | ReasonCode::HostNotAllowed,
        ) => {}
        Some(ReasonCode::RouteNotAllowed) => {
            return skip("the host is allowed for some requests: change the HTTPRouteGroup");
        }
        Some(ReasonCode::UpgradeRefused) => {
            return skip("allow the upgrade by the annotation, or by a `tcp` rule");
        }
        Some(ReasonCode::EchRefused) => {
            return skip(
                "its ClientHello is encrypted, or looks so as those of browsers do: annotate its policy with \
                 `openservicemesh.io/egress-ech: allow-outer` to judge by the visible name",
            );
        }
        Some(ReasonCode::ConnectRefused) => return skip("a CONNECT tunnel can lead anywhere"),
        Some(ReasonCode::TlsMalformed | ReasonCode::TlsOversize) => {
            return skip("find out which program sends this");
        }
        Some(
            ReasonCode::AuthorityAbsent | ReasonCode::AuthorityMalformed | ReasonCode::AuthorityPortMismatch,
        ) => {
            return skip("find out which program sends this");
        }
        Some(ReasonCode::PathRefused | ReasonCode::RequestMalformed | ReasonCode::HeadersTooLarge) => {
            return skip("find out which program sends this");
        }
        Some(ReasonCode::EncodedSlash) => {
            return skip("its path has an encoded slash: find out which program sends this");
        }
        Some(ReasonCode::NameNotFound) => return skip("the name does not exist in DNS"),
        Some(ReasonCode::DnsFailed) => return skip("DNS failed"),
        Some(ReasonCode::NameUnresolved) => {
            return skip(
                "the sidecar found no usable address of the name: `osm-egress explain` lists the blocked ranges",
            );
        }
        Some(ReasonCode::AddressForbidden) => return skip("the name resolves to a blocked range"),
        Some(ReasonCode::InMeshDenied) => return skip("the destination is a service of the mesh"),
        Some(ReasonCode::SelfIntercepted) => return skip("the sidecar itself connected"),
        Some(ReasonCode::NotIntercepted) => return skip("the connection went to the sidecar itself"),
        Some(ReasonCode::PolicyInvalid) => return skip("the sidecar had no policy"),
        Some(ReasonCode::Revoked) => return skip("it was allowed until a policy changed"),
        Some(ReasonCode::Rule | ReasonCode::Passthrough | ReasonCode::InMesh | ReasonCode::Audit) | None => {
            return Vec::new();
        }
    }
    let by_address = || flow.addresses.iter().copied().map(Candidate::Address).collect();
    let Some(name) = &flow.name else { return by_address() };
    let host = match flow.protocol {
        Protocol::Http => strip_port(name, flow.port),
        Protocol::Https | Protocol::Tcp => name.as_str(),
    };
    if host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return by_address();
    }
    match Host::canonical(host) {
        Ok(host) => vec![Candidate::Name(host.to_string())],
        Err(_) => skip("this is not a host name"),
    }
}

/// Strips the dialled port from an authority.
fn strip_port(authority: &str, port: u16) -> &str {
    match authority.rsplit_once(':') {
        Some((host, given)) if given.parse() == Ok(port) => host,
        _ => authority,
    }
}
