//! Network namespaces, and pods in them.
//!
//! A sleeping process that dies with this one holds each namespace. As root a pod is one namespace, as in
//! Kubernetes: Envoy runs as uid 1500, and Open Service Mesh's iptables rules exempt that uid. An ordinary
//! user has only one uid, so the workload has a namespace of its own, routed through the sidecar's, which
//! redirects what comes in.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};

use crate::wait::wait_for;

/// The uid of Envoy, as in Open Service Mesh.
pub const ENVOY_UID: u32 = 1500;
const SIDECAR_PREFIX: [&str; 8] =
    ["setpriv", "--reuid", "1500", "--regid", "1500", "--clear-groups", "--pdeathsig", "KILL"];
/// The environment variable of a process that was restarted in a user namespace.
const REEXEC_VARIABLE: &str = "EGRESS_INSIDE_USER_NAMESPACE";

/// Ensures that this process can create network namespaces: root can, and for other users the program
/// restarts itself in a user namespace. Call it first in `main`.
///
/// # Errors
/// Fails if neither works, with what to do.
pub fn ensure_capable() -> Result<()> {
    for tool in ["ip", "iptables", "ip6tables", "nsenter", "unshare", "setpriv", "mount"] {
        if find_tool(tool).is_none() {
            bail!("`{tool}` is missing: install the packages iproute2, iptables and util-linux");
        }
    }
    if std::env::var_os(REEXEC_VARIABLE).is_some() {
        // iptables locks a file in /run, which belongs to the real root.
        let status = Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/run"]).status()?;
        ensure!(status.success(), "cannot mount a file system in the user namespace");
        return Ok(());
    }
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let probe = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount", "true"])
        .stderr(Stdio::piped())
        .output()?;
    if !probe.status.success() {
        bail!(
            "this needs network namespaces: run it as root, or allow user namespaces \
             (sysctl kernel.unprivileged_userns_clone=1, and on Ubuntu \
             kernel.apparmor_restrict_unprivileged_userns=0): {}",
            String::from_utf8_lossy(&probe.stderr).trim()
        );
    }
    let error = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount", "--"])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(REEXEC_VARIABLE, "1")
        .exec();
    Err(error).context("cannot start again in a user namespace")
}

/// Returns true if this process has the uids that a pod of one namespace needs.
#[must_use]
pub fn can_switch_uid() -> bool {
    nix::unistd::geteuid().is_root() && std::env::var_os(REEXEC_VARIABLE).is_none()
}

/// Finds a tool, also in folders outside an ordinary user's PATH.
#[must_use]
pub fn find_tool(tool: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(["/usr/sbin", "/sbin"]);
    folders.map(|folder| PathBuf::from(folder).join(tool)).find(|path| path.is_file())
}

/// A network namespace. It is removed when this is dropped.
#[derive(Debug)]
pub struct Netns {
    holder: Child,
}

impl Netns {
    /// Creates a namespace with loopback up.
    ///
    /// # Errors
    /// Fails if this process may not make one.
    pub fn new() -> Result<Self> {
        let holder = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot run unshare")?;
        let netns = Self { holder };
        let ours = std::fs::read_link("/proc/self/ns/net")?;
        wait_for("a network namespace", Duration::from_secs(5), || {
            std::fs::read_link(netns.path()).is_ok_and(|theirs| theirs != ours)
        })?;
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// The path of the namespace.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.holder.id()).into()
    }

