//! `cargo xtask`: the one door. It fetches what is missing, says what it does, and leaves nothing
//! running.

mod dist;
mod docker;
mod fuzz;
mod images;
mod kubernetes;
mod module;
mod paths;
mod playground;
mod prometheus;
mod tools;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};

/// Builds, shows, tests and measures osm-egress.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build the wasm module and the control plane.
    Build,
    /// Show the main job on real Envoy; needs no cluster.
    Demo {
        /// Leave the mesh up, with a shell in the workload.
        #[arg(long)]
        keep: bool,
    },
    /// Run every check and test, as CI does.
    Test {
        /// Only what needs no Envoy.
        #[arg(long)]
        fast: bool,
        /// The Envoy to test with: a version, or `all` that are supported.
        #[arg(long, value_name = "VERSION")]
        envoy: Option<String>,
        /// Leave tests out by name; the summary says so.
        #[arg(long, value_name = "TESTS", value_delimiter = ',')]
        without: Vec<Without>,
    },
    /// Compare with bare passthrough and with Open Service Mesh's own configuration.
    Bench {
        /// Less of everything, to see that it works.
        #[arg(long)]
        quick: bool,
        /// Compare ours with and without `serve --flow-log` instead.
        #[arg(long)]
        flow_log: bool,
    },
    /// Fuzz what reads foreign input; needs a nightly compiler.
    Fuzz {
        /// How long each target runs.
        #[arg(long, value_name = "N", default_value_t = 60)]
        seconds: u64,
        /// Only this one.
        target: Option<String>,
    },
    /// Write what is released to a folder: module, static binaries, schema, example configurations.
    Dist {
        /// The folder.
        #[arg(long, value_name = "DIR", default_value = "target/dist")]
        to: PathBuf,
        /// Also the outside hosts of the local mesh.
        #[arg(long)]
        with_origin: bool,
        /// Cargo's profile.
        #[arg(long, default_value = "release")]
        profile: String,
    },
    /// Build the images of the local mesh (docker-compose.yml) without a registry of images.
    Images {
        /// Cargo's profile.
        #[arg(long, default_value = "release")]
        profile: String,
        /// The Envoy in its image.
        #[arg(long, value_name = "VERSION")]
        envoy: Option<String>,
    },
    /// Get the Envoy that demo and tests use, and say where it is: for ENVOY_PATH, or to run it.
    Envoy {
        /// The version.
        #[arg(long, value_name = "VERSION")]
        envoy: Option<String>,
    },
    /// Get the API server that tests need, and say in which folder it is: for KUBEBUILDER_ASSETS.
    Kubernetes,
    /// Build the playground: policies and questions in the browser.
    Playground {
        /// Then serve it on loopback.
        #[arg(long)]
        serve: bool,
        /// Where.
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15180", requires = "serve")]
        listen: SocketAddr,
        /// Serve what was built before.
        #[arg(long, requires = "serve")]
        no_build: bool,
    },
    /// Remove what was built and fetched.
    Clean,
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

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Build => build("dev").map(|_| ()),
        Task::Demo { keep } => {
            let built = build("dev")?;
            tools::system()?;
            let envoy = tools::envoy(None)?;
            built.run("demo", "dev", &envoy, keep.then_some("--keep").as_slice())
        }
        Task::Bench { quick, flow_log } => {
            let built = build("release")?;
            tools::system()?;
            let envoy = tools::envoy(None)?;
            let flags = [quick.then_some("--quick"), flow_log.then_some("--flow-log")];
            built.run("bench", "release", &envoy, &flags.into_iter().flatten().collect::<Vec<_>>())
        }
        Task::Fuzz { seconds, target } => fuzz::run(root()?, Duration::from_secs(seconds), target.as_deref()),
        Task::Test { fast, envoy, without } => test(fast, envoy.as_deref(), &without),
        Task::Dist { to, with_origin, profile } => {
            dist::write(&to, &profile, with_origin)?;
            println!("written to {}", to.display());
            Ok(())
        }
        Task::Images { profile, envoy } => {
            let _docker = docker::Docker::find()?;
            images::build(&profile, envoy.as_deref())?;
            println!(
                "\n`docker compose up -d` (or `docker-compose up -d`) starts the local mesh: docs/compose.md"
            );
            Ok(())
        }
        Task::Envoy { envoy } => {
            tools::envoy(envoy.as_deref()).map(|binary| println!("{}", binary.display()))
        }
        Task::Kubernetes => kubernetes::assets().map(|folder| println!("{}", folder.display())),
        Task::Playground { serve, listen, no_build } => {
            if !no_build {
                playground::build(root()?)?;
            }
            if serve {
                return playground::serve(root()?, listen);
            }
            println!("\n`cargo xtask playground --serve` shows it; any web server can: docs/playground.md");
            Ok(())
        }
        Task::Clean => clean(),
    }
}

