//! A world with origins, a name server, and the addresses that the tests speak of.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::client::{self, Outcome};
use crate::dns::Dns;
use crate::envoy::{self, Envoy};
use crate::netns::{Form, Outside, Pod};
use crate::origin::Origins;
use crate::shim::{self, Shim};

/// `httpbin.org`.
pub const HTTPBIN: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10));
/// `www.example.com` and `openservicemesh.io`.
pub const EXAMPLE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 20));
/// An address that no name leads to.
pub const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 66));
/// Another address of the server of [`HTTPBIN`]. No name leads there unless a test says so, as to the
/// other two.
pub const HTTPBIN6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x10));
/// Another one of [`EXAMPLE`].
pub const EXAMPLE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x20));
/// Another one of [`ELSEWHERE`].
pub const ELSEWHERE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x66, 0, 0, 0, 0, 0x66));
/// The name server.
pub const NAME_SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 53));
/// The control plane.
pub const CONTROL_PLANE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 2));

/// Another one.
pub const SECOND_CONTROL_PLANE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 4));

/// A policy that `curl/curl` is held to, and that for `curl/watched` is only audited.
pub const WATCHED: &str = "apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: web, namespace: curl}
spec:
  sources:
  - {kind: ServiceAccount, name: curl, namespace: curl}
  - {kind: ServiceAccount, name: watched, namespace: curl}
  hosts: [httpbin.org]
  ports: [{number: 80, protocol: http}, {number: 443, protocol: https}]
---
apiVersion: v1
kind: Namespace
metadata: {name: curl, annotations: {openservicemesh.io/egress-mode-delegation: service-accounts}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: watched, namespace: curl, annotations: {openservicemesh.io/egress-mode: audit}}
";

/// A world.
#[derive(Debug)]
pub struct World {
    /// Its namespace.
    pub outside: Outside,
    /// Its servers.
    pub origins: Origins,
    /// Its name server.
    pub dns: Dns,
    /// The folder that control planes read.
    pub manifests: tempfile::TempDir,
}

impl World {
    /// A world with everything in it but control plane and sidecars.
    ///
    /// # Errors
    /// When this process may not make one.
    pub fn new() -> Result<Self> {
        let origins = [HTTPBIN, EXAMPLE, ELSEWHERE, HTTPBIN6, EXAMPLE6, ELSEWHERE6];
        let outside =
            Outside::new(&[&origins[..], &[NAME_SERVER, CONTROL_PLANE, SECOND_CONTROL_PLANE]].concat())?;
        let origins = Origins::start(&outside.netns)?;
        let dns = Dns::start(&outside.netns, SocketAddr::new(NAME_SERVER, 53))?;
        dns.set("httpbin.org", &[HTTPBIN]);
        dns.set("www.example.com", &[EXAMPLE]);
        dns.set("openservicemesh.io", &[EXAMPLE]);
        Ok(Self { outside, origins, dns, manifests: tempfile::tempdir()? })
    }

    /// A pod in the form that this process can have.
    ///
    /// # Errors
    /// When its namespaces cannot be made.
    pub fn pod(&self) -> Result<Pod> {
        self.outside.pod(Form::possible())
    }

    /// The control plane, with these flags besides the usual.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn shim(&self, flags: &[&str]) -> Result<Shim<'_>> {
        let name_server = SocketAddr::new(NAME_SERVER, 53).to_string();
        let mut all = vec!["--dns-resolver", &name_server];
        all.extend_from_slice(flags);
        Shim::start(&self.outside.netns, CONTROL_PLANE, self.manifests.path(), &all)
    }

    /// Writes a manifest, as an editor does: whole, by renaming.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.manifests.path().join(name);
        let draft = self.manifests.path().join(format!(".{name}.draft"));
        fs::write(&draft, text)?;
        fs::rename(&draft, &path).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Removes a manifest.
    ///
    /// # Errors
    /// When there is none.
    pub fn remove(&self, name: &str) -> Result<()> {
        Ok(fs::remove_file(self.manifests.path().join(name))?)
    }

    /// Switches global egress, in the MeshConfig.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn global_egress(&self, on: bool) -> Result<()> {
        let text = sample("meshconfig.yaml")?.replace("enableEgress: false", &format!("enableEgress: {on}"));
        self.write("meshconfig.yaml", &text)
    }
}

