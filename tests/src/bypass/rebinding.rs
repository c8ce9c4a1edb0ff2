//! DNS rebinding: names that lead somewhere good until the sidecar has asked, and then astray.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Result, ensure};

use super::check::Check;
use super::check::Expect::Reaches;
use super::stage::{PRIVATE, Stage, at};
use crate::client::{self, Outcome};
use crate::hello::Hello;
use crate::mesh::{EXAMPLE, HTTPBIN};
use crate::wait::wait_for;

/// An exact name and one below a wildcard, with where their owner leads them in the end.
const NAMES: [(&str, IpAddr); 2] =
    [("moving.example", IpAddr::V4(Ipv4Addr::LOCALHOST)), ("moving.wild.example", PRIVATE)];

/// Lets the sidecar find them at a good address, and then leads them astray. The sidecar remembers an
/// answer for 5 s; meanwhile other rows are tried.
///
/// # Errors
/// When they are not reached at the good address.
pub(super) fn begin(stage: &Stage<'_>) -> Result<()> {
    let mark = stage.mark();
    for (name, astray) in NAMES {
        let found = connect(stage, name)?;
        ensure!(matches!(found, Outcome::Bytes(_)), "{name}: {found:?}");
        stage.scene.world.dns.set(name, &[astray]);
    }
    wait_for("the access log", Duration::from_secs(3), || stage.lines_since(&mark).len() == NAMES.len())?;
    Ok(())
}

/// A new connection for each name, after the sidecar has asked again: to the address that was good.
pub(super) fn checks() -> impl Iterator<Item = Check> {
    NAMES.into_iter().map(|(name, astray)| {
        let sends = format!("a ClientHello for `{name}`, after its owner led it from {EXAMPLE} to {astray},");
        Check::one(sends, Reaches(EXAMPLE), move |stage| {
            let asked = || stage.scene.world.dns.asked_for(name) > 0;
            wait_for("the sidecar to ask again", Duration::from_secs(10), asked)?;
            connect(stage, name)
        })
    })
}

fn connect(stage: &Stage<'_>, name: &str) -> Result<Outcome> {
    let hello = Hello::named(name).bytes();
    stage.workload().run(|| client::exchange(at(HTTPBIN, 443), &hello))
}
