//! The limits of one stream and of one identity.
//!
//! The limits do not meet honest fleets. Ten thousand proxies may come from a few addresses (NAT), and a thousand
//! replicas of one Deployment are one identity: so nothing is limited by address, and what is limited by identity is
//! far above what any has. The tight limits are by token, which each pod has of its own, and by stream.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use egress_policy::Identity;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::identify::{PresentedCredentials, StreamRefusal, Verified};
use super::session::Event;
use egress_transport::connections::{ActiveGuard, Slot};

/// The most connections that may wait for their client: for a handshake, or for a stream with credentials. An honest
/// one waits for some milliseconds.
pub const MAX_WAITING: usize = 1024;
/// The time that a connection may be without a stream. Envoy opens one at once, and has one for as long as it runs.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The most streams of a connection: Envoy has one for discovery, and two of access logs for each of its threads,
/// each of which has a connection of its own.
pub(super) const MAX_STREAMS_OF_CONNECTION: u32 = 32;
/// The bytes that a stream, and all of a connection, may send ahead. Requests of proxies are small.
pub(super) const STREAM_WINDOW: u32 = 64 << 10;
pub(super) const CONNECTION_WINDOW: u32 = 128 << 10;
/// The longest headers of a request. A token has one or two kilobytes.
pub(super) const MAX_HEADERS_SIZE: u32 = 16 << 10;
/// The most streams that may be opened and reset before they are accepted (rapid reset): h2's default, said here so that it
/// stays.
pub(super) const MAX_PENDING_RESETS: usize = 20;
/// The longest request: Envoy's first one names what it is and what it has, of ten thousand clusters some 2 MB.
pub(super) const MAX_REQUEST_SIZE: usize = 4 << 20;
/// The longest message of an access log: Envoy sends what it has from 16 kB on.
pub(super) const MAX_LOG_MESSAGE_SIZE: usize = 1 << 20;
/// The most names, of resources and of types, that a stream may subscribe to or report. Envoy subscribes to four,
/// and says that it has the clusters of its policies' connection settings.
const MAX_NAMES: usize = 20_000;
/// The memory of these names.
const MAX_NAMES_SIZE: usize = 4 << 20;
/// The time that a proxy may take to read an answer.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// The time that a proxy may take to acknowledge or refuse an answer. It says so when it has read it; a machine that is
/// busy or asleep has minutes.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(300);
/// The longest error of a proxy that is kept and shown. Envoy's longest have some hundred bytes.
pub(super) const MAX_ERROR_SIZE: usize = 4 << 10;
/// The requests of a stream that are read at once, and in each second after that. Envoy sends one for each answer.
const REQUEST_BURST: u32 = 1000;
const REQUESTS_PER_SECOND: u32 = 100;

/// The service of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Service {
    /// To be told what to do.
    Discovery,
    /// To tell what was decided.
    AccessLog,
}

impl Service {
    /// The most streams of one token. An Envoy has one for discovery; after a network has failed, some old ones are
    /// there until it is noticed that nobody is behind them (80 s). Of access logs it has two for each thread.
    const fn of_token(self) -> usize {
        match self {
            Self::Discovery => 16,
            Self::AccessLog => 512,
        }
    }

    /// The most streams of one identity. 10,000 replicas of one Deployment that are all replaced at once fit in, with
    /// four streams of access logs each; a certificate may be theirs together, so it has no limit of its own.
    const fn of_identity(self) -> usize {
        match self {
            Self::Discovery => 20_000,
            Self::AccessLog => 80_000,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Discovery => "discovery",
            Self::AccessLog => "access logs",
        }
    }
}

/// The owner of streams that are counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Owner {
    Token([u8; 32]),
    Identity(Identity),
}

/// The streams that are open, by their owners.
#[derive(Debug, Default)]
pub(super) struct StreamLimits(Mutex<HashMap<(Service, Owner), usize>>);

