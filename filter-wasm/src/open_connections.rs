//! The connections that were let through, so that a new policy can be asked about them.

use std::net::SocketAddr;

use egress_policy::{Decision, OnConnection, OnOpening, Opening, Policy, Protocol, ReasonCode, Refusal};

use crate::review::{Route, Standing};

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
    /// No TLS.
    Plain,
}

/// The decision that closes a connection which a new policy forbids.
pub(crate) fn revocation() -> Decision<'static> {
    Decision::Deny(Refusal { reason: ReasonCode::Revoked, rule: None })
}

impl OpenConnection {
    /// Its standing under a policy.
    pub(crate) fn standing(&self, policy: &Policy) -> Standing {
        match self.decide(policy, self.to) {
            Some(decision) => self.route.standing(policy, &decision),
            // The next request is decided by the new policy. What is no HTTP connection of ours cannot be.
            None if self.route == Route::EachRequest || policy.mode() != egress_policy::Mode::Enforce => {
                Standing::Permitted
            }
            None => Standing::Forbidden,
        }
    }

    /// Whether a policy allows a connection with these first bytes, opened to this address.
    pub(crate) fn is_allowed_at(&self, policy: &Policy, address: SocketAddr) -> bool {
        self.decide(policy, address).is_some_and(|decision| {
            matches!(decision, Decision::Allow(permit) if Route::from(&permit.to) == Route::OriginalDestination)
        })
    }

    /// `None`: each request is decided for itself.
    fn decide<'p>(&self, policy: &'p Policy, to: SocketAddr) -> Option<Decision<'p>> {
        match policy.connection(to) {
            OnConnection::Decided(decision) => Some(decision),
            OnConnection::NeedFirstBytes => match policy.opening(to, self.first_bytes.as_opening()) {
                OnOpening::Decided(decision) => Some(decision),
                OnOpening::EachRequest => None,
            },
        }
    }
}

impl FirstBytes {
    /// The protocol that decisions are counted by.
    pub(crate) fn protocol(&self) -> Protocol {
        match self {
            Self::Unseen | Self::Plain => Protocol::Tcp,
            Self::Tls { .. } => Protocol::Https,
        }
    }

    /// The same in the policy's terms.
    pub(crate) fn as_opening(&self) -> Opening<'_> {
        match self {
            // They were none of our business then, and cannot be asked for now.
            Self::Unseen => Opening::Late,
            Self::Plain => Opening::NotTls,
            Self::Tls { server_name, encrypted } => {
                Opening::Tls { server_name: server_name.as_deref(), encrypted: *encrypted }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use egress_policy::HostMatch;

    use super::*;
    use crate::fake::config;
    use crate::review::UpstreamTest;

    fn tls(name: &str) -> FirstBytes {
        FirstBytes::Tls { server_name: Some(name.into()), encrypted: false }
    }

    fn standing(rules: &str, mode: &str, to: &str, first_bytes: FirstBytes, route: Route) -> Standing {
        let connection = OpenConnection { id: 1, to: to.parse().expect("valid"), first_bytes, route };
        connection.standing(&config("network", mode, rules).policy)
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
            ("1.2.3.4:25", FirstBytes::Unseen, ORIGINAL, Standing::Forbidden),
            ("1.2.3.4:443", tls("c.org"), EXACT, Standing::Forbidden),
            ("1.2.3.4:443", FirstBytes::Unseen, ORIGINAL, Standing::Forbidden),
            ("1.2.3.4:22", FirstBytes::Unseen, ORIGINAL, Standing::Permitted),
            // Led by the name, and by the original destination where the name must lead.
            ("1.2.3.4:443", tls("a.org"), EXACT, Standing::Permitted),
            ("1.2.3.4:443", tls("a.org"), WILDCARD, Standing::Permitted),
            ("1.2.3.4:443", tls("a.org"), ORIGINAL, Standing::Forbidden),
            ("1.2.3.4:443", tls("x.b.org"), WILDCARD, Standing::Permitted),
            ("1.2.3.4:443", tls("x.b.org"), EXACT, Standing::Depends(UpstreamTest::Public)),
            // Led by the name, where the original destination counts now.
            ("1.2.3.4:8443", tls("a.org"), EXACT, Standing::Depends(UpstreamTest::Allowed)),
            ("10.1.2.3:9443", tls("a.org"), WILDCARD, Standing::Depends(UpstreamTest::Allowed)),
            ("10.1.2.3:9443", tls("a.org"), ORIGINAL, Standing::Permitted),
            // Requests are decided where they can be seen.
            ("1.2.3.4:80", FirstBytes::Plain, Route::EachRequest, Standing::Permitted),
            ("1.2.3.4:80", FirstBytes::Plain, ORIGINAL, Standing::Forbidden),
            ("1.2.3.4:8080", FirstBytes::Plain, Route::EachRequest, Standing::Forbidden),
        ];
        for (to, first_bytes, route, expected) in cases {
            let name = format!("{to} {first_bytes:?} {route:?}");
            assert_eq!(standing(RULES, "enforce", to, first_bytes.clone(), route), expected, "{name}");
            for mode in ["audit", "passthrough"] {
                let found = standing(RULES, mode, to, first_bytes.clone(), route);
                assert_eq!(found, Standing::Permitted, "{mode}: {name}");
            }
        }
    }

    #[test]
    fn the_address_where_it_ended_is_asked_about() {
        let policy = config("network", "enforce", RULES).policy;
        let connection = |to: &str, route| OpenConnection {
            id: 1,
            to: to.parse().expect("valid"),
            first_bytes: tls("x.b.org"),
            route,
        };
        for (to, upstream, permitted) in [
            ("1.2.3.4:443", Some("93.184.216.34:443"), true),
            ("1.2.3.4:443", Some("10.1.2.3:443"), false),
            ("1.2.3.4:443", Some("[fd00::1]:443"), false),
            ("1.2.3.4:443", None, false),
            ("10.9.9.9:9443", Some("10.1.2.3:9443"), true),
            ("10.9.9.9:9443", Some("11.1.2.3:9443"), false),
            ("10.9.9.9:9443", None, false),
        ] {
            let connection = connection(to, Route::Resolved(HostMatch::Exact));
            let upstream: Option<SocketAddr> = upstream.map(|at| at.parse().expect("valid"));
            let found = connection
                .standing(&policy)
                .is_permitted(|| upstream, |at| connection.is_allowed_at(&policy, at));
            assert_eq!(found, permitted, "{to} {upstream:?}");
        }
    }
}
