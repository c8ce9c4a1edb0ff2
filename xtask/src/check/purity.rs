//! I/O through the standard library, which no dependency shows.

use anyhow::Result;

use super::crates::read_crates;
use super::finding::{Finding, Report};
use super::tree::Tree;

/// Folders of crates that do no I/O, with the reason.
const PURE: &[(&str, &str)] = &[
    ("policy", "the engine answers the same wherever it runs"),
    ("compile", "the compiler runs in a browser, too"),
    ("filter-wasm", "Envoy does the I/O; a wasm module without WASI traps on it"),
];

/// Paths of I/O, of the environment and of the clock, with everything below them.
const FORBIDDEN: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io::stderr",
    "std::io::stdin",
    "std::io::stdout",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
    "std::net::UdpSocket",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
];
const FORBIDDEN_MACROS: &[&str] = &["dbg", "eprint", "eprintln", "print", "println"];

pub(super) fn check(tree: &Tree) -> Result<Report> {
    let mut report = Report::default();
    for one in read_crates(tree)? {
        let Some((folder, reason)) = PURE.iter().find(|(folder, _)| *folder == one.folder) else { continue };
        report.checked.push(format!("{folder}/src: {reason}"));
        for file in &one.files {
            for path in &file.source.paths {
                if let Some(found) = forbidden(&path.segments) {
                    let problem = format!("`{found}` is used where no I/O is done");
                    let remedy = format!("let the caller do it and pass the result: {reason}");
                    report.add(Finding::new(&file.file, path.line, problem, remedy));
                }
            }
            for (name, line) in &file.source.macros {
                if FORBIDDEN_MACROS.contains(&name.as_str()) {
                    let problem = format!("`{name}!` is used where no I/O is done");
                    report.add(Finding::new(&file.file, *line, problem, "return the text to the caller"));
                }
            }
        }
    }
    Ok(report)
}

fn forbidden(path: &[String]) -> Option<&'static str> {
    let path = path.join("::");
    FORBIDDEN
        .iter()
        .copied()
        .find(|start| path.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with("::")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> String {
        check(&Tree::of(&[("policy/Cargo.toml", ""), ("policy/src/lib.rs", text)])).expect("report").text()
    }

    #[test]
    fn files_clock_and_output_are_refused() {
        for (text, problem) in [
            ("use std::fs;", "policy/src/lib.rs:1: `std::fs` is used"),
            (
                "\nuse std::{fmt, net::{IpAddr, TcpStream}};",
                "policy/src/lib.rs:2: `std::net::TcpStream` is used",
            ),
            ("fn f() { std::env::var(\"x\"); }", "`std::env` is used"),
            ("fn f() { println!(); }", "`println!` is used"),
        ] {
            assert!(findings(text).contains(problem), "{text}: {}", findings(text));
        }
    }

    #[test]
    fn addresses_durations_and_tests_are_allowed() {
        let text = "use std::net::IpAddr; use std::time::Duration; use std::io::Write;\n\
                    #[cfg(test)] mod tests { use std::fs; }";
        assert_eq!(findings(text), "");
    }
}