    /// The pid of the process that holds the namespace.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// A command that runs in the namespace and dies with this process.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path().display()))
            .args(["--", "setpriv", "--pdeathsig", "KILL", program])
            .stdin(Stdio::null());
        command
    }

    /// Runs `ip` with these arguments.
    ///
    /// # Errors
    /// Fails if it fails.
    pub fn ip(&self, words: &str) -> Result<()> {
        self.tool("ip", words)
    }

    /// Runs a tool with these arguments.
    ///
    /// # Errors
    /// Fails if it fails.
    pub fn tool(&self, tool: &str, words: &str) -> Result<()> {
        let program = find_tool(tool).with_context(|| format!("`{tool}` is missing"))?;
        let output = self.command(&program.to_string_lossy()).args(words.split_whitespace()).output()?;
        ensure!(
            output.status.success(),
            "{tool} {words}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    /// Runs `work` on a thread that has entered the namespace, so that the sockets it creates belong there.
    ///
    /// # Errors
    /// Fails if the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let namespace = File::open(self.path())?;
        std::thread::scope(|scope| {
            scope
                .spawn(move || -> Result<T> {
                    setns(namespace, CloneFlags::CLONE_NEWNET)?;
                    Ok(work())
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a thread that has entered the namespace and continues to run.
    ///
    /// # Errors
    /// Fails if the namespace cannot be entered.
    pub fn spawn(&self, work: impl FnOnce() + Send + 'static) -> Result<std::thread::JoinHandle<()>> {
        let namespace = File::open(self.path())?;
        let (sender, entered) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let result = setns(namespace, CloneFlags::CLONE_NEWNET);
            let may = result.is_ok();
            let _ = sender.send(result);
            if may {
                work();
            }
        });
        entered.recv()??;
        Ok(thread)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Connects two namespaces: the first gets `10.NET.N.1/30` and `fd00:NET:N::1/64`, the second `.2`
/// and `::2`.
fn connect(a: &Netns, name_a: &str, b: &Netns, name_b: &str, net: u8, number: u8) -> Result<()> {
    a.ip(&format!("link add {name_a} type veth peer name {name_b} netns {}", b.pid()))?;
    for (netns, name, host) in [(a, name_a, 1), (b, name_b, 2)] {
        netns.ip(&format!("addr add 10.{net}.{number}.{host}/30 dev {name}"))?;
        netns.ip(&format!("-6 addr add fd00:{net}:{number}::{host}/64 dev {name} nodad"))?;
        netns.ip(&format!("link set {name} up"))?;
    }
    Ok(())
}

/// The network outside the pods: it owns the addresses of all origins, name servers and control planes.
#[derive(Debug)]
pub struct OutsideNetwork {
    /// Its namespace.
    pub netns: Netns,
    pods: std::cell::Cell<u8>,
}

impl OutsideNetwork {
    /// Creates the network with these addresses.
    ///
    /// # Errors
    /// Fails if this process may not make one.
    pub fn new(addresses: &[IpAddr]) -> Result<Self> {
        let netns = Netns::new()?;
        // A machine with Docker forwards packets, and namespaces inherit that: an unused address would then
        // be
        // answered instead of ignored.
        netns.tool("sysctl", "-qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0")?;
        for address in addresses {
            match address {
                IpAddr::V4(v4) => netns.ip(&format!("addr add {v4}/32 dev lo"))?,
                IpAddr::V6(v6) => netns.ip(&format!("-6 addr add {v6}/128 dev lo nodad"))?,
            }
        }
        Ok(Self { netns, pods: std::cell::Cell::new(0) })
    }

    /// Creates a machine with its own address, whose traffic is not redirected.
    ///
    /// # Errors
    /// Fails if its namespace cannot be made.
    pub fn neighbour(&self) -> Result<Netns> {
        self.number_and_neighbour().map(|(_, netns)| netns)
    }

    fn number_and_neighbour(&self) -> Result<(u8, Netns)> {
        let number = self.pods.get();
        self.pods.set(number + 1);
        let netns = Netns::new()?;
        connect(&self.netns, &format!("pod{number}"), &netns, "eth0", 77, number)?;
        netns.ip(&format!("route add default via 10.77.{number}.1"))?;
        netns.ip(&format!("-6 route add default via fd00:77:{number}::1"))?;
        Ok((number, netns))
    }

    /// Creates a pod of one namespace whose connections nothing redirects yet: a CNI plugin may.
    ///
    /// # Errors
    /// Fails if its namespace cannot be made.
    pub fn pod_without_rules(&self) -> Result<Pod> {
        let (number, sidecar) = self.number_and_neighbour()?;
        Ok(Pod {
            sidecar,
            workload: None,
            etc: tempfile::tempdir()?,
            address: Ipv4Addr::new(10, 77, number, 2),
        })
    }

    /// Creates a pod whose outbound connections are redirected to port 15001 of its sidecar.
    ///
    /// # Errors
    /// Fails if the namespaces or the rules cannot be made.
    pub fn pod(&self, form: PodForm) -> Result<Pod> {
        let (number, sidecar) = self.number_and_neighbour()?;
        let workload = match form {
            PodForm::Shared => {
                shared_rules(&sidecar)?;
                None
            }
            PodForm::Routed => {
                let workload = Netns::new()?;
                connect(&sidecar, "workload", &workload, "eth0", 78, number)?;
                workload.ip(&format!("route add default via 10.78.{number}.1"))?;
                workload.ip(&format!("-6 route add default via fd00:78:{number}::1"))?;
                self.netns.ip(&format!("route add 10.78.{number}.0/30 via 10.77.{number}.2"))?;
                self.netns.ip(&format!("-6 route add fd00:78:{number}::/64 via fd00:77:{number}::2"))?;
                sidecar.tool("sysctl", "-qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
                routed_rules(&sidecar)?;
                Some(workload)
            }
        };
        Ok(Pod { sidecar, workload, etc: tempfile::tempdir()?, address: Ipv4Addr::new(10, 77, number, 2) })
    }
}

/// Installs the rules of a pod's init container.
fn shared_rules(netns: &Netns) -> Result<()> {
    let output =
        netns.command(&crate::control_plane::binary()?.to_string_lossy()).arg("iptables").output()?;
    ensure!(
        output.status.success(),
        "osm-egress iptables: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Redirects what arrives from the workload to the sidecar.
fn routed_rules(netns: &Netns) -> Result<()> {
    for tool in ["iptables", "ip6tables"] {
        for rule in [
            "-N OSM_PROXY_OUT_REDIRECT",
            "-A OSM_PROXY_OUT_REDIRECT -p tcp -j REDIRECT --to-port 15001",
            "-A PREROUTING -i workload -p tcp -j OSM_PROXY_OUT_REDIRECT",
        ] {
            netns.tool(tool, &format!("-t nat {rule}"))?;
        }
    }
    Ok(())
}

/// The form of a pod: how workload and sidecar share the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodForm {
    /// One namespace, in which uids separate workload and sidecar. It needs root.
    Shared,
    /// Two namespaces: the workload's is routed through the sidecar's.
    Routed,
}

impl PodForm {
    /// The form that this process supports.
    #[must_use]
    pub fn supported() -> Self {
        if can_switch_uid() { Self::Shared } else { Self::Routed }
    }
}

/// The files of a process's resolver.
#[derive(Debug, Clone)]
pub struct Resolver {
    /// `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// `/etc/hosts`.
    pub hosts: String,
}

impl Resolver {
    /// Files with one name server and nothing else.
    #[must_use]
    pub fn with_name_server(name_server: IpAddr) -> Self {
        Self {
            resolv_conf: format!("nameserver {name_server}\noptions timeout:1 attempts:2\n"),
            hosts: "127.0.0.1 localhost\n".to_owned(),
        }
    }

    /// The files that the kubelet gives a pod of a namespace.
    #[must_use]
    pub fn in_cluster(name_server: IpAddr, namespace: &str) -> Self {
        let search = format!("{namespace}.svc.cluster.local svc.cluster.local cluster.local");
        let resolv_conf = format!("nameserver {name_server}\nsearch {search}\noptions ndots:5\n");
        Self { resolv_conf, ..Self::with_name_server(name_server) }
    }
}

/// A workload and its sidecar's namespace.
#[derive(Debug)]
pub struct Pod {
    /// The namespace of Envoy.
    pub sidecar: Netns,
    workload: Option<Netns>,
    etc: tempfile::TempDir,
    /// The sidecar's address.
    pub address: Ipv4Addr,
}

impl Pod {
    /// The namespace of the workload.
    #[must_use]
    pub fn workload(&self) -> &Netns {
        self.workload.as_ref().unwrap_or(&self.sidecar)
    }

    /// A command that runs as the workload with this name server.
    ///
    /// # Errors
    /// Fails if its files cannot be written.
    pub fn command(&self, program: &str, name_server: IpAddr) -> Result<Command> {
        self.command_with_name_server(self.workload(), program, name_server)
    }

    /// A command in a namespace with its own resolver configuration.
    fn command_with_name_server(&self, netns: &Netns, program: &str, name_server: IpAddr) -> Result<Command> {
        self.command_with_resolver(netns, program, &Resolver::with_name_server(name_server))
    }

    /// A command in a namespace with these resolver files.
    fn command_with_resolver(&self, netns: &Netns, program: &str, files: &Resolver) -> Result<Command> {
        let resolv = self.etc.path().join("resolv.conf");
        let hosts = self.etc.path().join("hosts");
        std::fs::write(&resolv, &files.resolv_conf)?;
        std::fs::write(&hosts, &files.hosts)?;
        for file in [&resolv, &hosts] {
            // The sidecar has another uid.
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644))?;
        }
        let mut command = netns.command("unshare");
        // A `/dev/shm` of its own: another user's Envoy with hot restart may have left files
        // there that this one cannot open.
        let script = "mount --bind \"$1\" /etc/resolv.conf && mount --bind \"$2\" /etc/hosts && \
                      mount -t tmpfs tmpfs /dev/shm && shift 2 && exec \"$@\"";
        command.args(["--mount", "--", "sh", "-c", script, "sh"]).arg(resolv).arg(hosts).arg(program);
        Ok(command)
    }

    /// A command that runs as the sidecar with this name server.
    ///
    /// # Errors
    /// Fails if its files cannot be written.
    pub fn sidecar_command_with_name_server(&self, program: &str, name_server: IpAddr) -> Result<Command> {
        self.sidecar_command_with_resolver(program, &Resolver::with_name_server(name_server))
    }

    /// A command that runs as the sidecar with these resolver files.
    ///
    /// # Errors
    /// Fails if its files cannot be written.
    pub fn sidecar_command_with_resolver(&self, program: &str, files: &Resolver) -> Result<Command> {
        match self.sidecar_prefix() {
            [tool, arguments @ ..] => {
                let mut command = self.command_with_resolver(&self.sidecar, tool, files)?;
                command.args(arguments).arg(program);
                Ok(command)
            }
            [] => self.command_with_resolver(&self.sidecar, program, files),
        }
    }

    /// A command that runs as the sidecar of an injected pod with its token in this folder.
    #[must_use]
    pub fn sidecar_command_with_token(&self, program: &str, folder: &Path) -> Command {
        let mut command = self.sidecar.command("unshare");
        let script = "mount -t tmpfs tmpfs /var/run && mkdir -p /var/run/secrets/osm-egress && \
                      mount --bind \"$1\" /var/run/secrets/osm-egress && shift && exec \"$@\"";
        command.args(["--mount", "--", "sh", "-c", script, "sh"]).arg(folder);
        command.args(self.sidecar_prefix()).arg(program);
        command
    }

    /// The `setpriv` prefix of the sidecar's commands.
    fn sidecar_prefix(&self) -> &'static [&'static str] {
        // An ordinary user has one uid only, and then the sidecar has a namespace of its own.
        if self.workload.is_some() { &[] } else { &SIDECAR_PREFIX }
    }

    /// A command that runs as the sidecar.
    #[must_use]
    pub fn sidecar_command(&self, program: &str) -> Command {
        match self.sidecar_prefix() {
            [tool, arguments @ ..] => {
                let mut command = self.sidecar.command(tool);
                command.args(arguments).arg(program);
                command
            }
            [] => self.sidecar.command(program),
        }
    }
}
