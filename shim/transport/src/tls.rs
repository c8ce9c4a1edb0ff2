//! The control plane's certificate and the authority of its clients' certificates, read from files and reloaded when these
//! change.
//!
//! Every connection uses the configuration that is in force ([`ServerTls::xds`], [`ServerTls::https`]), so a
//! change touches no open connection. Files that cannot be used change nothing: the last good ones stay in force.

mod counts;
mod files;
mod follow;
mod hint;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;

pub use self::counts::Counts;
use self::files::{FileContents, Loaded};
pub use self::files::{Files, TlsError};
pub(crate) use self::hint::hint;

/// The TLS configuration of a server. Clones share the one in force.
#[derive(Debug, Clone)]
pub struct ServerTls {
    current: watch::Receiver<Arc<Loaded>>,
    counts: Arc<Counts>,
}

impl ServerTls {
    /// Reads the files, and follows them for as long as this or a clone of it is there. To be called inside a
    /// runtime.
    ///
    /// # Errors
    /// When the files cannot be used.
    pub fn follow(files: Files) -> Result<Self, TlsError> {
        let contents = FileContents::read(&files);
        let (publish, current) = watch::channel(Arc::new(contents.load(&files)?));
        let counts = Arc::new(Counts::default());
        tokio::spawn(follow::reload_on_change(files, contents.digest(), publish, Arc::clone(&counts)));
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

    /// Returns whether clients are asked for a certificate.
    #[must_use]
    pub fn asks_clients(&self) -> bool {
        self.current.borrow().clients.is_some()
    }

    /// Returns whether a client's certificate, with what follows it in its chain, is good now: of the authority that is
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

    /// The expiry of the certificate in force, in seconds since 1970.
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
