//! Keys and certificates of an API server.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SanType};

/// Writes `ca.crt`, `server.crt`, `server.key`, `account.key` and `account.pub`.
pub(super) fn write(folder: &Path, address: IpAddr) -> Result<()> {
    let authority_key = KeyPair::generate()?;
    let mut authority = params("test authority")?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(folder.join("ca.crt"), authority.self_signed(&authority_key)?.pem())?;
    let key = KeyPair::generate()?;
    let mut server = params("test API server")?;
    server.subject_alt_names = vec![SanType::IpAddress(address)];
    let issuer = Issuer::new(authority, authority_key);
    fs::write(folder.join("server.crt"), server.signed_by(&key, &issuer)?.pem())?;
    fs::write(folder.join("server.key"), key.serialize_pem())?;
    let account = KeyPair::generate()?;
    fs::write(folder.join("account.key"), account.serialize_pem())?;
    fs::write(folder.join("account.pub"), account.public_key_pem())?;
    Ok(())
}

fn params(name: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}
