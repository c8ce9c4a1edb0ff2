//! A real API server for tests: kube-apiserver, etcd and kubectl, found or made once.
//!
//! Nobody publishes kube-apiserver in a registry of packages, and Debian has its source only. That source
//! carries everything that it needs, so the build asks for nothing but Debian's packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::tools;

/// The version that Debian bookworm has the source of.
const VERSION: &str = "1.20.2";
/// The programs that the tests start.
const BINARIES: [&str; 3] = ["kube-apiserver", "etcd", "kubectl"];
/// The packages that the build needs, besides the source.
const PACKAGES: [&str; 7] =
    ["golang-go", "golang-github-modern-go-reflect2-dev", "make", "gcc", "libc6-dev", "rsync", "dpkg-dev"];
/// The advice when there is no API server.
const ADVICE: &str = "set KUBEBUILDER_ASSETS to a folder with kube-apiserver, etcd and kubectl \
    (`setup-envtest use -p path` of controller-runtime fetches one), \
    or leave these tests out by name: `cargo xtask test --without kubernetes`";

/// The folder with an API server: `KUBEBUILDER_ASSETS`, else from the cache, else built.
pub(crate) fn find_api_server() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("KUBEBUILDER_ASSETS") {
        let folder = PathBuf::from(folder);
        check(&folder).with_context(|| format!("KUBEBUILDER_ASSETS: {}", folder.display()))?;
        return Ok(folder);
    }
    let folder = tools::cache_folder()?.join("kubernetes").join(VERSION);
    if check(&folder).is_err() {
        build(&folder).with_context(|| format!("cannot get an API server for tests: {ADVICE}"))?;
        check(&folder)?;
    }
    Ok(folder)
}

fn check(folder: &Path) -> Result<()> {
    for binary in BINARIES {
        ensure!(folder.join(binary).is_file(), "there is no {binary} in it");
    }
    Ok(())
}

/// Builds kube-apiserver from Debian's source, and takes etcd and kubectl out of Debian's packages.
fn build(folder: &Path) -> Result<()> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if !release.lines().any(|line| line == "VERSION_CODENAME=bookworm") {
        bail!("it can be built on Debian bookworm only, and this is not one");
    }
    ensure!(tools::is_root(), "building it installs packages, for which one must be root");
    let draft = folder.with_extension("draft");
    let _ = fs::remove_dir_all(&draft);
    fs::create_dir_all(&draft).with_context(|| format!("cannot write {}", draft.display()))?;
    println!("  an API server for the tests is built once (some ten minutes on two cores)");
    let bin = draft.join("bin");
    fs::create_dir(&bin)?;
    install()?;
    take("etcd-server", "usr/bin/etcd", &draft, &bin)?;
    take("kubernetes-client", "usr/bin/kubectl", &draft, &bin)?;
    let source = source(&draft)?;
    let mut make = Command::new("make");
    make.current_dir(&source)
        .args(["WHAT=cmd/kube-apiserver", "GO111MODULE=off"])
        .arg(format!("KUBE_GIT_VERSION=v{VERSION}"))
        .env("GOCACHE", draft.join("gocache"))
        .env("GOPATH", draft.join("gopath"))
        .env_remove("GOFLAGS");
    tools::run_quietly("building kube-apiserver", &mut make)?;
    fs::rename(source.join("_output/bin/kube-apiserver"), bin.join("kube-apiserver"))?;
    for binary in BINARIES {
        tools::make_executable(&bin.join(binary))?;
    }
    let _ = fs::remove_dir_all(folder);
    fs::rename(&bin, folder)?;
    fs::remove_dir_all(&draft)?;
    Ok(())
}

fn install() -> Result<()> {
    tools::run_quietly("updating the list of packages", Command::new("apt-get").args(["update", "-qq"]))?;
    let mut install = Command::new("apt-get");
    install.args(["install", "-y", "-qq", "--no-install-recommends"]).args(PACKAGES);
    tools::run_quietly("installing Go", install.env("DEBIAN_FRONTEND", "noninteractive"))
}

/// Takes one file out of a package, without installing it: etcd's package would start a server.
fn take(package: &str, file: &str, draft: &Path, bin: &Path) -> Result<()> {
    let folder = draft.join(package);
    fs::create_dir(&folder)?;
    let mut download = Command::new("apt-get");
    download.current_dir(&folder).args(["download", "-qq", package]);
    tools::run_quietly(&format!("fetching {package}"), &mut download)?;
    let archive = only(&folder, "deb")?;
    let tree = folder.join("tree");
    tools::run_quietly("unpacking it", Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&tree))?;
    let name = Path::new(file).file_name().context("a package's file has a name")?;
    fs::rename(tree.join(file), bin.join(name)).with_context(|| format!("there is no {file} in {package}"))
}

/// The one file of a folder with this extension.
fn only(folder: &Path, extension: &str) -> Result<PathBuf> {
    let files = fs::read_dir(folder)?.filter_map(Result::ok).map(|entry| entry.path());
    let mut found = files.filter(|path| path.extension().is_some_and(|e| e == extension));
    found.next().with_context(|| format!("no .{extension} was fetched"))
}

/// Fetches and unpacks the source. The sources of the system's own configuration are asked, by a list and
/// a state of our own, so that nothing of the system's changes.
fn source(draft: &Path) -> Result<PathBuf> {
    let format = "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(REPO_URI) $(CODENAME) $(COMPONENT)";
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", format, "Created-By: Packages", "Origin: Debian"])
        .stdin(Stdio::null())
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    let list = draft.join("sources.list");
    fs::write(&list, lines.join("\n") + "\n")?;
    fs::create_dir_all(draft.join("lists/partial"))?;
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .current_dir(draft)
            .arg("-o")
            .arg(format!("Dir::Etc::sourcelist={}", list.display()))
            .args(["-o", "Dir::Etc::sourceparts=/dev/null"])
            .arg("-o")
            .arg(format!("Dir::State::Lists={}", draft.join("lists").display()))
            .args(["-o", "Dir::Cache::srcpkgcache=", "-o", "Dir::Cache::pkgcache="])
            .args(arguments);
        command
    };
    tools::run_quietly("looking for the source", &mut apt(&["update", "-qq"]))?;
    tools::run_quietly(
        "fetching the source of kubernetes (35 MB)",
        &mut apt(&["source", "--download-only", "-qq", "kubernetes"]),
    )?;
    let source = draft.join("source");
    let mut unpack = Command::new("dpkg-source");
    // apt has checked the signature already.
    unpack.args(["--no-check", "--extract"]).arg(only(draft, "dsc")?).arg(&source);
    tools::run_quietly("unpacking it", &mut unpack)?;
    // The version that the source carries crashes with the Go of bookworm.
    let vendored = source.join("vendor/github.com/modern-go/reflect2");
    fs::remove_dir_all(&vendored)?;
    let mut copy = Command::new("cp");
    copy.arg("-rL").arg("/usr/share/gocode/src/github.com/modern-go/reflect2").arg(&vendored);
    tools::run_quietly("replacing reflect2", &mut copy)?;
    Ok(source)
}
