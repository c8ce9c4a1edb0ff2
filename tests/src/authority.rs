//! Certificates, and volumes whose files change all at once, as in a pod.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SanType};

/// A certificate authority.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The authority's own certificate, as PEM.
    pub pem: String,
}

/// The names in a certificate.
#[derive(Debug, Default)]
pub struct Names<'a> {
    /// The common name.
    pub common_name: &'a str,
    /// URI alternative names.
    pub uris: &'a [&'a str],
    /// Host names and IP addresses among the alternative names.
    pub hosts: &'a [&'a str],
}

/// A certificate and its key, as PEM.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The key.
    pub key: String,
}

impl Authority {
    /// An authority with a key of its own.
    ///
    /// # Errors
    /// Fails if there is no randomness.
    pub fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        // Verifiers find an issuer by its name.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let common_name = format!("test authority {}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut params = params(&Names { common_name: &common_name, ..Names::default() })?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// Issues a certificate.
    ///
    /// # Errors
    /// Fails if a name has no such form.
    pub fn issue(&self, names: &Names<'_>) -> Result<Pair> {
        self.sign(params(names)?)
    }

    /// Issues a certificate that expires at `end`.
    ///
    /// # Errors
    /// Fails if a name has no such form.
    pub fn issue_until(&self, names: &Names<'_>, end: SystemTime) -> Result<Pair> {
        let mut params = params(names)?;
        params.not_after = end.into();
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Result<Pair> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Pair { certificate, key: key.serialize_pem() })
    }
}

fn params(names: &Names<'_>) -> Result<CertificateParams> {
    let hosts: Vec<String> = names.hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name = DistinguishedName::new();
    if !names.common_name.is_empty() {
        params.distinguished_name.push(DnType::CommonName, names.common_name);
    }
    for uri in names.uris {
        params.subject_alt_names.push(SanType::URI((*uri).try_into()?));
    }
    Ok(params)
}

/// A folder whose files change all at once through a symbolic link, like a Kubernetes volume.
#[derive(Debug)]
pub struct Volume {
    folder: tempfile::TempDir,
    versions: std::cell::Cell<u32>,
}

impl Volume {
    /// A volume with these files: names and texts.
    ///
    /// # Errors
    /// Fails if they cannot be written.
    pub fn new(files: &[(&str, &str)]) -> Result<Self> {
        let volume = Self { folder: tempfile::tempdir()?, versions: std::cell::Cell::new(0) };
        // Envoy has another uid.
        fs::set_permissions(volume.folder.path(), fs::Permissions::from_mode(0o755))?;
        for (name, _) in files {
            symlink(Path::new("..data").join(name), volume.path(name))?;
        }
        volume.put(files)?;
        Ok(volume)
    }

    /// The path of the folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The path of a file.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The path of a file, as text.
    #[must_use]
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    /// Replaces all files.
    ///
    /// # Errors
    /// Fails if they cannot be written.
    pub fn put(&self, files: &[(&str, &str)]) -> Result<()> {
        let version = self.versions.get();
        self.versions.set(version + 1);
        let folder = format!("..{version}");
        fs::create_dir(self.path(&folder))?;
        for (name, text) in files {
            fs::write(self.path(&folder).join(name), text)?;
        }
        symlink(&folder, self.path("..data_tmp"))?;
        fs::rename(self.path("..data_tmp"), self.path("..data"))?;
        Ok(())
    }

    /// Replaces all files by a certificate: `tls.crt` and `tls.key`.
    ///
    /// # Errors
    /// Fails if they cannot be written.
    pub fn put_pair(&self, pair: &Pair) -> Result<()> {
        self.put(&[("tls.crt", &pair.certificate), ("tls.key", &pair.key)])
    }

    /// A volume with a certificate: `tls.crt` and `tls.key`.
    ///
    /// # Errors
    /// Fails if they cannot be written.
    pub fn of_pair(pair: &Pair) -> Result<Self> {
        Self::new(&[("tls.crt", &pair.certificate), ("tls.key", &pair.key)])
    }
}
