//! The HTTP filter: one request.

use std::borrow::Cow;
use std::cell::RefCell;

use egress_policy::contract::{filter_state, header};
use egress_policy::{Decision, Destination, Headers, Protocol, ReasonCode};

use crate::decision_log;
use crate::host::{FilterAction, HttpHost, LifeSpan};
use crate::in_flight_requests::{InFlightRequest, RequestInfo, SeenHeaders};
use crate::plaintext_connections::CompleteRequest;
use crate::route::{Route, select_cluster};
use crate::scope::PluginHandle;
use crate::table::Guard;
use crate::tick::NEXT_TICK_DELAY;

/// The status of a refusal without a configuration.
const DEFAULT_DENY_STATUS: u16 = 403;

/// The HTTP filter of one request.
pub(crate) struct HttpFilter<H> {
    host: H,
    id: u32,
    plugin: Option<PluginHandle>,
    in_flight: Option<Guard<InFlightRequest>>,
    /// The request on its connection, which is notified when the request ends.
    complete: Option<CompleteRequest>,
}

impl<H: HttpHost> HttpFilter<H> {
    /// Makes the filter of a request; without a plugin it refuses.
    pub(crate) fn new(host: H, id: u32, plugin: Option<PluginHandle>) -> Self {
        Self { host, id, plugin, in_flight: None, complete: None }
    }

    /// Decides a request whose headers are complete.
    pub(crate) fn on_request_headers(&mut self) -> FilterAction {
        let Some(PluginHandle { scope, .. }) = &self.plugin else {
            return self.refuse(ReasonCode::PolicyInvalid, DEFAULT_DENY_STATUS);
        };
        let config = scope.newest();
        self.complete = self.host.source().and_then(|source| {
            let length = self.host.header("content-length");
            let length = length.and_then(|length| String::from_utf8(length).ok()?.parse().ok());
            scope.plaintext.complete(source, length)
        });
        let Some(to) = self.host.original_destination().filter(|to| to.port() != config.listener_port) else {
            return self.refuse(ReasonCode::NotIntercepted, config.deny_status);
        };
        let text = |name| self.host.header(name).and_then(|value| String::from_utf8(value).ok());
        // A value that is not UTF-8 is present and malformed.
        let text_or_malformed =
            |name| self.host.header(name).map(|v| String::from_utf8(v).unwrap_or("?".to_owned()));
        let request = RequestInfo {
            authority: text_or_malformed(":authority"),
            method: text(":method").unwrap_or_default(),
            path: text(":path").unwrap_or_default(),
            upgrade: text_or_malformed("upgrade"),
        };
        let headers = HostHeaders { host: &self.host, seen: RefCell::default() };
        let decision = request.decide(&config.policy, to, &headers);
        let headers = headers.seen.into_inner();
        decision_log::log_decision(&self.host, Some(&config.policy), &decision, Protocol::Http);
        match &decision {
            Decision::Deny(refusal) => self.respond(refusal.reason, config.deny_status),
            Decision::Allow(permit) => {
                if let Destination::Resolved(name, _) = &permit.to
                    && !names_destination(request.authority.as_deref(), to.port())
                {
                    // For this request only: the next one of the connection may have another name.
                    let is_set = self.host.set_filter_state(
                        LifeSpan::Request,
                        filter_state::DYNAMIC_HOST,
                        name.as_str(),
                    ) && self.host.set_filter_state(
                        LifeSpan::Request,
                        filter_state::DYNAMIC_PORT,
                        &to.port().to_string(),
                    );
                    if !is_set {
                        return self.respond(ReasonCode::PolicyInvalid, config.deny_status);
                    }
                }
                self.host.set_header(header::CLUSTER, select_cluster(permit));
                let (id, route) = (self.id, Route::from(&permit.to));
                let in_flight = InFlightRequest { id, to, request, headers, route };
                self.in_flight = Some(scope.in_flight.insert(in_flight));
                scope.recent.add_request(id);
                FilterAction::Continue
            }
        }
    }

    /// Tells the connection that the request has ended.
    pub(crate) fn on_end(&mut self) {
        let (Some(PluginHandle { scope, is_ticking }), Some(request)) = (&self.plugin, self.complete.take())
        else {
            return;
        };
        scope.plaintext.end(request);
        // A tick closes connections: here, the connection of this request may be one of them.
        if scope.plaintext.exceeds_limit() {
            is_ticking.set(true);
            self.host.set_tick_period(NEXT_TICK_DELAY);
        }
    }

