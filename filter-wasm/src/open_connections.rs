//! The connections that were let through, which a new policy reviews.

use std::net::SocketAddr;

use egress_policy::{
    ConnectionOutcome, ConnectionStart, Decision, Mode, Policy, Protocol, ReasonCode, Refusal, StartOutcome,
};

use crate::route::{Route, UNUSED_ADDRESSES, leads_to_original_destination};

/// A connection that was let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenConnection {
    pub(crate) id: u32,
    /// The original destination.
    pub(crate) to: SocketAddr,
    pub(crate) first_bytes: FirstBytes,
    pub(crate) route: Route,
}

/// The first bytes of a connection, as far as they were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FirstBytes {
    /// None: the original destination decided.
    Unseen,
    /// A ClientHello.
    Tls { server_name: Option<Box<str>>, encrypted: bool },
    /// Bytes that begin like TLS and are not, for this reason.
    BrokenTls(ReasonCode),
    /// Bytes that are not TLS.
    Plain,
}

/// Makes the decision that closes a connection which a new policy forbids.
pub(crate) fn revocation() -> Decision<'static> {
    Decision::Deny(Refusal { reason: ReasonCode::Revoked, rule: None })
}

impl OpenConnection {
    /// Returns whether the connection continues under a policy.
    pub(crate) fn is_permitted(&self, policy: &Policy) -> bool {
        match self.decide(policy, self.to) {
            Some(decision) => {
                let at = |address| self.decide(policy, SocketAddr::new(address, self.to.port()));
                self.route.is_permitted(policy, &decision, || {
                    UNUSED_ADDRESSES.into_iter().all(|address| {
                        at(address).is_some_and(|decision| leads_to_original_destination(&decision))
                    })
                })
            }
            // The new policy decides the next request, in the HTTP filter.
            None => self.route == Route::EachRequest || policy.mode() != Mode::Enforce,
        }
    }

    /// Decides by a policy; `None`: each request is decided for itself.
    fn decide<'p>(&self, policy: &'p Policy, to: SocketAddr) -> Option<Decision<'p>> {
        match policy.decide_connection(to) {
            ConnectionOutcome::Decided(decision) => Some(decision),
            ConnectionOutcome::NeedFirstBytes => match policy.decide_start(to, self.first_bytes.as_start()) {
                StartOutcome::Decided(decision) => Some(decision),
                StartOutcome::EachRequest => None,
            },
        }
    }
}

impl FirstBytes {
    /// The protocol in counters and logs.
    pub(crate) fn protocol(&self) -> Protocol {
        match self {
            Self::Unseen | Self::Plain => Protocol::Tcp,
            Self::Tls { .. } | Self::BrokenTls(_) => Protocol::Https,
        }
    }

    /// The start of the connection, for a policy.
    pub(crate) fn as_start(&self) -> ConnectionStart<'_> {
        match self {
            // They were not read then, and cannot be read now.
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
    use crate::fake_host::config;

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
    fn a_new_policy_closes_exactly_what_it_does_not_allow() {
        const ORIGINAL: Route = Route::OriginalDestination;
        const EXACT: Route = Route::Resolved(HostMatch::Exact);
        const WILDCARD: Route = Route::Resolved(HostMatch::Wildcard);
        let cases = [
            // No rule, another name, first bytes that were not read.
            ("1.2.3.4:25", FirstBytes::Unseen, ORIGINAL, false),
            ("1.2.3.4:443", tls("c.org"), EXACT, false),
            ("1.2.3.4:443", FirstBytes::Unseen, ORIGINAL, false),
            ("1.2.3.4:22", FirstBytes::Unseen, ORIGINAL, true),
            // Led by the name; and to the original destination, where the name must choose the address.
            ("1.2.3.4:443", tls("a.org"), EXACT, true),
            ("1.2.3.4:443", tls("a.org"), WILDCARD, true),
            ("1.2.3.4:443", tls("a.org"), ORIGINAL, false),
            ("1.2.3.4:443", tls("x.b.org"), WILDCARD, true),
            ("1.2.3.4:443", tls("x.b.org"), EXACT, false),
            // Led by the name, where now the original destination is allowed: any address, or some.
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
