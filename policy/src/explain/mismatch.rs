//! Mismatches: the reasons why a rule does not allow a connection.

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use super::near_host::{NearHost, Nearness};
use crate::ReasonCode;

/// The longest part of a text by a workload or a manifest that is shown.
const MAX_QUOTED_CHARS: usize = 120;

/// The number of routes whose mismatches are shown.
const MAX_SHOWN_ROUTES: usize = 4;

/// The distance of a rule that concerns another kind of connection.
pub(super) const UNRELATED: u32 = 20;

/// One reason why a rule does not allow a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "mismatch", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Mismatch {
    /// The rule is for another port.
    Port {
        /// The rule's port.
        listed: u16,
        /// The port of the original destination.
        dialled: u16,
    },
    /// The original destination is not in the rule's blocks.
    Address {
        /// `null`: it is not known.
        dialled: Option<IpAddr>,
        /// The first blocks of the rule.
        listed: Vec<String>,
        /// The number of others.
        more: usize,
    },
    /// The name is not in the rule's hosts.
    Host {
        /// The name, by SNI or authority.
        name: String,
        /// The rule's most similar name.
        near: Option<NearHost>,
        /// The first hosts of the rule.
        listed: Vec<String>,
        /// The number of others.
        more: usize,
    },
    /// The rule needs TLS.
    Tls,
    /// The rule needs plaintext HTTP, and gets TLS.
    Plaintext,
    /// The rule needs HTTP, and gets other bytes.
    Request,
    /// The rule decides by the first bytes, and there are none.
    FirstBytes,
    /// The ClientHello cannot be read.
    ClientHello {
        /// The reason.
        reason: ReasonCode,
    },
    /// The ClientHello has no server name.
    ServerName,
    /// The server name is not a host name.
    ReadableServerName,
    /// The ClientHello may hide another name.
    VisibleName,
    /// Routes have no meaning over TLS.
    RoutesOverTls,
    /// The request is CONNECT.
    OtherMethod,
    /// The rule does not allow this upgrade.
    Upgrade {
        /// The upgrade that the request asks for.
        requested: String,
    },
    /// The request has no authority.
    Authority,
    /// The authority is not a host with an optional port.
    ReadableAuthority {
        /// The authority of the request.
        authority: String,
    },
    /// The authority names another port.
    AuthorityPort {
        /// The port in the authority.
        named: u16,
        /// The port of the original destination.
        dialled: u16,
    },
    /// The rule lists names, and the authority is an address.
    Name {
        /// The address in the authority.
        address: IpAddr,
    },
    /// The authority is another address than the original destination.
    SameAddress {
        /// The address in the authority.
        named: IpAddr,
    },
    /// None of the rule's routes matches.
    Route {
        /// The mismatches of each route.
        routes: Vec<RouteEvaluation>,
    },
    /// The destination is a service of the mesh: rules are not evaluated.
    Egress,
    /// The connection goes to the listener itself: rules are not evaluated.
    Interception,
}

/// The evaluation of one route for one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteEvaluation {
    /// The route: `group/match`.
    pub route: String,
    /// The reasons why it does not match.
    pub mismatches: Vec<RouteMismatch>,
}

/// One reason why a route does not match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "mismatch", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum RouteMismatch {
    /// The path does not match.
    Path {
        /// The route's pattern.
        pattern: String,
        /// The path of the request.
        path: String,
    },
    /// A server may read a segment of the path as `.` or `..`, so a pattern does not tell where it leads.
    PathWithoutDotSegments {
        /// The path of the request.
        path: String,
    },
    /// The path has an encoded slash or backslash, and the pattern has none: a server may decode it, so the pattern does
    /// not tell where it leads.
    PathWithoutEncodedSlash {
        /// The route's pattern.
        pattern: String,
        /// The path of the request.
        path: String,
    },
    /// The method is not listed.
    Method {
        /// The route's methods.
        listed: Vec<String>,
        /// The method of the request.
        method: String,
    },
    /// A header does not match.
    Header {
        /// Its name.
        name: String,
        /// The route's pattern.
        pattern: String,
        /// The value that does not match: of one field, or of several joined by commas. Absent where there is none.
        value: Option<String>,
    },
}

impl Mismatch {
    /// The distance that this puts between rule and connection. A rule for another host concerns other connections.
    pub(super) fn distance(&self) -> u32 {
        match self {
            Self::Egress | Self::Interception => 0,
            Self::Route { routes } => {
                1_u32.saturating_add(routes.iter().map(RouteEvaluation::distance).min().unwrap_or_default())
            }
            Self::Address { .. } | Self::Upgrade { .. } | Self::VisibleName | Self::AuthorityPort { .. } => 2,
            Self::ServerName
            | Self::ReadableServerName
            | Self::Authority
            | Self::ReadableAuthority { .. }
            | Self::OtherMethod
            | Self::ClientHello { .. }
            | Self::FirstBytes
            | Self::RoutesOverTls
            | Self::SameAddress { .. } => 3,
            Self::Host { near: Some(_), .. } => 4,
            Self::Tls | Self::Plaintext | Self::Request | Self::Port { .. } => 5,
            Self::Name { .. } => 10,
            Self::Host { near: None, .. } => UNRELATED,
        }
    }
}

impl RouteEvaluation {
    fn distance(&self) -> u32 {
        u32::try_from(self.mismatches.len()).unwrap_or(u32::MAX)
    }
}

