//! The table of test cases, each a case of `osm-egress test`.

use egress_compile::blocked_ranges::BlockedRanges;
use egress_compile::explain::policy_source::PolicySource;
use egress_compile::explain::probe_form::ProbeForm;
use egress_compile::explain::test_case::{TestCase, TestOutcome, TestResults};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::connection::{LISTENER_PORT, case_from_form};

/// A row of the table.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Row {
    name: String,
    expect: String,
    connection: ProbeForm,
}

impl Row {
    fn case(&self) -> Result<Value, String> {
        let mut case = case_from_form(&self.connection)?;
        case.insert("name".to_owned(), json!(self.name));
        case.insert("expect".to_owned(), json!(self.expect));
        Ok(Value::Object(case))
    }

    fn outcome(&self, source: &PolicySource) -> Result<TestOutcome, String> {
        let text = json!([self.case()?]).to_string();
        // The place in the error is meaningless: it points into a text that nobody sees.
        let plain = |error: &dyn std::fmt::Display| {
            let error = error.to_string();
            error.split_once(": ").map_or_else(|| error.clone(), |(_, what)| what.to_owned())
        };
        let expected = TestCase::parse("case", text.as_bytes()).map_err(|error| plain(&error))?;
        let results = TestResults::run(&expected, source, LISTENER_PORT, &BlockedRanges::default())
            .map_err(|error| plain(&error))?;
        results.cases.into_iter().next().ok_or_else(|| "there is no answer".to_owned())
    }
}

pub(crate) fn run_cases(source: &PolicySource, cases: &str) -> Result<Value, String> {
    let outcomes = parse_rows(cases)?.into_iter().map(|row| match row.outcome(source) {
        Ok(TestOutcome { passed, expected, actual, .. }) => {
            json!({ "passed": passed, "expected": expected, "actual": actual })
        }
        Err(error) => json!({ "error": error }),
    });
    Ok(outcomes.collect())
}

pub(crate) fn compare_cases(
    before: &PolicySource,
    after: &PolicySource,
    cases: &str,
) -> Result<Value, String> {
    let both = |row: &Row| Ok((row.outcome(before)?.actual, row.outcome(after)?.actual));
    let outcomes = parse_rows(cases)?.into_iter().map(|row| match both(&row) {
        Ok((before, after)) => json!({ "changed": before != after, "before": before, "after": after }),
        Err::<_, String>(error) => json!({ "error": error }),
    });
    Ok(outcomes.collect())
}

pub(crate) fn export_cases(cases: &str) -> Result<Value, String> {
    let cases: Vec<Value> = parse_rows(cases)?.iter().map(Row::case).collect::<Result<_, _>>()?;
    Ok(json!(cases))
}

fn parse_rows(cases: &str) -> Result<Vec<Row>, String> {
    serde_json::from_str(cases).map_err(|error| error.to_string())
}
