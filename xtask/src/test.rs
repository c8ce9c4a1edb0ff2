//! `cargo xtask test`: every check and test, as CI runs them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::build::{Built, build};
use crate::commands::{cargo, root, run_command};
use crate::steps::Steps;
use crate::{check, docker, fuzz, images, kubernetes, playground, prometheus, tools};

/// The flags of `cargo xtask test`.
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Only what needs no Envoy.
    #[arg(long)]
    fast: bool,
    /// The Envoy to test with: a version, or `all` that are supported.
    #[arg(long, value_name = "VERSION")]
    envoy: Option<String>,
    /// Leave tests out by name; the summary says so.
    #[arg(long, value_name = "TESTS", value_delimiter = ',')]
    without: Vec<Without>,
}

/// Tests that may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Without {
    /// Those on a real API server.
    Kubernetes,
    /// Those of the local mesh, in containers.
    Docker,
    /// Those of the playground, in Chromium.
    Browser,
    /// Those of dashboard and alerts, with Prometheus.
    Prometheus,
    /// Those with real client programs, from curl to Java and Chromium.
    Clients,
}

/// Runs all steps until one fails, and prints the table of their times in any case.
pub(crate) fn test(args: &TestArgs) -> Result<()> {
    let mut steps = Steps::start();
    let result = run_steps(&mut steps, args);
    println!("\n{steps}");
    result
}

