//! The smallest policies that allow what was refused, or let through by audit mode alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;

use egress_compile::lint::shared_suffixes;
use egress_policy::{Host, Identity, Protocol, ReasonCode};
use jiff::Timestamp;

use super::{Flow, decided, protocol};
use egress_core::hash;
use egress_core::sanitize;
use egress_core::yaml;

/// The most destinations of one policy: `kubectl apply` keeps a copy of an object in an annotation of 256 kB.
const MOST: usize = 1_000;
/// From so many destinations on they are worth a word.
const MANY: usize = 200;
/// How many of those that are not suggested are listed.
const LISTED: usize = 100;

/// What is suggested for an identity.
#[derive(Debug)]
pub struct Suggestion {
    identity: Identity,
    policies: Vec<Policy>,
    /// What no policy that is suggested here would allow, and why.
    left: Vec<String>,
}

/// Destinations of the same ports.
#[derive(Debug)]
struct Policy {
    ports: BTreeSet<Port>,
    destinations: Destinations,
}

#[derive(Debug)]
enum Destinations {
    Names(BTreeMap<String, Seen>),
    Addresses(BTreeMap<IpAddr, Seen>),
}

type Port = (u16, Protocol);

/// What was seen of a destination.
#[derive(Debug, Clone, Default)]
struct Seen {
    count: u64,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    ports: BTreeSet<Port>,
    requests: BTreeSet<String>,
}

impl Seen {
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

/// How a destination can be allowed.
enum Way {
    Name(String),
    Address(IpAddr),
    Not(&'static str),
}

/// The flow as an address can allow it: an `http` rule allows names only.
fn by_address(flow: &Flow) -> Flow {
    let mut flow = flow.clone();
    if flow.protocol == Protocol::Http {
        flow.protocol = Protocol::Tcp;
    }
    flow
}

impl Suggestion {
    /// Makes policies for what was refused, or would have been.
    #[must_use]
    pub fn of(identity: &Identity, flows: &[Flow]) -> Self {
        let mut names: BTreeMap<String, Seen> = BTreeMap::new();
        let mut addresses: BTreeMap<IpAddr, Seen> = BTreeMap::new();
        let mut left = Vec::new();
        let identity_text = identity.to_string();
        for flow in
            flows.iter().filter(|flow| flow.identity == identity_text && flow.decided.word() != "allow")
        {
            for way in ways(flow) {
                match way {
                    Way::Name(name) => names.entry(name).or_default().add(flow),
                    Way::Address(address) => addresses.entry(address).or_default().add(&by_address(flow)),
                    Way::Not(why) => left.push(format!(
                        "{} ({}): {}: {why}",
                        flow.destination(),
                        times(flow.count),
                        flow.decided.refusal()
                    )),
                }
            }
        }
        left.sort();
        left.dedup();
        let mut policies = by_ports(names, Destinations::Names);
        policies.extend(by_ports(addresses, Destinations::Addresses));
        Self { identity: identity.clone(), policies, left }
    }

    /// Whether there is nothing to suggest.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// A word where there are more destinations than anybody writes down, or reads.
    #[must_use]
    pub fn many(&self) -> Option<String> {
        let all: usize = self.policies.iter().map(|policy| policy.destinations.len()).sum();
        if all < MANY {
            return None;
        }
        let mut text =
            format!("{all} destinations. What has so many crawls, scans, or carries data away in names");
        let mut parents: BTreeMap<&str, usize> = BTreeMap::new();
        for policy in &self.policies {
            let Destinations::Names(names) = &policy.destinations else { continue };
            for (_, parent) in names.keys().filter_map(|name| name.split_once('.')) {
                *parents.entry(parent).or_default() += 1;
            }
        }
        if let Some((parent, count)) = parents.into_iter().max_by_key(|(_, count)| *count)
            && count >= MANY
        {
            // Writing to a string cannot fail.
            let _ = write!(text, "; {count} are below {parent}");
        }
        Some(text)
    }

