//! Who a proxy is: what its credentials say, and never what its node says of itself.
//!
//! A stream shows a client certificate, a token of a service account, or both, which must agree then. The node
//! that it names in its first message may name the same identity, or none, but no other.

mod certificate;
mod node;
mod refusal;
mod slots;
#[cfg(test)]
mod tests;
mod token;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use egress_policy::Identity;
use envoy_types::pb::envoy::config::core::v3::Node;
use rustls::pki_types::CertificateDer;

pub use self::certificate::{CertificateError, Certificates, TrustDomain};
pub use self::refusal::Refusal;
pub use self::token::{TokenError, Tokens};

/// How proxies are identified.
#[derive(Debug)]
pub enum Identification {
    /// By what they say of themselves: for one machine and for tests (`--insecure-node-identity`).
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
    /// How often the credentials of an open stream are looked at again.
    pub review_interval: Duration,
}

/// What a stream shows of who is behind it.
#[derive(Debug, Clone)]
pub struct Shown {
    /// Where it comes from.
    pub address: Option<SocketAddr>,
    /// The client's certificate and what follows it in its chain. TLS has verified that it is of our authority.
    pub certificates: Option<Arc<Vec<CertificateDer<'static>>>>,
    /// The values of `authorization`.
    pub authorization: Vec<Authorization>,
}

impl Shown {
    /// Where it comes from, for the log.
    #[must_use]
    pub fn peer(&self) -> String {
        self.address.map(|address| address.to_string()).unwrap_or_else(|| "unknown".to_owned())
    }
}

/// A value of `authorization`. It does not print.
#[derive(Clone)]
pub struct Authorization(pub String);

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authorization(…)")
    }
}

/// What credentials say of whom they were given to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Who it is.
    pub identity: Identity,
    /// What says so: `certificate`, `token`, or `certificate and token`.
    pub by: &'static str,
    /// Until when.
    pub expires: SystemTime,
}

/// When credentials are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// A stream begins. What was found a moment ago counts.
    First,
    /// A stream has gone on for a while: nothing that was found before counts, unless nobody can be asked.
    Again,
}

impl Identification {
    /// What the credentials of a stream say; `None` where credentials do not matter.
    ///
    /// # Errors
    /// When there are none, or they are not good.
    pub async fn verify(&self, shown: &Shown, look: Look) -> Result<Option<Verified>, Refusal> {
        match self {
            Self::NodeId => Ok(None),
            Self::Credentials(accepted) => accepted.verify(shown, look).await.map(Some),
        }
    }

    /// Who a stream is that shows this and begins with this node.
    ///
    /// # Errors
    /// When the node says that it is somebody else; without credentials, when it does not say who it is.
    pub fn settle(&self, verified: Option<&Verified>, node: &Node) -> Result<Identity, Refusal> {
        match (self, verified) {
            (Self::NodeId, _) => node::believe(node),
            (Self::Credentials(_), None) => Err(Refusal::NoCredentials),
            (Self::Credentials(_), Some(verified)) => match node::other(node, &verified.identity) {
                None => Ok(verified.identity.clone()),
                Some(claimed) => Err(Refusal::OtherIdentity {
                    identity: verified.identity.clone(),
                    by: verified.by,
                    claimed,
                }),
            },
        }
    }

    /// Waits until the credentials of an open stream are not good any more, and says why. For ever where
    /// credentials do not matter.
    pub async fn end_of(&self, shown: &Shown, verified: Option<Verified>) -> Refusal {
        let (Self::Credentials(accepted), Some(mut verified)) = (self, verified) else {
            return std::future::pending().await;
        };
        loop {
            let left = verified.expires.duration_since(SystemTime::now()).unwrap_or_default();
            let pause = jittered(accepted.review_interval);
            tokio::time::sleep(left.min(pause)).await;
            if left <= pause {
                return Refusal::Expired { by: verified.by };
            }
            match accepted.verify(shown, Look::Again).await {
                Ok(again) if again.identity == verified.identity => verified = again,
                Ok(again) => {
                    let (identity, by, claimed) =
                        (verified.identity, verified.by, again.identity.to_string());
                    return Refusal::OtherIdentity { identity, by, claimed };
                }
                // It was good a moment ago, and it ends when it expires.
                Err(Refusal::Unavailable(_)) => {}
                Err(refusal) => return Refusal::Revoked(Box::new(refusal)),
            }
        }
    }
}

impl Accepted {
    async fn verify(&self, shown: &Shown, look: Look) -> Result<Verified, Refusal> {
        let by_certificate = match (&self.certificates, &shown.certificates) {
            (Some(certificates), Some(chain)) => Some(certificates.verify(chain)?),
            _ => None,
        };
        let by_token = match (&self.tokens, shown.authorization.as_slice()) {
            (Some(tokens), [authorization]) => {
                let address = shown.address.map(|address| address.ip());
                Some(tokens.verify(authorization, address, look).await?)
            }
            (Some(_), [_, _, ..]) => return Err(TokenError::Several.into()),
            _ => None,
        };
        match (by_certificate, by_token) {
            (Some(certificate), Some(token)) if certificate.identity != token.identity => {
                Err(Refusal::Disagreement { by_certificate: certificate.identity, by_token: token.identity })
            }
            (Some(certificate), Some(token)) => Ok(Verified {
                identity: token.identity,
                by: "certificate and token",
                expires: certificate.expires.min(token.expires),
            }),
            (Some(verified), None) | (None, Some(verified)) => Ok(verified),
            (None, None) => Err(Refusal::NoCredentials),
        }
    }
}

/// A time between four and six fifths of this one, so that streams that began together do not ask together.
fn jittered(time: Duration) -> Duration {
    time * fastrand::u32(800..=1200) / 1000
}
