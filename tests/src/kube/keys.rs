//! Keys and certificates of the API server.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use anyhow::Result;
use rcgen::KeyPair;

use crate::authority::{Authority, Names};

/// Writes `ca.crt`, `server.crt`, `server.key`, `account.key` and `account.pub`.
pub(super) fn write(folder: &Path, address: IpAddr) -> Result<()> {
    let authority = Authority::new()?;
    let hosts = [&*address.to_string()];
    let server =
        authority.issue(&Names { common_name: "test API server", hosts: &hosts, ..Names::default() })?;
    fs::write(folder.join("ca.crt"), &authority.pem)?;
    fs::write(folder.join("server.crt"), server.certificate)?;
    fs::write(folder.join("server.key"), server.key)?;
    let account = KeyPair::generate()?;
    fs::write(folder.join("account.key"), account.serialize_pem())?;
    fs::write(folder.join("account.pub"), account.public_key_pem())?;
    Ok(())
}
