//! DNS rebinding: names that resolve to an allowed address until the sidecar has asked, and to a forbidden
//! one afterwards.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Result, ensure};

use super::check::Check;
use super::check::Expect::Reaches;
use super::observed_mesh::{ObservedMesh, PRIVATE, at};
use crate::client::{self, Outcome};
use crate::hello::Hello;
use crate::network::{EXAMPLE, HTTPBIN};
use crate::wait::wait_for;

/// An exact name and one below a wildcard, with the forbidden address that they resolve to in the end.
const NAMES: [(&str, IpAddr); 2] =
    [("moving.example", IpAddr::V4(Ipv4Addr::LOCALHOST)), ("moving.wild.example", PRIVATE)];

/// Lets the sidecar resolve the names to an allowed address, then changes their records. The sidecar caches
/// an answer for 5 s; other rows run meanwhile.
///
/// # Errors
/// Fails if they are not reached at the good address.
pub(super) fn begin(observed: &ObservedMesh<'_>) -> Result<()> {
    let checkpoint = observed.checkpoint();
    for (name, astray) in NAMES {
        let found = connect(observed, name)?;
        ensure!(matches!(found, Outcome::Bytes(_)), "{name}: {found:?}");
        observed.mesh.network.dns.set(name, &[astray]);
    }
    wait_for("the access log", Duration::from_secs(3), || {
        observed.lines_since(&checkpoint).len() == NAMES.len()
    })?;
    Ok(())
}

/// Creates a check for each name: a new connection, after the sidecar has asked again, reaches the first
/// address.
pub(super) fn checks() -> impl Iterator<Item = Check> {
    NAMES.into_iter().map(|(name, astray)| {
        let sends = format!("a ClientHello for `{name}`, after its owner led it from {EXAMPLE} to {astray},");
        Check::one(sends, Reaches(EXAMPLE), move |observed| {
            let is_queried = || observed.mesh.network.dns.query_count_of(name) > 0;
            wait_for("the sidecar to ask again", Duration::from_secs(10), is_queried)?;
            connect(observed, name)
        })
    })
}

fn connect(observed: &ObservedMesh<'_>, name: &str) -> Result<Outcome> {
    let hello = Hello::named(name).bytes();
    observed.workload().run(|| client::exchange(at(HTTPBIN, 443), &hello))
}
