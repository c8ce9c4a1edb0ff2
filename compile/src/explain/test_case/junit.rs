//! The results as JUnit's XML: the few elements that CI systems read.

use std::fmt::Write;

use super::Results;

pub(super) fn write(results: &Results) -> String {
    let (tests, failures) = (results.cases.len(), results.differing());
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    // Writing into a text cannot fail.
    let _ = writeln!(out, "<testsuites tests=\"{tests}\" failures=\"{failures}\">");
    let _ = writeln!(out, "  <testsuite name=\"osm-egress\" tests=\"{tests}\" failures=\"{failures}\">");
    for case in &results.cases {
        let line = case.line.map(|line| format!(" line=\"{line}\"")).unwrap_or_default();
        let (name, file) = (escaped(&case.name), escaped(&case.file));
        let _ = write!(out, "    <testcase classname=\"{file}\" name=\"{name}\" file=\"{file}\"{line}");
        if case.as_expected {
            out.push_str("/>\n");
            continue;
        }
        let message = escaped(&format!("expected {}, found {}", case.expected, case.found));
        let why = case.report.as_ref().map(|report| escaped(&report.text(false).to_string()));
        let why = why.unwrap_or_default();
        let _ = writeln!(out, ">\n      <failure message=\"{message}\">{why}</failure>\n    </testcase>");
    }
    out.push_str("  </testsuite>\n</testsuites>\n");
    out
}

/// For attributes and for texts. XML has no way to say most control characters (XML 1.0, production 2).
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    #[test]
    fn names_are_only_names() {
        let case = |name: &str, as_expected| Outcome {
            name: name.to_owned(),
            file: "a.yaml".to_owned(),
            line: Some(3),
            as_expected,
            expected: "allow".to_owned(),
            found: "deny no-rule".to_owned(),
            report: None,
        };
        let results = Results { cases: vec![case("a", true), case("\"/><x>&\u{1b}\n", false)] };
        insta::assert_snapshot!(results.junit(), @r#"
        <?xml version="1.0" encoding="UTF-8"?>
        <testsuites tests="2" failures="1">
          <testsuite name="osm-egress" tests="2" failures="1">
            <testcase classname="a.yaml" name="a" file="a.yaml" line="3"/>
            <testcase classname="a.yaml" name="&quot;/&gt;&lt;x&gt;&amp;�&#10;" file="a.yaml" line="3">
              <failure message="expected allow, found deny no-rule"></failure>
            </testcase>
          </testsuite>
        </testsuites>
        "#);
    }
}
