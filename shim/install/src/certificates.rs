//! The control plane's serving certificate and its certificate authority, by which sidecars and the API server verify it.

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
/// The validity of an authority, in days.
const AUTHORITY_DAYS: u32 = 3650;
/// The validity of a serving certificate, in days.
const SERVER_DAYS: u32 = 365;
/// The time by which validity begins early, since clocks differ.
const CLOCK_SKEW: Duration = Duration::from_secs(60 * 60);

/// A certificate and its key, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct PemPair {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl std::fmt::Debug for PemPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PemPair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// Creates a certificate authority.
pub(super) fn create_authority(mesh: &str) -> Result<PemPair> {
    let key = KeyPair::generate()?;
    let mut params = certificate_params(&format!("osm-egress of mesh {mesh}"), &[], AUTHORITY_DAYS)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(PemPair { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

/// Creates a serving certificate for these host names, signed by an authority.
pub(super) fn sign_server(authority: &PemPair, hosts: &[String]) -> Result<PemPair> {
    let issuer_key = KeyPair::from_pem(&authority.key).context("the key of the authority is invalid")?;
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, issuer_key)
        .context("the certificate of the authority is invalid")?;
    let key = KeyPair::generate()?;
    let common = hosts.first().map_or("osm-egress", String::as_str);
    let mut params = certificate_params(common, hosts, SERVER_DAYS)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(PemPair { certificate: params.signed_by(&key, &issuer)?.pem(), key: key.serialize_pem() })
}

fn certificate_params(common: &str, hosts: &[String], days: u32) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(hosts)?;
    // A common name has at most 64 characters.
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common.chars().take(64).collect::<String>());
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + DAY * days).into();
    Ok(params)
}

/// The facts about a valid certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CertificateInfo {
    /// The host names.
    pub(super) hosts: Vec<String>,
    /// The end of validity, as text.
    pub(super) ends: String,
    /// The days until it expires.
    pub(super) days_left: u64,
    /// True if less than a third of its validity is left.
    pub(super) is_due_for_renewal: bool,
}

/// Checks that a certificate is valid now, and returns the facts about it.
pub(super) fn check_validity(certificate: &str) -> Result<CertificateInfo> {
    with_certificate(certificate, |certificate| {
        let validity = &certificate.validity;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs().cast_signed();
        let (begins, ends) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        let left = ends - now;
        ensure!(begins <= now, "it is not valid before {}", validity.not_before);
        ensure!(left > 0, "it expired at {}", validity.not_after);
        let hosts = certificate.subject_alternative_name()?.into_iter().flat_map(|names| {
            names.value.general_names.iter().filter_map(|name| {
                if let GeneralName::DNSName(host) = name { Some((*host).to_owned()) } else { None }
            })
        });
        Ok(CertificateInfo {
            hosts: hosts.collect(),
            ends: validity.not_after.to_string(),
            days_left: left.unsigned_abs() / DAY.as_secs(),
            is_due_for_renewal: left < (ends - begins) / 3,
        })
    })
}

/// Checks that a serving certificate is valid for these hosts, fits its key, and is signed by the authority.
pub(super) fn check_server(pair: &PemPair, authority: &str, hosts: &[String]) -> Result<CertificateInfo> {
    let facts = check_validity(&pair.certificate)?;
    if let Some(missing) = hosts.iter().find(|host| !facts.hosts.contains(host)) {
        bail!("it is not for {missing}, only for {}", facts.hosts.join(", "));
    }
    check_key(pair)?;
    with_certificate(authority, |authority| {
        with_certificate(&pair.certificate, |certificate| {
            certificate
                .verify_signature(Some(authority.public_key()))
                .map_err(|_| anyhow!("it is not signed by the authority in the same Secret"))
        })
    })?;
    Ok(facts)
}

/// Checks that a key belongs to its certificate.
pub(super) fn check_key(pair: &PemPair) -> Result<()> {
    let key = KeyPair::from_pem(&pair.key).context("its key cannot be read")?;
    let public = rcgen::PublicKeyData::subject_public_key_info(&key);
    with_certificate(&pair.certificate, |certificate| {
        ensure!(certificate.public_key().raw == public.as_slice(), "its key belongs to another certificate");
        Ok(())
    })
}

/// Parses the first certificate of a PEM text, and applies a function to it.
fn with_certificate<T>(pem: &str, apply: impl FnOnce(&X509Certificate<'_>) -> Result<T>) -> Result<T> {
    let first = Pem::iter_from_buffer(pem.as_bytes()).next().context("there is no certificate")?;
    let first = first.map_err(|why| anyhow!("it is not PEM: {why}"))?;
    let certificate = first.parse_x509().map_err(|why| anyhow!("it is not a certificate: {why}"))?;
    apply(&certificate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Vec<String> {
        vec!["osm-egress.osm-system.svc".to_owned(), "osm-egress.osm-system.svc.cluster.local".to_owned()]
    }

    #[test]
    fn a_serving_certificate_is_checked_against_its_authority() {
        let (one, two) = (create_authority("osm").expect("made"), create_authority("osm").expect("made"));
        let pair = sign_server(&one, &hosts()).expect("made");
        let facts = check_server(&pair, &one.certificate, &hosts()).expect("usable");
        assert_eq!(facts.hosts, hosts());
        // A moment may have passed.
        assert!((364..=365).contains(&facts.days_left) && !facts.is_due_for_renewal, "{facts:?}");
        assert!((3649..=3650).contains(&check_validity(&one.certificate).expect("valid").days_left));
        check_key(&one).expect("its own key");
        let why = |pair: &PemPair, authority: &PemPair, hosts: &[String]| {
            check_server(pair, &authority.certificate, hosts).expect_err("unusable").to_string()
        };
        assert!(why(&pair, &two, &hosts()).contains("not signed by the authority"));
        assert!(why(&pair, &one, &["other.svc".to_owned()]).contains("it is not for other.svc"));
        let mixed = PemPair { key: two.key.clone(), ..pair.clone() };
        assert!(why(&mixed, &one, &hosts()).contains("another certificate"));
        let broken = PemPair { certificate: "x".to_owned(), ..pair };
        assert!(why(&broken, &one, &hosts()).contains("there is no certificate"));
    }

    #[test]
    fn long_namespace_names_are_accepted() {
        let hosts = [format!("osm-egress.{}.svc", "n".repeat(50))];
        sign_server(&create_authority(&"m".repeat(50)).expect("made"), &hosts).expect("made");
    }
}