    fn refuse(&self, reason: ReasonCode, status: u16) -> FilterAction {
        let config = self.plugin.as_ref().map(|plugin| plugin.scope.newest());
        let policy = config.as_ref().map(|config| &*config.policy);
        decision_log::log_decision(&self.host, policy, &Decision::Deny(reason.into()), Protocol::Http);
        self.respond(reason, status)
    }

    fn respond(&self, reason: ReasonCode, status: u16) -> FilterAction {
        let body = format!("egress denied: {reason}: {}\n", reason.meaning().trim());
        self.host.send_response(status, (header::DENIED, reason.as_str()), &body);
        FilterAction::Pause
    }
}

/// Returns whether Envoy's dynamic forward proxy finds the destination by the authority alone: without a port it uses 80,
/// and it reads an empty port as a part of the name. The engine has read the authority strictly, so Envoy reads the same
/// host in it.
fn names_destination(authority: Option<&str>, port: u16) -> bool {
    authority.is_some_and(|text| !text.ends_with(':') && (port == 80 || text.contains(':')))
}

/// The headers of a request, which keeps those that a policy looks up.
struct HostHeaders<'a, H> {
    host: &'a H,
    seen: RefCell<SeenHeaders>,
}

impl<H: HttpHost> Headers for HostHeaders<'_, H> {
    fn values(&self, name: &str) -> Vec<Cow<'_, str>> {
        let values: Option<Vec<String>> =
            self.host.header_values(name).into_iter().map(|value| String::from_utf8(value).ok()).collect();
        let values = values.unwrap_or_default();
        let mut seen = self.seen.borrow_mut();
        // Another rule may have looked it up already, and each value is kept once.
        if !seen.0.iter().any(|(other, _)| other == name) {
            seen.0.extend(values.iter().map(|value| (name.to_owned(), value.clone())));
        }
        values.into_iter().map(Cow::Owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::fake_host::{FakeHost, scope};

    const RULES: &str = r#"[
        {"policy":"a/web","name":"n","port":80,"protocol":"http","hosts":["a.org"]},
        {"policy":"a/web","name":"n","port":8080,"protocol":"http","hosts":["a.org"]},
        {"policy":"a/addr","name":"n","port":80,"protocol":"http","hosts":["b.org"],"addresses":["10.0.0.0/8"]},
        {"policy":"a/hdr","name":"n","port":80,"protocol":"http","hosts":["c.org"],"routes":[
            {"name":"r","headers":[{"name":"x-key","value":"v"}]}]}]"#;

    fn plugin(mode: &str) -> PluginHandle {
        PluginHandle { scope: scope("http", mode, RULES), is_ticking: Rc::default() }
    }

    fn decide_request(mode: &str, to: &str, headers: &[(&str, &[u8])]) -> String {
        let fake = FakeHost { original_destination: to.parse().ok(), ..FakeHost::default() };
        for (name, value) in headers {
            fake.headers.borrow_mut().insert((*name).to_owned(), value.to_vec());
        }
        let mut request = HttpFilter::new(fake, 1, Some(plugin(mode)));
        let action = request.on_request_headers();
        let fake = &request.host;
        let cluster =
            fake.header(header::CLUSTER).map(|v| String::from_utf8(v).expect("ours")).unwrap_or_default();
        let host = fake.state.borrow().get(filter_state::DYNAMIC_HOST).cloned().unwrap_or_default();
        let port = fake.state.borrow().get(filter_state::DYNAMIC_PORT).cloned().unwrap_or_default();
        format!("{action:?} {cluster} {host}:{port} {:?}", fake.response.borrow())
    }

    #[test]
    fn each_request_is_decided() {
        let get = |authority: &'static str| {
            [(":method", &b"GET"[..]), (":path", b"/"), (":authority", authority.as_bytes())]
        };
        for (mode, to, authority, expected) in [
            ("enforce", "1.2.3.4:80", "a.org", "Continue egress-dns : None"),
            ("enforce", "1.2.3.4:8080", "A.org.:8080", "Continue egress-dns : None"),
            ("enforce", "1.2.3.4:8080", "A.org.", "Continue egress-dns a.org:8080 None"),
            ("enforce", "1.2.3.4:8080", "a.org:", "Continue egress-dns a.org:8080 None"),
            ("enforce", "1.2.3.4:80", "a.org:", "Continue egress-dns a.org:80 None"),
            ("enforce", "10.1.1.1:80", "b.org", "Continue egress-original-dst : None"),
            ("enforce", "1.2.3.4:80", "z.org", "Pause  : Some((403, \"host-not-allowed\"))"),
            ("enforce", "1.2.3.4:80", "c.org", "Pause  : Some((403, \"route-not-allowed\"))"),
            ("enforce", "1.2.3.4:15001", "a.org", "Pause  : Some((403, \"not-intercepted\"))"),
            ("enforce", "", "a.org", "Pause  : Some((403, \"not-intercepted\"))"),
            ("audit", "1.2.3.4:80", "z.org", "Continue egress-original-dst : None"),
            ("passthrough", "1.2.3.4:80", "z.org", "Continue passthrough-outbound : None"),
        ] {
            assert_eq!(decide_request(mode, to, &get(authority)), expected, "{mode} {to} {authority}");
        }
    }

    #[test]
    fn malformed_headers_are_refused_or_ignored() {
        let to = "1.2.3.4:80";
        for (headers, expected) in [
            (&[(":method", &b"GET"[..]), (":path", b"/")][..], "authority-absent"),
            (&[(":method", b"GET"), (":path", b"/"), (":authority", b"a.org\xff")], "authority-malformed"),
            (&[(":method", b"GET"), (":path", b"/"), (":authority", b"a.org"), ("x-key", b"\xff")], ""),
            (
                &[(":method", b"GET"), (":path", b"/"), (":authority", b"c.org"), ("x-key", b"\xff")],
                "route-not-allowed",
            ),
            (&[(":method", b"GET"), (":path", b"/"), (":authority", b"c.org"), ("x-key", b"v")], ""),
            (&[(":method", b"CONNECT"), (":authority", b"a.org")], "connect-refused"),
            (&[(":method", b"GET"), (":authority", b"a.org"), ("upgrade", b"websocket")], "upgrade-refused"),
            (&[(":method", b"GET"), (":authority", b"a.org"), ("upgrade", b"\xff")], "upgrade-refused"),
        ] {
            let found = decide_request("enforce", to, headers);
            if expected.is_empty() {
                assert!(found.starts_with("Continue"), "{found}");
            } else {
                assert!(found.contains(expected), "{found} is not {expected}");
            }
        }
    }

    /// In the decision, and in the review by another policy.
    #[test]
    fn every_field_of_a_header_must_match() {
        for (values, expected) in [
            (&[&b"v"[..]][..], FilterAction::Continue),
            (&[b"v", b"evil"], FilterAction::Pause),
            (&[b"evil", b"v"], FilterAction::Pause),
            (&[b"v", b"\xff"], FilterAction::Pause),
        ] {
            let mut fake =
                FakeHost { original_destination: "1.2.3.4:80".parse().ok(), ..FakeHost::default() };
            fake.headers.borrow_mut().insert(":authority".to_owned(), b"c.org".to_vec());
            fake.headers.borrow_mut().insert("x-key".to_owned(), values.first().expect("a value").to_vec());
            fake.repeated = values.iter().skip(1).map(|value| ("x-key", value.to_vec())).collect();
            let mut request = HttpFilter::new(fake, 1, Some(plugin("enforce")));
            assert_eq!(request.on_request_headers(), expected, "{values:?}");
        }
        let fake = FakeHost { repeated: vec![("x-key", b"w".to_vec())], ..FakeHost::default() };
        fake.headers.borrow_mut().insert("x-key".to_owned(), b"v".to_vec());
        let headers = HostHeaders { host: &fake, seen: RefCell::default() };
        // Several rules look it up, and each value is kept once.
        assert_eq!(headers.values("x-key"), ["v", "w"]);
        assert_eq!(headers.values("x-key"), ["v", "w"]);
        assert_eq!(headers.seen.into_inner().values("x-key"), ["v", "w"]);
    }

    #[test]
    fn without_a_policy_everything_is_refused() {
        let mut request = HttpFilter::new(FakeHost::default(), 1, None);
        assert_eq!(request.on_request_headers(), FilterAction::Pause);
        assert_eq!(*request.host.response.borrow(), Some((403, "policy-invalid".to_owned())));
    }

    #[test]
    fn a_request_that_cannot_be_steered_is_refused() {
        let fake = FakeHost {
            original_destination: "1.2.3.4:8080".parse().ok(),
            rejects_filter_state: true,
            ..FakeHost::default()
        };
        fake.headers.borrow_mut().insert(":authority".to_owned(), b"a.org".to_vec());
        let mut request = HttpFilter::new(fake, 1, Some(plugin("enforce")));
        assert_eq!(request.on_request_headers(), FilterAction::Pause);
        assert!(request.host.header(header::CLUSTER).is_none());
    }
}
