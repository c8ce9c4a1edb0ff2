//! The images of the local mesh without any registry of images: Debian comes from its packages, Envoy is the one
//! that the tests use, and our binaries are built here. Nothing is fetched twice.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::commands::root;
use crate::{dist, tools};

/// The image with Debian in it: what needs a shell is made from it.
const BASE: &str = "osm-egress/base";
/// Debian's release.
const SUITE: &str = "bookworm";
/// The moment of every file that we make (2020-01-01): equal input gives equal layers.
const EPOCH: &str = "1577836800";
/// The label of [`BASE`] that says what it was made from.
const SUM: &str = "org.osm-egress.sha256";
/// The targets of the Dockerfile.
const TARGETS: [&str; 4] = ["shim", "init", "origin", "workload"];
/// The file that names these images to the local mesh.
const ENVIRONMENT: &str = ".env";

/// Builds all images, and returns the name of the one with Envoy.
pub(crate) fn build(profile: &str, version: Option<&str>) -> Result<String> {
    base()?;
    let envoy = envoy(version)?;
    ours(profile)?;
    write_environment(&envoy)?;
    println!("\nimages:");
    for image in TARGETS.iter().map(|target| format!("osm-egress/{target}")).chain([envoy.clone()]) {
        let size = docker(&["image", "inspect", "--format", "{{.Size}}", &image])?;
        let size: f64 = size.trim().parse().context("docker says no size")?;
        println!("  {:>6.1} MB  {image}", size / 1e6);
    }
    Ok(envoy)
}

