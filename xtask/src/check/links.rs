//! Links in documents, and paths in back ticks that look like paths of this repository.

use std::collections::BTreeMap;

use anyhow::Result;

use super::finding::{Finding, Report};
use super::markdown::Document;
use super::paths::join;
use super::tree::Tree;

/// Endings that make a word in back ticks a path of the repository, whatever it begins with.
const ENDINGS: &[&str] = &[".rs", ".md"];

pub(super) fn check(tree: &Tree) -> Result<Report> {
    let documents: BTreeMap<&str, Document> =
        tree.texts(".md").map(|(path, text)| (path, Document::parse(text))).collect();
    let mut report = Report::default();
    let (mut links, mut paths) = (0, 0);
    for (file, document) in &documents {
        for (link, line) in document.links.iter().filter(|(link, _)| is_relative(link)) {
            links += 1;
            if let Some(problem) = link_problem(tree, &documents, file, link) {
                report.add(Finding::new(*file, *line, problem, "correct the link, or remove it"));
            }
        }
        for (code, line) in &document.codes {
            let Some(path) = repository_path(tree, code) else { continue };
            paths += 1;
            if !exists(tree, file, path) {
                let problem = format!("`{code}` looks like a path of the repository and does not exist");
                report.add(Finding::new(
                    *file,
                    *line,
                    problem,
                    "correct the path, or say it without back ticks",
                ));
            }
        }
    }
    report.checked.push(format!("{links} links and {paths} paths in {} documents", documents.len()));
    Ok(report)
}

fn is_relative(link: &str) -> bool {
    let scheme = link.split_once(':').map(|(scheme, _)| scheme);
    let has_scheme =
        scheme.is_some_and(|scheme| scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+.-".contains(c)));
    !has_scheme && !link.starts_with("//")
}

fn link_problem(tree: &Tree, documents: &BTreeMap<&str, Document>, file: &str, link: &str) -> Option<String> {
    let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
    let target = match path {
        "" => file.to_owned(),
        path => match join(file, path) {
            Some(target) => target,
            None => return Some(format!("the link `{link}` leads out of the repository")),
        },
    };
    if !tree.has(&target) {
        return Some(format!("the link `{link}` leads to {target}, which does not exist"));
    }
    let anchor = anchor?;
    let known = match documents.get(target.as_str()) {
        Some(document) => document.anchors.contains(anchor),
        None => has_line(tree, &target, anchor),
    };
    (!known).then(|| format!("the link `{link}` leads to #{anchor}, which {target} does not have"))
}

/// Looks for the lines of an anchor such as `L10-L20`. True for a file that is not read.
fn has_line(tree: &Tree, file: &str, anchor: &str) -> bool {
    let lines =
        anchor.split('-').map(|part| part.strip_prefix('L').and_then(|line| line.parse::<usize>().ok()));
    let Some(lines) = lines.collect::<Option<Vec<_>>>() else { return false };
    tree.text(file).is_none_or(|text| lines.iter().all(|line| (1..=text.lines().count()).contains(line)))
}

/// The path that a word in back ticks looks like: it begins with a folder of the repository, or ends as its files do.
fn repository_path<'a>(tree: &Tree, code: &'a str) -> Option<&'a str> {
    let path = match code.rsplit_once(':') {
        Some((path, line)) if line.chars().all(|c| c.is_ascii_digit()) => path,
        _ => code,
    };
    let is_path = path.chars().all(|c| c.is_ascii_alphanumeric() || "_-./*".contains(c));
    let (first, has_folder) = path.split_once('/').map_or((path, false), |(first, _)| (first, true));
    let begins_so = has_folder && tree.top_folders().any(|folder| folder == first);
    let ends_so = !path.starts_with(['/', '.']) && ENDINGS.iter().any(|ending| path.ends_with(ending));
    (is_path && (begins_so || ends_so)).then_some(path)
}

fn exists(tree: &Tree, file: &str, path: &str) -> bool {
    let path = path.trim_end_matches('/');
    let beside = join(file, path);
    if tree.has(path) || beside.is_some_and(|path| tree.has(&path)) {
        return true;
    }
    // `cli/serve.rs` for a file somewhere below.
    let end = format!("/{path}");
    if tree.paths().any(|file| file.ends_with(&end)) {
        return true;
    }
    // `fuzz/regressions/TARGET`, `docs/*.md`: the folder before it exists.
    if let Some((folder, _)) = path.split('/').position(is_placeholder).and_then(|at| {
        let segments: Vec<_> = path.split('/').collect();
        (at > 0).then(|| (segments[..at].join("/"), at))
    }) {
        return exists(tree, file, &folder);
    }
    tree.is_ignored(path)
}

fn is_placeholder(segment: &str) -> bool {
    let stem = segment.split('.').next().unwrap_or_default();
    segment.contains('*')
        || segment.contains("NNNN")
        || (!stem.is_empty() && stem.chars().all(|c| c.is_ascii_uppercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> String {
        let files = [
            ("docs/a.md", text),
            ("docs/b.md", "# A title\n"),
            ("README.md", "# Start\n"),
            ("shim/xds/src/session.rs", "one\ntwo\n"),
            ("fuzz/regressions/x", ""),
        ];
        check(&Tree::of(&files)).expect("report").text()
    }

    #[test]
    fn links_to_what_exists_are_allowed() {
        let text = "# Own\n[a](b.md) [b](b.md#a-title) [c](../README.md#start) [d](#own) [e](../shim/) \
                    [f](https://example.com/x.md) [g](mailto:a@b) [h](../shim/xds/src/session.rs#L1-L2)";
        assert_eq!(findings(text), "");
    }

    #[test]
    fn links_to_nothing_are_reported() {
        for (link, problem) in [
            ("c.md", "docs/a.md:2: the link `c.md` leads to docs/c.md, which does not exist"),
            ("b.md#a", "leads to #a, which docs/b.md does not have"),
            ("#own", "leads to #own, which docs/a.md does not have"),
            ("../../x", "leads out of the repository"),
            ("../shim/xds/src/session.rs#L3", "leads to #L3"),
        ] {
            let text = findings(&format!("\n[x]({link})"));
            assert!(text.contains(problem), "{text}");
        }
    }

    #[test]
    fn paths_in_back_ticks_exist() {
        for path in [
            "shim/xds/src/session.rs",
            "shim/xds/src/session.rs:12",
            "shim/xds/",
            "src/session.rs",
            "session.rs",
            "b.md",
            "fuzz/regressions/TARGET/",
            "docs/*.md",
            "policy.yaml",
            "/etc/x.md",
            "and/or",
        ] {
            assert_eq!(findings(&format!("`{path}`")), "", "{path}");
        }
        for path in ["shim/src/gone.rs", "policy/src/json.rs", "gone.rs", "docs/gone.md", "fuzz/gone/TARGET"]
        {
            let text = findings(&format!("\n\nSee `{path}`."));
            assert!(text.starts_with(&format!("docs/a.md:3: `{path}` looks like a path")), "{path}: {text}");
        }
    }
}
