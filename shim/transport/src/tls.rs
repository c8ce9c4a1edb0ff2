//! The control plane's own certificate, and the authority of its clients' certificates: read from files, and
//! again when these change.
//!
//! Every connection asks for the configuration that is in force ([`ServerTls::xds`], [`ServerTls::https`]), so a
//! change touches no open connection. Files that cannot be used change nothing: the last good ones stay in force.

mod files;
mod reload;
mod handshake_hint;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;

pub use self::files::{Files, TlsError};
use self::files::{Loaded, Look};
pub(crate) use self::handshake_hint::hint;

/// What a server needs for TLS. Clones share what is in force.
#[derive(Debug, Clone)]
pub struct ServerTls {
    current: watch::Receiver<Arc<Loaded>>,
    counts: Arc<Counts>,
}

/// Counts since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Changes that are in force.
    pub reloads: AtomicU64,
    /// Changes that could not be used.
    pub failures: AtomicU64,
    /// Connections that ended before they were encrypted.
    pub handshakes_failed: AtomicU64,
}

impl ServerTls {
    /// Reads the files, and follows them for as long as this or a clone of it is there. To be called inside a
    /// runtime.
    ///
    /// # Errors
    /// When the files cannot be used.
    pub fn follow(files: Files) -> Result<Self, TlsError> {
        let look = Look::take(&files);
        let (publish, current) = watch::channel(Arc::new(look.load(&files)?));
        let counts = Arc::new(Counts::default());
        tokio::spawn(reload::follow(files, look.digest(), publish, Arc::clone(&counts)));
        Ok(Self { current, counts })
    }

    /// For xDS: HTTP/2, and clients may show a certificate of the authority, if there is one. Whoever shows
    /// none is let in this far, so that the stream can be refused in words.
    #[must_use]
    pub fn xds(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.borrow().xds)
    }

    /// For webhooks: HTTP/1.1 or HTTP/2. Where there is an authority for them, clients must show a certificate.
    #[must_use]
    pub fn https(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.borrow().https)
    }

    /// Whether clients are asked for a certificate.
    #[must_use]
    pub fn asks_clients(&self) -> bool {
        self.current.borrow().clients.is_some()
    }

    /// Whether a client's certificate, with what follows it in its chain, is good now: of the authority that is
    /// in force, and not expired.
    ///
    /// # Errors
    /// When it is not.
    pub fn verify_client(&self, chain: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let current = Arc::clone(&self.current.borrow());
        let none = || rustls::Error::General("no client certificates are accepted".to_owned());
        let verifier = current.clients.as_ref().ok_or_else(none)?;
        let (end, others) = chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
        verifier.verify_client_cert(end, others, UnixTime::now()).map(|_| ())
    }

    /// When the certificate in force expires, in seconds since 1970.
    #[must_use]
    pub fn expires(&self) -> i64 {
        self.current.borrow().expires
    }

    /// Counts since the start.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    pub(crate) fn handshake_failed(&self) {
        self.counts.handshakes_failed.fetch_add(1, Ordering::Relaxed);
    }
}
