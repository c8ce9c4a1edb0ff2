//! The identity that a token proves, by a review of the API server.
//!
//! A confirmed token is cached. It is accepted without another review for a minute at most; while the API server cannot be
//! asked, until it expires. Streams that present the same token at the same time share one review.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use egress_policy::Identity;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::credentials::{Authorization, ReviewMode, Verified};
use super::refusal::{StreamRefusal, TokenError};
use super::review_permits::ReviewPermits;
use crate::proxies::Labelled;
use egress_core::token_review::{Review, TokenReviewer};

/// The time that a confirmed token is accepted without another review.
const CACHE_TIME: Duration = Duration::from_secs(60);
/// The time that a review may take.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(10);
/// The most tokens in the cache. Others are reviewed each time.
const MAX_CACHED_TOKENS: usize = 100_000;

/// The number of shared reviews at which those are forgotten that have ended.
const MAX_FLIGHTS: usize = 1024;

/// A review that several streams wait for.
type Flight = BoxFuture<'static, Result<Review, String>>;

/// The verifier of tokens.
#[derive(Debug)]
pub struct Tokens {
    reviewer: Arc<dyn TokenReviewer>,
    audience: String,
    known: Mutex<HashMap<[u8; 32], CachedToken>>,
    review_permits: Arc<ReviewPermits>,
    /// The reviews that run now, by token.
    flights: Mutex<HashMap<[u8; 32], WeakShared<Flight>>>,
    outage: Outage,
    /// The number of reviews by `result`.
    pub counts: Labelled,
}

/// A token that the API server confirmed.
#[derive(Debug, Clone)]
struct CachedToken {
    verified: Verified,
    confirmed: Instant,
}

/// The claims of a token that are checked before the API server is asked. They can only refuse.
#[derive(Debug, Deserialize)]
struct Claims {
    exp: u64,
    #[serde(default)]
    aud: Audiences,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audiences {
    Several(Vec<String>),
    One(String),
}

impl Default for Audiences {
    fn default() -> Self {
        Self::Several(vec![])
    }
}

impl Tokens {
    /// The results of a review, for metrics.
    pub const RESULTS: [&str; 4] = ["known", "confirmed", "refused", "unavailable"];

    /// Tokens for this audience.
    #[must_use]
    pub fn new(reviewer: Arc<dyn TokenReviewer>, audience: String) -> Self {
        let (known, review_permits, flights) = (Mutex::default(), Arc::default(), Mutex::default());
        let (outage, counts) = (Outage::default(), Labelled::default());
        Self { reviewer, audience, known, review_permits, flights, outage, counts }
    }

    pub(super) async fn verify(
        &self,
        authorization: &Authorization,
        address: Option<IpAddr>,
        mode: ReviewMode,
    ) -> Result<Verified, StreamRefusal> {
        let token = bearer(&authorization.0)?;
        let expires = check_claims(token, &self.audience, SystemTime::now())?;
        let key = Sha256::digest(token).into();
        let known = self.known().get(&key).cloned();
        if let Some(known) = &known
            && mode == ReviewMode::CacheAllowed
            && known.confirmed.elapsed() < CACHE_TIME
        {
            self.count("known");
            return Ok(known.verified.clone());
        }
        let answer = self.review(key, token, address, known.is_some()).await;
        self.outage.observe(&answer);
        let unavailable = match answer {
            Ok(Review::Confirmed { user, audiences }) => {
                let confirmed = self.confirmed(&user, audiences, expires);
                self.count(if confirmed.is_ok() { "confirmed" } else { "refused" });
                match &confirmed {
                    Ok(verified) => self.insert(key, verified),
                    Err(_) => self.remove(&key),
                }
                return Ok(confirmed?);
            }
            Ok(Review::Refused(why)) => {
                self.count("refused");
                self.remove(&key);
                return Err(TokenError::Unconfirmed(why).into());
            }
            Err(reason) => reason,
        };
        self.count("unavailable");
        let Some(CachedToken { verified, .. }) = known else {
            return Err(StreamRefusal::Unavailable(unavailable));
        };
        Ok(verified)
    }

