//! The results as JUnit XML: the few elements that CI systems read.

use std::borrow::Cow;
use std::io;

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use super::{TestOutcome, TestResults};

type XmlWriter = Writer<Vec<u8>>;

pub(super) fn format(results: &TestResults) -> String {
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    // Writing into a vector cannot fail.
    let _ = write_results(&mut writer, results);
    let mut text = String::from_utf8(writer.into_inner()).unwrap_or_default();
    text.push('\n');
    text
}

fn write_results(writer: &mut XmlWriter, results: &TestResults) -> io::Result<()> {
    let (tests, failures) = (results.cases.len().to_string(), results.count_failures().to_string());
    let counts = [("tests", tests.as_str()), ("failures", failures.as_str())];
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let suites = writer.create_element("testsuites").with_attributes(counts);
    suites.write_inner_content(|writer| {
        let suite = writer.create_element("testsuite").with_attribute(("name", "osm-egress"));
        suite.with_attributes(counts).write_inner_content(|writer| {
            results.cases.iter().try_for_each(|case| write_case(writer, case))
        })?;
        Ok(())
    })?;
    Ok(())
}

fn write_case(writer: &mut XmlWriter, case: &TestOutcome) -> io::Result<()> {
    let (name, file) = (replace_controls(&case.name), replace_controls(&case.file));
    let line = case.line.map(|line| line.to_string());
    let attributes = [("classname", &*file), ("name", &*name), ("file", &*file)];
    let element = writer
        .create_element("testcase")
        .with_attributes(attributes)
        .with_attributes(line.as_deref().map(|line| ("line", line)));
    if case.passed {
        element.write_empty()?;
        return Ok(());
    }
    let message = format!("expected {}, actual {}", case.expected, case.actual);
    let report = case.report.as_ref().map(|report| report.text(false).to_string()).unwrap_or_default();
    element.write_inner_content(|writer| {
        writer
            .create_element("failure")
            .with_attribute(("message", &*replace_controls(&message)))
            .write_text_content(BytesText::new(&replace_controls(&report)))?;
        Ok(())
    })?;
    Ok(())
}

/// Replaces the characters that XML cannot represent: most control characters (XML 1.0, production 2).
fn replace_controls(text: &str) -> Cow<'_, str> {
    let is_invalid = |c: char| {
        (c.is_control() && !matches!(c, '\n' | '\t' | '\r')) || matches!(c, '\u{fffe}' | '\u{ffff}')
    };
    if text.contains(is_invalid) { text.replace(is_invalid, "\u{fffd}").into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::super::TestOutcome;
    use super::*;

    #[test]
    fn names_are_escaped() {
        let case = |name: &str, passed| TestOutcome {
            name: name.to_owned(),
            file: "a.yaml".to_owned(),
            line: Some(3),
            passed,
            expected: "allow".to_owned(),
            actual: "deny no-rule".to_owned(),
            report: None,
        };
        let results = TestResults { cases: vec![case("a", true), case("\"/><x>&\u{1b}\n", false)] };
        insta::assert_snapshot!(results.format_junit(), @r#"
        <?xml version="1.0" encoding="UTF-8"?>
        <testsuites tests="2" failures="1">
          <testsuite name="osm-egress" tests="2" failures="1">
            <testcase classname="a.yaml" name="a" file="a.yaml" line="3"/>
            <testcase classname="a.yaml" name="&quot;/&gt;&lt;x&gt;&amp;�&#10;" file="a.yaml" line="3">
              <failure message="expected allow, actual deny no-rule"></failure>
            </testcase>
          </testsuite>
        </testsuites>
        "#);
    }
}
