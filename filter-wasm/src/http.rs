//! The HTTP plugin: one request.

use std::borrow::Cow;

use egress_policy::{Decision, Destination, Headers, Protocol, ReasonCode, Request};

use crate::config::Config;
use crate::host::{Exchange, Flow};
use crate::{record, steer};

/// The header by which the route finds its cluster. The connection manager removes it from what the
/// workload sends before this filter runs, and the route removes it from what is sent on.
const CLUSTER_HEADER: &str = "x-egress-cluster";
/// The header that tells the workload why it was refused.
const DENIED_HEADER: &str = "x-egress-denied";

/// One request.
pub(crate) struct Http<H> {
    host: H,
    config: Option<Config>,
}

impl<H: Exchange> Http<H> {
    /// A request under a configuration; `None` refuses.
    pub(crate) fn new(host: H, config: Option<Config>) -> Self {
        Self { host, config }
    }

    /// The request's headers are complete.
    pub(crate) fn on_request_headers(&self) -> Flow {
        let Some(config) = &self.config else {
            return self.refuse(ReasonCode::PolicyInvalid, 403);
        };
        let Some(to) = self.host.destination().filter(|to| to.port() != config.listener_port) else {
            return self.refuse(ReasonCode::NotIntercepted, config.deny_status);
        };
        let text = |name| self.host.header(name).and_then(|value| String::from_utf8(value).ok());
        // A value that is not UTF-8 is there, and malformed.
        let authority = self.host.header(":authority").map(|v| String::from_utf8_lossy(&v).into_owned());
        let method = text(":method").unwrap_or_default();
        let path = text(":path").unwrap_or_default();
        let headers = HostHeaders(&self.host);
        let request =
            Request { authority: authority.as_deref(), method: &method, path: &path, headers: &headers };
        let decision = config.policy.request(to, &request);
        record::decision(&self.host, &decision, Protocol::Http);
        match &decision {
            Decision::Deny(refusal) => self.respond(refusal.reason, config.deny_status),
            Decision::Allow(permit) => {
                if let Destination::Resolved(name) = &permit.to {
                    let set = self.host.set_filter_state(steer::DYNAMIC_HOST, name.as_str())
                        && self.host.set_filter_state(steer::DYNAMIC_PORT, &to.port().to_string());
                    if !set {
                        return self.respond(ReasonCode::PolicyInvalid, config.deny_status);
                    }
                }
                self.host.set_header(CLUSTER_HEADER, steer::cluster(&permit.to));
                Flow::Continue
            }
        }
    }

    fn refuse(&self, reason: ReasonCode, status: u16) -> Flow {
        record::decision(&self.host, &Decision::Deny(reason.into()), Protocol::Http);
        self.respond(reason, status)
    }

    fn respond(&self, reason: ReasonCode, status: u16) -> Flow {
        let body = format!("egress denied: {reason}: {}\n", reason.meaning().trim());
        self.host.respond(status, (DENIED_HEADER, reason.as_str()), &body);
        Flow::Wait
    }
}

struct HostHeaders<'a, H>(&'a H);

impl<H: Exchange> Headers for HostHeaders<'_, H> {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0.header(name).and_then(|value| String::from_utf8(value).ok()).map(Cow::Owned)
    }
}
