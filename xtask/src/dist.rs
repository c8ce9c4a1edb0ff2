//! The release: the module, the binaries, and the files that one needs to use them.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::commands::{cargo, root, run_command};
use crate::{module, paths, tools};

/// Writes the release to a folder. With `origin` also the outside hosts of the local mesh.
pub(crate) fn write(to: &Path, profile: &str, origin: bool) -> Result<()> {
    let root = root()?;
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    println!("building static binaries ({profile})");
    tools::add_rust_target("wasm32-unknown-unknown")?;
    tools::add_rust_target(&target)?;
    tools::install_packages(&[("musl-gcc", "musl-tools")])?;
    let module = module::build(root)?;
    let mut build = cargo(&["build", "--quiet", "--target", &target, "--profile", profile])?;
    build.args(["--package", "egress-shim", "--bin", "osm-egress"]);
    if origin {
        build.args(["--package", "egress-tests", "--bin", "origin"]);
    }
    run_command(
        "building static binaries",
        build.env("CARGO_ENCODED_RUSTFLAGS", paths::remapped(root)?.join("\x1f")),
    )?;
    let folder = if profile == "dev" { "debug" } else { profile };
    let built = root.join("target").join(&target).join(folder);
    fs::create_dir_all(to).with_context(|| format!("cannot write {}", to.display()))?;
    let copy = |from: &Path, name: &str| -> Result<()> {
        let to = to.join(name);
        fs::copy(from, &to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
        Ok(())
    };
    copy(&module, "egress_filter.wasm")?;
    strip(&built.join("osm-egress"), &to.join("osm-egress"))?;
    if origin {
        strip(&built.join("origin"), &to.join("origin"))?;
    }
    for (from, name) in [
        ("docs/policy-document.schema.json", "policy-document.schema.json"),
        ("envoy/standalone.yaml", "standalone.yaml"),
        ("envoy/bootstrap.yaml", "bootstrap.yaml"),
        ("LICENSE", "LICENSE"),
    ] {
        copy(&root.join(from), name)?;
    }
    sums(to)
}

/// Copies a binary without debug information. Symbols stay: a panic prints them.
fn strip(from: &Path, to: &Path) -> Result<()> {
    let mut strip = Command::new("strip");
    strip.arg("--strip-debug").arg("-o").arg(to).arg(from);
    tools::run_quietly("stripping a binary", &mut strip)
}

/// Writes `SHA256SUMS` of all files, and the module's sum alone, because configurations name it.
fn sums(folder: &Path) -> Result<()> {
    let sum = |names: &[String]| -> Result<Vec<u8>> {
        let output = Command::new("sha256sum").current_dir(folder).args(names).output()?;
        if !output.status.success() {
            bail!("sha256sum: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(output.stdout)
    };
    fs::write(folder.join("egress_filter.wasm.sha256"), sum(&["egress_filter.wasm".to_owned()])?)?;
    let mut names: Vec<_> = fs::read_dir(folder)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name != "SHA256SUMS")
        .collect();
    names.sort();
    fs::write(folder.join("SHA256SUMS"), sum(&names)?)?;
    Ok(())
}
