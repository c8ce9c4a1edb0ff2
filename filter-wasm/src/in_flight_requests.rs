//! The requests that were let through and have not ended, which a new policy reviews. An upgraded connection is such a
//! request until it ends.

use std::borrow::Cow;
use std::net::SocketAddr;

use egress_policy::{ConnectionOutcome, Decision, Headers, Policy, Request};

use crate::route::{Route, UNUSED_ADDRESSES, leads_to_original_destination};

/// The parts of a request that a decision needs, without its other headers.
#[derive(Debug, Clone, Default)]
pub(crate) struct RequestInfo {
    pub(crate) authority: Option<String>,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) upgrade: Option<String>,
}

impl RequestInfo {
    /// Decides by a policy. A connection that may carry any bytes may carry this request.
    pub(crate) fn decide<'p>(
        &self,
        policy: &'p Policy,
        to: SocketAddr,
        headers: &dyn Headers,
    ) -> Decision<'p> {
        let Self { authority, method, path, upgrade } = self;
        let request =
            Request { authority: authority.as_deref(), method, path, upgrade: upgrade.as_deref(), headers };
        match policy.decide_connection(to) {
            ConnectionOutcome::Decided(decision) if decision.is_allowed_by_rule() => decision,
            ConnectionOutcome::Decided(_) | ConnectionOutcome::NeedFirstBytes => {
                policy.decide_request(to, &request)
            }
        }
    }
}

/// The headers that a decision looked up. Envoy does not show them a second time; one that was not looked up counts as
/// absent, so that in doubt a request ends.
#[derive(Debug, Clone, Default)]
pub(crate) struct SeenHeaders(pub(crate) Vec<(String, String)>);

impl Headers for SeenHeaders {
    fn values(&self, name: &str) -> Vec<Cow<'_, str>> {
        let of_name = self.0.iter().filter(|(seen, _)| seen == name);
        of_name.map(|(_, value)| Cow::Borrowed(value.as_str())).collect()
    }
}

/// A request that was let through.
#[derive(Debug, Clone)]
pub(crate) struct InFlightRequest {
    pub(crate) id: u32,
    /// The original destination.
    pub(crate) to: SocketAddr,
    pub(crate) request: RequestInfo,
    pub(crate) headers: SeenHeaders,
    pub(crate) route: Route,
}

impl InFlightRequest {
    /// Returns whether the request continues under a policy.
    pub(crate) fn is_permitted(&self, policy: &Policy) -> bool {
        let at = |to| self.request.decide(policy, to, &self.headers);
        self.route.is_permitted(policy, &at(self.to), || {
            UNUSED_ADDRESSES
                .into_iter()
                .all(|address| leads_to_original_destination(&at(SocketAddr::new(address, self.to.port()))))
        })
    }
}

#[cfg(test)]
mod tests {
    use egress_policy::HostMatch;

    use super::*;
    use crate::fake_host::config;

    #[test]
    fn a_new_policy_ends_exactly_what_it_does_not_allow() {
        let rules = r#"[
            {"policy":"a/web","name":"n","port":80,"protocol":"http","hosts":["a.org"]},
            {"policy":"a/tcp","name":"n","port":82,"protocol":"tcp"},
            {"policy":"a/block","name":"n","port":81,"protocol":"http","hosts":["a.org"],"addresses":["10.0.0.0/8"]},
            {"policy":"a/hdr","name":"n","port":80,"protocol":"http","hosts":["b.org"],"routes":[
                {"name":"r","headers":[{"name":"x-key","value":"v"}]}]}]"#;
        let key = || SeenHeaders(vec![("x-key".to_owned(), "v".to_owned())]);
        let exact = Route::Resolved(HostMatch::Exact);
        for (to, host, upgrade, headers, route, expected) in [
            ("1.2.3.4:80", "a.org", None, SeenHeaders::default(), exact, true),
            ("1.2.3.4:80", "a.org", Some("websocket"), SeenHeaders::default(), exact, false),
            ("1.2.3.4:80", "b.org", None, key(), exact, true),
            ("1.2.3.4:80", "b.org", None, SeenHeaders::default(), exact, false),
            ("1.2.3.4:80", "c.org", None, SeenHeaders::default(), exact, false),
            // Any bytes may go anywhere, so this request may.
            ("1.2.3.4:82", "a.org", None, SeenHeaders::default(), exact, true),
            // Audit mode or an address let it through to another address than the name's.
            ("1.2.3.4:80", "a.org", None, SeenHeaders::default(), Route::OriginalDestination, false),
            ("10.0.0.1:81", "a.org", None, SeenHeaders::default(), exact, false),
        ] {
            let request = InFlightRequest {
                id: 1,
                to: to.parse().expect("valid"),
                request: RequestInfo {
                    authority: Some(host.to_owned()),
                    method: "GET".to_owned(),
                    path: "/".to_owned(),
                    upgrade: upgrade.map(str::to_owned),
                },
                headers,
                route,
            };
            let name = format!("{to} {host} {upgrade:?} {route:?}");
            let is_permitted = |mode| request.is_permitted(&config("http", mode, rules).policy);
            assert_eq!(is_permitted("enforce"), expected, "{name}");
            assert!(is_permitted("audit") && is_permitted("passthrough"), "{name}");
        }
    }
}
