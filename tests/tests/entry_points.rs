//! Entry points besides the full mesh: the demo as an ordinary user, and Envoy without a control plane.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::client::Outcome;
use egress_tests::control_plane;
use egress_tests::envoy::{self, Envoy};
use egress_tests::netns::{can_switch_uid, ensure_capable};
use egress_tests::network::{EXAMPLE, HTTPBIN, TestNetwork};
use egress_tests::origin::ADDRESS_HEADER;
use egress_tests::standalone::Standalone;
use egress_tests::wait::wait_for;
use egress_tests::{corpus, doc_commands, manifests, repository_root, sidecar, workload};

/// The demo passes for a user other than root.
#[test]
fn the_demo_passes_for_an_ordinary_user() -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let copy = |from: &Path, name: &str| -> Result<std::path::PathBuf> {
        let to = folder.path().join(name);
        fs::copy(from, &to).with_context(|| from.display().to_string())?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
        Ok(to)
    };
    let demo = copy(Path::new(env!("CARGO_BIN_EXE_demo")), "demo")?;
    let mut command = if can_switch_uid() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(demo);
        command
    } else {
        Command::new(demo)
    };
    let output = command
        .current_dir(folder.path())
        .env("HOME", folder.path())
        .env("TMPDIR", "/tmp")
        .env("ENVOY_PATH", copy(&envoy::binary()?, "envoy")?)
        .env("OSM_EGRESS_BIN", copy(&control_plane::binary()?, "osm-egress")?)
        .env("EGRESS_WASM", copy(&control_plane::module()?, "egress_filter.wasm")?)
        .output()?;
    let message = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{message}\n{}", String::from_utf8_lossy(&output.stderr));
    ensure!(message.contains("29 steps, 0 wrong"), "{message}");
    Ok(())
}

/// `envoy/standalone.yaml` enforces its policy, with the module from a file.
#[test]
fn standalone_enforces_its_policy() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    let standalone = Standalone::new()?;
    let _envoy = Envoy::start(&pod, &standalone.example()?, 1)?;
    let served = |outcome: Outcome| match outcome {
        Outcome::Http(answer) if answer.status == 200 => {
            answer.header(ADDRESS_HEADER).unwrap_or_default().to_owned()
        }
        other => format!("{other:?}"),
    };
    let http = SocketAddr::new(HTTPBIN, 80);
    assert_eq!(served(workload::get(&pod, http, "httpbin.org", "/get")?), HTTPBIN.to_string());
    assert_eq!(
        served(workload::get_tls(&pod, SocketAddr::new(HTTPBIN, 443), Some("httpbin.org"))?),
        HTTPBIN.to_string()
    );
    assert_eq!(
        served(workload::get_tls(&pod, SocketAddr::new(HTTPBIN, 443), Some("www.example.com"))?),
        EXAMPLE.to_string()
    );
    assert_eq!(
        workload::get_tls(&pod, SocketAddr::new(EXAMPLE, 443), Some("openservicemesh.io"))?,
        Outcome::Closed
    );
    assert_eq!(workload::get(&pod, SocketAddr::new(EXAMPLE, 8080), "www.example.com", "/")?, Outcome::Closed);
    match workload::get(&pod, http, "www.example.com", "/")? {
        Outcome::Http(answer) => assert_eq!(answer.header("x-egress-denied"), Some("host-not-allowed")),
        other => panic!("{other:?}"),
    }
    Ok(())
}

/// `envoy/bootstrap.yaml` equals the output of the program.
#[test]
fn the_checked_in_bootstrap_is_current() -> Result<()> {
    let output =
        Command::new(control_plane::binary()?).args(["bootstrap", "--identity", "curl/curl"]).output()?;
    let text = fs::read_to_string(repository_root().join("envoy/bootstrap.yaml"))?;
    ensure!(
        text == String::from_utf8_lossy(&output.stdout),
        "envoy/bootstrap.yaml is old: osm-egress bootstrap --identity curl/curl > envoy/bootstrap.yaml"
    );
    Ok(())
}

