//! A check: bytes to send, and the expected result.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::observed_mesh::{Checkpoint, ControlPlaneFlags, ObservedMesh};
use crate::client::{HttpResponse, Outcome};
use crate::origin::ADDRESS_HEADER;
use crate::wait::wait_for;

type Act = Box<dyn Fn(&ObservedMesh<'_>) -> Result<Vec<Outcome>>>;

/// Bytes to send, and the expected result.
pub struct Check {
    /// A short description of the bytes.
    pub sends: String,
    /// The expected results: one for each request, or one for the connection.
    pub expect: Vec<Expect>,
    /// The control plane's flags for this check.
    pub setup: ControlPlaneFlags,
    act: Act,
    seen: Vec<&'static str>,
    unseen: Vec<&'static str>,
}

/// The expected result of a connection or a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// A rule allows it, and it reaches this address and no other.
    Reaches(IpAddr),
    /// The connection is closed for this reason, and nothing arrives anywhere.
    Closed(&'static str),
    /// The request is answered with 403 and this reason, and nothing arrives anywhere.
    Refused(&'static str),
    /// Envoy's own parser answers with this status, and nothing arrives anywhere.
    Rejected(u16),
    /// Envoy's own parser ends the connection or the stream, and nothing arrives anywhere.
    Dropped,
    /// The answer to a question that is not for the sidecar.
    Answers(&'static str),
}

impl Expect {
    /// The reason code or status of the refusal.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Closed(reason) | Self::Refused(reason) => Some(format!("`{reason}`")),
            Self::Rejected(status) => Some(status.to_string()),
            Self::Reaches(_) | Self::Dropped | Self::Answers(_) => None,
        }
    }

    /// Returns true if the access log must have a line.
    fn is_logged(&self) -> bool {
        !matches!(self, Self::Answers(_))
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reaches(address) => write!(f, "reaches {address}"),
            Self::Closed(reason) => write!(f, "closed, `{reason}`"),
            Self::Refused(reason) => write!(f, "403, `{reason}`"),
            Self::Rejected(status) => write!(f, "{status} by Envoy"),
            Self::Dropped => write!(f, "ended by Envoy"),
            Self::Answers(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check")
            .field("sends", &self.sends)
            .field("expect", &self.expect)
            .finish_non_exhaustive()
    }
}

/// The observed result.
struct Found {
    outcomes: Vec<Outcome>,
    lines: Vec<Value>,
    arrived: BTreeSet<IpAddr>,
}

/// Prints the parts that matter, and bytes as text.
impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text =
            |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).escape_debug().to_string();
        for outcome in &self.outcomes {
            match outcome {
                Outcome::Http(HttpResponse { status, headers, body }) => {
                    write!(f, "\n    answer: {status} {headers:?} {}", text(body))?;
                }
                Outcome::Bytes(bytes) => write!(f, "\n    answer: {}", text(bytes))?,
                other => write!(f, "\n    answer: {other:?}")?,
            }
        }
        for line in &self.lines {
            write!(f, "\n    log: {line}")?;
        }
        write!(f, "\n    arrived at: {:?}", self.arrived)
    }
}

