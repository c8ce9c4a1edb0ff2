//! The worlds in which the rows are tried: what names lead to, what policies allow, and what is observed.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::rebinding;
use crate::envoy::Envoy;
use crate::mesh::{self, ELSEWHERE, EXAMPLE, HTTPBIN, World};
use crate::netns::Pod;
use crate::origin::{Origins, Seen};
use crate::shim::Shim;
use crate::wait::wait_for;

/// An address of a private network, with servers.
pub const PRIVATE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 20, 30, 40));
/// The range that the pods have: `--never-resolve-to` names it.
const PODS: &str = "10.77.0.0/16";

/// What allows something.
const POLICIES: &str = include_str!("policies.yaml");
/// What has a mistake in it.
const MISTAKES: &str = include_str!("mistakes.yaml");

/// What names lead to. Those that must never lead there are in `*.inside.example` (exact names in a
/// policy) and `*.wild.example` (below a wildcard).
const NAMES: &[(&str, &[&str])] = &[
    ("a.b.example.com", &["203.0.113.20"]),
    ("_service.example.com", &["203.0.113.20"]),
    ("example.com", &["198.51.100.66"]),
    ("evilexample.com", &["198.51.100.66"]),
    ("evil.example", &["198.51.100.66"]),
    ("xn--bcher-kva.example", &["203.0.113.10"]),
    ("outer.example", &["203.0.113.20"]),
    ("moving.example", &["203.0.113.20"]),
    ("moving.wild.example", &["203.0.113.20"]),
    ("rotating.example", &["203.0.113.10"]),
    ("private.example", &["10.20.30.40"]),
    ("loopback.inside.example", &["127.0.0.1"]),
    ("metadata.inside.example", &["169.254.169.254"]),
    ("pod.inside.example", &["10.77.0.2"]),
    ("unspecified.inside.example", &["0.0.0.0"]),
    ("multicast.inside.example", &["224.0.0.1"]),
    ("broadcast.inside.example", &["255.255.255.255"]),
    ("loopback6.inside.example", &["::1"]),
    ("link6.inside.example", &["fe80::1"]),
    ("mapped.inside.example", &["::ffff:127.0.0.1"]),
    ("mixed.inside.example", &["127.0.0.1", "203.0.113.20"]),
    ("loopback.wild.example", &["127.0.0.1"]),
    ("metadata.wild.example", &["169.254.169.254"]),
    ("ten.wild.example", &["10.20.30.40"]),
    ("twelve.wild.example", &["172.16.0.1"]),
    ("sixteen.wild.example", &["192.168.0.1"]),
    ("carrier.wild.example", &["100.64.0.1"]),
    ("local6.wild.example", &["fd00::1"]),
    ("mapped.wild.example", &["::ffff:10.20.30.40"]),
    ("nat64.wild.example", &["64:ff9b::a14:1e28"]),
    ("sixtofour.wild.example", &["2002:a14:1e28::1"]),
    ("teredo.wild.example", &["2001::a14:1e28"]),
    ("mixed.wild.example", &["10.20.30.40", "203.0.113.20"]),
];

/// In which world something is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The one with all policies.
    Main,
    /// The same, where first bytes must come soon.
    Impatient,
}

impl Stage {
    fn flags(self) -> Vec<&'static str> {
        match self {
            Self::Main => vec!["--never-resolve-to", PODS],
            Self::Impatient => vec!["--never-resolve-to", PODS, "--first-bytes-timeout", "300ms"],
        }
    }
}

/// A world with its sidecar.
#[derive(Debug)]
pub struct Scene<'w> {
    /// The world.
    pub world: &'w World,
    /// The workload.
    pub pod: &'w Pod,
    /// The control plane.
    pub shim: Shim<'w>,
    /// The sidecar.
    pub envoy: Envoy<'w>,
    /// Servers inside the pod, which the sidecar must never be led to.
    pub inside: Origins,
}

