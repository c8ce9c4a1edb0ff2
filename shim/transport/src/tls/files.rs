//! The files of certificates, and the TLS configurations that they make.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};

/// The files of a server's certificates.
#[derive(Debug, Clone)]
pub struct Files {
    /// The server's certificate and what follows it in its chain, as PEM.
    pub certificate: PathBuf,
    /// Its key, as PEM.
    pub key: PathBuf,
    /// The authorities of clients' certificates, as PEM.
    pub client_ca: Option<PathBuf>,
    /// The authorities of certificates that an API server must show to the webhook, as PEM.
    pub webhook_client_ca: Option<PathBuf>,
}

/// The reason why files cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {file}: {reason}")]
    Read {
        /// The file.
        file: String,
        /// The reason.
        reason: String,
    },
    /// A file has not what it must have.
    #[error("{file} has no {what}: expected PEM, with a line `-----BEGIN {label}-----`")]
    Lacks {
        /// The file.
        file: String,
        /// The part that is missing.
        what: &'static str,
        /// The PEM label of that part.
        label: &'static str,
    },
    /// The content of a file is broken.
    #[error("{file}: {reason}")]
    Broken {
        /// The file.
        file: String,
        /// The reason.
        reason: String,
    },
    /// Key and certificate are of different pairs.
    #[error("the key in {key} is not the key of the certificate in {certificate}")]
    Mismatch {
        /// The certificate's file.
        certificate: String,
        /// The key's file.
        key: String,
    },
    /// The certificate has expired.
    #[error("the certificate in {file} expired on {on}: put a new one there")]
    Expired {
        /// The certificate's file.
        file: String,
        /// The date.
        on: String,
    },
}

/// The contents of the files at one moment.
pub(super) struct FileContents(Result<Contents, TlsError>);

/// Not to be printed: there is a key in it.
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
    webhook_client_ca: Option<Vec<u8>>,
}

/// The digest of file contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ContentsDigest {
    Contents([u8; 32]),
    Unreadable(TlsError),
}

/// The configurations that follow from the files.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) xds: Arc<ServerConfig>,
    pub(super) https: Arc<ServerConfig>,
    pub(super) clients: Option<Arc<dyn ClientCertVerifier>>,
    pub(super) expires: i64,
}

impl FileContents {
    pub(super) fn read(files: &Files) -> Self {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|e| TlsError::Read { file: name(path), reason: e.to_string() })
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

    pub(super) fn digest(&self) -> ContentsDigest {
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
                ContentsDigest::Contents(digest.finalize().into())
            }
            Err(error) => ContentsDigest::Unreadable(error.clone()),
        }
    }

    pub(super) fn load(&self, files: &Files) -> Result<Loaded, TlsError> {
        let contents = self.0.as_ref().map_err(Clone::clone)?;
        let chain = certificates(&files.certificate, &contents.certificate)?;
        let expires = still_valid(&files.certificate, &chain)?;
        let clients = match (&files.client_ca, &contents.client_ca) {
            (Some(file), Some(pem)) => Some(verifier(file, pem, false)?),
            _ => None,
        };
        let api_servers = match (&files.webhook_client_ca, &contents.webhook_client_ca) {
            (Some(file), Some(pem)) => Some(verifier(file, pem, true)?),
            _ => None,
        };
        let key = PrivateKeyDer::from_pem_slice(&contents.key).map_err(|error| {
            let file = name(&files.key);
            if matches!(error, PemError::NoItemsFound) {
                return TlsError::Lacks { file, what: "key", label: "PRIVATE KEY" };
            }
            TlsError::Broken { file, reason: error.to_string() }
        })?;
        let unusable = |error: rustls::Error| {
            let (certificate, key) = (name(&files.certificate), name(&files.key));
            if matches!(error, rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) {
                return TlsError::Mismatch { certificate, key };
            }
            TlsError::Broken { file: format!("{certificate} with {key}"), reason: error.to_string() }
        };
        let begin = || {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()
        };
        let builder = begin().map_err(unusable)?;
        let builder = match &clients {
            Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
            None => builder.with_no_client_auth(),
        };
        let mut xds = builder.with_single_cert(chain.clone(), key.clone_key()).map_err(unusable)?;
        xds.alpn_protocols = vec![b"h2".to_vec()];
        // A session that is resumed does not show its certificate again: each connection shall.
        xds.session_storage = Arc::new(NoServerSessionStorage {});
        xds.send_tls13_tickets = 0;
        let builder = begin().map_err(unusable)?;
        let builder = match api_servers {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut https = builder.with_single_cert(chain, key).map_err(unusable)?;
        https.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // As above; and without one, whoever only opens connections has no state kept for him.
        https.session_storage = Arc::new(NoServerSessionStorage {});
        https.send_tls13_tickets = 0;
        Ok(Loaded { xds: Arc::new(xds), https: Arc::new(https), clients, expires })
    }
}

fn certificates(file: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let broken = |error: PemError| TlsError::Broken { file: name(file), reason: error.to_string() };
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(broken)?;
    if chain.is_empty() {
        return Err(TlsError::Lacks { file: name(file), what: "certificate", label: "CERTIFICATE" });
    }
    Ok(chain)
}

/// The earliest expiry of a chain, in seconds since 1970, if it is still to come.
fn still_valid(file: &Path, chain: &[CertificateDer<'_>]) -> Result<i64, TlsError> {
    let first = chain.first().map(AsRef::as_ref).unwrap_or_default();
    let (_, certificate) = x509_parser::parse_x509_certificate(first)
        .map_err(|error| TlsError::Broken { file: name(file), reason: error.to_string() })?;
    let end = certificate.validity().not_after;
    if end.timestamp() <= now() {
        return Err(TlsError::Expired { file: name(file), on: end.to_string() });
    }
    Ok(end.timestamp())
}

fn verifier(file: &Path, pem: &[u8], is_required: bool) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let broken = |reason: String| TlsError::Broken { file: name(file), reason };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file, pem)? {
        roots.add(certificate).map_err(|error| broken(error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if is_required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| broken(error.to_string()))
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

/// Seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
