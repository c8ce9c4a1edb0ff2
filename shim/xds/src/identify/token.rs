//! The identity that a token proves, by a review of the API server.
//!
//! A confirmed token is cached. It is accepted without another review for a minute at most; while the API server cannot be
//! asked, until it expires.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use egress_policy::Identity;
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

/// The verifier of tokens.
#[derive(Debug)]
pub struct Tokens {
    reviewer: Arc<dyn TokenReviewer>,
    audience: String,
    known: Mutex<HashMap<[u8; 32], CachedToken>>,
    review_permits: ReviewPermits,
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
        let (known, review_permits) = (Mutex::default(), ReviewPermits::default());
        Self { reviewer, audience, known, review_permits, counts: Labelled::default() }
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
        let unavailable = match self.review(token, address, known.is_some()).await {
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
        tracing::warn!(
            identity = %verified.identity,
            reason = unavailable,
            "a token that was confirmed before is taken, since it cannot be reviewed now"
        );
        Ok(verified)
    }

    async fn review(
        &self,
        token: &str,
        address: Option<IpAddr>,
        was_confirmed: bool,
    ) -> Result<Review, String> {
        let review = async {
            // Closed by nobody.
            let slot = self.review_permits.acquire(address, was_confirmed).await;
            let _slot = slot.map_err(|error| error.to_string())?;
            self.reviewer.review(token, &self.audience).await
        };
        let late = |_| Err(format!("the API server does not answer within {REVIEW_TIMEOUT:?}"));
        tokio::time::timeout(REVIEW_TIMEOUT, review).await.unwrap_or_else(late)
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
