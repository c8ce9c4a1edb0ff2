//! Names that filter and control plane share: each is a constant of the contract, and no one spells it again.

use std::collections::BTreeMap;

use anyhow::Result;
use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use super::crates::read_crates;
use super::finding::{Finding, Report};
use super::tree::Tree;

/// The contract: a file, and a folder if it has grown.
const FILE: &str = "policy/src/contract.rs";
const FOLDER: &str = "policy/src/contract/";

/// A log field is declared by its column, in a macro. These begin its names as a property and as filter state.
const LOG_FIELD_PREFIXES: &[&str] = &["egress.", "wasm.egress."];

/// Literals that only look like a name of the contract: file, value and reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    (
        "standalone/src/listeners.rs",
        "envoy.string",
        "it is Envoy's factory of strings, whose name is that of the key by chance",
    ),
    ("xtask/src/check/walls/table.rs", "egress-policy", "it is the name of a crate"),
];

/// This file may spell names, for [`EXCEPTIONS`].
const OWN_FILE: &str = "xtask/src/check/contract.rs";

pub(super) fn check(tree: &Tree) -> Result<Report> {
    check_literals(tree, EXCEPTIONS)
}

fn check_literals(tree: &Tree, exceptions: &[(&str, &str, &str)]) -> Result<Report> {
    let mut report = Report::default();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let is_contract = |path: &str| path == FILE || path.starts_with(FOLDER);
    for (path, _) in tree.texts(".rs").filter(|(path, _)| is_contract(path)) {
        for (name, value, line) in constants(tree.syntax(path)?) {
            if let Some(other) = names.insert(value.clone(), name.clone()) {
                let problem = format!("{name} and {other} are both \"{value}\"");
                report.add(Finding::new(path, line, problem, "keep one of them"));
            }
        }
    }
    if names.is_empty() {
        report.add(Finding::new(
            FILE,
            0,
            "the contract has no constants",
            "add the names that both sides share",
        ));
        return Ok(report);
    }
    let mut met = vec![false; exceptions.len()];
    for one in read_crates(tree)? {
        for file in one.files.iter().filter(|file| !is_contract(&file.file) && file.file != OWN_FILE) {
            for literal in &file.source.literals {
                for (value, name) in names.iter().filter(|(value, _)| spells(&literal.value, value)) {
                    let exception = exceptions
                        .iter()
                        .position(|(path, spelled, _)| *path == file.file && spelled == value);
                    if let Some(met) = exception.and_then(|index| met.get_mut(index)) {
                        *met = true;
                        continue;
                    }
                    let problem = format!("\"{value}\" is spelled again");
                    let remedy = format!("use egress_policy::contract::{name}");
                    report.add(Finding::new(&file.file, literal.line, problem, remedy));
                }
            }
        }
    }
    for ((path, value, reason), met) in exceptions.iter().zip(met) {
        report.checked.push(format!("{path} may spell \"{value}\": {reason}"));
        if !met {
            let problem = format!("{path} does not spell \"{value}\"");
            report.add(Finding::new(OWN_FILE, 0, problem, "remove the exception"));
        }
    }
    report.checked.push(format!("{} names", names.len()));
    Ok(report)
}

/// Tests a literal for a name: equal, or within it as a word. A name that is one plain word counts only as a whole: in a
/// sentence it is no name.
fn spells(literal: &str, name: &str) -> bool {
    if literal == name {
        return true;
    }
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    name.contains(['-', '.', '_'])
        && literal.match_indices(name).any(|(at, found)| {
            let before = literal.get(..at).and_then(|text| text.chars().next_back());
            let after = literal.get(at + found.len()..).and_then(|text| text.chars().next());
            !before.is_some_and(is_part) && !after.is_some_and(is_part)
        })
}

/// The constants of a file that are names, outside tests: path, value and line. A text without a letter is a separator.
fn constants(file: &syn::File) -> Vec<(String, String, usize)> {
    struct Constants {
        modules: Vec<String>,
        name: Option<String>,
        found: Vec<(String, String, usize)>,
    }
    impl<'ast> Visit<'ast> for Constants {
        fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
            if !super::rust::is_test_only(&module.attrs) {
                self.modules.push(format!("{}::", module.ident));
                visit::visit_item_mod(self, module);
                self.modules.pop();
            }
        }
        fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
            self.name = Some(item.ident.to_string());
            visit::visit_expr(self, &item.expr);
            self.name = None;
        }
        fn visit_impl_item_const(&mut self, item: &'ast syn::ImplItemConst) {
            self.name = Some(item.ident.to_string());
            visit::visit_expr(self, &item.expr);
            self.name = None;
        }
        fn visit_item_macro(&mut self, item: &'ast syn::ItemMacro) {
            // A call. The definition of a macro has a name, and no literals of its own.
            if item.ident.is_none() {
                for (name, column, line) in assignments(item.mac.tokens.clone()) {
                    let names = LOG_FIELD_PREFIXES.iter().map(|prefix| format!("{prefix}{column}"));
                    self.found.extend(names.map(|value| (format!("log_field::{name}"), value, line)));
                }
            }
        }
        fn visit_lit_str(&mut self, text: &'ast syn::LitStr) {
            let value = text.value();
            if let Some(name) =
                self.name.as_ref().filter(|_| value.contains(|c: char| c.is_ascii_alphabetic()))
            {
                let path = format!("{}{name}", self.modules.concat());
                self.found.push((path, value, text.span().start().line));
            }
        }
    }
    let mut constants = Constants { modules: Vec::new(), name: None, found: Vec::new() };
    constants.visit_file(file);
    constants.found
}

