//! The table of cases: each is one of `osm-egress test`.

use egress_compile::blocked_ranges::BlockedRanges;
use egress_compile::explain::policy_source::Evidence;
use egress_compile::explain::test_case::{Expected, Outcome, Results};
use egress_compile::explain::probe_form::Form;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::connection::{LISTENER_PORT, as_case};

/// A row of the table.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Row {
    name: String,
    expect: String,
    connection: Form,
}

impl Row {
    fn case(&self) -> Result<Value, String> {
        let mut case = as_case(&self.connection)?;
        case.insert("name".to_owned(), json!(self.name));
        case.insert("expect".to_owned(), json!(self.expect));
        Ok(Value::Object(case))
    }

    fn outcome(&self, evidence: &Evidence) -> Result<Outcome, String> {
        let text = json!([self.case()?]).to_string();
        // The place is that of a text that nobody sees.
        let plain = |error: &dyn std::fmt::Display| {
            let error = error.to_string();
            error.split_once(": ").map_or_else(|| error.clone(), |(_, what)| what.to_owned())
        };
        let expected = Expected::parse("case", text.as_bytes()).map_err(|error| plain(&error))?;
        let results = Results::of(&expected, evidence, LISTENER_PORT, &BlockedRanges::default())
            .map_err(|error| plain(&error))?;
        results.cases.into_iter().next().ok_or_else(|| "there is no answer".to_owned())
    }
}

pub(crate) fn run(evidence: &Evidence, cases: &str) -> Result<Value, String> {
    let outcomes = rows(cases)?.into_iter().map(|row| match row.outcome(evidence) {
        Ok(Outcome { as_expected, expected, found, .. }) => {
            json!({ "asExpected": as_expected, "expected": expected, "found": found })
        }
        Err(error) => json!({ "error": error }),
    });
    Ok(outcomes.collect())
}

pub(crate) fn diff(before: &Evidence, after: &Evidence, cases: &str) -> Result<Value, String> {
    let both = |row: &Row| Ok((row.outcome(before)?.found, row.outcome(after)?.found));
    let outcomes = rows(cases)?.into_iter().map(|row| match both(&row) {
        Ok((before, after)) => json!({ "changed": before != after, "before": before, "after": after }),
        Err::<_, String>(error) => json!({ "error": error }),
    });
    Ok(outcomes.collect())
}

pub(crate) fn file(cases: &str) -> Result<Value, String> {
    let cases: Vec<Value> = rows(cases)?.iter().map(Row::case).collect::<Result<_, _>>()?;
    Ok(json!(cases))
}

fn rows(cases: &str) -> Result<Vec<Row>, String> {
    serde_json::from_str(cases).map_err(|error| error.to_string())
}