fn docker(arguments: &[&str]) -> Result<String> {
    let output = Command::new("docker").args(arguments).stdin(Stdio::null()).output()?;
    if !output.status.success() {
        bail!("docker {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// A small Debian, made once and kept in the cache.
fn base() -> Result<()> {
    let archive = tools::cache_folder()?.join("images").join(format!("debian-{SUITE}.tar"));
    if !archive.is_file() {
        bootstrap(&archive).context(
            "cannot make a base image: where images can be pulled, `docker compose build` needs none of this",
        )?;
    }
    let output = Command::new("sha256sum").arg(&archive).output()?;
    let sum = String::from_utf8(output.stdout)?.split_whitespace().next().unwrap_or_default().to_owned();
    let format = format!("{{{{index .Config.Labels \"{SUM}\"}}}}");
    if docker(&["image", "inspect", "--format", &format, BASE]).is_ok_and(|found| found.trim() == sum) {
        return Ok(());
    }
    let mut import = Command::new("docker");
    import
        .args(["import", "--change", &format!("LABEL {SUM}={sum}")])
        .args(["--change", "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"])
        .arg(&archive)
        .arg(BASE);
    tools::run_quietly("importing Debian", &mut import)
}

fn bootstrap(archive: &Path) -> Result<()> {
    ensure!(tools::is_root(), "only root can make one");
    tools::install_packages(&[("debootstrap", "debootstrap")])?;
    let folder = archive.parent().context("a file has a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot write {}", folder.display()))?;
    let tree = folder.join("tree");
    let _ = fs::remove_dir_all(&tree);
    let mut make = Command::new("debootstrap");
    make.args(["--variant=minbase", "--include=ca-certificates,curl,iptables", SUITE])
        .arg(&tree)
        .args(mirror()?);
    tools::run_quietly("making a small Debian by debootstrap (half a minute)", &mut make)?;
    for folder in
        ["usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "var/cache", "var/log"]
    {
        empty(&tree.join(folder))?;
    }
    empty(&tree.join("var/lib/apt/lists"))?;
    empty(&tree.join("tmp"))?;
    // What debootstrap takes over from this machine.
    for file in ["etc/apt/sources.list", "etc/hostname", "etc/resolv.conf", "etc/machine-id"] {
        fs::write(tree.join(file), "").with_context(|| format!("cannot write {file}"))?;
    }
    let draft = archive.with_extension("draft");
    let mut pack = Command::new("tar");
    pack.arg("-C").arg(&tree).arg("-cf").arg(&draft).args([
        "--sort=name",
        &format!("--mtime=@{EPOCH}"),
        "--numeric-owner",
        "--exclude=./dev/*",
        ".",
    ]);
    tools::run_quietly("packing it", &mut pack)?;
    fs::remove_dir_all(&tree)?;
    fs::rename(&draft, archive)?;
    Ok(())
}

fn empty(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
    }
    Ok(())
}

/// The mirror from which this machine gets Debian. None leaves the choice to debootstrap.
fn mirror() -> Result<Option<String>> {
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian"])
        .arg(format!("Codename: {SUITE}"))
        .stdin(Stdio::null())
        .output();
    let Ok(output) = output else { return Ok(None) };
    Ok(String::from_utf8(output.stdout)?.lines().next().map(str::to_owned))
}

/// An image with the stock Envoy that the tests use.
fn envoy(version: Option<&str>) -> Result<String> {
    let binary = tools::find_envoy(version)?;
    let version = tools::read_envoy_version(&binary)?;
    let image = format!("osm-egress/envoy:{version}");
    let context = context("envoy")?;
    link(&binary, &context.join("envoy"))?;
    fs::write(
        context.join("Dockerfile"),
        format!(
            "FROM {BASE}\nLABEL org.opencontainers.image.title=envoy org.opencontainers.image.version={version}\n\
             COPY envoy /usr/local/bin/\nUSER 1500:1500\nENTRYPOINT [\"envoy\"]\n"
        ),
    )?;
    tools::run_quietly(&format!("building {image}"), &mut builder(&context, &image))?;
    Ok(image)
}

/// The targets of the Dockerfile, from binaries that are built here.
fn ours(profile: &str) -> Result<()> {
    let root = root()?;
    let context = context("ours")?;
    let binaries = context.join("dist");
    dist::write(&binaries, profile, true)?;
    fs::copy(root.join("Dockerfile"), context.join("Dockerfile"))?;
    for target in TARGETS {
        let image = format!("osm-egress/{target}");
        let mut build = builder(&context, &image);
        build.args(["--target", target]);
        for argument in ["RUST_IMAGE", "BASE_IMAGE"] {
            build.args(["--build-arg", &format!("{argument}={BASE}")]);
        }
        build.args(["--build-arg", &format!("SOURCE_DATE_EPOCH={EPOCH}")]);
        build.args(["--build-arg", &format!("VERSION={}", env!("CARGO_PKG_VERSION"))]);
        tools::run_quietly(&format!("building {image}"), &mut build)?;
    }
    Ok(())
}

/// An empty folder to build an image from.
fn context(name: &str) -> Result<PathBuf> {
    let folder = root()?.join("target/images").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn builder(context: &Path, image: &str) -> Command {
    let mut build = Command::new("docker");
    // Nothing is asked for outside.
    build.arg("build").args(["--network", "none", "--tag", image]).arg(context);
    build
}

/// Links a file, or copies it to another file system: a link saves a hundred megabytes.
fn link(from: &Path, to: &Path) -> Result<()> {
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(())
}

/// Writes the file that Compose reads by itself. A file that a user wrote stays as it is.
fn write_environment(envoy: &str) -> Result<()> {
    let path = root()?.join(ENVIRONMENT);
    let ours = "# Made by `cargo xtask images`; remove it to use Envoy's own image again.\n";
    match fs::read_to_string(&path) {
        Ok(text) if !text.starts_with(ours) => {
            println!("  {ENVIRONMENT} is yours: set ENVOY_IMAGE={envoy} there");
            Ok(())
        }
        _ => {
            // A bootstrap is made for the version that reads it.
            let version = envoy.rsplit_once(':').map_or("", |(_, version)| version);
            let text = format!("{ours}ENVOY_IMAGE={envoy}\nENVOY_VERSION={version}\n");
            fs::write(&path, text).context("cannot write .env")
        }
    }
}
