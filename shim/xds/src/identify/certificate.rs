//! The identity that a client certificate proves.
//!
//! Two forms count: Open Service Mesh's common name `<uuid>.sidecar.<service account>.<namespace>.<trust domain>`,
//! and the SPIFFE URI `spiffe://<trust domain>/ns/<namespace>/sa/<service account>` as alternative name.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use egress_policy::Identity;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;

use super::credentials::Verified;
use super::refusal::CertificateError;
use super::trust_domain::TrustDomain;
use egress_transport::tls::ServerTls;

/// Reads client certificates.
#[derive(Debug)]
pub struct Certificates {
    /// The verifier.
    pub tls: ServerTls,
    /// The trust domain of identities.
    pub trust_domain: TrustDomain,
}

impl Certificates {
    /// TLS has verified it too, but a connection may be older than its authority or its certificate allow.
    pub(super) fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<Verified, CertificateError> {
        self.tls.verify_client(chain).map_err(|error| CertificateError::Invalid(error.to_string()))?;
        let first = chain.first().map(AsRef::as_ref).unwrap_or_default();
        let (identity, expires) = read(first, &self.trust_domain)?;
        Ok(Verified { identity, by: "certificate", expires })
    }
}

/// The identity of a certificate, and its expiry.
pub(super) fn read(
    der: &[u8],
    trust_domain: &TrustDomain,
) -> Result<(Identity, SystemTime), CertificateError> {
    let unreadable = |error: &dyn fmt::Display| CertificateError::Unreadable(error.to_string());
    let (_, certificate) = x509_parser::parse_x509_certificate(der).map_err(|e| unreadable(&e))?;
    let common_names = certificate
        .subject()
        .iter_common_name()
        .map(|name| name.as_str().map_err(|e| unreadable(&e)))
        .collect::<Result<Vec<_>, _>>()?;
    let alternatives = certificate.subject_alternative_name().map_err(|e| unreadable(&e))?;
    let uris: Vec<&str> = alternatives
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect();
    let end = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or_default();
    Ok((identity(&common_names, &uris, trust_domain)?, UNIX_EPOCH + Duration::from_secs(end)))
}

/// The identity in the names of a certificate.
pub(super) fn identity(
    common_names: &[&str],
    uris: &[&str],
    trust_domain: &TrustDomain,
) -> Result<Identity, CertificateError> {
    let common_name = match common_names {
        [] => None,
        [name] => Some(*name),
        _ => return Err(CertificateError::Several("several common names")),
    };
    let uri = match uris {
        [uri] if is_spiffe(uri) => Some(*uri),
        _ if uris.iter().any(|uri| is_spiffe(uri)) => {
            return Err(CertificateError::Several("several URIs beside a SPIFFE URI"));
        }
        _ => None,
    };
    let by_common_name = common_name
        // SPIFFE leaves the content of this field to its users.
        .filter(|name| in_common_name(name).is_some() || (uri.is_none() && begins_with_uuid(name)))
        .map(|name| of_common_name(name, trust_domain))
        .transpose()?;
    let by_uri = uri.map(|uri| of_uri(uri, trust_domain)).transpose()?;
    match (by_common_name, by_uri) {
        (Some(by_common_name), Some(by_uri)) if by_common_name != by_uri => {
            Err(CertificateError::Disagreement { by_common_name, by_uri })
        }
        (Some(identity), _) | (None, Some(identity)) => Ok(identity),
        (None, None) => Err(CertificateError::NoIdentity {
            common_name: common_name.unwrap_or_default().to_owned(),
            trust_domain: trust_domain.clone(),
        }),
    }
}

const SPIFFE: &str = "spiffe://";

/// In any case: what is not quite one shall be refused, not overlooked.
fn is_spiffe(uri: &str) -> bool {
    uri.get(..SPIFFE.len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(SPIFFE))
}

fn of_common_name(name: &str, trust_domain: &TrustDomain) -> Result<Identity, CertificateError> {
    let form = "<uuid>.sidecar.<service account>.<namespace>.<trust domain>";
    let wrong = || CertificateError::Form { name: name.to_owned(), form };
    let (service_account, namespace) = in_common_name(name).ok_or_else(wrong)?;
    // What is left after four dots.
    let found = name.splitn(5, '.').nth(4).unwrap_or_default();
    checked(name, namespace, service_account, found, trust_domain)
}

fn of_uri(uri: &str, trust_domain: &TrustDomain) -> Result<Identity, CertificateError> {
    let form = "spiffe://<trust domain>/ns/<namespace>/sa/<service account>";
    let parts: Vec<&str> = uri.strip_prefix(SPIFFE).unwrap_or_default().split('/').collect();
    let [found, "ns", namespace, "sa", service_account] = parts[..] else {
        return Err(CertificateError::Form { name: uri.to_owned(), form });
    };
    checked(uri, namespace, service_account, found, trust_domain)
}

fn checked(
    name: &str,
    namespace: &str,
    service_account: &str,
    found: &str,
    trust_domain: &TrustDomain,
) -> Result<Identity, CertificateError> {
    if found != trust_domain.0 {
        let (name, found) = (name.to_owned(), found.to_owned());
        return Err(CertificateError::TrustDomain { name, found, expected: trust_domain.clone() });
    }
    Identity::new(namespace, service_account).map_err(|cause| CertificateError::Name(name.to_owned(), cause))
}

/// Service account and namespace in a name of Open Service Mesh's form. A service account whose name has a dot
/// cannot be written so: what follows it is no trust domain of ours then.
pub(super) fn in_common_name(name: &str) -> Option<(&str, &str)> {
    let mut parts = name.splitn(5, '.');
    let (_, kind, service_account, namespace, domain) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let whole = [service_account, namespace, domain].iter().all(|part| !part.is_empty());
    (begins_with_uuid(name) && kind == "sidecar" && whole).then_some((service_account, namespace))
}

fn begins_with_uuid(name: &str) -> bool {
    let first = name.split('.').next().unwrap_or_default();
    let groups = [8, 4, 4, 4, 12];
    first.split('-').count() == groups.len()
        && first
            .split('-')
            .zip(groups)
            .all(|(group, length)| group.len() == length && group.bytes().all(|b| b.is_ascii_hexdigit()))
}
