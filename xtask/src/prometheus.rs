//! Prometheus and promtool: those that are installed, else from Debian's package, unpacked into the cache. The package is not
//! installed, because that starts a server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::tools;

const PROGRAMS: [&str; 2] = ["prometheus", "promtool"];

/// The folder with both programs.
pub(crate) fn find_prometheus() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("PROMETHEUS_PATH") {
        let folder = PathBuf::from(folder);
        ensure!(has_both(&folder), "PROMETHEUS_PATH: {} has not both of {PROGRAMS:?}", folder.display());
        return Ok(folder);
    }
    let installed = tools::find_tool(PROGRAMS[0]).and_then(|path| Some(path.parent()?.to_owned()));
    let cached = tools::cache_folder()?.join("prometheus");
    if let Some(folder) = installed.into_iter().chain([cached.clone()]).find(|folder| has_both(folder)) {
        return Ok(folder);
    }
    fetch(&cached).context(
        "set PROMETHEUS_PATH to a folder with prometheus and promtool, or leave what needs them out by name: \
         `cargo xtask test --without prometheus`",
    )?;
    Ok(cached)
}

fn has_both(folder: &Path) -> bool {
    PROGRAMS.iter().all(|program| folder.join(program).is_file())
}

fn fetch(folder: &Path) -> Result<()> {
    ensure!(tools::find_tool("apt-get").is_some(), "Prometheus is not installed, and there is no apt-get");
    let draft = folder.with_extension("draft");
    let _ = fs::remove_dir_all(&draft);
    fs::create_dir_all(&draft).with_context(|| format!("cannot write {}", draft.display()))?;
    if tools::is_root() {
        tools::run_quietly("updating the list of packages", Command::new("apt-get").args(["update", "-qq"]))?;
    }
    let mut download = Command::new("apt-get");
    download.args(["download", "-qq", "prometheus"]).current_dir(&draft);
    tools::run_quietly("fetching Prometheus (19 MB)", &mut download)?;
    let package = fs::read_dir(&draft)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("there is no package in what was fetched")?;
    let unpacked = draft.join("unpacked");
    tools::run_quietly("unpacking it", Command::new("dpkg").arg("-x").arg(&package).arg(&unpacked))?;
    for program in PROGRAMS {
        fs::rename(unpacked.join("usr/bin").join(program), draft.join(program))
            .with_context(|| format!("there is no {program} in the package"))?;
    }
    fs::remove_dir_all(unpacked)?;
    fs::remove_file(package)?;
    tools::make_executable(&draft)?;
    let _ = fs::remove_dir_all(folder);
    Ok(fs::rename(&draft, folder)?)
}
