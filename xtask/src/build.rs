//! The module and the control plane, built for tests and demonstrations.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::commands::{cargo, root, run_command};
use crate::{module, tools};

/// The files that were built.
pub(crate) struct Built {
    module: PathBuf,
    shim: PathBuf,
}

/// Builds both. `profile` is that of the control plane; the module has its own.
pub(crate) fn build(profile: &str) -> Result<Built> {
    let root = root()?;
    println!("building the module and the control plane");
    tools::add_rust_target("wasm32-unknown-unknown")?;
    let module = module::build(root)?;
    run_command(
        "building the control plane",
        &mut cargo(&["build", "--package", "egress-shim", "--profile", profile])?,
    )?;
    let folder = if profile == "dev" { "debug" } else { profile };
    Ok(Built { module, shim: root.join("target").join(folder).join("osm-egress") })
}

impl Built {
    /// Tells a program of the harness where its parts are.
    pub(crate) fn set_environment(&self, command: &mut Command, envoy: &Path) {
        command.env("EGRESS_WASM", &self.module).env("OSM_EGRESS_BIN", &self.shim).env("ENVOY_PATH", envoy);
    }

    /// Runs a program of the harness.
    pub(crate) fn run(
        &self,
        program: &str,
        profile: &str,
        envoy: &Path,
        arguments: &[impl AsRef<std::ffi::OsStr>],
    ) -> Result<()> {
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
        self.set_environment(&mut command, envoy);
        run_command(program, &mut command)
    }
}
