//! The control plane's certificate and the authorities of its clients, read from files and reloaded when they change.
//!
//! Every new connection uses the current configuration ([`ServerTls::xds`], [`ServerTls::https`]); a reload touches
//! no open connection. If the new files are unusable, the last good configuration stays in force.

mod files;
mod handshake_hint;
mod reload;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;

use self::files::{FileSnapshot, TlsConfigs};
pub use self::files::{TlsError, TlsFiles};
pub(crate) use self::handshake_hint::handshake_hint;

/// TLS configuration of the servers. Clones share the current one.
#[derive(Debug, Clone)]
pub struct ServerTls {
    current: watch::Receiver<Arc<TlsConfigs>>,
    counters: Arc<TlsCounters>,
}

/// Counters since the start.
#[derive(Debug, Default)]
pub struct TlsCounters {
    /// Reloads that are in force.
    pub reloads: AtomicU64,
    /// Reloads that failed.
    pub failures: AtomicU64,
    /// Connections that ended before the handshake was complete.
    pub failed_handshakes: AtomicU64,
}

impl ServerTls {
    /// Reads the files, and reloads them as long as this or a clone of it exists. Must be called inside a runtime.
    ///
    /// # Errors
    /// Returns an error if the files are unusable.
    pub fn load_and_watch(files: TlsFiles) -> Result<Self, TlsError> {
        let snapshot = FileSnapshot::read(&files);
        let (publish, current) = watch::channel(Arc::new(snapshot.build(&files)?));
        let counters = Arc::new(TlsCounters::default());
        tokio::spawn(reload::watch_files(files, snapshot.digest(), publish, Arc::clone(&counters)));
        Ok(Self { current, counters })
    }

    /// Configuration for xDS: HTTP/2, with optional client certificates if there is an authority. A client without
    /// one completes the handshake, so that its stream can be refused with a message.
    #[must_use]
    pub fn xds(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.borrow().xds)
    }

    /// Configuration for webhooks: HTTP/1.1 or HTTP/2. If there is an authority for API servers, clients must present
    /// a certificate.
    #[must_use]
    pub fn https(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.borrow().https)
    }

    /// Returns true if clients must send a certificate.
    #[must_use]
    pub fn requests_client_certificates(&self) -> bool {
        self.current.borrow().clients.is_some()
    }

    /// Verifies a client's certificate chain against the current authority and time.
    ///
    /// # Errors
    /// Returns an error if the chain is not valid.
    pub fn verify_client(&self, chain: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let current = Arc::clone(&self.current.borrow());
        let none = || rustls::Error::General("no client certificates are accepted".to_owned());
        let verifier = current.clients.as_ref().ok_or_else(none)?;
        let (end, others) = chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
        verifier.verify_client_cert(end, others, UnixTime::now()).map(|_| ())
    }

    /// Expiry of the current certificate, in seconds since 1970.
    #[must_use]
    pub fn certificate_expiry(&self) -> i64 {
        self.current.borrow().expires
    }

    /// Counters since the start.
    #[must_use]
    pub fn counters(&self) -> &TlsCounters {
        &self.counters
    }

    pub(crate) fn count_failed_handshake(&self) {
        self.counters.failed_handshakes.fetch_add(1, Ordering::Relaxed);
    }
}
