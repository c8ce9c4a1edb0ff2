//! What is remembered over a restart, and what a disk may do.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::mesh::{self, EXAMPLE, SECOND_CONTROL_PLANE, World};
use egress_tests::netns::{Pod, ensure_capable};
use egress_tests::shim::Shim;
use egress_tests::wait::wait_for;
use serde_json::Value;

use super::{ask, told};

const IDENTITY: &str = "curl/curl";

/// A refused request and a refused connection.
fn traffic(pod: &Pod) -> Result<()> {
    mesh::get(pod, SocketAddr::new(EXAMPLE, 80), "www.example.com", "/get")?;
    mesh::get_tls(pod, SocketAddr::new(EXAMPLE, 443), Some("www.example.com"))?;
    Ok(())
}

/// Waits until so many times of both were told of.
fn counted(shim: &Shim<'_>, count: u64) -> Result<Vec<Value>> {
    let mut flows = Vec::new();
    wait_for(&format!("two flows, {count} times each"), Duration::from_secs(15), || {
        flows = told(shim, IDENTITY).unwrap_or_default();
        flows.len() == 2 && flows.iter().all(|flow| flow["count"] == count)
    })
    .with_context(|| format!("{flows:#?}\n{}", shim.log()))?;
    Ok(flows)
}

fn connected(shim: &Shim<'_>) -> Result<()> {
    wait_for("the proxy to connect again", Duration::from_secs(30), || {
        shim.metric("osm_egress_proxies").is_ok_and(|proxies| proxies == 1)
    })?;
    Ok(())
}

/// Waits until this change is in the file, or beside it.
fn written(file: &Path, flows: &[Value]) -> Result<()> {
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

fn suggested(world: &World) -> Result<String> {
    let said = ask(world, &["suggest", "--source", IDENTITY])?;
    ensure!(said.success && said.out.contains("- www.example.com #"), "{}{}", said.out, said.err);
    Ok(said.out)
}

/// A control plane that is killed knows what it wrote, one that is stopped knows everything, and counts go on.
#[test]
fn over_a_restart() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    world.write("httpbin-80.yaml", &mesh::sample("httpbin-80.yaml")?)?;
    world.write("httpbin-443.yaml", &mesh::sample("httpbin-443.yaml")?)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("flows.db");
    let name = file.to_string_lossy();
    let flags = ["--flow-log", "--flow-db", &name];
    let pod = world.pod()?;

    let shim = world.shim(&flags)?;
    let _envoy = mesh::sidecar(&pod, false)?;
    traffic(&pod)?;
    let before = counted(&shim, 1)?;
    let suggestion = suggested(&world)?;
    written(&file, &before)?;
    ensure!(fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600);
    // SIGKILL.
    drop(shim);

    let shim = world.shim(&flags)?;
    ensure!(told(&shim, IDENTITY)? == before, "{:#?}\n{before:#?}", told(&shim, IDENTITY)?);
    ensure!(suggested(&world)? == suggestion, "{suggestion}\n{}", suggested(&world)?);
    connected(&shim)?;
    traffic(&pod)?;
    let after = counted(&shim, 2)?;
    for flow in &after {
        let same =
            before.iter().find(|old| old["protocol"] == flow["protocol"]).context("another protocol")?;
        ensure!(flow["firstSeen"] == same["firstSeen"], "{flow:#}\n{same:#}");
        ensure!(flow["sequence"].as_u64() > same["sequence"].as_u64(), "{flow:#}\n{same:#}");
    }
    // At once: what was not written yet is written on the way out.
    shim.stop()?;
    ensure!(!file.with_extension("db-wal").exists(), "it is all in the file");

    let shim = world.shim(&flags)?;
    ensure!(told(&shim, IDENTITY)? == after, "{:#?}\n{after:#?}", told(&shim, IDENTITY)?);
    ensure!(shim.metric("osm_egress_flow_db_errors_total")? == 0);

    // The file is of this control plane alone.
    let folder = world.manifests.path().as_os_str();
    let source = ["--config-dir".as_ref(), folder];
    let second = Shim::launch(&world.outside.netns, SECOND_CONTROL_PLANE, &source, &flags)?.ready();
    let error = format!("{:#}", second.err().context("a second control plane has the file")?);
    ensure!(error.contains("another process has it: each control plane needs a file of its own"), "{error}");
    Ok(())
}

