//! A test network: origins, a name server, and their addresses.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};

use crate::control_plane::ControlPlane;
use crate::dns::Dns;
use crate::manifests;
use crate::netns::{OutsideNetwork, Pod, PodForm};
use crate::origin::Origins;

/// `httpbin.org`.
pub const HTTPBIN: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10));
/// `www.example.com` and `openservicemesh.io`.
pub const EXAMPLE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 20));
/// An address that no name leads to.
pub const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 66));
/// The IPv6 address of the server at [`HTTPBIN`]. No name resolves to it unless a test sets one; the same
/// holds for the other two.
pub const HTTPBIN6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x10));
/// The IPv6 address of the server at [`EXAMPLE`].
pub const EXAMPLE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x20));
/// The IPv6 address of the server at [`ELSEWHERE`].
pub const ELSEWHERE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x66, 0, 0, 0, 0, 0x66));
/// The name server.
pub const NAME_SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 53));
/// The control plane's address.
pub const CONTROL_PLANE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 2));

/// The second control plane's address.
pub const SECOND_CONTROL_PLANE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 4));

/// OutsideNetwork hosts, a name server and a folder of manifests, without control plane and sidecars.
#[derive(Debug)]
pub struct TestNetwork {
    /// The outside hosts' namespace, to which pods connect.
    pub outside: OutsideNetwork,
    /// The servers.
    pub origins: Origins,
    /// The name server.
    pub dns: Dns,
    /// The folder of manifests.
    pub manifests: tempfile::TempDir,
}

impl TestNetwork {
    /// Creates a network.
    ///
    /// # Errors
    /// Fails if this process may not make one.
    pub fn new() -> Result<Self> {
        let origins = [HTTPBIN, EXAMPLE, ELSEWHERE, HTTPBIN6, EXAMPLE6, ELSEWHERE6];
        let outside = OutsideNetwork::new(
            &[&origins[..], &[NAME_SERVER, CONTROL_PLANE, SECOND_CONTROL_PLANE]].concat(),
        )?;
        let origins = Origins::start(&outside.netns)?;
        let dns = Dns::start(&outside.netns, SocketAddr::new(NAME_SERVER, 53))?;
        dns.set("httpbin.org", &[HTTPBIN]);
        dns.set("www.example.com", &[EXAMPLE]);
        dns.set("openservicemesh.io", &[EXAMPLE]);
        Ok(Self { outside, origins, dns, manifests: tempfile::tempdir()? })
    }

    /// Creates a pod in the form that this process supports.
    ///
    /// # Errors
    /// Fails if its namespaces cannot be made.
    pub fn pod(&self) -> Result<Pod> {
        self.outside.pod(PodForm::supported())
    }

    /// Starts the control plane with these additional flags.
    ///
    /// # Errors
    /// Fails if it does not get ready.
    pub fn control_plane(&self, flags: &[&str]) -> Result<ControlPlane<'_>> {
        let name_server = SocketAddr::new(NAME_SERVER, 53).to_string();
        let mut all = vec!["--dns-resolver", &name_server];
        all.extend_from_slice(flags);
        ControlPlane::start(&self.outside.netns, CONTROL_PLANE, self.manifests.path(), &all)
    }

    /// Writes a manifest atomically, by renaming, as editors do.
    ///
    /// # Errors
    /// Fails if it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.manifests.path().join(name);
        let draft = self.manifests.path().join(format!(".{name}.draft"));
        fs::write(&draft, text)?;
        fs::rename(&draft, &path).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Removes a manifest.
    ///
    /// # Errors
    /// Fails if there is none.
    pub fn remove(&self, name: &str) -> Result<()> {
        Ok(fs::remove_file(self.manifests.path().join(name))?)
    }

    /// Switches global egress in the MeshConfig.
    ///
    /// # Errors
    /// Fails if it cannot be written.
    pub fn global_egress(&self, on: bool) -> Result<()> {
        let text = manifests::sample("meshconfig.yaml")?
            .replace("enableEgress: false", &format!("enableEgress: {on}"));
        self.write("meshconfig.yaml", &text)
    }
}
