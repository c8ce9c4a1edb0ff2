//! Lints against panics, where a panic stops all traffic of a workload; and unsafe code, which nothing has.
//!
//! The list stands once, in the workspace's Cargo.toml. Cargo cannot give one crate more lints than the workspace's
//! table has, so each crate repeats the list in an attribute, which is held to be equal here.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use syn::punctuated::Punctuated;
use syn::{Attribute, Meta, Path, Token};

use super::finding::{Finding, Report};
use super::paths::line_of;
use super::tree::Tree;

const MANIFEST: &str = "Cargo.toml";

/// The only places that may lift the ban on unsafe code.
const UNSAFE_EXCEPTIONS: &[(&str, &str)] = &[(
    "filter-wasm/src/sdk.rs",
    "the SDK's entry point is an exported C symbol, which the lint counts as unsafe",
)];

pub(super) fn check(tree: &Tree) -> Result<Report> {
    let mut report = Report::default();
    let text = tree.text(MANIFEST).context("there is no Cargo.toml")?;
    match Table::read(text)? {
        Some(table) => {
            for folder in &table.folders {
                report.checked.push(format!("{folder}/src/lib.rs denies {}", table.lints.join(", ")));
                check_crate(tree, folder, &table, &mut report)?;
            }
        }
        None => {
            let problem =
                "there is no table [workspace.metadata.panic-lints] with the lists `lints` and `folders`";
            report.add(Finding::new(MANIFEST, 0, problem, "add it: the crates of `folders` must not panic"));
        }
    }
    check_unsafe(tree, &mut report)?;
    Ok(report)
}

/// `[workspace.metadata.panic-lints]`: the lints, and the crates that they apply to.
struct Table {
    lints: Vec<String>,
    folders: Vec<String>,
}

impl Table {
    fn read(text: &str) -> Result<Option<Self>> {
        let manifest: toml::Value = toml::from_str(text).context(MANIFEST)?;
        let list = |key: &str| -> Option<Vec<String>> {
            let list = value_at(&manifest, &["workspace", "metadata", "panic-lints", key])?.as_array()?;
            Some(list.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect())
        };
        Ok(list("lints").zip(list("folders")).map(|(lints, folders)| Self { lints, folders }))
    }
}

/// The value at the end of a path of keys.
fn value_at<'a>(manifest: &'a toml::Value, keys: &[&str]) -> Option<&'a toml::Value> {
    keys.iter().try_fold(manifest, |value, key| value.get(key))
}

fn check_crate(tree: &Tree, folder: &str, table: &Table, report: &mut Report) -> Result<()> {
    let root = format!("{folder}/src/lib.rs");
    let expected: BTreeSet<_> = table.lints.iter().map(|lint| format!("clippy::{lint}")).collect();
    let found: BTreeSet<_> = tree.syntax(&root)?.attrs.iter().flat_map(denied_outside_tests).collect();
    let missing: Vec<_> = expected.difference(&found).cloned().collect();
    let extra: Vec<_> = found.difference(&expected).cloned().collect();
    let attribute = format!("#![cfg_attr(not(test), deny({}))]", Vec::from_iter(expected).join(", "));
    if !missing.is_empty() {
        let problem = format!("the crate does not deny {} outside of tests", missing.join(", "));
        report.add(Finding::new(&root, 1, problem, format!("write {attribute}")));
    }
    if !extra.is_empty() {
        let problem = format!("{} is denied here and is not in Cargo.toml's list", extra.join(", "));
        report.add(Finding::new(
            &root,
            1,
            problem,
            "add it to [workspace.metadata.panic-lints], for all of them",
        ));
    }
    let start = format!("{folder}/src/");
    for (path, text) in tree.texts(".rs").filter(|(path, _)| path.starts_with(&start)) {
        for lint in &table.lints {
            if let Some(line) = line_of(text, &format!("allow(clippy::{lint}")) {
                let problem = format!("clippy::{lint} is allowed");
                let remedy =
                    "use checked or saturating operations, or `#[expect(…, reason = …)]` with a proof";
                report.add(Finding::new(path, line, problem, remedy));
            }
        }
    }
    Ok(())
}

/// The lints of `cfg_attr(not(test), deny(…))`.
fn denied_outside_tests(attribute: &Attribute) -> Vec<String> {
    let list = |meta: &Meta| match meta {
        Meta::List(list) => list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).ok(),
        Meta::Path(_) | Meta::NameValue(_) => None,
    };
    let Some(parts) = list(&attribute.meta).filter(|_| attribute.path().is_ident("cfg_attr")) else {
        return Vec::new();
    };
    let mut parts = parts.iter();
    let is_condition = |meta: &Meta| {
        meta.path().is_ident("not")
            && list(meta).is_some_and(|inner| inner.len() == 1 && inner[0].path().is_ident("test"))
    };
    if !parts.next().is_some_and(is_condition) {
        return Vec::new();
    }
    let name = |path: &Path| path.segments.iter().map(|s| s.ident.to_string()).collect::<Vec<_>>().join("::");
    let lints = parts.filter(|part| part.path().is_ident("deny")).filter_map(list).flatten();
    lints.map(|lint| name(lint.path())).collect()
}

