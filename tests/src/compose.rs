//! The local mesh of `docker-compose.yml`, with its images, for tests.
//!
//! `cargo xtask test` makes the images and starts a Docker daemon where none runs.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::repository_root;
use crate::wait::wait_for;

/// The longest time until the whole mesh is healthy.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(60);

/// A mesh in a copy of its files. It is taken down when this is dropped.
#[derive(Debug)]
pub struct Compose {
    folder: tempfile::TempDir,
    project: String,
    second: bool,
}

impl Compose {
    /// Copies the files; starts nothing.
    ///
    /// # Errors
    /// Fails if there is no Docker, no Compose, or an image is missing.
    pub fn new() -> Result<Self> {
        docker(&["version"]).context("no Docker daemon answers")?;
        let second = Command::new("docker").args(["compose", "version"]).output();
        let second = second.is_ok_and(|output| output.status.success());
        let folder = tempfile::tempdir()?;
        let copy = |name: &str| -> Result<()> {
            let to = folder.path().join(name);
            fs::create_dir_all(to.parent().context("a file has a folder")?)?;
            fs::copy(repository_root().join(name), to).with_context(|| name.to_owned())?;
            Ok(())
        };
        copy("docker-compose.yml")?;
        for entry in fs::read_dir(repository_root().join("envoy/mesh"))? {
            copy(&format!("envoy/mesh/{}", entry?.file_name().to_string_lossy()))?;
        }
        let compose = Self { folder, project: format!("osm-egress-test-{}", std::process::id()), second };
        for image in compose.images()? {
            docker(&["image", "inspect", &image])
                .with_context(|| format!("the image {image} is missing: run `cargo xtask images`"))?;
        }
        Ok(compose)
    }

    fn images(&self) -> Result<Vec<String>> {
        let config = self.run(&["config"])?;
        let images = config.lines().filter_map(|line| line.trim().strip_prefix("image: "));
        Ok(images.map(str::to_owned).collect())
    }

    /// A shell in the mesh's folder, with `docker compose` in its PATH.
    #[must_use]
    pub fn shell(&self, script: &str) -> Command {
        // Version 1 is a program of its own, and needs `-T` for `exec` without a terminal.
        let first = "docker() { if [ \"$1\" = compose ]; then shift; if [ \"$1\" = exec ]; then shift; \
            docker-compose exec -T \"$@\"; else docker-compose \"$@\"; fi; else command docker \"$@\"; fi; }\n";
        let mut command = Command::new("bash");
        command
            .current_dir(self.folder.path())
            .env("COMPOSE_PROJECT_NAME", &self.project)
            .arg("-c")
            .arg(if self.second { script.to_owned() } else { format!("{first}{script}") })
            .stdin(Stdio::null());
        command
    }

    /// Runs Compose.
    ///
    /// # Errors
    /// Fails if it fails; with its output.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let words: Vec<_> = arguments.iter().map(|word| format!("'{word}'")).collect();
        let output = self.shell(&format!("docker compose {}", words.join(" "))).output()?;
        check_output(&format!("docker compose {}", arguments.join(" ")), output)
    }

    /// The container of a service, running or not.
    ///
    /// # Errors
    /// Fails if there is none.
    pub fn container(&self, service: &str) -> Result<String> {
        let id = docker(&[
            "ps",
            "--all",
            "--quiet",
            "--filter",
            &format!("label=com.docker.compose.project={}", self.project),
            "--filter",
            &format!("label=com.docker.compose.service={service}"),
        ])?;
        ensure!(!id.trim().is_empty(), "there is no container of {service}");
        Ok(id.trim().to_owned())
    }

    /// Waits until everything runs and every health check passes.
    ///
    /// # Errors
    /// Fails if that takes too long; with the parts that are not healthy.
    pub fn healthy(&self) -> Result<Duration> {
        let ill = || self.states().map(|states| states.into_iter().filter(|state| !is_well(state)).collect());
        wait_for("all containers to be healthy", HEALTH_TIMEOUT, || {
            ill().is_ok_and(|ill: Vec<String>| ill.is_empty())
        })
        .with_context(|| ill().unwrap_or_default().join("\n"))
    }

    fn states(&self) -> Result<Vec<String>> {
        let filter = format!("label=com.docker.compose.project={}", self.project);
        let format = "{{.Names}}: {{.Status}}";
        let states = docker(&["ps", "--all", "--filter", &filter, "--format", format])?;
        ensure!(!states.is_empty(), "there are no containers");
        Ok(states.lines().map(str::to_owned).collect())
    }

    /// Docker's containers, networks and volumes of this mesh.
    ///
    /// # Errors
    /// Fails if Docker fails.
    pub fn traces(&self) -> Result<Vec<String>> {
        let filter = format!("label=com.docker.compose.project={}", self.project);
        let mut traces = Vec::new();
        for (kind, all) in [("container", Some("--all")), ("network", None), ("volume", None)] {
            let mut arguments = vec![kind, "ls", "--quiet", "--filter", &filter];
            arguments.extend(all);
            traces.extend(docker(&arguments)?.lines().map(|id| format!("{kind} {id}")));
        }
        Ok(traces)
    }

    /// The folder with the compose file and `envoy/mesh`.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The full name of one of the mesh's networks.
    #[must_use]
    pub fn network(&self, name: &str) -> String {
        format!("{}_{name}", self.project)
    }

    /// The output of a service since its container was created.
    ///
    /// # Errors
    /// Fails if there is no such container.
    pub fn log(&self, service: &str) -> Result<String> {
        docker(&["logs", &self.container(service)?])
    }
}

fn is_well(state: &str) -> bool {
    state.contains(": Up") && !state.contains("(unhealthy)") && !state.contains("(health: starting)")
}

impl Drop for Compose {
    fn drop(&mut self) {
        if self.traces().is_ok_and(|traces| !traces.is_empty()) {
            let _ = self.run(&["down", "--volumes", "--timeout", "1"]);
        }
    }
}

/// Runs Docker.
///
/// # Errors
/// Fails if it fails; with its output.
pub fn docker(arguments: &[&str]) -> Result<String> {
    let output = Command::new("docker").args(arguments).stdin(Stdio::null()).output().context("docker")?;
    check_output(&format!("docker {}", arguments.join(" ")), output)
}

fn check_output(what: &str, output: Output) -> Result<String> {
    if !output.status.success() {
        bail!("{what}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}
