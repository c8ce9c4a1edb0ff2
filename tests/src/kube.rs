//! A real API server with etcd, in a test network. `KUBEBUILDER_ASSETS` names the folder of the binaries;
//! `cargo xtask test` sets it. There is no controller manager: a test creates default service accounts and
//! endpoints itself.

mod bulk_create;
mod keys;

mod namespaces;
mod objects;
pub mod tokens;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::netns::Netns;
use crate::wait::wait_for;

pub use self::namespaces::with_namespace_controller;
pub use self::objects::Objects;

/// The API server's address.
pub const API_SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 3));
const API_PORT: u16 = 6443;

/// The audit policy: it records every request of the control plane.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- level: Metadata
  users: ['system:serviceaccount:osm-system:osm-egress']
- level: None
";

/// A user of the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// An administrator.
    Admin,
    /// The control plane's service account, with the role of `deploy/rbac.yaml`.
    ControlPlane,
    /// A user without permissions.
    Nobody,
}

impl User {
    const ALL: [Self; 3] = [Self::Admin, Self::ControlPlane, Self::Nobody];

    /// The user's name, group and token.
    const fn account(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Admin => ("admin", "system:masters", "token-of-admin"),
            Self::ControlPlane => (
                "system:serviceaccount:osm-system:osm-egress",
                "system:serviceaccounts,system:serviceaccounts:osm-system",
                "token-of-shim",
            ),
            Self::Nobody => ("nobody", "", "token-of-nobody"),
        }
    }
}

/// A running API server. It stops when this is dropped.
#[derive(Debug)]
pub struct ApiServer<'n> {
    netns: &'n Netns,
    assets: PathBuf,
    folder: tempfile::TempDir,
    etcd: Option<Child>,
    server: Option<Child>,
    /// True if pods get the token of their service account, which must exist then.
    mounts_tokens: bool,
}

impl<'n> ApiServer<'n> {
    /// Starts etcd and an API server with role-based access control, and waits until it is ready.
    ///
    /// # Errors
    /// Fails if there are no binaries, or they do not get ready; with their log.
    pub fn start(netns: &'n Netns) -> Result<Self> {
        Self::start_with(netns, false)
    }

    /// Starts the same, with or without the admission plugin ServiceAccount.
    ///
    /// # Errors
    /// Fails if there are no binaries, or they do not get ready; with their log.
    pub fn start_with(netns: &'n Netns, mounts_tokens: bool) -> Result<Self> {
        let assets = assets()?;
        netns.ip(&format!("addr add {API_SERVER}/32 dev lo"))?;
        let folder = tempfile::tempdir()?;
        keys::write(folder.path(), API_SERVER)?;
        let mut tokens = String::new();
        for user in User::ALL {
            let (name, groups, token) = user.account();
            tokens += &format!("{token},{name},{name},\"{groups}\"\n");
            fs::write(folder.path().join(format!("{user:?}.kubeconfig")), kubeconfig(folder.path(), token))?;
        }
        fs::write(folder.path().join("tokens.csv"), tokens)?;
        fs::write(folder.path().join("audit.yaml"), AUDIT_POLICY)?;
        let mut server = Self { netns, assets, folder, etcd: None, server: None, mounts_tokens };
        server.start_etcd()?;
        server.resume()?;
        Ok(server)
    }

    /// Starts etcd on its existing data.
    ///
    /// # Errors
    /// Fails if it cannot be run.
    pub fn start_etcd(&mut self) -> Result<()> {
        let folder = self.folder.path();
        let log = File::options().create(true).append(true).open(folder.join("etcd.log"))?;
        let child = self
            .netns
            .command(&self.assets.join("etcd").to_string_lossy())
            .arg("--data-dir")
            .arg(folder.join("etcd"))
            // Loopback of a namespace of its own, which no other process reaches.
            .args(["--listen-client-urls", "http://127.0.0.1:2379"])
            .args(["--advertise-client-urls", "http://127.0.0.1:2379"])
            .args(["--listen-peer-urls", "http://127.0.0.1:2380"])
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start etcd")?;
        self.etcd = Some(child);
        Ok(())
    }

    /// Kills etcd; the API server keeps running without it.
    pub fn kill_etcd(&mut self) {
        end(&mut self.etcd);
    }