/// A manifest of `envoy/samples`, or of `envoy/open-samples`, whose policies allow every host. They are part of the program: an ordinary user who runs it need not
/// be able to read the repository.
///
/// # Errors
/// When there is none of this name.
pub fn sample(name: &str) -> Result<String> {
    let text = match name {
        "meshconfig.yaml" => include_str!("../../envoy/samples/meshconfig.yaml"),
        "httpbin-80.yaml" => include_str!("../../envoy/samples/httpbin-80.yaml"),
        "httpbin-443.yaml" => include_str!("../../envoy/samples/httpbin-443.yaml"),
        "any-host-443.yaml" => include_str!("../../envoy/open-samples/any-host-443.yaml"),
        "route-group.yaml" => include_str!("../../envoy/samples/route-group.yaml"),
        _ => bail!("there is no sample `{name}`"),
    };
    Ok(text.to_owned())
}

/// The repository's root.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// The bootstrap that `osm-egress bootstrap` prints. With `EGRESS_XDS=delta` it is always for delta:
/// `cargo xtask test` runs everything with both.
///
/// # Errors
/// When it prints none.
pub fn bootstrap(identity: &str, delta: bool) -> Result<String> {
    bootstrap_with(identity, delta, &[])
}

/// The same with more flags.
///
/// # Errors
/// When it prints none.
pub fn bootstrap_with(identity: &str, delta: bool, flags: &[&str]) -> Result<String> {
    let delta = delta || std::env::var_os("EGRESS_XDS").is_some_and(|protocol| protocol == "delta");
    let xds = SocketAddr::new(CONTROL_PLANE, 15128).to_string();
    let output = Command::new(shim::binary()?)
        .args(["bootstrap", "--identity", identity, "--envoy-version", &envoy::version()?])
        .args(if flags.contains(&"--xds") { vec![] } else { vec!["--xds", &xds] })
        .args(delta.then_some("--delta"))
        .args(flags)
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// A sidecar of `curl/curl` that asks the control plane.
///
/// # Errors
/// When it does not get ready.
pub fn sidecar(pod: &Pod, delta: bool) -> Result<Envoy<'_>> {
    Envoy::start(pod, &bootstrap("curl/curl", delta)?, 1)
}

/// A policy by which `curl/NAME` may reach a port of [`HTTPBIN`] by TCP.
#[must_use]
pub fn echo_policy(name: &str, port: u16) -> String {
    format!(
        "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\n\
         metadata: {{name: {name}, namespace: curl}}\n\
         spec:\n  sources: [{{kind: ServiceAccount, name: {name}, namespace: curl}}]\n  \
         ipAddresses: [{HTTPBIN}/32]\n  ports: [{{number: {port}, protocol: tcp}}]\n"
    )
}

/// Whether a workload gets an echo from that port.
#[must_use]
pub fn echoes(pod: &Pod, port: u16) -> bool {
    let exchange = || client::exchange(SocketAddr::new(HTTPBIN, port), b"ping");
    pod.workload().run(exchange).is_ok_and(|outcome| matches!(outcome, Outcome::Bytes(_)))
}

/// What a workload that asks for `http://AUTHORITY/PATH` at an address gets.
///
/// # Errors
/// When the workload's namespace is gone.
pub fn get(pod: &Pod, to: SocketAddr, authority: &str, path: &str) -> Result<Outcome> {
    let request = client::request("GET", path, &[("host", authority), ("connection", "close")]);
    pod.workload().run(|| client::http(to, &request))
}

/// The same over TLS.
///
/// # Errors
/// When the workload's namespace is gone.
pub fn get_tls(pod: &Pod, to: SocketAddr, name: Option<&str>) -> Result<Outcome> {
    let host = name.unwrap_or("none");
    let request = client::request("GET", "/get", &[("host", host), ("connection", "close")]);
    pod.workload().run(|| client::https(to, name, &request))
}