/// Foreign text in backticks: shortened, and without control characters, which a terminal would obey.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`")?;
        for (count, c) in self.0.chars().enumerate() {
            if count >= MAX_QUOTED_CHARS {
                f.write_str("…")?;
                break;
            }
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
        }
        f.write_str("`")
    }
}

fn write_list(f: &mut fmt::Formatter<'_>, items: &[String], more: usize) -> fmt::Result {
    for (count, item) in items.iter().enumerate() {
        let between = match (count, count.saturating_add(1) == items.len() && more == 0) {
            (0, _) => "",
            (_, true) => " and ",
            (_, false) => ", ",
        };
        write!(f, "{between}{}", Quoted(item))?;
    }
    if more > 0 { write!(f, " and {more} more") } else { Ok(()) }
}

/// One line that completes a sentence about the rule.
impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port { listed, dialled } => write!(f, "is for port {listed}, not {dialled}"),
            Self::Address { dialled: Some(dialled), listed: blocks, more } => {
                write!(f, "does not have {dialled} in its addresses, which are ")?;
                if blocks.is_empty() { f.write_str("none") } else { write_list(f, blocks, *more) }
            }
            Self::Address { dialled: None, listed: blocks, more } => {
                f.write_str("wants the dialled address to be in ")?;
                if blocks.is_empty() { f.write_str("an empty list") } else { write_list(f, blocks, *more) }
            }
            Self::Host { name, near: Some(NearHost { pattern, how }), .. } => {
                let (name, pattern) = (Quoted(name), Quoted(pattern));
                write!(f, "does not list {name}")?;
                match how {
                    Nearness::Apex => write!(f, ": {pattern} is for the names below it, not for itself"),
                    Nearness::Below => write!(f, ": it lists {pattern}, which is not for the names below it"),
                    Nearness::Above => write!(f, ": it lists {pattern}, a name below it"),
                    Nearness::Alike => write!(f, ": it lists {pattern}"),
                }
            }
            Self::Host { name, near: None, listed, more } => {
                write!(f, "does not list {}, but ", Quoted(name))?;
                if listed.is_empty() { f.write_str("no host at all") } else { write_list(f, listed, *more) }
            }
            Self::Tls => f.write_str("wants TLS, and the first bytes are not"),
            Self::Plaintext => f.write_str("wants plaintext HTTP, and the first bytes are TLS"),
            Self::Request => f.write_str("wants an HTTP request, and the first bytes are none"),
            Self::FirstBytes => f.write_str("looks at the first bytes, and the workload sends none"),
            Self::ClientHello { reason } => write!(f, "wants a ClientHello that can be read ({reason})"),
            Self::ServerName => f.write_str("lists hosts, and the ClientHello names none"),
            Self::ReadableServerName => f.write_str("lists hosts, and the server name is none"),
            Self::VisibleName => f.write_str("does not take the visible name of an encrypted ClientHello"),
            Self::RoutesOverTls => f.write_str("has routes, which cannot be seen inside TLS"),
            Self::OtherMethod => f.write_str("does not allow CONNECT, as no rule does"),
            Self::Upgrade { requested } => write!(f, "does not allow the upgrade {}", Quoted(requested)),
            Self::Authority => f.write_str("lists hosts, and the request names none"),
            Self::ReadableAuthority { authority } => {
                write!(f, "wants a host with an optional port, and the authority is {}", Quoted(authority))
            }
            Self::AuthorityPort { named, dialled } => {
                write!(f, "wants the dialled port {dialled}, and the authority names {named}")
            }
            Self::Name { address } => write!(f, "lists names, and the request is for the address {address}"),
            Self::SameAddress { named } => {
                write!(f, "wants the dialled address, and the request is for {named}")
            }
            Self::Route { routes } if routes.is_empty() => f.write_str("has an empty list of routes"),
            Self::Route { routes } => {
                f.write_str("has no route that matches")?;
                for (count, route) in routes.iter().take(MAX_SHOWN_ROUTES).enumerate() {
                    f.write_str(if count == 0 { ": " } else { "; " })?;
                    route.fmt(f)?;
                }
                match routes.len().saturating_sub(MAX_SHOWN_ROUTES) {
                    0 => Ok(()),
                    more => write!(f, "; and {more} more routes"),
                }
            }
            Self::Egress => f.write_str("is not looked at: the destination is a service of the mesh"),
            Self::Interception => f.write_str("is not looked at: the connection was not intercepted"),
        }
    }
}

impl fmt::Display for RouteEvaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", Quoted(&self.route))?;
        for (count, part) in self.mismatches.iter().enumerate() {
            if count > 0 {
                f.write_str(" and ")?;
            }
            part.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for RouteMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path { pattern, path } => write!(f, "wants path {}, not {}", Quoted(pattern), Quoted(path)),
            Self::PathWithoutDotSegments { path } => {
                write!(f, "wants a path that no server reads as one with `..`, not {}", Quoted(path))
            }
            Self::PathWithoutEncodedSlash { pattern, path } => write!(
                f,
                "wants a path without an encoded slash, which {} does not say, not {}",
                Quoted(pattern),
                Quoted(path)
            ),
            Self::Method { listed, method } => {
                f.write_str("wants method ")?;
                write_list(f, listed, 0)?;
                write!(f, ", not {}", Quoted(method))
            }
            Self::Header { name, pattern, value: Some(value) } => {
                write!(f, "wants header {} to be {}, not {}", Quoted(name), Quoted(pattern), Quoted(value))
            }
            Self::Header { name, pattern, value: None } => {
                write!(f, "wants header {} to be {}, and there is none", Quoted(name), Quoted(pattern))
            }
        }
    }
}
