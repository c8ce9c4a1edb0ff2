//! The HTTP plugin: one request.

use std::borrow::Cow;
use std::cell::RefCell;

use egress_policy::{Decision, Destination, Headers, Protocol, ReasonCode};

use crate::host::{Exchange, Flow, Span};
use crate::in_flight::{InFlightRequest, RequestInfo, SeenHeaders};
use crate::network::PluginHandle;
use crate::partial_headers::CompleteRequest;
use crate::review::Route;
use crate::scope::NEXT_TICK;
use crate::table::Guard;
use crate::{record, steer};

/// The header by which the route finds its cluster. The connection manager removes it from what the
/// workload sends before this filter runs, and the route removes it from what is sent on.
const CLUSTER_HEADER: &str = "x-egress-cluster";
/// The header that tells the workload why it was refused.
const DENIED_HEADER: &str = "x-egress-denied";

/// One request.
pub(crate) struct Http<H> {
    host: H,
    id: u32,
    plugin: Option<PluginHandle>,
    in_flight: Option<Guard<InFlightRequest>>,
    /// Tells the connection when the request ends.
    complete: Option<CompleteRequest>,
}

impl<H: Exchange> Http<H> {
    /// A request in a scope; `None` refuses.
    pub(crate) fn new(host: H, id: u32, plugin: Option<PluginHandle>) -> Self {
        Self { host, id, plugin, in_flight: None, complete: None }
    }

    /// The request's headers are complete.
    pub(crate) fn on_request_headers(&mut self) -> Flow {
        let Some(PluginHandle { scope, .. }) = &self.plugin else {
            return self.refuse(ReasonCode::PolicyInvalid, 403);
        };
        let config = scope.newest();
        self.complete = self.host.source().and_then(|source| {
            let length = self.host.header("content-length");
            let length = length.and_then(|length| String::from_utf8(length).ok()?.parse().ok());
            scope.plaintext.complete(source, length)
        });
        let Some(to) = self.host.destination().filter(|to| to.port() != config.listener_port) else {
            return self.refuse(ReasonCode::NotIntercepted, config.deny_status);
        };
        let text = |name| self.host.header(name).and_then(|value| String::from_utf8(value).ok());
        // A value that is not UTF-8 is there, and malformed.
        let odd = |name| self.host.header(name).map(|v| String::from_utf8(v).unwrap_or("?".to_owned()));
        let request = RequestInfo {
            authority: odd(":authority"),
            method: text(":method").unwrap_or_default(),
            path: text(":path").unwrap_or_default(),
            upgrade: odd("upgrade"),
        };
        let headers = HostHeaders { host: &self.host, seen: RefCell::default() };
        let decision = request.decide(&config.policy, to, &headers);
        let headers = headers.seen.into_inner();
        record::decision(&self.host, Some(&config.policy), &decision, Protocol::Http);
        match &decision {
            Decision::Deny(refusal) => self.respond(refusal.reason, config.deny_status),
            Decision::Allow(permit) => {
                if let Destination::Resolved(name, _) = &permit.to
                    && !says_where(request.authority.as_deref(), to.port())
                {
                    // For this request only: the next one of the connection has another name.
                    let set = self.host.set_filter_state(Span::Request, steer::DYNAMIC_HOST, name.as_str())
                        && self.host.set_filter_state(
                            Span::Request,
                            steer::DYNAMIC_PORT,
                            &to.port().to_string(),
                        );
                    if !set {
                        return self.respond(ReasonCode::PolicyInvalid, config.deny_status);
                    }
                }
                self.host.set_header(CLUSTER_HEADER, steer::cluster(permit));
                let (id, route) = (self.id, Route::from(&permit.to));
                let in_flight = InFlightRequest { id, to, request, headers, route };
                self.in_flight = Some(scope.in_flight.insert(in_flight));
                scope.recent.add_request(id);
                Flow::Continue
            }
        }
    }

    /// The request has ended.
    pub(crate) fn on_end(&mut self) {
        let (Some(PluginHandle { scope, ticking }), Some(request)) = (&self.plugin, self.complete.take())
        else {
            return;
        };
        scope.plaintext.end(request);
        // This is no time to end connections: one of them may be the one that this request is of.
        if scope.plaintext.is_over() {
            ticking.set(true);
            self.host.ask_for_ticks(NEXT_TICK);
        }
    }

    fn refuse(&self, reason: ReasonCode, status: u16) -> Flow {
        let config = self.plugin.as_ref().map(|plugin| plugin.scope.newest());
        let policy = config.as_ref().map(|config| &*config.policy);
        record::decision(&self.host, policy, &Decision::Deny(reason.into()), Protocol::Http);
        self.respond(reason, status)
    }

    fn respond(&self, reason: ReasonCode, status: u16) -> Flow {
        let body = format!("egress denied: {reason}: {}\n", reason.meaning().trim());
        self.host.respond(status, (DENIED_HEADER, reason.as_str()), &body);
        Flow::Wait
    }
}

/// Whether Envoy's dynamic forward proxy finds the dialled port by the authority alone: without a port
/// it takes 80, and an empty port it takes for a part of the name. The engine has read the authority strictly, so that
/// otherwise Envoy reads the same host in it.
fn says_where(authority: Option<&str>, port: u16) -> bool {
    authority.is_some_and(|text| !text.ends_with(':') && (port == 80 || text.contains(':')))
}

struct HostHeaders<'a, H> {
    host: &'a H,
    seen: RefCell<SeenHeaders>,
}

