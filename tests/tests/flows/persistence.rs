//! The flow database over restarts, and on disks that fail.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::control_plane::ControlPlane;
use egress_tests::manifests;
use egress_tests::netns::{Pod, ensure_capable};
use egress_tests::network::{EXAMPLE, SECOND_CONTROL_PLANE, TestNetwork};
use egress_tests::sidecar;
use egress_tests::wait::wait_for;
use egress_tests::workload;
use serde_json::Value;

use super::{fetch_flows, run_with_admin};

const IDENTITY: &str = "curl/curl";

/// Makes a refused request and a refused connection.
fn make_traffic(pod: &Pod) -> Result<()> {
    workload::get(pod, SocketAddr::new(EXAMPLE, 80), "www.example.com", "/get")?;
    workload::get_tls(pod, SocketAddr::new(EXAMPLE, 443), Some("www.example.com"))?;
    Ok(())
}

/// Waits until both flows have this count.
fn wait_for_count(control_plane: &ControlPlane<'_>, count: u64) -> Result<Vec<Value>> {
    let mut flows = Vec::new();
    wait_for(&format!("two flows, {count} times each"), Duration::from_secs(15), || {
        flows = fetch_flows(control_plane, IDENTITY).unwrap_or_default();
        flows.len() == 2 && flows.iter().all(|flow| flow["count"] == count)
    })
    .with_context(|| format!("{flows:#?}\n{}", control_plane.log()))?;
    Ok(flows)
}

fn wait_for_connection(control_plane: &ControlPlane<'_>) -> Result<()> {
    wait_for("the proxy to connect again", Duration::from_secs(30), || {
        control_plane.metric("osm_egress_proxies").is_ok_and(|proxies| proxies == 1)
    })?;
    Ok(())
}

/// Waits until the database, or its write-ahead log, has these flows.
fn wait_for_flows_in(file: &Path, flows: &[Value]) -> Result<()> {
    let last = flows.iter().filter_map(|flow| flow["sequence"].as_u64()).max().context("no flow")?;
    let wanted = format!("\"sequence\":{last}}}");
    let holds = |path: PathBuf| {
        fs::read(path).is_ok_and(|bytes| bytes.windows(wanted.len()).any(|part| part == wanted.as_bytes()))
    };
    wait_for("flows to be written", Duration::from_secs(20), || {
        holds(file.to_owned()) || holds(file.with_extension("db-wal"))
    })?;
    Ok(())
}

fn print_suggestion(network: &TestNetwork) -> Result<String> {
    let message = run_with_admin(network, &["suggest", "--identity", IDENTITY])?;
    ensure!(
        message.success && message.stdout.contains("- www.example.com #"),
        "{}{}",
        message.stdout,
        message.stderr
    );
    Ok(message.stdout)
}

/// A killed control plane keeps what it had written, a stopped one everything, and counts continue.
#[test]
fn flows_survive_a_restart() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    network.write("httpbin-80.yaml", &manifests::sample("httpbin-80.yaml")?)?;
    network.write("httpbin-443.yaml", &manifests::sample("httpbin-443.yaml")?)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("flows.db");
    let name = file.to_string_lossy();
    let flags = ["--flow-log", "--flow-db", &name];
    let pod = network.pod()?;

    let control_plane = network.control_plane(&flags)?;
    let _envoy = sidecar::start(&pod, false)?;
    make_traffic(&pod)?;
    let before = wait_for_count(&control_plane, 1)?;
    let suggestion = print_suggestion(&network)?;
    wait_for_flows_in(&file, &before)?;
    ensure!(fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600);
    // SIGKILL.
    drop(control_plane);

    let control_plane = network.control_plane(&flags)?;
    ensure!(
        fetch_flows(&control_plane, IDENTITY)? == before,
        "{:#?}\n{before:#?}",
        fetch_flows(&control_plane, IDENTITY)?
    );
    ensure!(print_suggestion(&network)? == suggestion, "{suggestion}\n{}", print_suggestion(&network)?);
    wait_for_connection(&control_plane)?;
    make_traffic(&pod)?;
    let after = wait_for_count(&control_plane, 2)?;
    for flow in &after {
        let same =
            before.iter().find(|old| old["protocol"] == flow["protocol"]).context("another protocol")?;
        ensure!(flow["firstSeen"] == same["firstSeen"], "{flow:#}\n{same:#}");
        ensure!(flow["sequence"].as_u64() > same["sequence"].as_u64(), "{flow:#}\n{same:#}");
    }
    // Without waiting: the control plane writes the rest when it stops.
    control_plane.stop()?;
    ensure!(!file.with_extension("db-wal").exists(), "it is all in the file");

    let control_plane = network.control_plane(&flags)?;
    ensure!(
        fetch_flows(&control_plane, IDENTITY)? == after,
        "{:#?}\n{after:#?}",
        fetch_flows(&control_plane, IDENTITY)?
    );
    ensure!(control_plane.metric("osm_egress_flow_db_errors_total")? == 0);

    // The control plane locks the file.
    let folder = network.manifests.path().as_os_str();
    let source = ["--config-dir".as_ref(), folder];
    let second = ControlPlane::launch(&network.outside.netns, SECOND_CONTROL_PLANE, &source, &flags)?.ready();
    let error = format!("{:#}", second.err().context("a second control plane has the file")?);
    ensure!(error.contains("another process uses it: each control plane needs its own file"), "{error}");
    Ok(())
}

