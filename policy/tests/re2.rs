//! Expressions compared with the verdicts of RE2 itself. RE2 is not there when the tests run: `re2.jsonl` was written with
//! its bindings for Python (`re2.compile(pattern).fullmatch(text)`, default options), from random pieces of patterns.

use egress_policy::FullMatch;
use serde_json::Value;

/// The reasons why the engine refuses a pattern that RE2 accepts.
const REFUSED: [&str; 8] =
    [r"\C", r"\p", "(?i)", "nothing before it", "repeated", "size limit", "nesting", "letters, digits and"];

#[test]
fn expressions_mean_what_they_mean_to_re2() {
    let path = std::env::var("EGRESS_RE2")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/tests/re2.jsonl").to_owned());
    let (mut compared, mut refused, mut wrong) = (0, 0, Vec::new());
    for line in std::fs::read_to_string(path).expect("the verdicts").lines() {
        let (pattern, texts, verdicts): (String, Vec<String>, Value) =
            serde_json::from_str(line).expect("a line");
        match (FullMatch::new(&pattern), verdicts.as_array()) {
            (Err(error), Some(_)) => {
                refused += 1;
                let why = error.to_string();
                if !REFUSED
                    .iter()
                    .any(|known| why.rsplit(" expression: ").next().unwrap_or(&why).contains(known))
                {
                    wrong.push(format!("{pattern:?} is refused: {why}"));
                }
            }
            (Err(_), None) => {}
            (Ok(_), None) => wrong.push(format!("RE2 refuses {pattern:?}")),
            (Ok(compiled), Some(verdicts)) => {
                for (text, verdict) in texts.iter().zip(verdicts) {
                    compared += 1;
                    if compiled.matches(text) != *verdict {
                        wrong.push(format!("{pattern:?} and {text:?}: {verdict} by RE2"));
                    }
                }
            }
        }
    }
    println!("{compared} verdicts alike, {refused} patterns refused that RE2 takes");
    assert!(compared > 5_000, "{compared}");
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
}
