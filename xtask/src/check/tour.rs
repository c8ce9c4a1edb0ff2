//! The tour: a table of functions, from an object to a decision.

use anyhow::Result;
use syn::visit::{self, Visit};

use super::finding::{Finding, Report};
use super::markdown::Document;
use super::tree::Tree;

const FILE: &str = "docs/tour.md";
/// More, and it is no tour that one takes in ten minutes.
const MAX_HOPS: usize = 10;

pub(super) fn check(tree: &Tree) -> Result<Report> {
    let mut report = Report::default();
    let document = Document::parse(tree.text(FILE).unwrap_or_default());
    let table = document.tables.iter().find_map(|table| {
        table.column("hop")?;
        Some((table, table.column("file")?, table.column("function")?))
    });
    let Some((table, file_column, function_column)) = table else {
        let problem = "there is no table with the columns hop, file and function";
        report.add(Finding::new(
            FILE,
            0,
            problem,
            "write it: a row for each function, in the order of calls",
        ));
        return Ok(report);
    };
    if table.rows.len() > MAX_HOPS {
        let problem = format!("the tour has {} hops, more than {MAX_HOPS}", table.rows.len());
        report.add(Finding::new(FILE, table.line, problem, "leave out what a reader does not need"));
    }
    for row in &table.rows {
        let codes = |column: usize| row.cells.get(column).map_or(&[][..], |cell| &cell.codes);
        let (files, functions) = (codes(file_column), codes(function_column));
        let ([file], [_, ..]) = (files, functions) else {
            let problem = "a hop has not one file and its function";
            report.add(Finding::new(FILE, row.line, problem, "write both in back ticks"));
            continue;
        };
        if !tree.has_file(file) {
            let problem = format!("`{file}` does not exist");
            report.add(Finding::new(
                FILE,
                row.line,
                problem,
                "correct the path: it begins at the repository's root",
            ));
            continue;
        }
        let names = function_names(tree.syntax(file)?);
        for function in functions {
            let name = function.trim_end_matches("()").rsplit("::").next().unwrap_or(function);
            if !names.iter().any(|known| known == name) {
                let problem = format!("`{file}` has no function `{name}`");
                report.add(Finding::new(FILE, row.line, problem, "name the function that does it now"));
            }
        }
    }
    report.checked.push(format!("{} hops", table.rows.len()));
    Ok(report)
}

/// The names of all functions of a file.
fn function_names(file: &syn::File) -> Vec<String> {
    struct Names(Vec<String>);
    impl<'ast> Visit<'ast> for Names {
        fn visit_signature(&mut self, signature: &'ast syn::Signature) {
            self.0.push(signature.ident.to_string());
            visit::visit_signature(self, signature);
        }
    }
    let mut names = Names(Vec::new());
    names.visit_file(file);
    names.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(rows: &str) -> String {
        let text = format!("| Hop | File | Function |\n|---|---|---|\n{rows}");
        let code = "fn read() {} struct A; impl A { fn decide(&self) {} } trait T { fn send(&self); }";
        check(&Tree::of(&[(FILE, &text), ("a/b.rs", code)])).expect("report").text()
    }

    #[test]
    fn functions_methods_and_those_of_traits_are_found() {
        assert_eq!(findings("| 1 | `a/b.rs` | `read` |\n| 2 | `a/b.rs` | `A::decide()`, `T::send` |\n"), "");
    }

    #[test]
    fn a_missing_file_or_function_is_reported() {
        let text =
            findings("| 1 | `a/b.rs` | `write` |\n| 2 | `a/c.rs` | `read` |\n| 3 | a/b.rs | `read` |\n");
        assert!(text.contains("docs/tour.md:3: `a/b.rs` has no function `write`"), "{text}");
        assert!(text.contains("docs/tour.md:4: `a/c.rs` does not exist"), "{text}");
        assert!(text.contains("docs/tour.md:5: a hop has not one file"), "{text}");
    }

    #[test]
    fn a_tour_has_at_most_ten_hops() {
        assert_eq!(findings(&"| 1 | `a/b.rs` | `read` |\n".repeat(10)), "");
        assert!(
            findings(&"| 1 | `a/b.rs` | `read` |\n".repeat(11))
                .contains("the tour has 11 hops, more than 10")
        );
    }

    #[test]
    fn a_missing_tour_is_reported() {
        let text = check(&Tree::of(&[])).expect("report").text();
        assert!(text.starts_with("docs/tour.md: there is no table"), "{text}");
    }
}