/// The repository's root.
fn root() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies outside of a repository")
}

fn cargo(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root()?).args(arguments);
    Ok(command)
}

fn must(what: &str, command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{what}: cannot run {command:?}"))?;
    if status.success() { Ok(()) } else { bail!("{what} failed: {command:?}") }
}

/// What was built.
struct Built {
    module: PathBuf,
    shim: PathBuf,
}

fn build(profile: &str) -> Result<Built> {
    let root = root()?;
    println!("building the module and the control plane");
    tools::rust_target("wasm32-unknown-unknown")?;
    let module = module::build(root)?;
    must(
        "building the control plane",
        &mut cargo(&["build", "--package", "egress-shim", "--profile", profile])?,
    )?;
    let folder = if profile == "dev" { "debug" } else { profile };
    Ok(Built { module, shim: root.join("target").join(folder).join("osm-egress") })
}

impl Built {
    /// Tells a program what to try.
    fn environment(&self, command: &mut Command, envoy: &Path) {
        command.env("EGRESS_WASM", &self.module).env("OSM_EGRESS_BIN", &self.shim).env("ENVOY_PATH", envoy);
    }

    /// Runs a program of the harness.
    fn run(&self, program: &str, profile: &str, envoy: &Path, arguments: &[&str]) -> Result<()> {
        let mut command = cargo(&[
            "run",
            "--quiet",
            "--package",
            "egress-tests",
            "--bin",
            program,
            "--profile",
            profile,
            "--",
        ])?;
        command.args(arguments);
        self.environment(&mut command, envoy);
        must(program, &mut command)
    }
}

