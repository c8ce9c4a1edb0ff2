//! The control plane's certificate, and the authority that signs it: what sidecars and the API server know the
//! control plane by.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::prelude::X509Certificate;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const AUTHORITY_DAYS: u32 = 3650;
const SERVER_DAYS: u32 = 365;
/// Clocks differ.
const BEFORE: Duration = Duration::from_secs(60 * 60);

/// A certificate and its key, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// Makes an authority.
pub(super) fn authority(mesh: &str) -> Result<Pair> {
    let key = KeyPair::generate()?;
    let mut params = params(&format!("osm-egress of mesh {mesh}"), &[], AUTHORITY_DAYS)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(Pair { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

/// Has an authority sign a certificate of a server with these names.
pub(super) fn server(authority: &Pair, hosts: &[String]) -> Result<Pair> {
    let issuer_key = KeyPair::from_pem(&authority.key).context("the key of the authority cannot be used")?;
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, issuer_key)
        .context("the certificate of the authority cannot be used")?;
    let key = KeyPair::generate()?;
    let common = hosts.first().map_or("osm-egress", String::as_str);
    let mut params = params(common, hosts, SERVER_DAYS)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(Pair { certificate: params.signed_by(&key, &issuer)?.pem(), key: key.serialize_pem() })
}

fn params(common: &str, hosts: &[String], days: u32) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(hosts)?;
    // A common name has at most 64 characters.
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common.chars().take(64).collect::<String>());
    let now = SystemTime::now();
    params.not_before = (now - BEFORE).into();
    params.not_after = (now + DAY * days).into();
    Ok(params)
}

/// What there is to know of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// The names of the server.
    pub(super) hosts: Vec<String>,
    /// The day it ends, for people.
    pub(super) ends: String,
    /// How many days it is still valid; none once it is not.
    pub(super) days_left: u64,
    /// Whether less than a third of its time is left.
    pub(super) is_old: bool,
}

/// Reads a certificate that is valid now.
pub(super) fn look(certificate: &str) -> Result<Facts> {
    read(certificate, |certificate| {
        let validity = &certificate.validity;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs().cast_signed();
        let (begins, ends) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        let left = ends - now;
        ensure!(begins <= now, "it is valid from {} on only", validity.not_before);
        ensure!(left > 0, "it ended at {}", validity.not_after);
        let hosts = certificate.subject_alternative_name()?.into_iter().flat_map(|names| {
            names.value.general_names.iter().filter_map(|name| {
                if let GeneralName::DNSName(host) = name { Some((*host).to_owned()) } else { None }
            })
        });
        Ok(Facts {
            hosts: hosts.collect(),
            ends: validity.not_after.to_string(),
            days_left: left.unsigned_abs() / DAY.as_secs(),
            is_old: left < (ends - begins) / 3,
        })
    })
}

/// Looks at the certificate of a server: why it is of no use, if it is not.
pub(super) fn try_server(pair: &Pair, authority: &str, hosts: &[String]) -> Result<Facts> {
    let facts = look(&pair.certificate)?;
    if let Some(missing) = hosts.iter().find(|host| !facts.hosts.contains(host)) {
        bail!("it is not for {missing}, but for {}", facts.hosts.join(", "));
    }
    try_key(pair)?;
    read(authority, |authority| {
        read(&pair.certificate, |certificate| {
            certificate
                .verify_signature(Some(authority.public_key()))
                .map_err(|_| anyhow!("it is not signed by the authority of the same secret"))
        })
    })?;
    Ok(facts)
}

/// Whether a key is that of its certificate.
pub(super) fn try_key(pair: &Pair) -> Result<()> {
    let key = KeyPair::from_pem(&pair.key).context("its key cannot be read")?;
    let public = rcgen::PublicKeyData::subject_public_key_info(&key);
    read(&pair.certificate, |certificate| {
        ensure!(certificate.public_key().raw == public.as_slice(), "its key is another one's");
        Ok(())
    })
}

fn read<T>(pem: &str, look: impl FnOnce(&X509Certificate<'_>) -> Result<T>) -> Result<T> {
    let first = Pem::iter_from_buffer(pem.as_bytes()).next().context("there is no certificate")?;
    let first = first.map_err(|why| anyhow!("it is not PEM: {why}"))?;
    let certificate = first.parse_x509().map_err(|why| anyhow!("it is no certificate: {why}"))?;
    look(&certificate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Vec<String> {
        vec!["osm-egress.osm-system.svc".to_owned(), "osm-egress.osm-system.svc.cluster.local".to_owned()]
    }

    #[test]
    fn a_server_is_known_by_its_authority() {
        let (one, two) = (authority("osm").expect("made"), authority("osm").expect("made"));
        let pair = server(&one, &hosts()).expect("made");
        let facts = try_server(&pair, &one.certificate, &hosts()).expect("of use");
        assert_eq!(facts.hosts, hosts());
        // A moment may have passed.
        assert!((364..=365).contains(&facts.days_left) && !facts.is_old, "{facts:?}");
        assert!((3649..=3650).contains(&look(&one.certificate).expect("valid").days_left));
        try_key(&one).expect("its own key");
        let why = |pair: &Pair, authority: &Pair, hosts: &[String]| {
            try_server(pair, &authority.certificate, hosts).expect_err("of no use").to_string()
        };
        assert!(why(&pair, &two, &hosts()).contains("not signed by the authority"));
        assert!(why(&pair, &one, &["other.svc".to_owned()]).contains("it is not for other.svc"));
        let mixed = Pair { key: two.key.clone(), ..pair.clone() };
        assert!(why(&mixed, &one, &hosts()).contains("another one's"));
        let broken = Pair { certificate: "x".to_owned(), ..pair };
        assert!(why(&broken, &one, &hosts()).contains("there is no certificate"));
    }

    #[test]
    fn long_names_of_namespaces_do() {
        let hosts = [format!("osm-egress.{}.svc", "n".repeat(50))];
        server(&authority(&"m".repeat(50)).expect("made"), &hosts).expect("made");
    }
}