    /// Reviews a token, or waits for the review of it that runs already: a fleet that connects at once with one token each
    /// presents it by several streams.
    async fn review(
        &self,
        key: [u8; 32],
        token: &str,
        address: Option<IpAddr>,
        was_confirmed: bool,
    ) -> Result<Review, String> {
        let flight = {
            let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
            let running = flights.get(&key).and_then(WeakShared::upgrade);
            if let Some(running) = running.filter(|running| running.peek().is_none()) {
                running
            } else {
                if flights.len() >= MAX_FLIGHTS {
                    flights.retain(|_, flight| flight.upgrade().is_some());
                }
                let flight = self.start_review(token, address, was_confirmed);
                if let Some(weak) = flight.downgrade() {
                    flights.insert(key, weak);
                }
                flight
            }
        };
        flight.await
    }

    fn start_review(&self, token: &str, address: Option<IpAddr>, was_confirmed: bool) -> Shared<Flight> {
        let (review_permits, reviewer) = (Arc::clone(&self.review_permits), Arc::clone(&self.reviewer));
        let (token, audience) = (token.to_owned(), self.audience.clone());
        let review = async move {
            // Closed by nobody.
            let permit = review_permits.acquire(address, was_confirmed).await;
            let _permit = permit.map_err(|error| error.to_string())?;
            reviewer.review(&token, &audience).await
        };
        let late = |_| Err(format!("the API server does not answer within {REVIEW_TIMEOUT:?}"));
        let limited = async move { tokio::time::timeout(REVIEW_TIMEOUT, review).await.unwrap_or_else(late) };
        limited.boxed().shared()
    }

    fn confirmed(
        &self,
        user: &str,
        audiences: Vec<String>,
        expires: SystemTime,
    ) -> Result<Verified, TokenError> {
        // An API server that knows no audiences confirms a token that is for itself.
        if !audiences.contains(&self.audience) {
            return Err(TokenError::Audience { found: audiences, expected: self.audience.clone() });
        }
        Ok(Verified { identity: of_user(user)?, by: "token", expires })
    }

    fn insert(&self, key: [u8; 32], verified: &Verified) {
        let mut known = self.known();
        if known.len() >= MAX_CACHED_TOKENS {
            let now = SystemTime::now();
            known.retain(|_, known| known.verified.expires > now);
        }
        if known.len() < MAX_CACHED_TOKENS || known.contains_key(&key) {
            known.insert(key, CachedToken { verified: verified.clone(), confirmed: Instant::now() });
        }
    }

    fn remove(&self, key: &[u8; 32]) {
        self.known().remove(key);
    }

    /// Nothing is left half done under this lock.
    fn known(&self) -> MutexGuard<'_, HashMap<[u8; 32], CachedToken>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, result: &'static str) {
        self.counts.get_or_create(&[("result", result)]).inc();
    }
}

/// The state of reviews: the number that failed since the last answer. A fleet has thousands of tokens: the log says once that they cannot be reviewed, and once that
/// they can again.
#[derive(Debug, Default)]
struct Outage(Mutex<Option<u64>>);

impl Outage {
    fn observe(&self, answer: &Result<Review, String>) {
        let mut failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (answer, &mut *failed) {
            (Err(_), Some(count)) => *count += 1,
            (Err(reason), none @ None) => {
                *none = Some(1);
                tracing::warn!(
                    %reason,
                    "tokens cannot be reviewed: those that were confirmed before are accepted until they expire, \
                     others are refused"
                );
            }
            (Ok(_), Some(count)) => {
                tracing::warn!(failed = *count, "tokens are reviewed again");
                *failed = None;
            }
            (Ok(_), None) => {}
        }
    }
}

