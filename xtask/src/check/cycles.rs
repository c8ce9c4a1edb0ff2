//! Circles between sibling modules of a crate. A module and its own submodules count as one.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use petgraph::algo::tarjan_scc;
use petgraph::graphmap::DiGraphMap;

use super::crates::{Crate, ModulePath, read_crates};
use super::finding::{Finding, Report};
use super::tree::Tree;

/// A circle that stays, and why.
struct Exception {
    /// The crate's folder, and the module in which the circle is, as `shim/xds: session`.
    place: &'static str,
    modules: &'static [&'static str],
    reason: &'static str,
}

const EXCEPTIONS: &[Exception] = &[];

const FILE: &str = "xtask/src/check/cycles.rs";

/// The use of one module by another: where it is first written.
type Uses = BTreeMap<(String, String), (String, usize)>;

pub(super) fn check(tree: &Tree) -> Result<Report> {
    let mut report = Report::default();
    let mut met = BTreeSet::new();
    let (mut crates, mut files) = (0, 0);
    for one in read_crates(tree)? {
        crates += 1;
        files += one.files.len();
        for (parent, uses) in uses_by_parent(&one) {
            for circle in circles(&uses) {
                let place = match parent.as_slice() {
                    [] => one.folder.clone(),
                    parent => format!("{}: {}", one.folder, parent.join("::")),
                };
                let exception = EXCEPTIONS
                    .iter()
                    .position(|exception| exception.place == place && exception.modules == circle.as_slice());
                match exception {
                    Some(index) => {
                        met.insert(index);
                    }
                    None => report.add(describe(&place, &circle, &uses)),
                }
            }
        }
    }
    for (index, exception) in EXCEPTIONS.iter().enumerate() {
        if tree.has_file(FILE) && !met.contains(&index) {
            let problem =
                format!("there is no circle of exactly {:?} in {}", exception.modules, exception.place);
            report.add(Finding::new(FILE, 0, problem, "remove the exception"));
        } else {
            report.checked.push(format!("{} {:?}: {}", exception.place, exception.modules, exception.reason));
        }
    }
    report.checked.push(format!("{files} modules of {crates} crates"));
    Ok(report)
}

/// For each module with submodules: which of them uses which.
fn uses_by_parent(one: &Crate) -> BTreeMap<ModulePath, Uses> {
    let mut graphs: BTreeMap<ModulePath, Uses> = BTreeMap::new();
    for file in &one.files {
        for path in &file.source.paths {
            let from = [file.module.as_slice(), &path.inside].concat();
            let Some(to) = one.resolve(&from, &path.segments) else { continue };
            let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
            if let (Some(user), Some(used)) = (from.get(common), to.get(common)) {
                let uses = graphs.entry(from[..common].to_vec()).or_default();
                uses.entry((user.clone(), used.clone())).or_insert((file.file.clone(), path.line));
            }
        }
    }
    graphs
}

fn circles(uses: &Uses) -> Vec<Vec<String>> {
    let graph: DiGraphMap<&str, ()> =
        uses.keys().map(|(user, used)| (user.as_str(), used.as_str())).collect();
    let mut circles: Vec<Vec<String>> = tarjan_scc(&graph)
        .into_iter()
        .filter(|circle| circle.len() > 1)
        .map(|mut circle| {
            circle.sort_unstable();
            circle.into_iter().map(str::to_owned).collect()
        })
        .collect();
    circles.sort();
    circles
}

fn describe(place: &str, circle: &[String], uses: &Uses) -> Finding {
    let within = uses.iter().filter(|((user, used), _)| circle.contains(user) && circle.contains(used));
    let edges: Vec<_> = within
        .clone()
        .map(|((user, used), (file, line))| format!("    {user} uses {used} at {file}:{line}"))
        .collect();
    let (file, line) = within.map(|(_, at)| at.clone()).next().unwrap_or_default();
    let problem = format!("{place}: the modules {} depend on each other in a circle", circle.join(", "));
    let remedy = format!(
        "move what they share to a module below both, or invert one use by a trait:\n{}",
        edges.join("\n")
    );
    Finding::new(file, line, problem, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(files: &[(&str, &str)]) -> String {
        let files: Vec<_> = [("c/Cargo.toml", "")].into_iter().chain(files.iter().copied()).collect();
        check(&Tree::of(&files)).expect("report").text()
    }

    #[test]
    fn a_circle_is_reported_with_every_use_in_it() {
        let text = findings(&[
            ("c/src/lib.rs", "mod a; mod b; mod d;"),
            ("c/src/a.rs", "\nuse crate::b::f;"),
            ("c/src/b.rs", "fn g() { crate::a::h() }"),
            ("c/src/d.rs", "use crate::a;"),
        ]);
        assert!(text.starts_with("c/src/a.rs:2: c: the modules a, b depend on each other"), "{text}");
        assert!(text.contains("b uses a at c/src/b.rs:1"), "{text}");
        assert!(!text.contains("d uses"), "{text}");
    }

    #[test]
    fn a_circle_through_re_exports_and_submodules_is_one() {
        let text = findings(&[
            ("c/src/lib.rs", "mod a; mod b; pub use a::A;"),
            ("c/src/a.rs", "mod inner;"),
            ("c/src/a/inner.rs", "use super::super::b::B;"),
            ("c/src/b.rs", "use crate::A;"),
        ]);
        assert!(text.contains("the modules a, b"), "{text}");
    }

    #[test]
    fn a_circle_deep_in_a_crate_names_its_parent() {
        let text = findings(&[
            ("c/src/lib.rs", "mod a;"),
            ("c/src/a.rs", "mod x; mod y;"),
            ("c/src/a/x.rs", "use super::y;"),
            ("c/src/a/y.rs", "use super::x;"),
        ]);
        assert!(text.contains("c: a: the modules x, y"), "{text}");
    }

    #[test]
    fn parents_and_tests_are_no_circle() {
        let text = findings(&[
            ("c/src/lib.rs", "mod a; mod b; fn f() { a::f() }"),
            ("c/src/a.rs", "mod inner; use crate::b; #[cfg(test)] mod tests { use crate::b; }"),
            ("c/src/a/inner.rs", "use super::f;"),
            ("c/src/b.rs", "#[cfg(test)] mod tests { use crate::a; }"),
        ]);
        assert_eq!(text, "");
    }
}
