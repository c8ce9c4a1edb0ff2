//! The connections that were let through, so that a new policy can be asked about them.

use std::net::SocketAddr;

use egress_policy::{
    Decision, Mode, ConnectionOutcome, StartOutcome, ConnectionStart, Policy, Protocol, ReasonCode, Refusal,
};

use crate::review::{NOWHERE, Route, leads_to_original_destination};

/// A connection that was let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenConnection {
    pub(crate) id: u32,
    /// The original destination.
    pub(crate) to: SocketAddr,
    pub(crate) first_bytes: FirstBytes,
    pub(crate) route: Route,
}

/// What was seen of a connection's first bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FirstBytes {
    /// Nothing: port and address decided.
    Unseen,
    /// A ClientHello.
    Tls { server_name: Option<Box<str>>, encrypted: bool },
    /// Something that begins like TLS and is not, for this reason.
    BrokenTls(ReasonCode),
    /// No TLS.
    Plain,
}

/// The decision that closes a connection which a new policy forbids.
pub(crate) fn revocation() -> Decision<'static> {
    Decision::Deny(Refusal { reason: ReasonCode::Revoked, rule: None })
}

impl OpenConnection {
    /// Whether it goes on under a policy.
    pub(crate) fn is_permitted(&self, policy: &Policy) -> bool {
        match self.decide(policy, self.to) {
            Some(decision) => {
                let at = |address| self.decide(policy, SocketAddr::new(address, self.to.port()));
                self.route.is_permitted(policy, &decision, || {
                    NOWHERE.into_iter().all(|address| {
                        at(address).is_some_and(|decision| leads_to_original_destination(&decision))
                    })
                })
            }
            // The next request is decided by the new policy. What is no HTTP connection of ours cannot be.
            None => self.route == Route::EachRequest || policy.mode() != Mode::Enforce,
        }
    }

    /// `None`: each request is decided for itself.
    fn decide<'p>(&self, policy: &'p Policy, to: SocketAddr) -> Option<Decision<'p>> {
        match policy.decide_connection(to) {
            ConnectionOutcome::Decided(decision) => Some(decision),
            ConnectionOutcome::NeedFirstBytes => match policy.decide_start(to, self.first_bytes.as_opening()) {
                StartOutcome::Decided(decision) => Some(decision),
                StartOutcome::EachRequest => None,
            },
        }
    }
}

impl FirstBytes {
    /// The protocol that decisions are counted by.
    pub(crate) fn protocol(&self) -> Protocol {
        match self {
            Self::Unseen | Self::Plain => Protocol::Tcp,
            Self::Tls { .. } | Self::BrokenTls(_) => Protocol::Https,
        }
    }

    /// The same in the policy's terms.
    pub(crate) fn as_opening(&self) -> ConnectionStart<'_> {
        match self {
            // They were none of our business then, and cannot be asked for now.
            Self::Unseen => ConnectionStart::TimedOut,
            Self::Plain => ConnectionStart::NotTls,
            Self::BrokenTls(reason) => ConnectionStart::BrokenTls(*reason),
            Self::Tls { server_name, encrypted } => {
                ConnectionStart::Tls { server_name: server_name.as_deref(), encrypted: *encrypted }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use egress_policy::HostMatch;

    use super::*;
    use crate::fake::config;

    fn tls(name: &str) -> FirstBytes {
        FirstBytes::Tls { server_name: Some(name.into()), encrypted: false }
    }

    fn is_permitted(rules: &str, mode: &str, to: &str, first_bytes: FirstBytes, route: Route) -> bool {
        let connection = OpenConnection { id: 1, to: to.parse().expect("valid"), first_bytes, route };
        connection.is_permitted(&config("network", mode, rules).policy)
    }

    const RULES: &str = r#"[
        {"policy":"a/tls","name":"n","port":443,"protocol":"https","hosts":["a.org","*.b.org"]},
        {"policy":"a/any","name":"n","port":8443,"protocol":"https"},
        {"policy":"a/block","name":"n","port":9443,"protocol":"https","addresses":["10.0.0.0/8"]},
        {"policy":"a/tcp","name":"n","port":22,"protocol":"tcp"},
        {"policy":"a/web","name":"n","port":80,"protocol":"http","hosts":["a.org"]}]"#;

    #[test]
    fn a_new_policy_forbids_just_what_it_does_not_allow_there() {
        const ORIGINAL: Route = Route::OriginalDestination;
        const EXACT: Route = Route::Resolved(HostMatch::Exact);
        const WILDCARD: Route = Route::Resolved(HostMatch::Wildcard);
        let cases = [
            // No rule, another name, first bytes that nobody looked at.
            ("1.2.3.4:25", FirstBytes::Unseen, ORIGINAL, false),
            ("1.2.3.4:443", tls("c.org"), EXACT, false),
            ("1.2.3.4:443", FirstBytes::Unseen, ORIGINAL, false),
            ("1.2.3.4:22", FirstBytes::Unseen, ORIGINAL, true),
            // Led by the name, and by the original destination where the name must lead.
            ("1.2.3.4:443", tls("a.org"), EXACT, true),
            ("1.2.3.4:443", tls("a.org"), WILDCARD, true),
            ("1.2.3.4:443", tls("a.org"), ORIGINAL, false),
            ("1.2.3.4:443", tls("x.b.org"), WILDCARD, true),
            ("1.2.3.4:443", tls("x.b.org"), EXACT, false),
            // Led by the name, where the original destination counts now: of any address, or of some.
            ("1.2.3.4:8443", tls("a.org"), EXACT, true),
            ("1.2.3.4:8443", FirstBytes::BrokenTls(ReasonCode::TlsMalformed), ORIGINAL, false),
            ("10.1.2.3:9443", tls("a.org"), WILDCARD, false),
            ("10.1.2.3:9443", tls("a.org"), ORIGINAL, true),
            // Requests are decided where they can be seen.
            ("1.2.3.4:80", FirstBytes::Plain, Route::EachRequest, true),
            ("1.2.3.4:80", FirstBytes::Plain, ORIGINAL, false),
            ("1.2.3.4:8080", FirstBytes::Plain, Route::EachRequest, false),
        ];
        for (to, first_bytes, route, expected) in cases {
            let name = format!("{to} {first_bytes:?} {route:?}");
            assert_eq!(is_permitted(RULES, "enforce", to, first_bytes.clone(), route), expected, "{name}");
            for mode in ["audit", "passthrough"] {
                assert!(is_permitted(RULES, mode, to, first_bytes.clone(), route), "{mode}: {name}");
            }
        }
    }
}