    /// The manifests.
    #[must_use]
    pub fn yaml(&self) -> String {
        let Self { identity, policies, left } = self;
        let mut text = format!(
            "# What {identity} was refused, or would have been. Made by `osm-egress suggest`.\n\
             # Keep what it should reach, and no more: whatever ran there is in this list.\n"
        );
        if policies.is_empty() {
            text.push_str("# Nothing is suggested.\n");
        }
        if let Some(many) = self.many() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# MANY: {many}.");
        }
        for line in left.iter().take(LISTED) {
            let _ = writeln!(text, "# Not suggested: {line}");
        }
        if left.len() > LISTED {
            let _ = writeln!(text, "# Not suggested: {} others", left.len() - LISTED);
        }
        for policy in policies {
            text.push_str(&policy.yaml(identity));
        }
        text
    }
}

fn by_ports<K: Ord>(
    seen: BTreeMap<K, Seen>,
    destinations: impl Fn(BTreeMap<K, Seen>) -> Destinations,
) -> Vec<Policy> {
    let mut groups: BTreeMap<BTreeSet<Port>, BTreeMap<K, Seen>> = BTreeMap::new();
    for (destination, seen) in seen {
        groups.entry(seen.ports.clone()).or_default().insert(destination, seen);
    }
    let mut policies = Vec::new();
    for (ports, seen) in groups {
        let mut seen = seen.into_iter();
        loop {
            let part: BTreeMap<K, Seen> = seen.by_ref().take(MOST).collect();
            if part.is_empty() {
                break;
            }
            policies.push(Policy { ports: ports.clone(), destinations: destinations(part) });
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
    fn yaml(&self, identity: &Identity) -> String {
        let Self { ports, destinations } = self;
        let (namespace, account) = (identity.namespace(), identity.service_account());
        let mut text = format!(
            "---\napiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata:\n  \
             name: {}\n  namespace: {namespace}\nspec:\n  sources:\n  - kind: ServiceAccount\n    \
             name: {account}\n    namespace: {namespace}\n",
            scalar(&self.name(account)),
            namespace = scalar(namespace),
            account = scalar(account),
        );
        match destinations {
            Destinations::Names(names) => {
                text.push_str("  hosts:\n");
                for (name, seen) in names {
                    let mut remarks = vec![seen.words()];
                    if let Some(suffix) = shared_suffixes::find(name) {
                        remarks.push(format!("SHARED: anyone can have a name below {suffix}"));
                    }
                    let _ = writeln!(text, "  - {} # {}", scalar(name), remarks.join("; "));
                    text.push_str(&seen.request_lines());
                }
            }
            Destinations::Addresses(addresses) => {
                text.push_str(
                    "  # ADDRESSES: no name was seen. Find out whose they are, and whether they stay. On a port of an\n  \
                     # `https` or `http` rule the names are seen.\n  ipAddresses:\n",
                );
                for (address, seen) in addresses {
                    let length = if address.is_ipv4() { 32 } else { 128 };
                    // Written as IPv6, a quote is needed.
                    let _ = writeln!(text, "  - \"{address}/{length}\" # {}", seen.words());
                    text.push_str(&seen.request_lines());
                }
            }
        }
        text.push_str("  ports:\n");
        for (port, kind) in ports {
            let _ = writeln!(text, "  - number: {port}\n    protocol: {}", protocol(*kind));
        }
        text
    }

    /// A name that says what it is, and that another suggestion does not have: applied, it must not take the place
    /// of what was suggested before.
    fn name(&self, account: &str) -> String {
        let content: Vec<String> = match &self.destinations {
            Destinations::Names(names) => names.keys().cloned().collect(),
            Destinations::Addresses(addresses) => addresses.keys().map(ToString::to_string).collect(),
        };
        let mut parts: Vec<&[u8]> = content.iter().map(String::as_bytes).collect();
        let ports: Vec<String> =
            self.ports.iter().map(|(port, kind)| format!("{}-{port}", protocol(*kind))).collect();
        parts.extend(ports.iter().map(String::as_bytes));
        let hash: String = hash(parts).chars().take(6).collect();
        let which = match ports.as_slice() {
            [only] => only.clone(),
            _ => format!("{}-ports", ports.len()),
        };
        let account: String = account.chars().take(200).collect();
        format!("{account}-{which}-{hash}")
    }
}

/// A text in quotes where YAML would read something else: a host `no`, an account `0644`.
fn scalar(text: &str) -> String {
    let mut out = String::new();
    yaml::scalar(text, &mut out);
    out
}

impl Seen {
    fn words(&self) -> String {
        let day = |time: Option<Timestamp>| {
            time.map(|time| time.to_string().chars().take(10).collect::<String>()).unwrap_or_default()
        };
        let (first, last) = (day(self.first), day(self.last));
        let when = if first == last { first } else { format!("{first} to {last}") };
        format!("{}, {when}", times(self.count))
    }

    fn request_lines(&self) -> String {
        self.requests.iter().map(|request| format!("    # {}\n", sanitize::comment(request, 200))).collect()
    }
}

pub(super) fn times(count: u64) -> String {
    format!("{count} {}", if count == 1 { "time" } else { "times" })
}

/// How what a flow wanted can be allowed.
fn ways(flow: &Flow) -> Vec<Way> {
    let not = |why| vec![Way::Not(why)];
    // An answer for each code: a new one must not be suggested by chance.
    match decided::code(flow.decided.refusal()) {
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
            return not("the host is allowed for some requests: change the HTTPRouteGroup");
        }
        Some(ReasonCode::UpgradeRefused) => {
            return not("allow the upgrade by the annotation, or by a `tcp` rule");
        }
        Some(ReasonCode::EchRefused) => {
            return not(
                "it carries an encrypted ClientHello, or pretends to as browsers do: annotate its policy with \
                 `openservicemesh.io/egress-ech: allow-outer` to take the visible name",
            );
        }
        Some(ReasonCode::ConnectRefused) => return not("a tunnel goes anywhere"),
        Some(ReasonCode::TlsMalformed | ReasonCode::TlsOversize) => return not("look at what sends this"),
        Some(
            ReasonCode::AuthorityAbsent | ReasonCode::AuthorityMalformed | ReasonCode::AuthorityPortMismatch,
        ) => {
            return not("look at what sends this");
        }
        Some(ReasonCode::PathRefused | ReasonCode::RequestMalformed | ReasonCode::HeadersTooLarge) => {
            return not("look at what sends this");
        }
        Some(ReasonCode::EncodedSlash) => {
            return not("its path has an encoded slash: look at what sends this");
        }
        Some(ReasonCode::NameNotFound) => return not("name servers know no address of the name"),
        Some(ReasonCode::DnsFailed) => return not("name servers failed"),
        Some(ReasonCode::NameUnresolved) => {
            return not(
                "the sidecar found no address of the name: `osm-egress explain` says where it may not lead",
            );
        }
        Some(ReasonCode::AddressForbidden) => return not("the name leads where no name may lead"),
        Some(ReasonCode::InMeshDenied) => return not("it is a service of the mesh, not egress"),
        Some(ReasonCode::SelfIntercepted) => return not("it was made by the sidecar itself"),
        Some(ReasonCode::NotIntercepted) => return not("it was made to the sidecar itself"),
        Some(ReasonCode::PolicyInvalid) => return not("the sidecar had no policy"),
        Some(ReasonCode::Revoked) => return not("it was allowed until a policy changed"),
        Some(ReasonCode::Rule | ReasonCode::Passthrough | ReasonCode::InMesh | ReasonCode::Audit) | None => {
            return Vec::new();
        }
    }
    let by_address = || flow.addresses.iter().copied().map(Way::Address).collect();
    let Some(name) = &flow.name else { return by_address() };
    let host = match flow.protocol {
        Protocol::Http => without_port(name, flow.port),
        Protocol::Https | Protocol::Tcp => name.as_str(),
    };
    if host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return by_address();
    }
    match Host::canonical(host) {
        Ok(host) => vec![Way::Name(host.to_string())],
        Err(_) => not("this is no host name"),
    }
}

/// An authority without the port that was dialled.
fn without_port(authority: &str, port: u16) -> &str {
    match authority.rsplit_once(':') {
        Some((host, said)) if said.parse() == Ok(port) => host,
        _ => authority,
    }
}
