//! DNS rebinding: a name that leads somewhere good, and then is led astray.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::Result;

use super::check::Check;
use super::scene::{Scene, at};
use crate::client::Outcome;
use crate::mesh::{self, EXAMPLE};
use crate::origin::ADDRESS_HEADER;
use crate::wait::wait_for;

const NAME: &str = "moving.example";
const REFUSED: &str = "403, `address-forbidden`";

/// A name that moves from a good address to loopback while the sidecar remembers the good one.
pub(super) fn moving() -> Check {
    let asks = format!("`Host: {NAME}`, which led to {EXAMPLE} and whose owner now leads it to 127.0.0.1");
    Check::question(asks, REFUSED, |scene| {
        if answer(scene)? != EXAMPLE.to_string() {
            return Ok(answer(scene)?);
        }
        scene.world.dns.set(NAME, &[IpAddr::V4(Ipv4Addr::LOCALHOST)]);
        // The answer holds for 5 s.
        let mut last = String::new();
        let _ = wait_for("the sidecar to ask again", Duration::from_secs(12), || {
            last = answer(scene).unwrap_or_else(|e| e.to_string());
            last != EXAMPLE.to_string()
        });
        Ok(last)
    })
}

/// Who answers, or why nobody does.
fn answer(scene: &Scene<'_>) -> Result<String> {
    Ok(match mesh::get(scene.pod, at(EXAMPLE, 80), NAME, "/get")? {
        Outcome::Http(answer) if answer.status == 200 => {
            answer.header(ADDRESS_HEADER).unwrap_or_default().to_owned()
        }
        Outcome::Http(answer) => {
            format!("{}, `{}`", answer.status, answer.header("x-egress-denied").unwrap_or_default())
        }
        other => format!("{other:?}"),
    })
}
