//! Rules that the repository keeps: `cargo xtask check`. They read files and `cargo metadata`, and compile nothing.

mod contract;
mod crates;
mod cycles;
mod doc_comments;
mod file_length;
mod finding;
mod folders;
mod links;
mod markdown;
mod panics;
mod paths;
mod purity;
mod rust;
mod tour;
mod tree;
mod walls;

use std::path::Path;

use anyhow::{Result, bail, ensure};

use self::finding::{Finding, Report};
use self::tree::Tree;

/// One rule: its name on the command line, what it asks, and the function that checks it.
struct Rule {
    name: &'static str,
    demand: &'static str,
    check: fn(&Tree) -> Result<Report>,
}

const RULES: &[Rule] = &[
    Rule { name: "walls", demand: "crates depend only on what they may know", check: walls::check },
    Rule {
        name: "purity",
        demand: "pure crates do no I/O through the standard library",
        check: purity::check,
    },
    Rule { name: "panics", demand: "crates that must not panic deny the panic lints", check: panics::check },
    Rule {
        name: "cycles",
        demand: "modules of a crate do not depend on each other in a circle",
        check: cycles::check,
    },
    Rule { name: "contract", demand: "a name of the contract is spelled once", check: contract::check },
    Rule { name: "links", demand: "links and paths in documents exist", check: links::check },
    Rule { name: "folders", demand: "ARCHITECTURE.md names every folder", check: folders::check },
    Rule { name: "tour", demand: "the functions of docs/tour.md exist", check: tour::check },
    Rule {
        name: "doc-comments",
        demand: "doc comments begin with a noun or a verb",
        check: doc_comments::check,
    },
    Rule {
        name: "file-length",
        demand: "a file has one idea and at most 500 lines",
        check: file_length::check,
    },
];

/// The names of all rules.
pub(crate) fn rule_names() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(|rule| rule.name)
}

/// Checks a checkout by the named rules, or by all of them. Prints what was checked, then every finding.
pub(crate) fn check(root: &Path, names: &[String]) -> Result<()> {
    for name in names {
        let known: Vec<_> = rule_names().collect();
        ensure!(known.contains(&name.as_str()), "there is no rule `{name}`: use one of {}", known.join(", "));
    }
    let tree = Tree::read(root)?;
    let mut findings = Vec::new();
    for rule in RULES.iter().filter(|rule| names.is_empty() || names.iter().any(|name| name == rule.name)) {
        println!("{}: {}", rule.name, rule.demand);
        let report = match (rule.check)(&tree) {
            Ok(report) => report,
            // One rule that cannot read its input hides no finding of the others.
            Err(error) => {
                println!("  not checked");
                let remedy = "mend this first: the rule was not checked";
                findings.push((rule.name, Finding::new(".", 0, format!("{error:#}"), remedy)));
                continue;
            }
        };
        for line in &report.checked {
            println!("  {line}");
        }
        println!("  {}", report.verdict());
        findings.extend(report.findings.into_iter().map(|finding| (rule.name, finding)));
    }
    if findings.is_empty() {
        return Ok(());
    }
    eprintln!();
    for (rule, finding) in &findings {
        eprintln!("{finding} [{rule}]");
    }
    let count = match findings.len() {
        1 => "1 finding".to_owned(),
        count => format!("{count} findings"),
    };
    bail!(
        "{count}; an exception is an entry, with its reason, in the file of its rule below xtask/src/check/"
    )
}
