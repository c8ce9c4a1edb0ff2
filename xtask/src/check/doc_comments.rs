//! Doc comments that begin with a question word. "What a stream may have" has to be read twice; "The limits of a stream"
//! says at its first word what it is about.

use anyhow::Result;

use super::finding::{Finding, Report};
use super::tree::Tree;

const QUESTION_WORDS: &[&str] = &["How", "What", "When", "Where", "Whether", "Who"];

pub(super) fn check(tree: &Tree) -> Result<Report> {
    let mut report = Report::default();
    let mut comments = 0;
    for (path, text) in tree.texts(".rs") {
        for (line, first) in first_lines(text) {
            comments += 1;
            let word: String = first.chars().take_while(char::is_ascii_alphabetic).collect();
            if QUESTION_WORDS.contains(&word.as_str()) {
                let problem = format!("the doc comment begins with `{word}`: {first}");
                report.add(Finding::new(
                    path,
                    line,
                    problem,
                    "begin with a noun or a verb: what it is, or does",
                ));
            }
        }
    }
    report
        .checked
        .push(format!("{comments} doc comments; none may begin with {}", QUESTION_WORDS.join(", ")));
    Ok(report)
}

/// The first line of each block of doc comments, and its number.
fn first_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut before = None;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let line = line.trim_start();
        let marker =
            ["///", "//!"].into_iter().find(|marker| line.starts_with(marker) && !line.starts_with("////"));
        let is_first = marker.is_some() && marker != before;
        before = marker;
        let content = line.get(3..).filter(|_| is_first)?;
        Some((index + 1, content.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> String {
        check(&Tree::of(&[("a.rs", text)])).expect("report").text()
    }

    #[test]
    fn a_question_word_at_the_beginning_is_reported_with_its_line() {
        let text = "//! What it is.\n\nstruct A {\n    /// Whether it is.\n    a: bool,\n}\n";
        let found = findings(text);
        assert!(found.contains("a.rs:1: the doc comment begins with `What`: What it is.;"), "{found}");
        assert!(found.contains("a.rs:4: the doc comment begins with `Whether`"), "{found}");
    }

    #[test]
    fn later_lines_longer_words_and_plain_comments_are_allowed() {
        let text = "/// A thing.\n/// What it does.\n// What.\n/// Whatever.\nfn f() {}\n//// Who\n";
        assert_eq!(findings(text), "");
    }

    #[test]
    fn two_blocks_in_a_row_are_two() {
        assert!(findings("//! A crate.\n/// How it runs.\nfn f() {}").contains("a.rs:2"));
    }
}