    /// Restarts the API server on its existing data.
    ///
    /// # Errors
    /// Fails if it does not get ready; with its log.
    pub fn resume(&mut self) -> Result<()> {
        let folder = self.folder.path();
        let service_accounts: &[&str] = match self.mounts_tokens {
            false => &["--disable-admission-plugins", "ServiceAccount"],
            // Before, a token is a secret that a controller makes.
            true if version()? < (1, 21) => &["--feature-gates", "BoundServiceAccountTokenVolume=true"],
            true => &[],
        };
        let log = File::options().create(true).append(true).open(folder.join("server.log"))?;
        let child = self
            .netns
            .command(&self.assets.join("kube-apiserver").to_string_lossy())
            .args(["--etcd-servers", "http://127.0.0.1:2379", "--authorization-mode", "RBAC"])
            .args(["--bind-address", &API_SERVER.to_string(), "--advertise-address", &API_SERVER.to_string()])
            .args(["--secure-port", &API_PORT.to_string(), "--service-cluster-ip-range", "10.96.0.0/16"])
            .args(["--service-account-issuer", "https://kubernetes.default.svc"])
            .args(service_accounts)
            // As clusters run it: what may be privileged is decided by admission.
            .arg("--allow-privileged=true")
            .arg(format!("--service-account-signing-key-file={}", folder.join("account.key").display()))
            .arg(format!("--service-account-key-file={}", folder.join("account.pub").display()))
            .arg(format!("--tls-cert-file={}", folder.join("server.crt").display()))
            .arg(format!("--tls-private-key-file={}", folder.join("server.key").display()))
            .arg(format!("--audit-policy-file={}", folder.join("audit.yaml").display()))
            .arg(format!("--audit-log-path={}", folder.join("audit.log").display()))
            .arg(format!("--token-auth-file={}", folder.join("tokens.csv").display()))
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start kube-apiserver")?;
        self.server = Some(child);
        let ready = wait_for("the API server to be ready", Duration::from_secs(60), || {
            self.kubectl(User::Admin, &["get", "--raw", "/readyz"]).is_ok_and(|text| text == "ok")
                && self.kubectl(User::Admin, &["get", "namespace", "default"]).is_ok()
        });
        ready.with_context(|| self.log())?;
        Ok(())
    }

    /// Stops the API server, or continues it: its connections stay, and nothing answers.
    ///
    /// # Errors
    /// Fails if it does not run.
    pub fn hang(&self, hangs: bool) -> Result<()> {
        use nix::sys::signal::{Signal, kill};
        let server = self.server.as_ref().context("it does not run")?;
        let signal = if hangs { Signal::SIGSTOP } else { Signal::SIGCONT };
        Ok(kill(nix::unistd::Pid::from_raw(i32::try_from(server.id())?), signal)?)
    }

    /// Kills the API server; etcd keeps running.
    pub fn kill(&mut self) {
        end(&mut self.server);
    }