/// The README's block runs as it stands on its own folder of manifests, and ends with the refused request
/// that the README shows. A process namespace ends what it starts.
#[test]
fn the_readme_ends_with_a_refused_request() -> Result<()> {
    ensure_capable()?;
    ensure!(can_switch_uid(), "Envoy has a uid of its own there, which needs root");
    let text = fs::read_to_string(repository_root().join("README.md"))?;
    let (_, rest) =
        text.split_once("A folder of manifests, and an Envoy beside a workload").context("no block")?;
    let mut blocks = rest.split("```").skip(1).step_by(2);
    let (block, shown) = (blocks.next().context("no block")?, blocks.next().context("no answer")?);
    let block = block.strip_prefix("sh\n").context("no commands")?;
    ensure!(block.trim_end().lines().last().is_some_and(|line| line.starts_with("curl ")), "{block}");

    let folder = tempfile::tempdir()?;
    fs::create_dir_all(folder.path().join("target/debug"))?;
    fs::create_dir(folder.path().join("bin"))?;
    for (from, name) in [
        (control_plane::binary()?, "target/debug/osm-egress"),
        (control_plane::module()?, "target/egress_filter.wasm"),
        (repository_root().join("envoy"), "envoy"),
    ] {
        std::os::unix::fs::symlink(&from, folder.path().join(name))?;
    }
    // `cargo xtask` has built everything already.
    let cargo = folder.path().join("bin/cargo");
    let script = "#!/bin/sh\ncase \"$*\" in 'xtask build') ;; 'xtask envoy') echo \"$ENVOY_PATH\" ;; *) exit 1 ;; esac\n";
    fs::write(&cargo, script)?;
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755))?;
    let path = format!("{}:{}", folder.path().join("bin").display(), std::env::var("PATH")?);
    let mut child = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-e"])
        .current_dir(folder.path())
        .env("PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // As pasted into a terminal: the shell in the namespace reads the next lines.
    child.stdin.take().context("no standard input")?.write_all(block.as_bytes())?;
    let output = child.wait_with_output()?;
    let printed = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    let logs = ["serve.log", "envoy.log"]
        .map(|name| fs::read_to_string(folder.path().join(name)).unwrap_or_default());
    let end = |log: &str| log.lines().rev().take(5).collect::<Vec<_>>().join("\n");
    let context = || {
        let message = String::from_utf8_lossy(&output.stderr);
        format!("{printed}\n{message}\n{}\n{}", end(&logs[0]), end(&logs[1]))
    };
    ensure!(output.status.success(), "{:?}: {}", output.status, context());
    ensure!(printed.contains("0 errors"), "{}", context());
    for line in shown.lines().filter(|line| !line.is_empty() && *line != "…") {
        ensure!(printed.contains(line), "`{line}` is not printed: {}", context());
    }
    ensure!(
        printed.trim_end().ends_with(shown.trim_end().lines().last().unwrap_or_default()),
        "{}",
        context()
    );
    Ok(())
}

/// The commands of `docs/plain-envoy.md` work, and Envoy accepts their output.
#[test]
fn the_commands_for_plain_envoy_work() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let binary = control_plane::binary()?;
    std::os::unix::fs::symlink(&binary, folder.path().join("osm-egress"))?;
    std::os::unix::fs::symlink(repository_root().join("envoy"), folder.path().join("envoy"))?;
    let shell = |script: &str| {
        let mut command = Command::new("bash");
        let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap_or_default());
        command.current_dir(folder.path()).env("PATH", path).arg("-c").arg(script).stdin(Stdio::null());
        command
    };
    let text = fs::read_to_string(repository_root().join("docs/plain-envoy.md"))?;
    let steps = doc_commands::steps(&text);
    ensure!(steps.len() >= 5, "docs/plain-envoy.md has {} commands only", steps.len());
    for step in steps {
        step.run(shell, Duration::ZERO).context("docs/plain-envoy.md")?;
    }
    let config = fs::read_to_string(folder.path().join("envoy.yaml"))?;
    let module = control_plane::module()?;
    let config = config.replace("/etc/envoy/egress_filter.wasm", &module.to_string_lossy());
    fs::write(folder.path().join("envoy.yaml"), config)?;
    let output = Command::new(envoy::binary()?)
        .current_dir(folder.path())
        .args(["-c", "envoy.yaml", "--mode", "validate", "--disable-hot-restart"])
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The output of `osm-egress compile` has the control plane's limits for every cluster.
#[test]
fn compiled_clusters_have_the_control_planes_limits() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let corpus =
        corpus::load_all()?.into_iter().find(|corpus| corpus.name == "settings").context("no settings")?;
    network.write("corpus.yaml", &corpus.manifests)?;
    let limits = |envoy: &Envoy<'_>| -> Result<BTreeSet<String>> {
        let text = envoy.admin("/clusters")?;
        let is_limit = |line: &&str| line.contains("_priority::max_") && !line.starts_with("osm-egress::");
        Ok(text.lines().filter(is_limit).map(str::to_owned).collect())
    };
    let pod = network.pod()?;
    let standalone = Standalone::new()?;
    let alone = Envoy::start(&pod, &standalone.compiled(network.manifests.path())?, 1)?;
    let found = limits(&alone)?;
    let other = network.pod()?;
    let _control_plane = network.control_plane(&[])?;
    let envoy = sidecar::start(&other, false)?;
    wait_for("the same limits", Duration::from_secs(10), || limits(&envoy).is_ok_and(|l| l == found))
        .with_context(|| format!("{found:#?} and {:#?}", limits(&envoy)))?;
    ensure!(found.contains("httpbin.org:443::default_priority::max_connections::3"), "{found:#?}");
    ensure!(found.contains("egress-dns::default_priority::max_connections::4294967295"), "{found:#?}");
    Ok(())
}

/// The module can be delivered by file instead of in each policy change.
#[test]
fn the_module_can_be_delivered_by_file() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    network.write("httpbin-80.yaml", &manifests::sample("httpbin-80.yaml")?)?;
    let module = tempfile::NamedTempFile::with_suffix(".wasm")?;
    fs::copy(control_plane::module()?, module.path())?;
    fs::set_permissions(module.path(), fs::Permissions::from_mode(0o644))?;
    let delivery = format!("file:{}", module.path().display());
    let _control_plane = network.control_plane(&["--module-delivery", &delivery])?;
    let envoy = sidecar::start(&pod, false)?;
    let dump = envoy.admin("/config_dump?resource=ecds_filters")?;
    ensure!(dump.contains(&*module.path().to_string_lossy()), "{dump}");
    let outcome = workload::get(&pod, SocketAddr::new(HTTPBIN, 80), "httpbin.org", "/get")?;
    ensure!(matches!(&outcome, Outcome::Http(answer) if answer.status == 200), "{outcome:?}");
    Ok(())
}
