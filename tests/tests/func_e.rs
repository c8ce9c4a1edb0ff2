//! func-e: its arguments work with the configurations of the repository.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use egress_tests::client::{self, Outcome};
use egress_tests::control_plane::{self, ControlPlane};
use egress_tests::envoy;
use egress_tests::netns::{Pod, can_switch_uid, ensure_capable};
use egress_tests::network::{HTTPBIN, NAME_SERVER, TestNetwork};
use egress_tests::wait::wait_for;
use egress_tests::{manifests, repository_root, workload};

/// The admin interface that func-e adds to a configuration without one.
const FUNC_E_ADMIN: &str = "admin: {address: {socket_address: {address: '127.0.0.1', port_value: 0}}}";

/// An Envoy with exactly the arguments of `func-e run -c FILE`, in a folder like the repository's root. It
/// stops when this is dropped.
struct FuncE<'p> {
    child: Child,
    pod: &'p Pod,
    folder: tempfile::TempDir,
}

impl<'p> FuncE<'p> {
    fn run(pod: &'p Pod, file: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
        // Envoy has another uid, and writes where its admin interface is.
        open(folder.path(), 0o777)?;
        for name in ["envoy", "target"] {
            fs::create_dir(folder.path().join(name))?;
            open(&folder.path().join(name), 0o755)?;
        }
        for (from, name) in [
            (repository_root().join(file), file),
            (control_plane::module()?, "target/egress_filter.wasm"),
            (envoy::binary()?, "e"),
        ] {
            let to = folder.path().join(name);
            fs::copy(&from, &to).with_context(|| from.display().to_string())?;
            open(&to, 0o755)?;
        }
        let mut command =
            pod.sidecar_command_with_name_server(&folder.path().join("e").to_string_lossy(), NAME_SERVER)?;
        command.current_dir(folder.path()).args(["-c", file]);
        if !fs::read_to_string(repository_root().join(file))?.lines().any(|line| line.starts_with("admin:")) {
            command.args(["--config-yaml", FUNC_E_ADMIN]);
        }
        let log = fs::File::create(folder.path().join("log"))?;
        let child = command
            .arg("--admin-address-path")
            .arg(folder.path().join("admin-address.txt"))
            .stdout(log.try_clone()?)
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()?;
        let mut func_e = Self { child, pod, folder };
        let ready = wait_for("Envoy to be ready", Duration::from_secs(20), || {
            func_e.is_ready().unwrap_or(false) || func_e.child.try_wait().ok().flatten().is_some()
        });
        let log = fs::read_to_string(func_e.folder.path().join("log")).unwrap_or_default();
        ready.with_context(|| log.clone())?;
        ensure!(func_e.child.try_wait()?.is_none(), "Envoy ended:\n{log}");
        Ok(func_e)
    }

    /// Checks readiness as func-e does.
    fn is_ready(&self) -> Result<bool> {
        let admin: SocketAddr = fs::read_to_string(self.folder.path().join("admin-address.txt"))?.parse()?;
        let request = client::request("GET", "/ready", &[("host", "admin"), ("connection", "close")]);
        let outcome = self.pod.sidecar.run(|| client::http(admin, &request))?;
        Ok(matches!(outcome, Outcome::Http(answer) if answer.status == 200))
    }
}

impl Drop for FuncE<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `func-e run -c envoy/standalone.yaml` and `func-e run -c envoy/bootstrap.yaml` work with the file names in
/// them. They run one after the other, because func-e leaves hot restart on, and a machine has one shared
/// memory region for it.
#[test]
fn func_e_starts_both_configurations() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let http = SocketAddr::new(HTTPBIN, 80);
    let decides = |pod: &Pod| -> Result<()> {
        let outcome = workload::get(pod, http, "httpbin.org", "/get")?;
        ensure!(matches!(&outcome, Outcome::Http(answer) if answer.status == 200), "{outcome:?}");
        match workload::get(pod, http, "www.example.com", "/")? {
            Outcome::Http(answer) => ensure!(answer.header("x-egress-denied") == Some("host-not-allowed")),
            other => bail!("{other:?}"),
        }
        Ok(())
    };
    {
        let pod = network.pod()?;
        let _envoy = FuncE::run(&pod, "envoy/standalone.yaml")?;
        decides(&pod).context("envoy/standalone.yaml")?;
    }
    let pod = network.pod()?;
    network.write("httpbin-80.yaml", &manifests::sample("httpbin-80.yaml")?)?;
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let _control_plane = ControlPlane::start(&pod.sidecar, loopback, network.manifests.path(), &[])?;
    let _envoy = FuncE::run(&pod, "envoy/bootstrap.yaml")?;
    decides(&pod).context("envoy/bootstrap.yaml")
}

/// The trap in docs/func-e.md: files that another user's Envoy left in `/dev/shm` stop an Envoy with hot
/// restart, with the document's error, and `--base-id` avoids them.
#[test]
fn another_users_hot_restart_memory_is_explained() -> Result<()> {
    ensure_capable()?;
    ensure!(can_switch_uid(), "this needs two users");
    let page = fs::read_to_string(repository_root().join("docs/func-e.md"))?;
    let netns = egress_tests::netns::Netns::new()?;
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let binary = folder.path().join("envoy");
    fs::copy(envoy::binary()?, &binary)?;
    let script = "mount -t tmpfs tmpfs /dev/shm && touch /dev/shm/envoy_shared_memory_0 && \
        chmod 600 /dev/shm/envoy_shared_memory_0 && exec timeout 10 setpriv --reuid 1500 --regid 1500 --clear-groups \"$@\"";
    let run = |flags: &[&str]| -> Result<String> {
        let mut command = netns.command("unshare");
        command.args(["--mount", "--", "sh", "-c", script, "sh"]).arg(&binary).args(flags);
        // It ends at once, without serving.
        let output =
            command.args(["--config-yaml", "admin: {address: {pipe: {path: /nowhere/admin}}}"]).output()?;
        ensure!(!output.status.success(), "{flags:?}");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let cause = "cannot open shared memory region /envoy_shared_memory_0";
    ensure!(page.contains(cause) && page.contains("--base-id 1"), "docs/func-e.md does not name the trap");
    let message = run(&[])?;
    ensure!(message.contains(cause), "{message}");
    for flags in [&["--base-id", "1"][..], &["--disable-hot-restart"]] {
        let message = run(flags)?;
        ensure!(
            !message.contains("shared memory") && message.contains("/nowhere/admin"),
            "{flags:?}: {message}"
        );
    }
    Ok(())
}