    /// The last lines of the API server's and etcd's logs.
    #[must_use]
    pub fn log(&self) -> String {
        let end = |name: &str| {
            let text = fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("{name}:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"))
        };
        [end("server.log"), end("etcd.log")].join("\n")
    }

    /// The path of a user's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self, user: User) -> PathBuf {
        self.folder.path().join(format!("{user:?}.kubeconfig"))
    }

    /// Runs the real kubectl and returns its output.
    ///
    /// # Errors
    /// Fails if it fails; with its output.
    pub fn kubectl(&self, user: User, arguments: &[&str]) -> Result<String> {
        check_output(
            &format!("kubectl {}", arguments.join(" ")),
            self.command("kubectl", user).args(arguments).output()?,
        )
    }

    /// Runs a command line of the documentation, word for word.
    ///
    /// # Errors
    /// Fails if it fails; with its output.
    pub fn shell(&self, user: User, line: &str) -> Result<String> {
        check_output(line, self.command("sh", user).args(["-ec", line]).output()?)
    }

    /// Applies a text with `kubectl apply -f`.
    ///
    /// # Errors
    /// Fails if it fails; with its output.
    pub fn apply(&self, text: &str) -> Result<String> {
        let file = self.folder.path().join("applied.yaml");
        fs::write(&file, text)?;
        self.kubectl(User::Admin, &["apply", "-f", &file.to_string_lossy()])
    }

    /// Creates a namespace, which belongs to the mesh if `monitored` is set.
    ///
    /// # Errors
    /// Fails if kubectl fails.
    pub fn namespace(&self, name: &str, monitored: bool) -> Result<()> {
        self.kubectl(User::Admin, &["create", "namespace", name])?;
        if monitored {
            // As `osm namespace add` does it.
            self.kubectl(User::Admin, &["label", "namespace", name, "openservicemesh.io/monitored-by=osm"])?;
        }
        Ok(())
    }

    /// The permissions that the control plane has used so far, as `VERB GROUP/RESOURCE`, each once. Paths
    /// without a resource, such as `/version`, are open to everybody and left out.
    ///
    /// # Errors
    /// Fails if there is no log of it.
    pub fn used_permissions(&self) -> Result<BTreeSet<String>> {
        let log = fs::read_to_string(self.folder.path().join("audit.log"))?;
        let mut used = BTreeSet::new();
        for line in log.lines() {
            let event: Value = serde_json::from_str(line)?;
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let object = &event["objectRef"];
            if object["resource"].is_string() {
                let part = object["subresource"].as_str().map(|part| format!("/{part}")).unwrap_or_default();
                let resource = format!("{}/{}{part}", text(&object["apiGroup"]), text(&object["resource"]));
                used.insert(format!("{} {resource}", text(&event["verb"])));
            }
        }
        Ok(used)
    }

    /// The number of answered requests of control planes to create an object, whether or not it existed.
    ///
    /// # Errors
    /// Fails if there is no log of it.
    pub fn create_requests(&self, resource: &str, namespace: &str, name: &str) -> Result<usize> {
        let log = fs::read_to_string(self.folder.path().join("audit.log"))?;
        let is_one = |event: &Value| {
            let object = &event["objectRef"];
            event["stage"] == "ResponseComplete"
                && event["verb"] == "create"
                && (&object["resource"], &object["namespace"], &object["name"])
                    == (&resource.into(), &namespace.into(), &name.into())
        };
        // The last line may be half written.
        Ok(log.lines().filter_map(|line| serde_json::from_str(line).ok()).filter(is_one).count())
    }

    /// A command with the user's KUBECONFIG.
    #[must_use]
    pub fn command(&self, program: &str, user: User) -> Command {
        let program = if program == "kubectl" { self.assets.join(program) } else { program.into() };
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = self.netns.command(&program.to_string_lossy());
        command
            .env("PATH", format!("{}:{path}", self.assets.display()))
            .env("KUBECONFIG", self.kubeconfig(user))
            // kubectl caches its discovery there.
            .env("HOME", self.folder.path());
        command
    }
}

impl Drop for ApiServer<'_> {
    fn drop(&mut self) {
        self.kill();
        self.kill_etcd();
    }
}

fn end(process: &mut Option<Child>) {
    if let Some(mut process) = process.take() {
        let _ = process.kill();
        let _ = process.wait();
    }
}

/// The version of the API server under test, as in `(1, 36)`.
///
/// # Errors
/// Fails if there are no binaries, or they do not say.
pub fn version() -> Result<(u32, u32)> {
    let output = Command::new(assets()?.join("kube-apiserver")).arg("--version").output()?;
    let text = String::from_utf8(output.stdout)?;
    let numbers = text.trim().strip_prefix("Kubernetes v").with_context(|| text.clone())?;
    let mut numbers = numbers.split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => bail!("`{text}` is no version"),
    }
}

fn assets() -> Result<PathBuf> {
    let folder = std::env::var_os("KUBEBUILDER_ASSETS")
        .context("KUBEBUILDER_ASSETS is not set: run this by `cargo xtask test`")?;
    let folder = PathBuf::from(folder);
    for binary in ["kube-apiserver", "etcd", "kubectl"] {
        ensure!(folder.join(binary).is_file(), "KUBEBUILDER_ASSETS: {} has no {binary}", folder.display());
    }
    Ok(folder)
}

fn check_output(what: &str, output: Output) -> Result<String> {
    if !output.status.success() {
        bail!("{what}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn kubeconfig(folder: &Path, token: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
         clusters:\n- name: test\n  cluster: {{server: 'https://{API_SERVER}:{API_PORT}', certificate-authority: '{}'}}\n\
         users:\n- name: test\n  user: {{token: {token}}}\n\
         contexts:\n- name: test\n  context: {{cluster: test, user: test}}\n",
        folder.join("ca.crt").display()
    )
}