/// Without a file a control plane that starts anew knows nothing, and what happens from then on.
#[test]
fn without_a_file() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    world.write("httpbin-80.yaml", &mesh::sample("httpbin-80.yaml")?)?;
    world.write("httpbin-443.yaml", &mesh::sample("httpbin-443.yaml")?)?;
    let pod = world.pod()?;
    let shim = world.shim(&["--flow-log"])?;
    let _envoy = mesh::sidecar(&pod, false)?;
    traffic(&pod)?;
    traffic(&pod)?;
    counted(&shim, 2)?;
    drop(shim);
    let shim = world.shim(&["--flow-log"])?;
    ensure!(told(&shim, IDENTITY)?.is_empty(), "{:#?}", told(&shim, IDENTITY)?);
    connected(&shim)?;
    traffic(&pod)?;
    counted(&shim, 1)?;
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

/// A disk that is full keeps no policy from anybody, and is written again when there is room.
#[test]
fn a_disk_that_fails() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    world.write("httpbin-443.yaml", &mesh::sample("httpbin-443.yaml")?)?;
    world.write("http.yaml", &mesh::sample("httpbin-80.yaml")?)?;
    let pod = world.pod()?;
    let disk = Disk::mount("size=1m")?;
    let file = disk.path("flows.db");
    let name = file.to_string_lossy();
    let flags = ["--flow-log", "--flow-db", &name];
    let shim = world.shim(&flags)?;
    let _envoy = mesh::sidecar(&pod, false)?;
    traffic(&pod)?;
    written(&file, &counted(&shim, 1)?)?;
    // All that is left of it.
    let _ = fs::write(disk.path("filler"), vec![0; 2 << 20]);
    traffic(&pod)?;
    wait_for("an error", Duration::from_secs(20), || {
        shim.metric("osm_egress_flow_db_errors_total").is_ok_and(|errors| errors > 0)
    })?;
    ensure!(shim.log().contains("the disk is full: make room"), "{}", shim.log());
    // It serves, remembers, and says it once.
    let open = |host: &str| mesh::sample("httpbin-80.yaml").map(|text| text.replace("httpbin.org", host));
    world.write("http.yaml", &open("www.example.com")?)?;
    let to = SocketAddr::new(EXAMPLE, 80);
    wait_for("the new policy", Duration::from_secs(20), || {
        mesh::get(&pod, to, "www.example.com", "/get").is_ok_and(
            |outcome| matches!(outcome, egress_tests::client::Outcome::Http(answer) if answer.status == 200),
        )
    })?;
    wait_for("the next error", Duration::from_secs(30), || {
        shim.metric("osm_egress_flow_db_errors_total").is_ok_and(|errors| errors > 1)
    })?;
    ensure!(shim.log().matches("flows are in memory only").count() == 1, "{}", shim.log());
    ensure!(told(&shim, IDENTITY)?.len() > 2);
    fs::remove_file(disk.path("filler"))?;
    wait_for("it to be written again", Duration::from_secs(30), || {
        shim.log().contains("flows are saved again")
    })?;
    let flows = told(&shim, IDENTITY)?;
    written(&file, &flows)?;
    shim.stop()?;
    let shim = world.shim(&flags)?;
    ensure!(told(&shim, IDENTITY)?.len() == flows.len());
    shim.stop()?;

    // At the start these are errors.
    disk.remount("ro")?;
    let refused = |expected: &str| -> Result<()> {
        let error = format!("{:#}", world.shim(&flags).err().context("it starts")?);
        let at = format!("cannot keep flows in {name}: ");
        ensure!(error.contains(&at) && error.contains(expected), "{error}");
        Ok(())
    };
    refused("Read-only file system")?;
    disk.remount("rw")?;
    fs::remove_file(&file)?;
    let _ = fs::write(disk.path("filler"), vec![0; 2 << 20]);
    refused("the disk is full: make room")?;
    fs::remove_file(disk.path("filler"))?;
    fs::write(&file, "no database".repeat(1000))?;
    refused("it is no database: name another file")?;
    Ok(())
}
