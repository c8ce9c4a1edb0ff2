//! Entry points besides the full mesh: the demo as an ordinary user, and Envoy without a control plane.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use egress_tests::client::{self, Outcome};
use egress_tests::control_plane::{self, ControlPlane};
use egress_tests::corpus;
use egress_tests::doc_commands;
use egress_tests::envoy::{self, Envoy};
use egress_tests::manifests;
use egress_tests::netns::{Pod, can_switch_uid, ensure_capable};
use egress_tests::network::{EXAMPLE, HTTPBIN, NAME_SERVER, TestNetwork};
use egress_tests::origin::ADDRESS_HEADER;
use egress_tests::repository_root;
use egress_tests::sidecar;
use egress_tests::standalone::Standalone;
use egress_tests::wait::wait_for;
use egress_tests::workload;

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
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    ensure!(said.contains("29 steps, 0 wrong"), "{said}");
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
        // It ends at once: there is nothing to serve.
        let output =
            command.args(["--config-yaml", "admin: {address: {pipe: {path: /nowhere/admin}}}"]).output()?;
        ensure!(!output.status.success(), "{flags:?}");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let cause = "cannot open shared memory region /envoy_shared_memory_0";
    ensure!(page.contains(cause) && page.contains("--base-id 1"), "docs/func-e.md does not name the trap");
    let said = run(&[])?;
    ensure!(said.contains(cause), "{said}");
    for flags in [&["--base-id", "1"][..], &["--disable-hot-restart"]] {
        let said = run(flags)?;
        ensure!(!said.contains("shared memory") && said.contains("/nowhere/admin"), "{flags:?}: {said}");
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
    // What `cargo xtask` makes is made already.
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
    // As somebody pastes it: the shell in the network of its own reads what follows.
    child.stdin.take().context("no standard input")?.write_all(block.as_bytes())?;
    let output = child.wait_with_output()?;
    let printed = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    let logs = ["serve.log", "envoy.log"]
        .map(|name| fs::read_to_string(folder.path().join(name)).unwrap_or_default());
    let end = |log: &str| log.lines().rev().take(5).collect::<Vec<_>>().join("\n");
    let context = || {
        let said = String::from_utf8_lossy(&output.stderr);
        format!("{printed}\n{said}\n{}\n{}", end(&logs[0]), end(&logs[1]))
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

/// Each error of the command line names the subject, the problem and the remedy.
#[test]
fn bad_input_names_subject_problem_and_remedy() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let dir = folder.path().to_string_lossy().into_owned();
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let module = control_plane::module()?.to_string_lossy().into_owned();
    let serve = ["serve", "--config-dir", &dir, "--wasm", &module];
    let believed = ["--insecure-node-identity"];
    let elsewhere = ["--xds-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    for (case, arguments, code, expected) in [
        ("no command", vec![], 2, "Usage:"),
        ("unknown flag", vec!["serve", "--nope"], 2, "unexpected argument '--nope'"),
        ("no folder", vec!["check"], 2, "<DIR>"),
        ("a folder that is not there", vec!["check", "/nowhere"], 1, "/nowhere"),
        ("no identity", vec!["bootstrap"], 2, "--identity"),
        ("a bad identity", vec!["bootstrap", "--identity", "Curl"], 2, "namespace/service-account"),
        (
            "an old Envoy",
            vec!["bootstrap", "--identity", "a/b", "--envoy-version", "1.37"],
            2,
            "1.39 or newer",
        ),
        ("no identification", serve.to_vec(), 2, "--service-account-tokens|--insecure-node-identity"),
        (
            "belief and credentials",
            [&serve[..], &believed, &["--client-ca", "x", "--tls-cert", "x", "--tls-key", "x"]].concat(),
            2,
            "cannot be used with",
        ),
        (
            "tokens in plaintext",
            vec!["serve", "--wasm", &module, "--service-account-tokens"],
            2,
            "--tls-cert <FILE>",
        ),
        (
            "client certificates in plaintext",
            [&serve[..], &["--client-ca", "x"]].concat(),
            2,
            "--tls-cert <FILE>",
        ),
        (
            "a certificate without a key",
            [&serve[..], &believed, &["--tls-cert", "x"]].concat(),
            2,
            "--tls-key <FILE>",
        ),
        (
            "tokens without a cluster",
            [&serve[..], &["--service-account-tokens", "--tls-cert", "x", "--tls-key", "x"]].concat(),
            2,
            "cannot be used with",
        ),
        (
            "a trust domain that is none",
            [&serve[..], &believed, &["--trust-domain", "spiffe://a"]].concat(),
            2,
            "as in `cluster.local`",
        ),
        (
            "a certificate that is not there",
            [&serve[..], &believed, &elsewhere, &["--tls-cert", "/nowhere", "--tls-key", "/nowhere"]]
                .concat(),
            1,
            "cannot read /nowhere",
        ),
        (
            "a certificate that is none",
            [&serve[..], &believed, &elsewhere, &["--tls-cert", "/etc/passwd", "--tls-key", "/etc/passwd"]]
                .concat(),
            1,
            "/etc/passwd has no certificate: expected PEM",
        ),
        (
            "a token in plaintext",
            vec!["bootstrap", "--identity", "a/b", "--token-file", "/t"],
            2,
            "--xds-ca <FILE>",
        ),
        (
            "a certificate that is not followed",
            vec![
                "bootstrap",
                "--identity",
                "a/b",
                "--xds-ca",
                "x",
                "--client-cert",
                "/c",
                "--client-key",
                "/k",
            ],
            2,
            "--client-sds <PATH>",
        ),
        (
            "a token and a certificate",
            vec![
                "bootstrap",
                "--identity",
                "a/b",
                "--xds-ca",
                "x",
                "--token-file",
                "/t",
                "--client-cert",
                "/c",
            ],
            2,
            "cannot be used with",
        ),
        (
            "a path on this machine",
            vec!["bootstrap", "--identity", "a/b", "--xds-ca", "x", "--token-file", "token"],
            2,
            "use an absolute path",
        ),
        (
            "an authority that is none",
            vec!["bootstrap", "--identity", "a/b", "--xds-ca", "/etc/passwd"],
            1,
            "/etc/passwd: there is no certificate",
        ),
        (
            "an address in place of a block",
            [&serve[..], &["--never-resolve-to", "10.0.0.0/8,10.0.0.1"]].concat(),
            2,
            "`10.0.0.1` is not an address block",
        ),
        (
            "no time at all",
            [&serve[..], &["--first-bytes-timeout", "0s"]].concat(),
            2,
            "it must be 10ms to 1h",
        ),
        ("no duration", [&serve[..], &["--first-bytes-timeout", "5"]].concat(), 2, "write it as `5s`"),
        ("no family", [&serve[..], &["--ip-families", "ipv6"]].concat(), 2, "[possible values: dual, ipv4]"),
        (
            "a port in use",
            [&serve[..], &["--insecure-node-identity", "--xds-listen", &address]].concat(),
            1,
            "cannot listen for xDS on",
        ),
        (
            "a module that is not there",
            vec!["serve", "--config-dir", &dir, "--wasm", "/nowhere.wasm", "--insecure-node-identity"],
            1,
            "cargo xtask build",
        ),
        (
            "a module that is none",
            vec!["serve", "--config-dir", &dir, "--wasm", "/etc/passwd", "--insecure-node-identity"],
            1,
            "is not a wasm module",
        ),
        (
            "a folder and a cluster",
            vec!["serve", "--config-dir", &dir, "--kubeconfig", "x", "--wasm", &module],
            2,
            "cannot be used with",
        ),
        (
            "a kubeconfig that is not there",
            vec!["serve", "--kubeconfig", "/nowhere", "--wasm", &module, "--insecure-node-identity"],
            1,
            "cannot use /nowhere",
        ),
        (
            "neither a folder nor a cluster",
            vec!["serve", "--wasm", &module, "--insecure-node-identity"],
            1,
            "pass `--config-dir DIR`, or `--kubeconfig FILE`",
        ),
        ("nobody there", vec!["status", "--admin", "127.0.0.1:1"], 1, "is `osm-egress serve` running?"),
    ] {
        let output = Command::new(control_plane::binary()?)
            .args(&arguments)
            // Nothing of the machine's own.
            .env_remove("EGRESS_WASM")
            .env_remove("KUBECONFIG")
            .env_remove("KUBERNETES_SERVICE_HOST")
            .env("HOME", "/nowhere")
            .output()?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        ensure!(output.status.code() == Some(code), "{case}: exit code {:?}, {said}", output.status.code());
        ensure!(said.contains(expected), "{case}: {said}");
    }
    Ok(())
}

/// The error for a missing Envoy names its path.
#[test]
fn a_missing_envoy_is_named() -> Result<()> {
    let output = Command::new(env!("CARGO_BIN_EXE_demo")).env("ENVOY_PATH", "/nowhere/envoy").output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "{said}");
    ensure!(said.contains("there is no Envoy at /nowhere/envoy"), "{said}");
    Ok(())
}
