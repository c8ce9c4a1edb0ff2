//! The table of folders in ARCHITECTURE.md: each exists, and none is missing.

use std::collections::BTreeSet;

use anyhow::Result;

use super::finding::{Finding, Report};
use super::markdown::Document;
use super::tree::Tree;

const FILE: &str = "ARCHITECTURE.md";
const COLUMN: &str = "folder";

pub(super) fn check(tree: &Tree) -> Result<Report> {
    let mut report = Report::default();
    let document = Document::parse(tree.text(FILE).unwrap_or_default());
    let mut named = BTreeSet::new();
    let mut first_line = 0;
    for table in &document.tables {
        let Some(column) = table.column(COLUMN) else { continue };
        first_line = table.line;
        for row in &table.rows {
            for folder in row.cells.get(column).iter().flat_map(|cell| &cell.codes) {
                let folder = folder.trim_end_matches('/');
                named.insert(folder);
                if !tree.has_folder(folder) {
                    let problem = format!("the folder `{folder}/` does not exist");
                    report.add(Finding::new(FILE, row.line, problem, "correct its row, or remove it"));
                }
            }
        }
    }
    if named.is_empty() {
        let problem = format!("{FILE} has no table with the column `{COLUMN}`");
        report.add(Finding::new(FILE, 0, problem, "add one that names every folder in back ticks"));
        return Ok(report);
    }
    let crates = tree.paths().filter_map(|path| path.strip_suffix("/Cargo.toml"));
    let visible = tree.top_folders().filter(|folder| !folder.starts_with('.'));
    for folder in visible.chain(crates).collect::<BTreeSet<_>>() {
        if !named.contains(folder) {
            let problem = format!("the table of folders does not name `{folder}/`");
            report.add(Finding::new(FILE, first_line, problem, "add a row for it"));
        }
    }
    report.checked.push(format!("{} folders", named.len()));
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(table: &str) -> String {
        let text = format!("# A\n\n| Folder | what |\n|---|---|\n{table}");
        let files = [
            (FILE, text.as_str()),
            ("shim/Cargo.toml", ""),
            ("shim/xds/Cargo.toml", ""),
            ("docs/a.md", ""),
            (".ci/run", ""),
        ];
        check(&Tree::of(&files)).expect("report").text()
    }

    #[test]
    fn every_top_folder_and_crate_is_named() {
        assert_eq!(findings("| `shim/`, `shim/xds/` | |\n| `docs/` | |\n"), "");
        let text = findings("| `shim/` | |\n");
        assert!(text.contains("ARCHITECTURE.md:3: the table of folders does not name `docs/`"), "{text}");
        assert!(text.contains("does not name `shim/xds/`"), "{text}");
    }

    #[test]
    fn a_missing_folder_is_reported_at_its_row() {
        let text = findings("| `shim/`, `shim/xds/` | |\n| `docs/` | |\n| `standalone/` | |\n");
        assert_eq!(
            text,
            "ARCHITECTURE.md:7: the folder `standalone/` does not exist; correct its row, or remove it\n"
        );
    }

    #[test]
    fn a_document_without_the_table_is_reported() {
        let text = check(&Tree::of(&[(FILE, "# A\n")])).expect("report").text();
        assert!(text.contains("has no table with the column `folder`"), "{text}");
    }
}
