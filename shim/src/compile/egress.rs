//! One Egress object into rules: one for each port.

use std::collections::BTreeMap;
use std::sync::Arc;

use egress_policy::{Cidr, HostPattern, Identity, Port, Protocol, Route, Rule};

use super::routes::Groups;
use crate::manifest::kinds::{EgressSpec, Reference};
use crate::manifest::{Key, Kind, Object};
use crate::problem::{Problem, Severity};

const ROUTES_API: &str = "specs.smi-spec.io/v1alpha4";
const POLICY_API: &str = "policy.openservicemesh.io/v1alpha1";

/// What an Egress object comes to.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    pub(super) sources: Vec<Identity>,
    pub(super) rules: Vec<Rule>,
    pub(super) problems: Vec<Problem>,
}

/// A list of which one part is wrong is wrong as a whole: without that part it could be wider.
type Checked<T> = Result<T, Invalid>;

/// Something in it is wrong, and has been reported.
#[derive(Debug, Clone, Copy)]
struct Invalid;

pub(super) fn compile(
    key: &Key,
    spec: &EgressSpec,
    objects: &BTreeMap<&Key, &Arc<Object>>,
    groups: &Groups<'_>,
) -> Compiled {
    let mut problems = Vec::new();
    let sources = sources(spec, &mut problems);
    let addresses = addresses(spec, &mut problems);
    let ports = spec.ports.as_deref().unwrap_or_default();
    if ports.is_empty() {
        problems
            .push(Problem::new(Severity::Warning, "has no ports and grants nothing").at_field("spec.ports"));
    }
    let protocols: Vec<_> =
        ports.iter().enumerate().map(|(n, port)| protocol(n, &port.protocol, &mut problems)).collect();
    let names_matter = protocols.iter().any(|p| matches!(p, Ok(Protocol::Http | Protocol::Https)));
    let hosts = hosts(spec, names_matter, &mut problems);
    let matches = matches(key, spec, objects, groups, &mut problems);
    let mut rules = Vec::new();
    for (n, (port, protocol)) in ports.iter().zip(protocols).enumerate() {
        let field = format!("spec.ports[{n}]");
        let number = u16::try_from(port.number).ok().and_then(Port::new);
        if number.is_none() {
            problems.push(
                Problem::new(
                    Severity::Error,
                    format!("port {} does not exist, and grants nothing", port.number),
                )
                .at_field(format!("{field}.number"))
                .advise("use a number from 1 to 65535"),
            );
        }
        let (Some(number), Ok(protocol), Ok(addresses), Ok(matches)) =
            (number, protocol, &addresses, &matches)
        else {
            continue;
        };
        let (hosts, routes) = match protocol {
            Protocol::Tcp => {
                if spec.hosts.as_ref().is_some_and(|hosts| !hosts.is_empty()) {
                    problems.push(
                        Problem::new(
                            Severity::Warning,
                            "hosts are not looked at for this protocol: any host on this port is allowed",
                        )
                        .at_field(format!("{field}.protocol"))
                        .advise("use `https` or `http`, or list `ipAddresses`"),
                    );
                }
                (None, None)
            }
            Protocol::Https => match &hosts {
                Ok(hosts) => (hosts.clone(), None),
                Err(Invalid) => continue,
            },
            Protocol::Http => match &hosts {
                Ok(Some(hosts)) => (Some(hosts.clone()), matches.clone()),
                Ok(None) => {
                    // As in Open Service Mesh, which answers every request of such a policy with 404.
                    problems.push(
                        Problem::new(Severity::Error, "an http port without hosts grants nothing")
                            .at_field(field)
                            .advise("list `hosts`, or use protocol `tcp` to allow by address alone"),
                    );
                    continue;
                }
                Err(Invalid) => continue,
            },
        };
        rules.push(Rule {
            policy: format!("{}/{}", key.namespace, key.name),
            name: field,
            port: number,
            protocol,
            addresses: addresses.clone(),
            hosts,
            routes,
        });
    }
    Compiled { sources, rules, problems }
}