/// What had been observed at some moment.
#[derive(Debug)]
pub struct Mark {
    lines: usize,
    outside: usize,
    inside: usize,
}

/// Makes a world and runs something in it.
///
/// # Errors
/// When the world cannot be made.
pub fn with<T>(stage: Stage, work: impl FnOnce(&Scene<'_>) -> Result<T>) -> Result<T> {
    let world = World::new()?;
    world.outside.netns.ip(&format!("addr add {PRIVATE}/32 dev lo"))?;
    for (name, addresses) in NAMES {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        world.dns.set(name, &addresses);
    }
    world.global_egress(false)?;
    world.write("policies.yaml", POLICIES)?;
    // Each in a file of its own: one that cannot be read must not hide the others.
    for (n, mistake) in MISTAKES.split("\n---\n").enumerate() {
        world.write(&format!("mistake-{n}.yaml"), mistake)?;
    }
    let pod = world.pod()?;
    let inside = Origins::start(&pod.sidecar)?;
    let help = std::process::Command::new(crate::shim::binary()?).args(["serve", "--help"]).output()?;
    let flags = if String::from_utf8_lossy(&help.stdout).contains("--never-resolve-to") {
        stage.flags()
    } else {
        vec![]
    }; // TEMPORARY
    let shim = world.shim(&flags)?;
    let envoy = mesh::sidecar(&pod, false)?;
    let scene = Scene { world: &world, pod: &pod, shim, envoy, inside };
    wait_for("Envoy to have the policy", Duration::from_secs(10), || {
        scene.shim.status().is_ok_and(|status| {
            let document = &status["identities"]["curl/curl"]["document"];
            document.is_string() && status["proxies"][0]["documentAcknowledged"] == *document
        })
    })
    .with_context(|| format!("{:#?}", scene.shim.status()))?;
    rebinding::begin(&scene)?;
    work(&scene)
}

impl Scene<'_> {
    /// Now.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark {
            lines: self.lines().len(),
            outside: self.world.origins.seen().len(),
            inside: self.inside.seen().len(),
        }
    }

    /// What the access log says since then of connections and requests that were decided.
    #[must_use]
    pub fn lines_since(&self, mark: &Mark) -> Vec<Value> {
        self.lines().split_off(mark.lines)
    }

    /// Where something arrived since then.
    #[must_use]
    pub fn arrived_since(&self, mark: &Mark) -> BTreeSet<IpAddr> {
        let (mut outside, mut inside) = (self.world.origins.seen(), self.inside.seen());
        let seen = outside.drain(mark.outside..).chain(inside.drain(mark.inside..));
        seen.map(|seen| match seen {
            Seen::Connection(at) | Seen::Request(at, _, _) => at.ip(),
        })
        .collect()
    }

    /// What arrived where nothing may ever arrive.
    #[must_use]
    pub fn trespasses(&self) -> Vec<Seen> {
        let mut trespasses = self.world.origins.seen();
        trespasses.retain(|seen| match seen {
            Seen::Connection(at) | Seen::Request(at, _, _) => at.ip() == ELSEWHERE,
        });
        trespasses.extend(self.inside.seen());
        trespasses
    }

    /// The connection of a request has a line as well, without a decision.
    fn lines(&self) -> Vec<Value> {
        let mut lines = self.envoy.access_log();
        lines.retain(|line| line["decision"].is_string() || line["kind"] == "request");
        lines
    }
}

/// The addresses of one family that the rows speak of. IPv6 joins here when the harness has it.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// `httpbin.org`, an exact name in the policies.
    pub exact: IpAddr,
    /// `www.example.com`, below a wildcard in the policies.
    pub below_wildcard: IpAddr,
    /// Somebody else, whom no name leads to.
    pub elsewhere: IpAddr,
}

/// The families that are tried.
pub const FAMILIES: &[Family] = &[Family { exact: HTTPBIN, below_wildcard: EXAMPLE, elsewhere: ELSEWHERE }];

/// An address with a port.
#[must_use]
pub fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}