impl<H: Exchange> Headers for HostHeaders<'_, H> {
    fn values(&self, name: &str) -> Vec<Cow<'_, str>> {
        let values: Option<Vec<String>> =
            self.host.header_values(name).into_iter().map(|value| String::from_utf8(value).ok()).collect();
        let values = values.unwrap_or_default();
        let mut seen = self.seen.borrow_mut();
        // Another rule may have asked already, and each value is kept once.
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
    use crate::fake::{Fake, scope};

    const RULES: &str = r#"[
        {"policy":"a/web","name":"n","port":80,"protocol":"http","hosts":["a.org"]},
        {"policy":"a/web","name":"n","port":8080,"protocol":"http","hosts":["a.org"]},
        {"policy":"a/addr","name":"n","port":80,"protocol":"http","hosts":["b.org"],"addresses":["10.0.0.0/8"]},
        {"policy":"a/hdr","name":"n","port":80,"protocol":"http","hosts":["c.org"],"routes":[
            {"name":"r","headers":[{"name":"x-key","value":"v"}]}]}]"#;

    fn plugin(mode: &str) -> PluginHandle {
        PluginHandle { scope: scope("http", mode, RULES), ticking: Rc::default() }
    }

    fn ask(mode: &str, to: &str, headers: &[(&str, &[u8])]) -> String {
        let fake = Fake { destination: to.parse().ok(), ..Fake::default() };
        for (name, value) in headers {
            fake.headers.borrow_mut().insert((*name).to_owned(), value.to_vec());
        }
        let mut request = Http::new(fake, 1, Some(plugin(mode)));
        let flow = request.on_request_headers();
        let fake = &request.host;
        let cluster =
            fake.header(CLUSTER_HEADER).map(|v| String::from_utf8(v).expect("ours")).unwrap_or_default();
        let host = fake.state.borrow().get(steer::DYNAMIC_HOST).cloned().unwrap_or_default();
        let port = fake.state.borrow().get(steer::DYNAMIC_PORT).cloned().unwrap_or_default();
        format!("{flow:?} {cluster} {host}:{port} {:?}", fake.response.borrow())
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
            ("enforce", "1.2.3.4:80", "z.org", "Wait  : Some((403, \"host-not-allowed\"))"),
            ("enforce", "1.2.3.4:80", "c.org", "Wait  : Some((403, \"route-not-allowed\"))"),
            ("enforce", "1.2.3.4:15001", "a.org", "Wait  : Some((403, \"not-intercepted\"))"),
            ("enforce", "", "a.org", "Wait  : Some((403, \"not-intercepted\"))"),
            ("audit", "1.2.3.4:80", "z.org", "Continue egress-original-dst : None"),
            ("passthrough", "1.2.3.4:80", "z.org", "Continue passthrough-outbound : None"),
        ] {
            assert_eq!(ask(mode, to, &get(authority)), expected, "{mode} {to} {authority}");
        }
    }

    #[test]
    fn odd_headers() {
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
            let found = ask("enforce", to, headers);
            if expected.is_empty() {
                assert!(found.starts_with("Continue"), "{found}");
            } else {
                assert!(found.contains(expected), "{found} is not {expected}");
            }
        }
    }

    /// All fields of a header count, now and when another policy is asked.
    #[test]
    fn headers_in_several_fields() {
        for (values, expected) in [
            (&[&b"v"[..]][..], Flow::Continue),
            (&[b"v", b"evil"], Flow::Wait),
            (&[b"evil", b"v"], Flow::Wait),
            (&[b"v", b"\xff"], Flow::Wait),
        ] {
            let mut fake = Fake { destination: "1.2.3.4:80".parse().ok(), ..Fake::default() };
            fake.headers.borrow_mut().insert(":authority".to_owned(), b"c.org".to_vec());
            fake.headers.borrow_mut().insert("x-key".to_owned(), values.first().expect("a value").to_vec());
            fake.repeated = values.iter().skip(1).map(|value| ("x-key", value.to_vec())).collect();
            let mut request = Http::new(fake, 1, Some(plugin("enforce")));
            assert_eq!(request.on_request_headers(), expected, "{values:?}");
        }
        let fake = Fake { repeated: vec![("x-key", b"w".to_vec())], ..Fake::default() };
        fake.headers.borrow_mut().insert("x-key".to_owned(), b"v".to_vec());
        let headers = HostHeaders { host: &fake, seen: RefCell::default() };
        // Several rules ask, and each value is kept once.
        assert_eq!(headers.values("x-key"), ["v", "w"]);
        assert_eq!(headers.values("x-key"), ["v", "w"]);
        assert_eq!(headers.seen.into_inner().values("x-key"), ["v", "w"]);
    }

    #[test]
    fn without_a_policy_everything_is_refused() {
        let mut request = Http::new(Fake::default(), 1, None);
        assert_eq!(request.on_request_headers(), Flow::Wait);
        assert_eq!(*request.host.response.borrow(), Some((403, "policy-invalid".to_owned())));
    }

    #[test]
    fn envoy_refuses_the_steering() {
        let fake = Fake { destination: "1.2.3.4:8080".parse().ok(), stubborn: true, ..Fake::default() };
        fake.headers.borrow_mut().insert(":authority".to_owned(), b"a.org".to_vec());
        let mut request = Http::new(fake, 1, Some(plugin("enforce")));
        assert_eq!(request.on_request_headers(), Flow::Wait);
        assert!(request.host.header(CLUSTER_HEADER).is_none());
    }
}
