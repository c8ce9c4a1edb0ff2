//! Who a token was given to: what the API server says of it.
//!
//! A token that the API server confirmed is known for a while. It is taken without asking again for a minute at
//! most, and, only while the API server cannot be asked, until it expires.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use egress_policy::{Identity, IdentityError};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::refusal::Refusal;
use super::slots::ReviewSlots;
use super::{Authorization, Look, Verified};
use crate::proxies::Labelled;
use egress_core::token_review::{Review, TokenReviewer};

/// How long a confirmed token is taken without asking again.
const FRESH: Duration = Duration::from_secs(60);
/// How long a stream waits for an answer about its token.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many tokens are known. Others are asked about each time.
const MOST_KNOWN: usize = 100_000;

/// Reviews tokens.
#[derive(Debug)]
pub struct Tokens {
    reviewer: Arc<dyn TokenReviewer>,
    audience: String,
    known: Mutex<HashMap<[u8; 32], Known>>,
    slots: ReviewSlots,
    /// How reviews ended, by `result`.
    pub counts: Labelled,
}

/// A token that the API server confirmed.
#[derive(Debug, Clone)]
struct Known {
    verified: Verified,
    confirmed: Instant,
}

/// Why a token is not good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// There are several.
    #[error("the stream has several values of `authorization`")]
    Several,
    /// Another scheme, or nothing.
    #[error("`authorization` is not of the form `Bearer <token>`")]
    Scheme,
    /// Not what the API server gives out.
    #[error("it is not a token of a projected volume: {0}")]
    Form(&'static str),
    /// Its time is over.
    #[error("it expired {0} s ago: does Envoy read the file that the kubelet renews?")]
    Expired(u64),
    /// It is for another server.
    #[error("its audience is {found:?}, not `{expected}` (`--token-audience`)")]
    Audience {
        /// For whom it is.
        found: Vec<String>,
        /// Who we are.
        expected: String,
    },
    /// The API server does not confirm it.
    #[error("the API server does not confirm it: {0}")]
    Unconfirmed(String),
    /// It is somebody's, but not a service account's.
    #[error("it is of `{0}`, which is no service account")]
    User(String),
    /// A part of its name is no Kubernetes name.
    #[error("it is of `{0}`: {1}")]
    Name(String, #[source] IdentityError),
}

/// The parts of a token that are looked at before the API server is asked. They only ever refuse.
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
    /// How a review can end, for metrics.
    pub const RESULTS: [&str; 4] = ["known", "confirmed", "refused", "unavailable"];

    /// Tokens for this audience.
    #[must_use]
    pub fn new(reviewer: Arc<dyn TokenReviewer>, audience: String) -> Self {
        let (known, slots) = (Mutex::default(), ReviewSlots::default());
        Self { reviewer, audience, known, slots, counts: Labelled::default() }
    }

    pub(super) async fn verify(
        &self,
        authorization: &Authorization,
        address: Option<IpAddr>,
        look: Look,
    ) -> Result<Verified, Refusal> {
        let token = bearer(&authorization.0)?;
        let expires = look_at(token, &self.audience, SystemTime::now())?;
        let key = Sha256::digest(token).into();
        let known = self.known().get(&key).cloned();
        if let Some(known) = &known
            && look == Look::First
            && known.confirmed.elapsed() < FRESH
        {
            self.count("known");
            return Ok(known.verified.clone());
        }
        let unavailable = match self.review(token, address, known.is_some()).await {
            Ok(Review::Confirmed { user, audiences }) => {
                let confirmed = self.confirmed(&user, audiences, expires);
                self.count(if confirmed.is_ok() { "confirmed" } else { "refused" });
                match &confirmed {
                    Ok(verified) => self.remember(key, verified),
                    Err(_) => self.forget(&key),
                }
                return Ok(confirmed?);
            }
            Ok(Review::Refused(why)) => {
                self.count("refused");
                self.forget(&key);
                return Err(TokenError::Unconfirmed(why).into());
            }
            Err(reason) => reason,
        };
        self.count("unavailable");
        let Some(Known { verified, .. }) = known else { return Err(Refusal::Unavailable(unavailable)) };
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
            let slot = self.slots.acquire(address, was_confirmed).await;
            let _slot = slot.map_err(|error| error.to_string())?;
            self.reviewer.review(token, &self.audience).await
        };
        let late = |_| Err(format!("the API server does not answer within {PATIENCE:?}"));
        tokio::time::timeout(PATIENCE, review).await.unwrap_or_else(late)
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

    fn remember(&self, key: [u8; 32], verified: &Verified) {
        let mut known = self.known();
        if known.len() >= MOST_KNOWN {
            let now = SystemTime::now();
            known.retain(|_, known| known.verified.expires > now);
        }
        if known.len() < MOST_KNOWN || known.contains_key(&key) {
            known.insert(key, Known { verified: verified.clone(), confirmed: Instant::now() });
        }
    }

    fn forget(&self, key: &[u8; 32]) {
        self.known().remove(key);
    }

    /// Nothing is left half done under this lock.
    fn known(&self) -> MutexGuard<'_, HashMap<[u8; 32], Known>> {
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

/// When a token expires, if it looks like one that may be confirmed.
pub(super) fn look_at(token: &str, audience: &str, now: SystemTime) -> Result<SystemTime, TokenError> {
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
