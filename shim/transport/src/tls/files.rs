//! TLS configurations built from certificate files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};

/// Paths of the certificate files.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// Server certificate chain, as PEM.
    pub certificate: PathBuf,
    /// Private key of the certificate, as PEM.
    pub key: PathBuf,
    /// Authorities of proxies' client certificates, as PEM.
    pub client_ca: Option<PathBuf>,
    /// Authorities of the certificates that API servers must present to the webhooks, as PEM.
    pub webhook_client_ca: Option<PathBuf>,
}

/// Reason why certificate files are unusable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {file}: {reason}")]
    Read {
        /// Path.
        file: String,
        /// Reason.
        reason: String,
    },
    /// A file lacks a PEM section.
    #[error("{file} has no {what}: expected PEM, with a line `-----BEGIN {label}-----`")]
    Missing {
        /// Path.
        file: String,
        /// Missing content.
        what: &'static str,
        /// Label of the PEM section.
        label: &'static str,
    },
    /// A file is invalid.
    #[error("{file}: {reason}")]
    Invalid {
        /// Path.
        file: String,
        /// Reason.
        reason: String,
    },
    /// Key and certificate do not belong together.
    #[error(
        "the key in {key} does not belong to the certificate in {certificate}: replace one of the two files"
    )]
    Mismatch {
        /// The certificate's file.
        certificate: String,
        /// The key's file.
        key: String,
    },
    /// The certificate has expired.
    #[error("the certificate in {file} expired on {on}: replace it with a valid one")]
    Expired {
        /// The certificate's file.
        file: String,
        /// Expiry.
        on: String,
    },
}

/// Contents of the files at one moment.
pub(super) struct FileSnapshot(Result<Contents, TlsError>);

/// Contents of the files. Has no `Debug`, because it holds the private key.
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
    webhook_client_ca: Option<Vec<u8>>,
}

/// Identity of a snapshot, to detect changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SnapshotDigest {
    Contents([u8; 32]),
    Unreadable(TlsError),
}

/// TLS configurations built from a snapshot.
#[derive(Debug)]
pub(super) struct TlsConfigs {
    pub(super) xds: Arc<ServerConfig>,
    pub(super) https: Arc<ServerConfig>,
    pub(super) clients: Option<Arc<dyn ClientCertVerifier>>,
    pub(super) expires: i64,
}

impl FileSnapshot {
    pub(super) fn read(files: &TlsFiles) -> Self {
        let read = |path: &Path| {
            std::fs::read(path)
                .map_err(|e| TlsError::Read { file: display_path(path), reason: e.to_string() })
        };
        let contents = || {
            Ok(Contents {
                certificate: read(&files.certificate)?,
                key: read(&files.key)?,
                client_ca: files.client_ca.as_deref().map(read).transpose()?,
                webhook_client_ca: files.webhook_client_ca.as_deref().map(read).transpose()?,
            })
        };
        Self(contents())
    }

    pub(super) fn digest(&self) -> SnapshotDigest {
        match &self.0 {
            Ok(Contents { certificate, key, client_ca, webhook_client_ca }) => {
                let parts = [
                    certificate.as_slice(),
                    key.as_slice(),
                    client_ca.as_deref().unwrap_or_default(),
                    webhook_client_ca.as_deref().unwrap_or_default(),
                ];
                let mut digest = Sha256::new();
                for part in parts {
                    digest.update(Sha256::digest(part));
                }
                SnapshotDigest::Contents(digest.finalize().into())
            }
            Err(error) => SnapshotDigest::Unreadable(error.clone()),
        }
    }

    pub(super) fn build(&self, files: &TlsFiles) -> Result<TlsConfigs, TlsError> {
        let contents = self.0.as_ref().map_err(Clone::clone)?;
        let chain = parse_certificates(&files.certificate, &contents.certificate)?;
        let expires = check_expiry(&files.certificate, &chain)?;
        let clients = match (&files.client_ca, &contents.client_ca) {
            (Some(file), Some(pem)) => Some(client_verifier(file, pem, false)?),
            _ => None,
        };
        let api_servers = match (&files.webhook_client_ca, &contents.webhook_client_ca) {
            (Some(file), Some(pem)) => Some(client_verifier(file, pem, true)?),
            _ => None,
        };
        let key = PrivateKeyDer::from_pem_slice(&contents.key).map_err(|error| {
            let file = display_path(&files.key);
            if matches!(error, PemError::NoItemsFound) {
                return TlsError::Missing { file, what: "key", label: "PRIVATE KEY" };
            }
            TlsError::Invalid { file, reason: error.to_string() }
        })?;
        let unusable = |error: rustls::Error| {
            let (certificate, key) = (display_path(&files.certificate), display_path(&files.key));
            if matches!(error, rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) {
                return TlsError::Mismatch { certificate, key };
            }
            TlsError::Invalid { file: format!("{certificate} with {key}"), reason: error.to_string() }
        };
        let new_builder = || {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()
        };
        let builder = new_builder().map_err(unusable)?;
        let builder = match &clients {
            Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
            None => builder.with_no_client_auth(),
        };
        let mut xds = builder.with_single_cert(chain.clone(), key.clone_key()).map_err(unusable)?;
        xds.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session does not present its certificate again; every connection must.
        xds.session_storage = Arc::new(NoServerSessionStorage {});
        xds.send_tls13_tickets = 0;
        let builder = new_builder().map_err(unusable)?;
        let builder = match api_servers {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut https = builder.with_single_cert(chain, key).map_err(unusable)?;
        https.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // The same here; and without session storage, clients that only connect use no memory.
        https.session_storage = Arc::new(NoServerSessionStorage {});
        https.send_tls13_tickets = 0;
        Ok(TlsConfigs { xds: Arc::new(xds), https: Arc::new(https), clients, expires })
    }
}

fn parse_certificates(file: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let broken = |error: PemError| TlsError::Invalid { file: display_path(file), reason: error.to_string() };
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(broken)?;
    if chain.is_empty() {
        return Err(TlsError::Missing {
            file: display_path(file),
            what: "certificate",
            label: "CERTIFICATE",
        });
    }
    Ok(chain)
}

/// Expiry of the first certificate in seconds since 1970, if it has not passed.
fn check_expiry(file: &Path, chain: &[CertificateDer<'_>]) -> Result<i64, TlsError> {
    let first = chain.first().map(AsRef::as_ref).unwrap_or_default();
    let (_, certificate) = x509_parser::parse_x509_certificate(first)
        .map_err(|error| TlsError::Invalid { file: display_path(file), reason: error.to_string() })?;
    let end = certificate.validity().not_after;
    if end.timestamp() <= unix_time() {
        return Err(TlsError::Expired { file: display_path(file), on: end.to_string() });
    }
    Ok(end.timestamp())
}

fn client_verifier(
    file: &Path,
    pem: &[u8],
    is_required: bool,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let broken = |reason: String| TlsError::Invalid { file: display_path(file), reason };
    let mut roots = RootCertStore::empty();
    for certificate in parse_certificates(file, pem)? {
        roots.add(certificate).map_err(|error| broken(error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if is_required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| broken(error.to_string()))
}

fn display_path(path: &Path) -> String {
    path.display().to_string()
}

/// Seconds since 1970.
fn unix_time() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