fn check_unsafe(tree: &Tree, report: &mut Report) -> Result<()> {
    report.checked.push("no crate has unsafe code".to_owned());
    for (path, text) in tree.texts("Cargo.toml") {
        let manifest: toml::Value = toml::from_str(text).with_context(|| path.to_owned())?;
        let inherits =
            value_at(&manifest, &["lints", "workspace"]).and_then(toml::Value::as_bool) == Some(true);
        // Without a package it is the workspace itself; with a workspace of its own it is another one (fuzz/).
        let is_member = manifest.get("package").is_some() && manifest.get("workspace").is_none();
        if is_member && !inherits {
            let problem = "the crate does not have the workspace's lints";
            report.add(Finding::new(path, 0, problem, "add `[lints]` with `workspace = true`"));
        }
        let level = value_at(&manifest, &["workspace", "lints", "rust", "unsafe_code"]);
        if path == MANIFEST && !matches!(level.and_then(toml::Value::as_str), Some("deny" | "forbid")) {
            let problem = "[workspace.lints.rust] does not deny unsafe_code";
            report.add(Finding::new(path, 0, problem, "add `unsafe_code = \"deny\"`"));
        }
    }
    for (path, text) in tree.texts(".rs") {
        for (word, line) in unsafe_words(text) {
            if !UNSAFE_EXCEPTIONS.iter().any(|(file, _)| *file == path) {
                let problem = format!("`{word}`: there is unsafe code, or the ban on it is lifted");
                report.add(Finding::new(path, line, problem, "use a safe crate for it"));
            }
        }
    }
    for (file, reason) in UNSAFE_EXCEPTIONS {
        if !tree.root.as_os_str().is_empty() {
            report.checked.push(format!("except {file}: {reason}"));
            if tree.text(file).is_none_or(|text| unsafe_words(text).is_empty()) {
                let problem = format!("{file} has no unsafe code");
                report.add(Finding::new("xtask/src/check/panics.rs", 0, problem, "remove the exception"));
            }
        }
    }
    Ok(())
}

/// The words `unsafe` and `unsafe_code` among the tokens of a file. None in text that is not Rust: the compiler reports it.
fn unsafe_words(text: &str) -> Vec<(String, usize)> {
    fn collect(tokens: proc_macro2::TokenStream, found: &mut Vec<(String, usize)>) {
        for token in tokens {
            match token {
                proc_macro2::TokenTree::Ident(word) if word == "unsafe" || word == "unsafe_code" => {
                    found.push((word.to_string(), word.span().start().line));
                }
                proc_macro2::TokenTree::Group(group) => collect(group.stream(), found),
                proc_macro2::TokenTree::Ident(_)
                | proc_macro2::TokenTree::Punct(_)
                | proc_macro2::TokenTree::Literal(_) => {}
            }
        }
    }
    let mut found = Vec::new();
    if let Ok(tokens) = text.parse() {
        collect(tokens, &mut found);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "[workspace.lints.rust]\nunsafe_code = \"deny\"\n\
                        [workspace.metadata.panic-lints]\nlints = [\"panic\", \"unwrap_used\"]\nfolders = [\"p\"]\n";
    const PACKAGE: &str = "[package]\nname = \"p\"\n[lints]\nworkspace = true\n";
    const DENIED: &str = "#![cfg_attr(not(test), deny(clippy::panic, clippy::unwrap_used))]\n";

    fn findings(manifest: &str, lib: &str) -> String {
        let files = [("Cargo.toml", ROOT), ("p/Cargo.toml", manifest), ("p/src/lib.rs", lib)];
        check(&Tree::of(&files)).expect("report").text()
    }

    #[test]
    fn a_workspace_without_the_list_is_reported() {
        let text = check(&Tree::of(&[("Cargo.toml", "[workspace]")])).expect("report").text();
        assert!(text.contains("Cargo.toml: there is no table [workspace.metadata.panic-lints]"), "{text}");
        assert!(text.contains("Cargo.toml: [workspace.lints.rust] does not deny unsafe_code"), "{text}");
    }

    #[test]
    fn a_crate_with_the_whole_list_passes() {
        assert_eq!(findings(PACKAGE, DENIED), "");
    }

    #[test]
    fn a_lint_too_few_or_too_many_is_reported() {
        let few = findings(PACKAGE, "#![cfg_attr(not(test), deny(clippy::panic))]");
        assert!(
            few.contains("p/src/lib.rs:1: the crate does not deny clippy::unwrap_used outside of tests"),
            "{few}"
        );
        let many = findings(
            PACKAGE,
            "#![cfg_attr(not(test), deny(clippy::panic, clippy::unwrap_used, clippy::todo))]",
        );
        assert!(many.contains("clippy::todo is denied here and is not in Cargo.toml's list"), "{many}");
        let tests_only = findings(PACKAGE, "#![cfg_attr(test, deny(clippy::panic, clippy::unwrap_used))]");
        assert!(tests_only.contains("does not deny clippy::panic, clippy::unwrap_used"), "{tests_only}");
    }

    #[test]
    fn a_lint_that_is_allowed_again_is_reported() {
        let text =
            findings(PACKAGE, &format!("{DENIED}#[allow(clippy::panic, reason = \"x\")]\nfn f() {{}}"));
        assert!(text.contains("p/src/lib.rs:2: clippy::panic is allowed"), "{text}");
    }

    #[test]
    fn unsafe_code_and_crates_without_lints_are_reported() {
        let text = findings("[package]\nname = \"p\"\n", &format!("{DENIED}fn f() {{ unsafe {{}} }}"));
        assert!(text.contains("p/Cargo.toml: the crate does not have the workspace's lints"), "{text}");
        assert!(text.contains("p/src/lib.rs:2: `unsafe`: there is unsafe code"), "{text}");
    }
}