/// Without a file a restarted control plane starts with no flows.
#[test]
fn without_a_file_flows_start_anew() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    network.write("httpbin-80.yaml", &manifests::sample("httpbin-80.yaml")?)?;
    network.write("httpbin-443.yaml", &manifests::sample("httpbin-443.yaml")?)?;
    let pod = network.pod()?;
    let control_plane = network.control_plane(&["--flow-log"])?;
    let _envoy = sidecar::start(&pod, false)?;
    make_traffic(&pod)?;
    make_traffic(&pod)?;
    wait_for_count(&control_plane, 2)?;
    drop(control_plane);
    let control_plane = network.control_plane(&["--flow-log"])?;
    ensure!(
        fetch_flows(&control_plane, IDENTITY)?.is_empty(),
        "{:#?}",
        fetch_flows(&control_plane, IDENTITY)?
    );
    wait_for_connection(&control_plane)?;
    make_traffic(&pod)?;
    wait_for_count(&control_plane, 1)?;
    Ok(())
}

/// A disk of its own.
struct Disk(tempfile::TempDir);

impl Disk {
    fn mount(options: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        tool("mount", &["-t", "tmpfs", "-o", options, "tmpfs", &folder.path().to_string_lossy()])?;
        Ok(Self(folder))
    }

    fn remount(&self, options: &str) -> Result<()> {
        tool("mount", &["-o", &format!("remount,{options}"), &self.0.path().to_string_lossy()])
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = tool("umount", &["-l", &self.0.path().to_string_lossy()]);
    }
}

fn tool(name: &str, words: &[&str]) -> Result<()> {
    let output = Command::new(name).args(words).output()?;
    ensure!(output.status.success(), "{name} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A full disk does not delay any policy, and is written again once there is room.
#[test]
fn a_failing_disk_delays_no_policy() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    network.write("httpbin-443.yaml", &manifests::sample("httpbin-443.yaml")?)?;
    network.write("http.yaml", &manifests::sample("httpbin-80.yaml")?)?;
    let pod = network.pod()?;
    let disk = Disk::mount("size=1m")?;
    let file = disk.path("flows.db");
    let name = file.to_string_lossy();
    let flags = ["--flow-log", "--flow-db", &name];
    let control_plane = network.control_plane(&flags)?;
    let _envoy = sidecar::start(&pod, false)?;
    make_traffic(&pod)?;
    wait_for_flows_in(&file, &wait_for_count(&control_plane, 1)?)?;
    // Fill the disk.
    let _ = fs::write(disk.path("filler"), vec![0; 2 << 20]);
    make_traffic(&pod)?;
    wait_for("an error", Duration::from_secs(20), || {
        control_plane.metric("osm_egress_flow_db_errors_total").is_ok_and(|errors| errors > 0)
    })?;
    ensure!(control_plane.log().contains("the disk is full: free some space"), "{}", control_plane.log());
    // It serves and remembers, and logs the error once.
    let open =
        |host: &str| manifests::sample("httpbin-80.yaml").map(|text| text.replace("httpbin.org", host));
    network.write("http.yaml", &open("www.example.com")?)?;
    let to = SocketAddr::new(EXAMPLE, 80);
    wait_for("the new policy", Duration::from_secs(20), || {
        workload::get(&pod, to, "www.example.com", "/get").is_ok_and(
            |outcome| matches!(outcome, egress_tests::client::Outcome::Http(answer) if answer.status == 200),
        )
    })?;
    wait_for("the next error", Duration::from_secs(30), || {
        control_plane.metric("osm_egress_flow_db_errors_total").is_ok_and(|errors| errors > 1)
    })?;
    ensure!(control_plane.log().matches("flows are in memory only").count() == 1, "{}", control_plane.log());
    ensure!(fetch_flows(&control_plane, IDENTITY)?.len() > 2);
    fs::remove_file(disk.path("filler"))?;
    wait_for("it to be written again", Duration::from_secs(30), || {
        control_plane.log().contains("flows are saved again")
    })?;
    let flows = fetch_flows(&control_plane, IDENTITY)?;
    wait_for_flows_in(&file, &flows)?;
    control_plane.stop()?;
    let control_plane = network.control_plane(&flags)?;
    ensure!(fetch_flows(&control_plane, IDENTITY)?.len() == flows.len());
    control_plane.stop()?;

    // At the start these are errors.
    disk.remount("ro")?;
    let refused = |expected: &str| -> Result<()> {
        let error = format!("{:#}", network.control_plane(&flags).err().context("it starts")?);
        let at = format!("cannot keep flows in {name}: ");
        ensure!(error.contains(&at) && error.contains(expected), "{error}");
        Ok(())
    };
    refused("Read-only file system")?;
    disk.remount("rw")?;
    fs::remove_file(&file)?;
    let _ = fs::write(disk.path("filler"), vec![0; 2 << 20]);
    refused("the disk is full: free some space")?;
    fs::remove_file(disk.path("filler"))?;
    fs::write(&file, "no database".repeat(1000))?;
    refused("it is not a database: name another file")?;
    Ok(())
}
