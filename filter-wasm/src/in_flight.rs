//! The requests that were let through and have not ended, so that a new policy can be asked about them. An
//! upgraded connection is such a request until it ends.

use std::borrow::Cow;
use std::net::SocketAddr;

use egress_policy::{Decision, Headers, Policy, Request};

use crate::review::{Route, Standing};

/// What a decision looks at of a request.
#[derive(Debug, Clone, Default)]
pub(crate) struct RequestInfo {
    pub(crate) authority: Option<String>,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) upgrade: Option<String>,
}

impl RequestInfo {
    /// Asks a policy about it.
    pub(crate) fn decide<'p>(
        &self,
        policy: &'p Policy,
        to: SocketAddr,
        headers: &dyn Headers,
    ) -> Decision<'p> {
        let Self { authority, method, path, upgrade } = self;
        let request =
            Request { authority: authority.as_deref(), method, path, upgrade: upgrade.as_deref(), headers };
        policy.request(to, &request)
    }
}

/// The headers that a decision looked at. Envoy does not show them a second time; one that was not
/// looked at counts as absent, so that in doubt a request ends.
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
    /// Its standing under a policy.
    pub(crate) fn standing(&self, policy: &Policy) -> Standing {
        self.route.standing(policy, &self.request.decide(policy, self.to, &self.headers))
    }

    /// Whether a policy allows this request on a connection that was opened to this address.
    pub(crate) fn is_allowed_at(&self, policy: &Policy, address: SocketAddr) -> bool {
        match self.request.decide(policy, address, &self.headers) {
            Decision::Allow(permit) => Route::from(&permit.to) == Route::OriginalDestination,
            Decision::Deny(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use egress_policy::HostMatch;

    use super::*;
    use crate::fake::config;
    use crate::review::UpstreamTest;

    #[test]
    fn a_new_policy_forbids_just_what_it_does_not_allow_there() {
        let rules = r#"[
            {"policy":"a/web","name":"n","port":80,"protocol":"http","hosts":["a.org"]},
            {"policy":"a/block","name":"n","port":81,"protocol":"http","hosts":["a.org"],"addresses":["10.0.0.0/8"]},
            {"policy":"a/hdr","name":"n","port":80,"protocol":"http","hosts":["b.org"],"routes":[
                {"name":"r","headers":[{"name":"x-key","value":"v"}]}]}]"#;
        let key = || SeenHeaders(vec![("x-key".to_owned(), "v".to_owned())]);
        let exact = Route::Resolved(HostMatch::Exact);
        for (to, host, upgrade, headers, route, expected) in [
            ("1.2.3.4:80", "a.org", None, SeenHeaders::default(), exact, Standing::Permitted),
            ("1.2.3.4:80", "a.org", Some("websocket"), SeenHeaders::default(), exact, Standing::Forbidden),
            ("1.2.3.4:80", "b.org", None, key(), exact, Standing::Permitted),
            ("1.2.3.4:80", "b.org", None, SeenHeaders::default(), exact, Standing::Forbidden),
            ("1.2.3.4:80", "c.org", None, SeenHeaders::default(), exact, Standing::Forbidden),
            // What audit mode or an address let through is not where the name leads.
            (
                "1.2.3.4:80",
                "a.org",
                None,
                SeenHeaders::default(),
                Route::OriginalDestination,
                Standing::Forbidden,
            ),
            (
                "10.0.0.1:81",
                "a.org",
                None,
                SeenHeaders::default(),
                exact,
                Standing::Depends(UpstreamTest::Allowed),
            ),
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
            let standing = |mode| request.standing(&config("http", mode, rules).policy);
            assert_eq!(standing("enforce"), expected, "{name}");
            assert_eq!(standing("audit"), Standing::Permitted, "{name}");
            assert_eq!(standing("passthrough"), Standing::Permitted, "{name}");
            let at = |address: &str| {
                let policy = config("http", "enforce", rules).policy;
                request.is_allowed_at(&policy, address.parse().expect("valid"))
            };
            assert_eq!((at("10.2.2.2:81"), at("11.2.2.2:81")), (host == "a.org" && upgrade.is_none(), false));
        }
    }
}