fn test(fast: bool, envoy: Option<&str>, without: &[Without]) -> Result<()> {
    let start = Instant::now();
    let mut steps = Steps::default();
    steps.run("format", || must("rustfmt", &mut cargo(&["fmt", "--all", "--check"])?))?;
    steps.run("lints", || {
        must(
            "clippy",
            &mut cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])?,
        )?;
        // Not among all targets, because they run as steps of their own.
        for test in ["kubernetes", "compose", "browser", "monitoring", "clients"] {
            let test = ["--package", "egress-tests", "--test", test, "--quiet"];
            must("clippy", cargo(&["clippy"])?.args(test).args(["--", "-D", "warnings"]))?;
        }
        Ok(())
    })?;
    steps.run("dependencies", || {
        if tools::find("cargo-deny").is_none() && std::env::var_os("CI").is_none() {
            println!("  cargo-deny is not installed: licences and sources are checked in CI only");
            return Ok(());
        }
        if Command::new("cargo-deny").arg("--version").output().is_err() {
            must("installing cargo-deny", &mut cargo(&["install", "--quiet", "--locked", "cargo-deny"])?)?;
        }
        must("cargo-deny", &mut cargo(&["deny", "--all-features", "check", "licenses", "bans", "sources"])?)
    })?;
    steps.run("unit tests", || {
        let units = ["test", "--workspace", "--exclude", "egress-tests", "--quiet"];
        must("unit tests", &mut cargo(&units)?)
    })?;
    steps.run("documentation", || {
        let mut command =
            cargo(&["doc", "--workspace", "--no-deps", "--quiet", "--exclude", "egress-tests"])?;
        must("rustdoc", command.env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    if !fast {
        let built = steps.run("build", || build("dev"))?;
        tools::system()?;
        if without.contains(&Without::Browser) {
            steps.skip("tests in a browser", &"--without browser");
        } else {
            in_browser(&mut steps, &built)?;
        }
        let versions = match envoy {
            Some("all") => tools::ENVOY_VERSIONS.into_iter().map(Some).collect(),
            version => vec![version],
        };
        for version in versions {
            let envoy = tools::envoy(version)?;
            if without.contains(&Without::Kubernetes) {
                steps.skip("tests on an API server", &"--without kubernetes");
            } else {
                let assets = steps.run("an API server for tests", kubernetes::assets)?;
                let name = format!("tests on an API server with {}", envoy.display());
                steps.run(&name, || {
                    let mut command = cargo(&["test", "--package", "egress-tests", "--test", "kubernetes"])?;
                    command.args(["--", "--test-threads", "2"]).env("KUBEBUILDER_ASSETS", &assets);
                    built.environment(&mut command, &envoy);
                    must("tests on an API server", &mut command)
                })?;
            }
            if without.contains(&Without::Prometheus) {
                steps.skip("tests of dashboard and alerts", &"--without prometheus");
            } else {
                let folder = steps.run("Prometheus", prometheus::folder)?;
                let name = format!("tests of dashboard and alerts with {}", envoy.display());
                steps.run(&name, || {
                    let mut command = cargo(&["test", "--package", "egress-tests", "--test", "monitoring"])?;
                    built.environment(&mut command, &envoy);
                    must("tests of dashboard and alerts", command.env("PROMETHEUS_PATH", &folder))
                })?;
            }
            if without.contains(&Without::Clients) {
                steps.skip("tests with real programs", &"--without clients");
            } else {
                with_clients(&mut steps, &built, &envoy)?;
            }
            if without.contains(&Without::Docker) {
                steps.skip("tests of the local mesh", &"--without docker");
            } else {
                local_mesh(&mut steps, version)?;
            }
            for protocol in ["sotw", "delta"] {
                let name = format!("integration tests by {protocol} with {}", envoy.display());
                steps.run(&name, || {
                    // Two at a time: each has a mesh of its own, and two cores are to be expected.
                    let mut command =
                        cargo(&["test", "--package", "egress-tests", "--", "--test-threads", "2"])?;
                    built.environment(&mut command, &envoy);
                    must("integration tests", command.env("EGRESS_XDS", protocol))
                })?;
            }
        }
        match fuzz::nightly() {
            Err(why) if std::env::var_os("CI").is_none() => steps.skip("fuzzing", &why),
            _ => {
                steps.run("fuzzing, 10 s for each target", || {
                    fuzz::run(root()?, Duration::from_secs(10), None)
                })?;
            }
        }
    }
    println!("\n{}{} in {:.0} s", steps.done, steps.verdict(), start.elapsed().as_secs_f64());
    Ok(())
}

/// The playground and the console, in Chromium; the console over a real mesh.
fn in_browser(steps: &mut Steps, built: &Built) -> Result<()> {
    let envoy = tools::envoy(None)?;
    steps.run("playground", || {
        playground::build(root()?)?;
        tools::packages(&[
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
        built.environment(&mut command, &envoy);
        must("tests in a browser", &mut command)
    })
}

/// Real client programs through the sidecar. A program that is not there is installed, or fails the test.
fn with_clients(steps: &mut Steps, built: &Built, envoy: &Path) -> Result<()> {
    steps.run("client programs", || {
        tools::packages(&[
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
            ("redis-cli", "redis-tools"),
            ("ssh", "openssh-client"),
            ("sshd", "openssh-server"),
            ("openssl", "openssl"),
            ("chromium", "chromium"),
        ])
        .context("leave them out by name: `cargo xtask test --without clients`")
    })?;
    steps.run(&format!("tests with real programs and {}", envoy.display()), || {
        let mut command = cargo(&["test", "--package", "egress-tests", "--test", "clients"])?;
        built.environment(command.args(["--", "--nocapture"]), envoy);
        must("tests with real programs", &mut command)
    })
}

/// The mesh of docker-compose.yml, with images that are made for it.
fn local_mesh(steps: &mut Steps, version: Option<&str>) -> Result<()> {
    let docker = steps.run("Docker", || {
        docker::compose()?;
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
        must("tests of the local mesh", &mut command)
    })?;
    drop(docker);
    Ok(())
}

/// What was done, and how long it took.
#[derive(Default)]
struct Steps {
    done: String,
    skipped: usize,
}

impl Steps {
    fn run<T>(&mut self, name: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("\n== {name}");
        let start = Instant::now();
        let result = step()?;
        self.done += &format!("{:>5.0} s  {name}\n", start.elapsed().as_secs_f64());
        Ok(result)
    }

    /// Says at the end, too, that something was not tried.
    fn skip(&mut self, name: &str, why: &dyn std::fmt::Display) {
        println!("\n== {name}\n  NOT RUN: {why}");
        self.done += &format!("NOT RUN  {name}: {why}\n");
        self.skipped += 1;
    }

    fn verdict(&self) -> String {
        match self.skipped {
            0 => "all passed".to_owned(),
            steps => format!("{steps} NOT RUN, the others passed"),
        }
    }
}

fn clean() -> Result<()> {
    for folder in [root()?.join("target"), tools::cache()?] {
        if folder.is_dir() {
            println!("removing {}", folder.display());
            std::fs::remove_dir_all(&folder)?;
        }
    }
    Ok(())
}