/// A stream that counts for as long as this is there.
#[derive(Debug)]
pub(super) struct Admission {
    limits: Arc<StreamLimits>,
    counted: Vec<(Service, Owner)>,
    /// For as long as it is open, its connection is not one that waits.
    _carried: Option<ActiveGuard>,
}

impl StreamLimits {
    /// Counts a stream of this identity, if it may be opened.
    ///
    /// # Errors
    /// When there are as many as there may be.
    pub(super) fn admit(
        self: &Arc<Self>,
        service: Service,
        identity: &Identity,
        verified: Option<&Verified>,
        credentials: &PresentedCredentials,
        place: Option<&Arc<Slot>>,
    ) -> Result<Admission, StreamRefusal> {
        let token = match (verified, credentials.authorization.as_slice()) {
            (Some(verified), [token]) if verified.by != "certificate" => {
                Some(Sha256::digest(&token.0).into())
            }
            _ => None,
        };
        let of_token = token.map(|token| (Owner::Token(token), service.of_token(), "the token"));
        let of_identity = (Owner::Identity(identity.clone()), service.of_identity(), "the identity");
        let mut admission = Admission { limits: Arc::clone(self), counted: Vec::new(), _carried: None };
        for (owner, most, owner_kind) in of_token.into_iter().chain([of_identity]) {
            let key = (service, owner);
            let mut open = self.open();
            let count = open.entry(key.clone()).or_default();
            if *count >= most {
                drop(open);
                // What was counted goes with the admission.
                return Err(StreamRefusal::TooManyStreams { service: service.as_str(), owner_kind, most });
            }
            *count += 1;
            drop(open);
            admission.counted.push(key);
        }
        admission._carried = place.map(Slot::activate);
        Ok(admission)
    }

    /// Nothing is left half done under this lock.
    fn open(&self) -> std::sync::MutexGuard<'_, HashMap<(Service, Owner), usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut open = self.limits.open();
        for key in &self.counted {
            let left = open.get_mut(key).map(|count| {
                *count -= 1;
                *count
            });
            if left == Some(0) {
                open.remove(key);
            }
        }
    }
}

/// Says whether a stream has subscribed to too much: by how many names there are, and by their length.
pub(super) fn check_size((names, bytes): (usize, usize)) -> Result<(), StreamRefusal> {
    if names > MAX_NAMES || bytes > MAX_NAMES_SIZE {
        return Err(StreamRefusal::TooManyNames { names, bytes });
    }
    Ok(())
}

/// Cuts what a proxy says about an error to a length that can be kept.
pub(super) fn shorten(error: &mut String) {
    if error.len() > MAX_ERROR_SIZE {
        let end = (0..=MAX_ERROR_SIZE).rev().find(|end| error.is_char_boundary(*end));
        error.truncate(end.unwrap_or_default());
        error.push('…');
    }
}

/// The answers that are not acknowledged yet, by type.
#[derive(Debug, Default)]
pub(super) struct Unacknowledged(BTreeMap<String, Instant>);

impl Unacknowledged {
    /// Takes note of what happened.
    pub(super) fn record(&mut self, events: &[Event]) {
        for event in events {
            match event {
                Event::Sent { type_url, .. } => {
                    self.0.insert(type_url.clone(), Instant::now());
                }
                Event::Acknowledged { type_url, .. } | Event::Rejected { type_url, is_last: true, .. } => {
                    self.0.remove(type_url);
                }
                Event::Rejected { is_last: false, .. } => {}
            }
        }
    }

    /// The time until which something must be acknowledged.
    fn deadline(&self) -> Option<Instant> {
        self.0.values().min().map(|first| *first + ACKNOWLEDGE_TIMEOUT)
    }

    /// Resolves when something was not acknowledged in time.
    pub(super) async fn overdue(&self) {
        match self.deadline() {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    }
}

/// The rate limit of a stream's requests. Those over it wait in the proxy.
#[derive(Debug)]
pub(super) struct Throttle {
    /// The time at which the bucket is full again.
    full_at: Instant,
}

impl Default for Throttle {
    fn default() -> Self {
        Self { full_at: Instant::now() }
    }
}

impl Throttle {
    /// Waits until a request may be taken.
    pub(super) async fn wait(&mut self) {
        let delay = self.take(Instant::now());
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }

