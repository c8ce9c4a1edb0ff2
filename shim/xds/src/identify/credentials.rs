//! The credentials of a stream, and the identity that they prove.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use egress_policy::Identity;
use rustls::pki_types::CertificateDer;

/// The credentials that a stream presents.
#[derive(Debug, Clone)]
pub struct PresentedCredentials {
    /// The address that it comes from.
    pub address: Option<SocketAddr>,
    /// The client's certificate and what follows it in its chain. TLS has verified that it is of our authority.
    pub certificates: Option<Arc<Vec<CertificateDer<'static>>>>,
    /// The values of `authorization`.
    pub authorization: Vec<Authorization>,
}

impl PresentedCredentials {
    /// The address for the log.
    #[must_use]
    pub fn peer(&self) -> String {
        self.address.map(|address| address.to_string()).unwrap_or_else(|| "unknown".to_owned())
    }
}

/// A value of `authorization`. It is never printed.
#[derive(Clone)]
pub struct Authorization(pub String);

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authorization(…)")
    }
}

/// An identity that credentials prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The identity.
    pub identity: Identity,
    /// The proof: `certificate`, `token`, or `certificate and token`.
    pub by: &'static str,
    /// The time until which it is proved.
    pub expires: SystemTime,
}

/// The mode of a review of credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReviewMode {
    /// A stream begins: a recent result counts.
    CacheAllowed,
    /// A stream is open: earlier results count only while the reviewer cannot be asked.
    Revalidate,
}