fn sources(spec: &EgressSpec, problems: &mut Vec<Problem>) -> Vec<Identity> {
    let sources = spec.sources.as_deref().unwrap_or_default();
    if sources.is_empty() {
        problems.push(
            Problem::new(Severity::Warning, "has no sources and applies to nobody").at_field("spec.sources"),
        );
    }
    let mut found = Vec::new();
    for (n, source) in sources.iter().enumerate() {
        let field = format!("spec.sources[{n}]");
        if source.kind != "ServiceAccount" {
            problems.push(
                Problem::new(Severity::Error, format!("`{}` is no kind of source", source.kind))
                    .at_field(format!("{field}.kind"))
                    .advise("use `ServiceAccount`"),
            );
            continue;
        }
        match Identity::new(&source.namespace, &source.name) {
            Ok(identity) => found.push(identity),
            Err(error) => problems.push(Problem::new(Severity::Error, error.to_string()).at_field(field)),
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// `None`: any address.
fn addresses(spec: &EgressSpec, problems: &mut Vec<Problem>) -> Checked<Option<Vec<Cidr>>> {
    let texts = spec.ip_addresses.as_deref().unwrap_or_default();
    let mut found = Vec::new();
    for (n, text) in texts.iter().enumerate() {
        let field = format!("spec.ipAddresses[{n}]");
        match Cidr::canonical(text) {
            Ok(block) => {
                if block.to_string() != *text {
                    let message = format!("`{text}` is read as `{block}`");
                    problems.push(Problem::new(Severity::Info, message).at_field(field));
                }
                found.push(block);
            }
            Err(error) => problems.push(
                Problem::new(Severity::Error, error.to_string())
                    .at_field(field)
                    .advise("until it is mended, this object grants nothing"),
            ),
        }
    }
    if found.len() < texts.len() {
        return Err(Invalid);
    }
    found.sort_unstable();
    found.dedup();
    // As in Open Service Mesh an empty list is no list.
    Ok((!found.is_empty()).then_some(found))
}

/// `None`: any name. Where no port looks at names, nothing is wrong with them.
fn hosts(spec: &EgressSpec, matter: bool, problems: &mut Vec<Problem>) -> Checked<Option<Vec<HostPattern>>> {
    let texts = spec.hosts.as_deref().unwrap_or_default();
    if !matter {
        return Ok(None);
    }
    let mut found = Vec::new();
    for (n, text) in texts.iter().enumerate() {
        let field = format!("spec.hosts[{n}]");
        let canonical = canonical(text);
        match canonical.parse::<HostPattern>() {
            Ok(pattern) => {
                if canonical != *text {
                    let message = format!("`{text}` is read as `{canonical}`");
                    problems.push(Problem::new(Severity::Info, message).at_field(field));
                }
                found.push(pattern);
            }
            Err(error) => problems.push(
                Problem::new(Severity::Error, error.to_string())
                    .at_field(field)
                    .advise("until it is mended, the http and https ports of this object grant nothing"),
            ),
        }
    }
    if found.len() < texts.len() {
        return Err(Invalid);
    }
    found.sort_unstable();
    found.dedup();
    Ok((!found.is_empty()).then_some(found))
}

/// Lower case, A-labels, no trailing dot. What cannot be converted is left for the parser to refuse.
fn canonical(text: &str) -> String {
    let name = text.strip_suffix('.').unwrap_or(text);
    let (star, name) = match name.strip_prefix("*.") {
        Some(rest) => ("*.", rest),
        None => ("", name),
    };
    let ascii =
        if name.is_ascii() { Ok(name.to_ascii_lowercase()) } else { idna::domain_to_ascii_strict(name) };
    format!("{star}{}", ascii.unwrap_or_else(|_| name.to_owned()))
}

fn protocol(number: usize, text: &str, problems: &mut Vec<Problem>) -> Checked<Protocol> {
    match text.to_ascii_lowercase().as_str() {
        "http" => Ok(Protocol::Http),
        "https" => Ok(Protocol::Https),
        // Every `tcp` port is decided by port and address alone: no server waits to speak.
        "tcp" | "tcp-server-first" => Ok(Protocol::Tcp),
        _ => {
            problems.push(
                Problem::new(
                    Severity::Error,
                    format!("`{text}` is no protocol, and the port grants nothing"),
                )
                .at_field(format!("spec.ports[{number}].protocol"))
                .advise("use `http`, `https`, `tcp` or `tcp-server-first`"),
            );
            Err(Invalid)
        }
    }
}

/// The routes that an http request needs one of; `None` when the object refers to no route group.
fn matches(
    key: &Key,
    spec: &EgressSpec,
    objects: &BTreeMap<&Key, &Arc<Object>>,
    groups: &Groups<'_>,
    problems: &mut Vec<Problem>,
) -> Checked<Option<Vec<Route>>> {
    let references = spec.matches.as_deref().unwrap_or_default();
    let before = problems.len();
    let mut routes: Option<Vec<Route>> = None;
    let mut settings = 0;
    let mut valid = true;
    for (n, reference) in references.iter().enumerate() {
        let field = format!("spec.matches[{n}]");
        let kind = match kind(reference) {
            Ok(kind) => kind,
            Err((part, message)) => {
                problems.push(Problem::new(Severity::Error, message).at_field(format!("{field}.{part}")));
                valid = false;
                continue;
            }
        };
        let target = Key { kind, namespace: key.namespace.clone(), name: reference.name.clone() };
        if kind == Kind::UpstreamTrafficSetting {
            settings += 1;
            if objects.contains_key(&target) {
                let message = format!("{target}: its connection settings are not applied yet");
                problems.push(Problem::new(Severity::Warning, message).at_field(field));
                continue;
            }
        } else {
            match groups.routes(&target) {
                Some(Ok(found)) => {
                    routes.get_or_insert_default().extend(found.iter().cloned());
                    continue;
                }
                Some(Err(())) => {
                    let message = format!("{target} is invalid, and this object grants nothing");
                    problems.push(Problem::new(Severity::Error, message).at_field(field));
                    valid = false;
                    continue;
                }
                None => {}
            }
        }
        valid = false;
        problems.push(
            Problem::new(Severity::Error, format!("{target} does not exist, and this object grants nothing"))
                .at_field(format!("{field}.name"))
                .advise(format!("create it in namespace `{}`, or remove the reference", key.namespace)),
        );
    }
    if settings > 1 {
        valid = false;
        problems.insert(
            before,
            Problem::new(Severity::Error, "Cannot have more than 1 UpstreamTrafficSetting match")
                .at_field("spec.matches"),
        );
    }
    if !valid {
        return Err(Invalid);
    }
    if let Some(routes) = &mut routes {
        routes.sort_unstable();
        routes.dedup();
    }
    Ok(routes)
}

/// Open Service Mesh's rules for references, in its words.
fn kind(reference: &Reference) -> Result<Kind, (&'static str, String)> {
    let group = reference.api_group.as_deref().unwrap_or_default();
    let (kind, name) = match group {
        ROUTES_API => (Kind::HttpRouteGroup, "HTTPRouteGroup"),
        POLICY_API => (Kind::UpstreamTrafficSetting, "UpstreamTrafficSetting"),
        _ => {
            let message =
                format!("Expected 'matches.apiGroup' to be one of [{ROUTES_API} {POLICY_API}], got: {group}");
            return Err(("apiGroup", message));
        }
    };
    if reference.kind == name {
        Ok(kind)
    } else {
        let Reference { kind, name: object, .. } = reference;
        Err(("kind", format!("Expected 'matches.kind' for match '{object}' to be '{name}', got: {kind}")))
    }
}