impl Check {
    /// Creates a check of one connection with one result.
    pub fn one(
        sends: impl Into<String>,
        expect: Expect,
        act: impl Fn(&ObservedMesh<'_>) -> Result<Outcome> + 'static,
    ) -> Self {
        Self::each(sends, vec![expect], move |observed| Ok(vec![act(observed)?]))
    }

    /// Creates a check of one connection with several requests.
    pub fn each(
        sends: impl Into<String>,
        expect: Vec<Expect>,
        act: impl Fn(&ObservedMesh<'_>) -> Result<Vec<Outcome>> + 'static,
    ) -> Self {
        let sends = sends.into();
        Self {
            sends,
            expect,
            setup: ControlPlaneFlags::Default,
            act: Box::new(act),
            seen: vec![],
            unseen: vec![],
        }
    }

    /// Creates a check of a question that is not for the sidecar.
    pub fn question(
        description: impl Into<String>,
        answer: &'static str,
        act: impl Fn(&ObservedMesh<'_>) -> Result<String> + 'static,
    ) -> Self {
        Self::one(description, Expect::Answers(answer), move |observed| {
            Ok(Outcome::Bytes(act(observed)?.into_bytes()))
        })
    }

    /// Runs the check under other flags of the control plane.
    #[must_use]
    pub fn on(mut self, setup: ControlPlaneFlags) -> Self {
        self.setup = setup;
        self
    }

    /// Requires that the origin sees this in the request.
    #[must_use]
    pub fn origin_receives(mut self, text: &'static str) -> Self {
        self.seen.push(text);
        self
    }

    /// Requires that the origin does not see this in the request.
    #[must_use]
    pub fn origin_does_not_see(mut self, text: &'static str) -> Self {
        self.unseen.push(text);
        self
    }

    /// The expected result, as text.
    #[must_use]
    pub fn expectation(&self) -> String {
        let mut words: Vec<String> = self.expect.iter().map(ToString::to_string).collect();
        words.extend(self.seen.iter().map(|text| format!("the origin sees `{text}`")));
        words.extend(self.unseen.iter().map(|text| format!("the origin does not see `{text}`")));
        words.join("; ")
    }

    /// Runs the check and compares the results.
    ///
    /// # Errors
    /// Fails if something else became of it, with all that was found.
    pub fn run(&self, observed: &ObservedMesh<'_>) -> Result<(), String> {
        let checkpoint = observed.checkpoint();
        let outcomes = (self.act)(observed).map_err(|e| format!("{e:#}"))?;
        let found = self.found(observed, &checkpoint, outcomes);
        match self.judge(&found) {
            Ok(()) => Ok(()),
            Err(why) => Err(format!("{why}{found}")),
        }
    }

    fn found(&self, observed: &ObservedMesh<'_>, checkpoint: &Checkpoint, outcomes: Vec<Outcome>) -> Found {
        let expected = self.expect.iter().filter(|expect| expect.is_logged()).count();
        // Waiting without a result is judged below.
        let _ = wait_for("the access log", Duration::from_secs(3), || {
            observed.lines_since(checkpoint).len() >= expected
        });
        Found {
            outcomes,
            lines: observed.lines_since(checkpoint),
            arrived: observed.arrived_since(checkpoint),
        }
    }

    fn judge(&self, found: &Found) -> Result<(), String> {
        if found.outcomes.len() != self.expect.len() {
            return Err(format!("{} outcomes instead of {}", found.outcomes.len(), self.expect.len()));
        }
        let mut lines = found.lines.iter();
        let mut expected = BTreeSet::new();
        for (expect, outcome) in self.expect.iter().zip(&found.outcomes) {
            let line = if expect.is_logged() { lines.next() } else { None };
            let line = line.unwrap_or(&Value::Null);
            if !agrees(expect, outcome, line) {
                return Err(format!("not so: {expect}"));
            }
            if let Expect::Reaches(address) = expect {
                expected.insert(*address);
            }
        }
        let sent_elsewhere = self.expect.iter().all(|expect| matches!(expect, Expect::Answers(_)));
        if !sent_elsewhere && found.arrived != expected {
            return Err(format!("arrived at {:?} instead of {expected:?}", found.arrived));
        }
        let bodies: String = found.outcomes.iter().filter_map(body).collect();
        if let Some(text) = self.seen.iter().find(|text| !bodies.contains(**text)) {
            return Err(format!("the origin did not see `{text}`"));
        }
        match self.unseen.iter().find(|text| bodies.contains(**text)) {
            Some(text) => Err(format!("the origin saw `{text}`")),
            None => Ok(()),
        }
    }
}

fn body(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Http(answer) => Some(String::from_utf8_lossy(&answer.body).to_ascii_lowercase()),
        _ => None,
    }
}

/// Returns true if the client's outcome and the line of the access log match the expectation.
fn agrees(expect: &Expect, outcome: &Outcome, line: &Value) -> bool {
    let decision = line["decision"].as_str().unwrap_or_default();
    let denied = |reason: &str| decision.split(' ').take(2).eq(["deny", reason]);
    match (expect, outcome) {
        (Expect::Reaches(address), Outcome::Http(answer)) => {
            decision.starts_with("allow rule ") && answer.status == 200 && is_from(answer, *address)
        }
        (Expect::Reaches(_), Outcome::Bytes(_)) => decision.starts_with("allow rule "),
        (Expect::Closed(reason), Outcome::Closed) => denied(reason),
        (Expect::Refused(reason), Outcome::Http(answer)) => {
            let message = answer.header("x-egress-denied");
            // A refusal of Envoy itself is not the filter's decision, and has its reason in a field of
            // its own. For HTTP/2 only the status is read.
            (denied(reason) || line["refused"] == *reason)
                && answer.status == 403
                && (answer.headers.is_empty() || message == Some(reason))
        }
        (Expect::Rejected(status), Outcome::Http(answer)) => {
            answer.status == *status && line["status"] == *status && decision.is_empty()
        }
        (Expect::Dropped, Outcome::Closed) => line["kind"] == "request" && decision.is_empty(),
        (Expect::Answers(text), Outcome::Bytes(bytes)) => bytes == text.as_bytes(),
        _ => false,
    }
}

fn is_from(answer: &HttpResponse, address: IpAddr) -> bool {
    answer.headers.is_empty() || answer.header(ADDRESS_HEADER) == Some(address.to_string().as_str())
}