/// Every `NAME = "text"` in a macro: name, text and line.
fn assignments(tokens: TokenStream) -> Vec<(String, String, usize)> {
    let tokens: Vec<_> = tokens.into_iter().collect();
    let assignment = |window: &[TokenTree]| {
        let [TokenTree::Ident(name), TokenTree::Punct(sign), TokenTree::Literal(literal)] = window else {
            return None;
        };
        let text = syn::parse_str::<syn::LitStr>(&literal.to_string()).ok()?;
        (sign.as_char() == '=').then(|| (name.to_string(), text.value(), name.span().start().line))
    };
    tokens.windows(3).filter_map(assignment).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTRACT: &str = "pub const CLUSTER: &str = \"egress-dns\"; pub const NONE: &str = \"-\"; \
                            pub mod field { pub const RULE: &str = \"rule\"; }";

    fn findings(code: &str, exceptions: &[(&str, &str, &str)]) -> String {
        let files = [
            ("policy/Cargo.toml", ""),
            (FILE, CONTRACT),
            ("x/Cargo.toml", ""),
            ("x/src/lib.rs", code),
            ("x/tests/t.rs", "fn f() { \"egress-dns\"; }"),
        ];
        check_literals(&Tree::of(&files), exceptions).expect("report").text()
    }

    #[test]
    fn a_name_that_is_spelled_again_is_reported() {
        for code in
            ["\nconst A: &str = \"egress-dns\";", "\nfn f() { format!(\"{} cluster=egress-dns;\", 1) }"]
        {
            assert_eq!(
                findings(code, &[]),
                "x/src/lib.rs:2: \"egress-dns\" is spelled again; use egress_policy::contract::CLUSTER\n",
            );
        }
        assert!(findings("fn f() { \"rule\" }", &[]).contains("contract::field::RULE"));
    }

    #[test]
    fn longer_names_sentences_and_tests_are_allowed() {
        let code = "fn f() { \"egress-dns-wildcard\"; \"egress-dns/v1\"; \"a rule of it\"; \"-\" }\n#[cfg(test)] mod t { fn g() { \"rule\" } }";
        assert_eq!(findings(code, &[]), "");
    }

    #[test]
    fn an_exception_has_a_use() {
        let exceptions = [("x/src/lib.rs", "rule", "a word of another text")];
        assert_eq!(findings("fn f() { \"rule\" }", &exceptions), "");
        assert!(
            findings("", &exceptions).contains("x/src/lib.rs does not spell \"rule\"; remove the exception")
        );
    }

    #[test]
    fn a_log_field_has_two_names() {
        let contract = "macro_rules! log_fields { ($n:ident = $c:literal) => { const $n: &str = $c; } }\n\
                        log_fields! {\n    /// A field.\n    RULE = \"rule\",\n}";
        let code = "fn f() { (\"rule\", \"%FILTER_STATE(wasm.egress.rule:PLAIN)%\", \"egress.rule\") }";
        let files = [(FILE, contract), ("x/Cargo.toml", ""), ("x/src/lib.rs", code)];
        let text = check_literals(&Tree::of(&files), &[]).expect("report").text();
        assert!(
            text.contains(
                "\"wasm.egress.rule\" is spelled again; use egress_policy::contract::log_field::RULE"
            ),
            "{text}"
        );
        assert!(text.contains("\"egress.rule\" is spelled again"), "{text}");
        assert_eq!(text.lines().count(), 2, "the column alone is a word of English: {text}");
    }

    #[test]
    fn two_constants_of_one_value_are_reported() {
        let files = [(FILE, "const A: &str = \"a-b\"; const B: &str = \"a-b\";")];
        let text = check(&Tree::of(&files)).expect("report").text();
        assert!(text.contains("B and A are both \"a-b\""), "{text}");
    }
}