fn run_steps(steps: &mut Steps, args: &TestArgs) -> Result<()> {
    check_sources(steps)?;
    steps.run("unit tests", || {
        let units = ["test", "--workspace", "--exclude", "egress-tests", "--quiet"];
        run_command("unit tests", &mut cargo(&units)?)
    })?;
    steps.run("documentation", || {
        let mut command =
            cargo(&["doc", "--workspace", "--no-deps", "--quiet", "--exclude", "egress-tests"])?;
        run_command("rustdoc", command.env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    if args.fast {
        return Ok(());
    }
    let built = steps.run("build", || build("dev"))?;
    tools::install_network_tools()?;
    if args.without.contains(&Without::Browser) {
        steps.skip("tests in a browser", "--without browser");
    } else {
        test_in_browser(steps, &built)?;
    }
    let versions = match args.envoy.as_deref() {
        Some("all") => tools::ENVOY_VERSIONS.into_iter().map(Some).collect(),
        version => vec![version],
    };
    for version in versions {
        test_with_envoy(steps, &built, version, &args.without)?;
    }
    match fuzz::require_nightly() {
        Err(error) if std::env::var_os("CI").is_none() => steps.skip("fuzzing", error),
        _ => steps
            .run("fuzzing, 10 s for each target", || fuzz::run(root()?, Duration::from_secs(10), None))?,
    }
    Ok(())
}

/// The steps that look at sources alone. The fastest is the first.
fn check_sources(steps: &mut Steps) -> Result<()> {
    steps.run("rules", || check::check(root()?, &[]))?;
    steps.run("format", || run_command("rustfmt", &mut cargo(&["fmt", "--all", "--check"])?))?;
    steps.run("lints", || {
        run_command(
            "clippy",
            &mut cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])?,
        )?;
        // Not among all targets, because they run as steps of their own.
        for test in ["kubernetes", "compose", "browser", "monitoring", "clients"] {
            let test = ["--package", "egress-tests", "--test", test, "--quiet"];
            run_command("clippy", cargo(&["clippy"])?.args(test).args(["--", "-D", "warnings"]))?;
        }
        Ok(())
    })?;
    steps.run("dependencies", || {
        if tools::find_tool("cargo-deny").is_none() && std::env::var_os("CI").is_none() {
            println!("  cargo-deny is not installed: licences and sources are checked in CI only");
            return Ok(());
        }
        if Command::new("cargo-deny").arg("--version").output().is_err() {
            let install = ["install", "--quiet", "--locked", "cargo-deny"];
            run_command("installing cargo-deny", &mut cargo(&install)?)?;
        }
        let deny = ["deny", "--all-features", "check", "licenses", "bans", "sources"];
        run_command("cargo-deny", &mut cargo(&deny)?)
    })
}

fn test_with_envoy(
    steps: &mut Steps,
    built: &Built,
    version: Option<&str>,
    without: &[Without],
) -> Result<()> {
    let envoy = tools::find_envoy(version)?;
    if without.contains(&Without::Kubernetes) {
        steps.skip("tests on an API server", "--without kubernetes");
    } else {
        let assets = steps.run("an API server for tests", kubernetes::find_api_server)?;
        let name = format!("tests on an API server with {}", envoy.display());
        steps.run(&name, || {
            let mut command = cargo(&["test", "--package", "egress-tests", "--test", "kubernetes"])?;
            command.args(["--", "--test-threads", "2"]).env("KUBEBUILDER_ASSETS", &assets);
            built.set_environment(&mut command, &envoy);
            run_command("tests on an API server", &mut command)
        })?;
    }
    if without.contains(&Without::Prometheus) {
        steps.skip("tests of dashboard and alerts", "--without prometheus");
    } else {
        let folder = steps.run("Prometheus", prometheus::find_prometheus)?;
        let name = format!("tests of dashboard and alerts with {}", envoy.display());
        steps.run(&name, || {
            let mut command = cargo(&["test", "--package", "egress-tests", "--test", "monitoring"])?;
            built.set_environment(&mut command, &envoy);
            run_command("tests of dashboard and alerts", command.env("PROMETHEUS_PATH", &folder))
        })?;
    }
    if without.contains(&Without::Clients) {
        steps.skip("tests with real programs", "--without clients");
    } else {
        test_with_clients(steps, built, &envoy)?;
    }
    if without.contains(&Without::Docker) {
        steps.skip("tests of the local mesh", "--without docker");
    } else {
        test_local_mesh(steps, version)?;
    }
    for protocol in ["sotw", "delta"] {
        let name = format!("integration tests by {protocol} with {}", envoy.display());
        steps.run(&name, || {
            // Two at a time: each has a mesh of its own, and two cores are to be expected.
            let mut command = cargo(&["test", "--package", "egress-tests", "--", "--test-threads", "2"])?;
            built.set_environment(&mut command, &envoy);
            run_command("integration tests", command.env("EGRESS_XDS", protocol))
        })?;
    }
    Ok(())
}

/// The playground and the console, in Chromium; the console over a real mesh.
fn test_in_browser(steps: &mut Steps, built: &Built) -> Result<()> {
    let envoy = tools::find_envoy(None)?;
    steps.run("playground", || {
        playground::build(root()?)?;
        tools::install_packages(&[
            ("chromium", "chromium"),
            ("chromedriver", "chromium-driver"),
            ("fc-list", "fontconfig"),
        ])
        .context("leave what needs a browser out by name: `cargo xtask test --without browser`")
    })?;
    steps.run("tests in a browser", || {
        let mut command = cargo(&["test", "--package", "egress-tests", "--test", "browser"])?;
        // Each has a browser of its own.
        command.args(["--", "--test-threads", "2"]).env("XTASK_BIN", std::env::current_exe()?);
        built.set_environment(&mut command, &envoy);
        run_command("tests in a browser", &mut command)
    })
}

/// Real client programs through the sidecar. A program that is missing is installed, or fails the test.
fn test_with_clients(steps: &mut Steps, built: &Built, envoy: &Path) -> Result<()> {
    steps.run("client programs", || {
        tools::install_packages(&[
            ("git", "git"),
            ("npm", "npm"),
            ("node", "nodejs"),
            ("java", "default-jre-headless"),
            ("javac", "default-jdk-headless"),
            ("/usr/share/java/httpclient5.jar", "libhttpclient5-java"),
            ("/usr/share/java/slf4j-nop.jar", "libslf4j-java"),
            ("/usr/bin/python3", "python3"),
            ("/usr/lib/python3/dist-packages/requests/__init__.py", "python3-requests"),
            ("/usr/lib/python3/dist-packages/httpx/__init__.py", "python3-httpx"),
            ("/usr/lib/python3/dist-packages/aiohttp/__init__.py", "python3-aiohttp"),
            ("/usr/lib/python3/dist-packages/grpc/__init__.py", "python3-grpcio"),
            ("psql", "postgresql-client"),
            ("pg_ctlcluster", "postgresql"),
            ("redis-cli", "redis-tools"),
            ("redis-server", "redis-server"),
            ("ssh", "openssh-client"),
            ("sshd", "openssh-server"),
            ("openssl", "openssl"),
            ("chromium", "chromium"),
        ])
        .context("leave them out by name: `cargo xtask test --without clients`")
    })?;
    steps.run(&format!("tests with real programs and {}", envoy.display()), || {
        let mut command = cargo(&["test", "--package", "egress-tests", "--test", "clients"])?;
        built.set_environment(command.args(["--", "--nocapture"]), envoy);
        run_command("tests with real programs", &mut command)
    })
}

/// The mesh of docker-compose.yml, with images that are made for it.
fn test_local_mesh(steps: &mut Steps, version: Option<&str>) -> Result<()> {
    let docker = steps.run("Docker", || {
        docker::find_compose()?;
        docker::Docker::find()
    })?;
    let image = steps.run("images of the local mesh", || images::build("dev", version))?;
    steps.run(&format!("tests of the local mesh with {image}"), || {
        let mut command = cargo(&["test", "--package", "egress-tests", "--test", "compose"])?;
        // Each has the outside world to itself.
        command.args(["--", "--test-threads", "1", "--nocapture"]).env("ENVOY_IMAGE", &image);
        if let Some((_, version)) = image.split_once(':') {
            command.env("ENVOY_VERSION", version);
        }
        run_command("tests of the local mesh", &mut command)
    })?;
    drop(docker);
    Ok(())
}
