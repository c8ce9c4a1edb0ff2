//! `cargo xtask`: the command line of development. Its tasks fetch what is missing and leave nothing running.

mod build;
mod check;
mod commands;
mod dist;
mod docker;
mod fuzz;
mod images;
mod kubernetes;
mod module;
mod paths;
mod playground;
mod prometheus;
mod steps;
mod test;
mod tools;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

use self::build::build;
use self::commands::root;

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
    /// Show the firewall on real Envoy; needs no cluster.
    Demo {
        /// Leave the mesh up, with a shell in the workload.
        #[arg(long)]
        keep: bool,
    },
    /// Check the rules of the repository: walls between crates, links, doc comments; compiles nothing.
    Check {
        /// Check another checkout.
        #[arg(long, value_name = "DIR")]
        root: Option<PathBuf>,
        /// Check only these rules.
        #[arg(value_name = "RULE")]
        rules: Vec<String>,
    },
    /// Run every check and test, as CI does.
    Test(test::TestArgs),
    /// Compare with bare passthrough and with Open Service Mesh's own configuration.
    Bench {
        /// A short run, to see that it works.
        #[arg(long)]
        quick: bool,
        /// Compare ours with and without `serve --flow-log` instead.
        #[arg(long)]
        flow_log: bool,
        /// Compare ours with another build: a folder with its `osm-egress` and `egress_filter.wasm`.
        #[arg(long, value_name = "FOLDER", conflicts_with = "flow_log")]
        against: Option<PathBuf>,
        /// Measure the control plane with this many simulated proxies instead.
        #[arg(long, value_name = "N")]
        fleet: Option<usize>,
    },
    /// Fuzz the readers of foreign input; needs a nightly compiler.
    Fuzz {
        /// Seconds for each target.
        #[arg(long, value_name = "N", default_value_t = 60)]
        seconds: u64,
        /// Run only this target.
        target: Option<String>,
    },
    /// Write what is released to a folder: module, static binaries, schema, example configurations.
    Dist {
        /// The folder to write to.
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
    /// Get the Envoy that demo and tests use, and print its path, for ENVOY_PATH.
    Envoy {
        /// The version.
        #[arg(long, value_name = "VERSION")]
        envoy: Option<String>,
    },
    /// Get the API server that tests need, and print its folder, for KUBEBUILDER_ASSETS.
    Kubernetes,
    /// Build the playground, a page that checks and explains policies in the browser.
    Playground {
        /// Serve it on loopback afterwards.
        #[arg(long)]
        serve: bool,
        /// The address to serve on.
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15180", requires = "serve")]
        listen: SocketAddr,
        /// Serve the last build.
        #[arg(long, requires = "serve")]
        no_build: bool,
    },
    /// Remove everything that was built or fetched.
    Clean,
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
            tools::install_network_tools()?;
            let envoy = tools::find_envoy(None)?;
            built.run("demo", "dev", &envoy, keep.then_some("--keep").as_slice())
        }
        Task::Bench { quick, flow_log, against, fleet } => {
            let built = build("release")?;
            tools::install_network_tools()?;
            let envoy = tools::find_envoy(None)?;
            let flags = [quick.then_some("--quick"), flow_log.then_some("--flow-log")];
            let mut flags: Vec<_> = flags.into_iter().flatten().map(str::to_owned).collect();
            flags.extend(against.map(|folder| format!("--against={}", folder.display())));
            flags.extend(fleet.map(|proxies| format!("--fleet={proxies}")));
            built.run("bench", "release", &envoy, &flags)
        }
        Task::Fuzz { seconds, target } => fuzz::run(root()?, Duration::from_secs(seconds), target.as_deref()),
        Task::Check { root: None, rules } => check::check(root()?, &rules),
        Task::Check { root: Some(other), rules } => check::check(&other, &rules),
        Task::Test(args) => test::test(&args),
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
            tools::find_envoy(envoy.as_deref()).map(|binary| println!("{}", binary.display()))
        }
        Task::Kubernetes => kubernetes::find_api_server().map(|folder| println!("{}", folder.display())),
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

fn clean() -> Result<()> {
    for folder in [root()?.join("target"), tools::cache_folder()?] {
        if folder.is_dir() {
            println!("removing {}", folder.display());
            std::fs::remove_dir_all(&folder)?;
        }
    }
    Ok(())
}
