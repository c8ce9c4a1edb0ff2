//! The identity of a proxy: its credentials determine it, and never its node id.
//!
//! A stream presents a client certificate, a token of a service account, or both, which must agree then. The node in its
//! first message may name the same identity or none, but no other.

mod certificate;
mod credentials;
mod node;
mod refusal;
mod review_permits;
#[cfg(test)]
mod tests;
mod token;
mod trust_domain;

use std::time::{Duration, SystemTime};

use egress_policy::Identity;
use envoy_types::pb::envoy::config::core::v3::Node;

pub use self::certificate::Certificates;
pub use self::credentials::{Authorization, PresentedCredentials, ReviewMode, Verified};
pub use self::refusal::{CertificateError, StreamRefusal, TokenError};
pub use self::token::Tokens;
pub use self::trust_domain::TrustDomain;

/// The way in which proxies are identified.
#[derive(Debug)]
pub enum Identification {
    /// By their node id, which is not verified: for one machine and for tests (`--insecure-node-identity`).
    NodeId,
    /// By their credentials.
    Credentials(Box<Accepted>),
}

/// The credentials that count.
#[derive(Debug)]
pub struct Accepted {
    /// Client certificates.
    pub certificates: Option<Certificates>,
    /// Tokens of service accounts.
    pub tokens: Option<Tokens>,
    /// The interval at which the credentials of an open stream are reviewed again.
    pub review_interval: Duration,
}

impl Identification {
    /// Verifies the credentials of a stream; `None` where credentials do not matter.
    ///
    /// # Errors
    /// When there are none, or they are not good.
    pub async fn verify(
        &self,
        credentials: &PresentedCredentials,
        mode: ReviewMode,
    ) -> Result<Option<Verified>, StreamRefusal> {
        match self {
            Self::NodeId => Ok(None),
            Self::Credentials(accepted) => accepted.verify(credentials, mode).await.map(Some),
        }
    }

    /// Resolves the identity of a stream by its verified credentials and its node.
    ///
    /// # Errors
    /// When the node names another identity; without credentials, when it names none.
    pub fn resolve_identity(
        &self,
        verified: Option<&Verified>,
        node: &Node,
    ) -> Result<Identity, StreamRefusal> {
        match (self, verified) {
            (Self::NodeId, _) => node::resolve_claim(node),
            (Self::Credentials(_), None) => Err(StreamRefusal::NoCredentials),
            (Self::Credentials(_), Some(verified)) => match node::other(node, &verified.identity) {
                None => Ok(verified.identity.clone()),
                Some(claimed) => Err(StreamRefusal::OtherIdentity {
                    identity: verified.identity.clone(),
                    by: verified.by,
                    claimed,
                }),
            },
        }
    }

    /// Waits until the credentials of an open stream expire or are revoked, and returns the reason. Waits for ever where
    /// credentials do not matter.
    pub async fn watch_expiry(
        &self,
        credentials: &PresentedCredentials,
        verified: Option<Verified>,
    ) -> StreamRefusal {
        let (Self::Credentials(accepted), Some(mut verified)) = (self, verified) else {
            return std::future::pending().await;
        };
        loop {
            let left = verified.expires.duration_since(SystemTime::now()).unwrap_or_default();
            let pause = jittered(accepted.review_interval);
            tokio::time::sleep(left.min(pause)).await;
            if left <= pause {
                return StreamRefusal::Expired { by: verified.by };
            }
            match accepted.verify(credentials, ReviewMode::Revalidate).await {
                Ok(again) if again.identity == verified.identity => verified = again,
                Ok(again) => {
                    let (identity, by, claimed) =
                        (verified.identity, verified.by, again.identity.to_string());
                    return StreamRefusal::OtherIdentity { identity, by, claimed };
                }
                // The last review confirmed it, and it still ends when it expires.
                Err(StreamRefusal::Unavailable(_)) => {}
                Err(refusal) => return StreamRefusal::Revoked(Box::new(refusal)),
            }
        }
    }
}

impl Accepted {
    async fn verify(
        &self,
        credentials: &PresentedCredentials,
        mode: ReviewMode,
    ) -> Result<Verified, StreamRefusal> {
        let by_certificate = match (&self.certificates, &credentials.certificates) {
            (Some(certificates), Some(chain)) => Some(certificates.verify(chain)?),
            _ => None,
        };
        let by_token = match (&self.tokens, credentials.authorization.as_slice()) {
            (Some(tokens), [authorization]) => {
                let address = credentials.address.map(|address| address.ip());
                Some(tokens.verify(authorization, address, mode).await?)
            }
            (Some(_), [_, _, ..]) => return Err(TokenError::Several.into()),
            _ => None,
        };
        match (by_certificate, by_token) {
            (Some(certificate), Some(token)) if certificate.identity != token.identity => {
                Err(StreamRefusal::Disagreement {
                    by_certificate: certificate.identity,
                    by_token: token.identity,
                })
            }
            (Some(certificate), Some(token)) => Ok(Verified {
                identity: token.identity,
                by: "certificate and token",
                expires: certificate.expires.min(token.expires),
            }),
            (Some(verified), None) | (None, Some(verified)) => Ok(verified),
            (None, None) => Err(StreamRefusal::NoCredentials),
        }
    }
}

/// A time between four and six fifths of this one, so that streams that began together do not ask together.
fn jittered(time: Duration) -> Duration {
    time * fastrand::u32(800..=1200) / 1000
}
