//! The mesh of the bypass checks: records of names, policies, and the observation of what arrives.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Result;
use serde_json::Value;

use super::rebinding;
use crate::mesh::{MeshOptions, TestMesh};
use crate::netns::{Netns, PodForm};
use crate::network::{ELSEWHERE, ELSEWHERE6, EXAMPLE, EXAMPLE6, HTTPBIN, HTTPBIN6, TestNetwork};
use crate::origin::{OriginEvent, Origins};
use crate::websocket::WebsocketServer;

/// A server's address in a private network.
pub const PRIVATE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 20, 30, 40));
/// The address range of the pods.
const PODS: &str = "10.77.0.0/16";

/// Policies that allow something.
const POLICIES: &str = include_str!("policies.yaml");
/// Policies with one mistake each.
const MISTAKES: &str = include_str!("mistakes.yaml");
/// A name and its addresses on each line.
const NAMES: &str = include_str!("names.txt");

/// The flags of the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlPlaneFlags {
    /// The usual flags.
    Default,
    /// A short `--first-bytes-timeout`.
    ShortTimeout,
}

impl ControlPlaneFlags {
    fn flags(self) -> Vec<&'static str> {
        match self {
            Self::Default => vec!["--never-resolve-to", PODS],
            Self::ShortTimeout => vec!["--never-resolve-to", PODS, "--first-bytes-timeout", "300ms"],
        }
    }
}

/// A test mesh whose access log and origins are observed.
#[derive(Debug)]
pub struct ObservedMesh<'s> {
    /// The mesh.
    pub mesh: &'s TestMesh<'s>,
    /// Servers inside the pod, which no check may reach.
    inside: Origins,
}

/// The number of observations so far.
#[derive(Debug)]
pub struct Checkpoint {
    lines: usize,
    outside: usize,
    inside: usize,
}

/// Runs a check in a new mesh.
///
/// # Errors
/// Fails if it cannot be set.
pub fn with_observed_mesh(
    setup: ControlPlaneFlags,
    work: impl FnOnce(&ObservedMesh<'_>) -> Result<()>,
) -> Result<()> {
    // Each mistake has a file of its own, because an unreadable one would hide the others.
    let mistakes: Vec<(String, &str)> = MISTAKES
        .split("\n---\n")
        .enumerate()
        .map(|(n, mistake)| (format!("mistake-{n}.yaml"), mistake))
        .collect();
    let mut manifests = vec![("policies.yaml", POLICIES)];
    manifests.extend(mistakes.iter().map(|(name, text)| (name.as_str(), *text)));
    MeshOptions { manifests: &manifests, flags: &setup.flags(), form: PodForm::supported() }.run(
        prepare,
        |mesh| {
            let observed = ObservedMesh { mesh, inside: Origins::start(&mesh.pod.sidecar)? };
            rebinding::begin(&observed)?;
            work(&observed)
        },
    )
}

fn prepare(network: &TestNetwork) -> Result<()> {
    network.outside.netns.ip(&format!("addr add {PRIVATE}/32 dev lo"))?;
    WebsocketServer::start(&network.outside.netns)?;
    network.global_egress(false)?;
    for (name, addresses) in names() {
        let addresses: Vec<IpAddr> = addresses.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        network.dns.set(name, &addresses);
    }
    Ok(())
}

/// The records of the name server.
pub(super) fn names() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = NAMES.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' ')).map(|(name, addresses)| (name, addresses.trim()))
}

impl ObservedMesh<'_> {
    /// The namespace of the workload.
    #[must_use]
    pub fn workload(&self) -> &Netns {
        self.mesh.pod.workload()
    }

    /// Marks the current point of the observations.
    #[must_use]
    pub fn checkpoint(&self) -> Checkpoint {
        let outside = self.mesh.network.origins.events().len();
        Checkpoint { lines: self.lines().len(), outside, inside: self.inside.events().len() }
    }

    /// The lines of the access log after a checkpoint, for connections and requests that were decided.
    #[must_use]
    pub fn lines_since(&self, checkpoint: &Checkpoint) -> Vec<Value> {
        self.lines().split_off(checkpoint.lines)
    }

    /// The addresses at which something arrived after a checkpoint.
    #[must_use]
    pub fn arrived_since(&self, checkpoint: &Checkpoint) -> BTreeSet<IpAddr> {
        let (mut outside, mut inside) = (self.mesh.network.origins.events(), self.inside.events());
        let seen = outside.drain(checkpoint.outside..).chain(inside.drain(checkpoint.inside..));
        seen.map(|seen| address(&seen)).collect()
    }

    /// The events at addresses that no check may reach.
    #[must_use]
    pub fn trespasses(&self) -> Vec<OriginEvent> {
        let mut trespasses = self.mesh.network.origins.events();
        trespasses.retain(|seen| [ELSEWHERE, ELSEWHERE6].contains(&address(seen)));
        trespasses.extend(self.inside.events());
        trespasses
    }

    /// The lines of the access log. A connection whose requests are decided has a line of its own, without a
    /// decision, which is left out.
    fn lines(&self) -> Vec<Value> {
        let mut lines = self.mesh.envoy.access_log();
        lines.retain(|line| line["decision"].is_string() || line["kind"] == "request");
        lines
    }
}

fn address(seen: &OriginEvent) -> IpAddr {
    match seen {
        OriginEvent::Connection(at) | OriginEvent::Request(at, _, _) => at.ip(),
    }
}

/// The names and addresses of one family, for forged destinations.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// A name that the policies list, and its address.
    pub exact: (&'static str, IpAddr),
    /// A name that a wildcard covers, and its address.
    pub below_wildcard: (&'static str, IpAddr),
    /// An address that no name resolves to.
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
