//! Where the rows are tried: what names lead to, what policies allow, and what is observed.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Result;
use serde_json::Value;

use super::rebinding;
use crate::mesh::{ELSEWHERE, ELSEWHERE6, EXAMPLE, EXAMPLE6, HTTPBIN, HTTPBIN6, World};
use crate::netns::{Form, Netns};
use crate::origin::{Origins, Seen};
use crate::scene::{Scene, Setting};
use crate::websocket::WebsocketServer;

/// An address of a private network, with servers.
pub const PRIVATE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 20, 30, 40));
/// The range that the pods have.
const PODS: &str = "10.77.0.0/16";

/// What allows something.
const POLICIES: &str = include_str!("policies.yaml");
/// What has a mistake in it.
const MISTAKES: &str = include_str!("mistakes.yaml");
/// A name and its addresses on each line.
const NAMES: &str = include_str!("names.txt");

/// How the control plane was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// As usual.
    Main,
    /// First bytes must come soon.
    Impatient,
}

impl Setup {
    fn flags(self) -> Vec<&'static str> {
        match self {
            Self::Main => vec!["--never-resolve-to", PODS],
            Self::Impatient => vec!["--never-resolve-to", PODS, "--first-bytes-timeout", "300ms"],
        }
    }
}

/// A scene, and what is observed there.
#[derive(Debug)]
pub struct Stage<'s> {
    /// The scene.
    pub scene: &'s Scene<'s>,
    /// Servers inside the pod, which the sidecar must never be led to.
    inside: Origins,
}

/// What had been observed at some moment.
#[derive(Debug)]
pub struct Mark {
    lines: usize,
    outside: usize,
    inside: usize,
}

/// Sets the stage and does something there.
///
/// # Errors
/// When it cannot be set.
pub fn with(setup: Setup, work: impl FnOnce(&Stage<'_>) -> Result<()>) -> Result<()> {
    // Each mistake in a file of its own: one that cannot be read must not hide the others.
    let mistakes: Vec<(String, &str)> = MISTAKES
        .split("\n---\n")
        .enumerate()
        .map(|(n, mistake)| (format!("mistake-{n}.yaml"), mistake))
        .collect();
    let mut manifests = vec![("policies.yaml", POLICIES)];
    manifests.extend(mistakes.iter().map(|(name, text)| (name.as_str(), *text)));
    Setting { manifests: &manifests, flags: &setup.flags(), form: Form::possible() }.play(prepare, |scene| {
        let stage = Stage { scene, inside: Origins::start(&scene.pod.sidecar)? };
        rebinding::begin(&stage)?;
        work(&stage)
    })
}

fn prepare(world: &World) -> Result<()> {
    world.outside.netns.ip(&format!("addr add {PRIVATE}/32 dev lo"))?;
    WebsocketServer::start(&world.outside.netns)?;
    world.global_egress(false)?;
    for (name, addresses) in names() {
        let addresses: Vec<IpAddr> = addresses.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        world.dns.set(name, &addresses);
    }
    Ok(())
}

/// What names lead to.
pub(super) fn names() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = NAMES.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' ')).map(|(name, addresses)| (name, addresses.trim()))
}

impl Stage<'_> {
    /// Where the workload runs.
    #[must_use]
    pub fn workload(&self) -> &Netns {
        self.scene.pod.workload()
    }

    /// Now.
    #[must_use]
    pub fn mark(&self) -> Mark {
        let outside = self.scene.world.origins.seen().len();
        Mark { lines: self.lines().len(), outside, inside: self.inside.seen().len() }
    }

    /// What the access log says since then of connections and requests that were decided.
    #[must_use]
    pub fn lines_since(&self, mark: &Mark) -> Vec<Value> {
        self.lines().split_off(mark.lines)
    }

    /// Where something arrived since then.
    #[must_use]
    pub fn arrived_since(&self, mark: &Mark) -> BTreeSet<IpAddr> {
        let (mut outside, mut inside) = (self.scene.world.origins.seen(), self.inside.seen());
        let seen = outside.drain(mark.outside..).chain(inside.drain(mark.inside..));
        seen.map(|seen| address(&seen)).collect()
    }

    /// What arrived where nothing may ever arrive.
    #[must_use]
    pub fn trespasses(&self) -> Vec<Seen> {
        let mut trespasses = self.scene.world.origins.seen();
        trespasses.retain(|seen| [ELSEWHERE, ELSEWHERE6].contains(&address(seen)));
        trespasses.extend(self.inside.seen());
        trespasses
    }

    /// A connection whose requests are decided has a line as well, without a decision.
    fn lines(&self) -> Vec<Value> {
        let mut lines = self.scene.envoy.access_log();
        lines.retain(|line| line["decision"].is_string() || line["kind"] == "request");
        lines
    }
}

fn address(seen: &Seen) -> IpAddr {
    match seen {
        Seen::Connection(at) | Seen::Request(at, _, _) => at.ip(),
    }
}

/// The names and addresses of one family that forged destinations are tried with.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// A name that the policies list, and its address.
    pub exact: (&'static str, IpAddr),
    /// A name below a wildcard, and its address.
    pub below_wildcard: (&'static str, IpAddr),
    /// Somebody else, whom no name leads to.
    pub elsewhere: IpAddr,
}

/// Both families.
pub const FAMILIES: [Family; 2] = [
    Family {
        exact: ("httpbin.org", HTTPBIN),
        below_wildcard: ("www.example.com", EXAMPLE),
        elsewhere: ELSEWHERE,
    },
    Family {
        exact: ("six.example", HTTPBIN6),
        below_wildcard: ("six.example.com", EXAMPLE6),
        elsewhere: ELSEWHERE6,
    },
];

/// An address with a port.
#[must_use]
pub fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}
