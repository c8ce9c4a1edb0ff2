//! Runs the fuzz targets of `fuzz/`, which is a workspace of its own and needs a nightly compiler.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::commands::run_command;
use crate::tools;

const INSTALL_NIGHTLY: &str = "rustup toolchain install nightly --profile minimal";
/// The time limit for one input, in seconds.
const SLOWEST: &str = "60";

/// Checks that there is a nightly compiler; the error says how to install it.
pub(crate) fn require_nightly() -> Result<()> {
    let found = Command::new("rustup").args(["run", "nightly", "rustc", "--version"]).output();
    ensure!(
        found.is_ok_and(|output| output.status.success()),
        "fuzzing needs a nightly compiler: run `{INSTALL_NIGHTLY}`"
    );
    Ok(())
}

/// Runs all targets, or one, each for the given time. Stops at the first crash.
pub(crate) fn run(root: &Path, time: Duration, only: Option<&str>) -> Result<()> {
    require_nightly()?;
    let targets = targets(root)?;
    if let Some(only) = only {
        ensure!(targets.iter().any(|t| t == only), "there is no target `{only}`: it is one of {targets:?}");
    }
    if tools::find_tool("cargo-fuzz").is_none() && !has_cargo_fuzz() {
        let mut install = Command::new("cargo");
        install.args(["install", "--quiet", "--locked", "cargo-fuzz"]).env_remove("CARGO_TARGET_DIR");
        tools::run_quietly("installing cargo-fuzz (some minutes)", &mut install)?;
    }
    println!("  building the targets (some minutes the first time)");
    run_command("building the targets", &mut cargo_fuzz(root, "build"))?;
    for target in targets.iter().filter(|target| only.is_none_or(|only| only == *target)) {
        fuzz(root, target, time)?;
    }
    Ok(())
}

fn has_cargo_fuzz() -> bool {
    Command::new("cargo").args(["fuzz", "--version"]).output().is_ok_and(|output| output.status.success())
}

/// The programs of the fuzz crate.
fn targets(root: &Path) -> Result<Vec<String>> {
    let folder = root.join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut targets: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_string_lossy().into_owned()))
        .collect();
    targets.sort();
    ensure!(!targets.is_empty(), "there is no target in {}", folder.display());
    Ok(targets)
}

/// `cargo fuzz` of the nightly toolchain. No sanitizer of memory: neither our crates nor the targets
/// have unsafe code, and without it there are eight times as many executions. Overflow checks and
/// debug assertions are on.
fn cargo_fuzz(root: &Path, task: &str) -> Command {
    let mut command = Command::new("rustup");
    command
        .current_dir(root.join("fuzz"))
        .args(["run", "nightly", "cargo", "fuzz", task, "--sanitizer", "none", "--target-dir"])
        .arg(root.join("target/fuzz"))
        // The outer cargo says which compiler it is; the inner one is another.
        .env_remove("RUSTC")
        .env_remove("RUSTDOC")
        .stdin(Stdio::null());
    command
}

fn fuzz(root: &Path, target: &str, time: Duration) -> Result<()> {
    let folder = |kind: &str| root.join("fuzz").join(kind).join(target);
    // What was found before is gone on with; seeds are read and never written.
    let (corpus, artifacts) = (folder("corpus"), folder("artifacts"));
    for folder in [&corpus, &artifacts] {
        fs::create_dir_all(folder).with_context(|| format!("cannot write {}", folder.display()))?;
    }
    let mut command = cargo_fuzz(root, "run");
    command
        .arg(target)
        .arg(&corpus)
        .args([folder("seeds"), folder("regressions")].iter().filter(|f| f.is_dir()));
    command
        .arg("--")
        .arg(format!(
            "-dict={}",
            root.join("fuzz/dictionaries").join(target).with_extension("dict").display()
        ))
        .arg(format!("-max_total_time={}", time.as_secs().max(1)))
        .arg(format!("-timeout={SLOWEST}"))
        .args(["-print_final_stats=1", "-verbosity=1"]);
    let output =
        command.stderr(Stdio::piped()).stdout(Stdio::piped()).output().context("cannot run cargo fuzz")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let written =
            |line: &str| line.split_once("Test unit written to ").map(|(_, path)| path.trim().to_owned());
        let crasher = stderr.lines().find_map(written).map(PathBuf::from);
        // Below the rule cargo-fuzz gives advice of its own.
        let report: Vec<&str> = stderr.lines().take_while(|line| !line.starts_with('─')).collect();
        let last: Vec<&str> = report.into_iter().rev().take(30).collect();
        eprintln!("{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
        let Some(crasher) = crasher else { bail!("target {target} did not run") };
        let shown = crasher.strip_prefix(root).unwrap_or(&crasher).display();
        bail!(
            "target {target} crashed with {shown}\n\
             \n  make it smaller:        (cd fuzz && cargo +nightly fuzz tmin --sanitizer none {target} {})\
             \n  keep it as a test:      mkdir -p fuzz/regressions/{target} && cp {shown} fuzz/regressions/{target}/WHAT-IT-IS\
             \n  then this replays it:   cargo test --package egress-compile --test regressions",
            crasher.display()
        );
    }
    let executions = stderr.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let covered = stderr
        .lines()
        .rev()
        .find_map(|line| line.split_once(" cov: ").map(|(_, rest)| rest))
        .and_then(|rest| rest.split(' ').next());
    println!(
        "  {target}: {} executions in {} s, {} edges covered, no crash",
        executions.map_or("?", str::trim),
        time.as_secs(),
        covered.unwrap_or("?")
    );
    Ok(())
}