/// The token in a value of `authorization`.
pub(super) fn bearer(authorization: &str) -> Result<&str, TokenError> {
    let (scheme, token) = authorization.split_once(' ').ok_or(TokenError::Scheme)?;
    let token = token.trim();
    if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() {
        Ok(token)
    } else {
        Err(TokenError::Scheme)
    }
}

/// Checks the claims of a token, and returns its expiry.
pub(super) fn check_claims(token: &str, audience: &str, now: SystemTime) -> Result<SystemTime, TokenError> {
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(TokenError::Form("it has not three parts"));
    };
    let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| TokenError::Form("it is not base64"))?;
    let claims: Claims = serde_json::from_slice(&payload)
        .map_err(|_| TokenError::Form("it says neither when it expires nor for whom it is"))?;
    let expires = UNIX_EPOCH
        .checked_add(Duration::from_secs(claims.exp))
        .ok_or(TokenError::Form("its expiry is no time"))?;
    let found = match claims.aud {
        Audiences::Several(several) => several,
        Audiences::One(one) => vec![one],
    };
    if !found.iter().any(|found| found == audience) {
        return Err(TokenError::Audience { found, expected: audience.to_owned() });
    }
    match now.duration_since(expires) {
        Ok(since) => Err(TokenError::Expired(since.as_secs())),
        Err(_) => Ok(expires),
    }
}

/// The service account that a user name of Kubernetes means.
pub(super) fn of_user(user: &str) -> Result<Identity, TokenError> {
    let (namespace, service_account) = user
        .strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'))
        .ok_or_else(|| TokenError::User(user.to_owned()))?;
    Identity::new(namespace, service_account).map_err(|cause| TokenError::Name(user.to_owned(), cause))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    /// A reviewer that answers when it is let.
    #[derive(Debug)]
    struct Gate {
        open: Semaphore,
        reviews: AtomicUsize,
    }

    impl TokenReviewer for Gate {
        fn review<'a>(&'a self, _: &'a str, audience: &'a str) -> BoxFuture<'a, Result<Review, String>> {
            async move {
                self.reviews.fetch_add(1, Ordering::Relaxed);
                self.open.acquire().await.map_err(|error| error.to_string())?.forget();
                let user = "system:serviceaccount:ns:sa".to_owned();
                Ok(Review::Confirmed { user, audiences: vec![audience.to_owned()] })
            }
            .boxed()
        }
    }

    fn token(name: &str) -> Authorization {
        let claims = format!(r#"{{"exp": 99999999999, "aud": ["a"], "name": "{name}"}}"#);
        Authorization(format!("Bearer e.{}.s", URL_SAFE_NO_PAD.encode(claims)))
    }

    #[tokio::test]
    async fn streams_with_one_token_share_a_review() {
        let gate = Arc::new(Gate { open: Semaphore::new(0), reviews: AtomicUsize::new(0) });
        let tokens = Tokens::new(Arc::clone(&gate) as Arc<dyn TokenReviewer>, "a".to_owned());
        for mode in [ReviewMode::CacheAllowed, ReviewMode::Revalidate] {
            let reviews = gate.reviews.load(Ordering::Relaxed);
            let (one, other) = (token("one"), token("other"));
            let streams = (0..30).map(|n| tokens.verify(if n % 2 == 0 { &one } else { &other }, None, mode));
            let answers = futures::future::join_all(streams);
            let open = async { gate.open.add_permits(2) };
            let (answers, ()) = futures::join!(answers, open);
            assert!(answers.iter().all(Result::is_ok), "{answers:?}");
            assert_eq!(gate.reviews.load(Ordering::Relaxed), reviews + 2, "{mode:?}");
        }
        // A later one is a review of its own.
        gate.open.add_permits(1);
        assert!(tokens.verify(&token("one"), None, ReviewMode::Revalidate).await.is_ok());
        assert_eq!(gate.reviews.load(Ordering::Relaxed), 5);
    }
}