    /// Takes a request, and says how long it must wait.
    fn take(&mut self, now: Instant) -> Duration {
        let cost = Duration::from_secs(1) / REQUESTS_PER_SECOND;
        self.full_at = self.full_at.max(now) + cost;
        self.full_at.duration_since(now).saturating_sub(cost * REQUEST_BURST)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::identify::Authorization;

    fn shown(token: &str) -> PresentedCredentials {
        PresentedCredentials {
            address: None,
            certificates: None,
            authorization: vec![Authorization(token.to_owned())],
        }
    }

    fn verified(identity: &Identity, by: &'static str) -> Verified {
        Verified { identity: identity.clone(), by, expires: std::time::SystemTime::now() }
    }

    #[test]
    fn streams_are_counted_by_token_and_by_identity() {
        let limits = Arc::new(StreamLimits::default());
        let identity = Identity::new("ns", "sa").expect("valid");
        let admit = |token: &str, by| {
            let verified = verified(&identity, by);
            limits.admit(Service::Discovery, &identity, Some(&verified), &shown(token), None)
        };
        let most = Service::Discovery.of_token();
        let mut of_token: Vec<_> = (0..most).map(|_| admit("a", "token").expect("one of its own")).collect();
        let refused = admit("a", "token").expect_err("one too many");
        assert_eq!(
            refused.to_string(),
            "the token has 16 streams for discovery already, which is the most: each pod has a token of its own, and \
             an Envoy opens one stream"
        );
        let others: Vec<_> =
            (0..1000).map(|n| admit(&n.to_string(), "token").expect("another pod")).collect();
        // A certificate may be that of all replicas.
        let shared: Vec<_> = (0..1000).map(|_| admit("", "certificate").expect("a replica")).collect();
        of_token.pop();
        of_token.push(admit("a", "token").expect("one has ended"));
        let most = Service::Discovery.of_identity();
        let rest: Vec<_> =
            (0..most - 16 - 2000).map(|_| admit("", "certificate").expect("a replica")).collect();
        let refused = admit("b", "token").expect_err("one too many").to_string();
        assert!(refused.starts_with("the identity has 20000 streams for discovery already"), "{refused}");
        drop((of_token, others, shared, rest));
        assert!(limits.open().is_empty());
    }

    #[test]
    fn requests_are_slowed_down() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        throttle.full_at = now;
        assert!((0..REQUEST_BURST).all(|_| throttle.take(now).is_zero()), "the first come at once");
        let delays: Vec<_> = (0..REQUESTS_PER_SECOND).map(|_| throttle.take(now)).collect();
        assert_eq!(delays.last(), Some(&Duration::from_secs(1)));
        assert!(throttle.take(now + Duration::from_secs(20)).is_zero(), "after a while they do again");
    }

    #[test]
    fn what_is_not_acknowledged_in_time() {
        let (type_url, version) = ("t".to_owned(), "1".to_owned());
        let mut unacknowledged = Unacknowledged::default();
        assert_eq!(unacknowledged.deadline(), None);
        let before = Instant::now();
        unacknowledged.record(&[Event::Sent { type_url: type_url.clone(), version: version.clone() }]);
        assert!(unacknowledged.deadline().is_some_and(|deadline| deadline >= before + ACKNOWLEDGE_TIMEOUT));
        unacknowledged.record(&[Event::Acknowledged {
            type_url,
            version,
            in_force: BTreeSet::new(),
            is_whole: true,
        }]);
        assert_eq!(unacknowledged.deadline(), None);
    }

    #[test]
    fn long_errors() {
        let mut error = "ü".repeat(MAX_ERROR_SIZE);
        shorten(&mut error);
        assert!(error.len() <= MAX_ERROR_SIZE + '…'.len_utf8() && error.ends_with('…'));
    }
}
