//! Lines of Envoy's access log, as `flows --log` reads them.

use super::connection;
use crate::access_log::json::{self, Skipped};

/// Lines that Envoy 1.40 wrote: for each, the columns give what the text of the decision gives.
#[test]
fn lines_of_envoys_access_log_are_read() {
    let mut counts = std::collections::BTreeMap::new();
    for line in include_str!("access.log").lines() {
        let found = json::read_line(line);
        if let Ok(mut fields) = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(line) {
            let text = fields["decision"].as_str().map(str::to_owned);
            for column in ["verdict", "reason", "policy", "rule", "would_refuse"] {
                fields.remove(column);
            }
            let by_text = json::read_line(&serde_json::to_string(&fields).expect("JSON"));
            assert_eq!(found, by_text, "{line}");
            assert_eq!(found.is_ok(), text.is_some(), "{line}");
            // The columns decide, and the text is not read.
            let mut fields: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(line).expect("JSON");
            fields.insert("decision".to_owned(), "allow passthrough - -".into());
            assert_eq!(found, json::read_line(&serde_json::to_string(&fields).expect("JSON")), "{line}");
        }
        *counts.entry(found.map(|observation| observation.decision.reason)).or_insert(0) += 1;
    }
    for (kind, expected) in [
        (Err(Skipped::OtherFormat), 1),
        (Err(Skipped::Undecided), 4),
        (Ok("revoked".to_owned()), 1),
        (Ok("audit".to_owned()), 3),
    ] {
        assert_eq!(counts.get(&kind), Some(&expected), "{kind:?}: {counts:?}");
    }
}

/// A line of an earlier version has the decision as one text. Its columns decide where it has both.
#[test]
fn lines_of_earlier_versions_are_read() {
    for (given, expected) in [
        (
            r#"{"kind":"connection","dialled":"192.0.2.1:443","decision":"deny sni-not-allowed - -","name":null,"server_name":"b.org"}"#,
            connection("deny sni-not-allowed - -", "192.0.2.1:443", None, Some("b.org"))
                .ok_or(Skipped::Undecided),
        ),
        (r#"{"kind":"connection","dialled":"192.0.2.1:80","decision":null}"#, Err(Skipped::Undecided)),
        (
            r#"{"kind":"connection","dialled":"192.0.2.1:80","decision":"deny from-the-future - -"}"#,
            Err(Skipped::UnknownDecision),
        ),
        (
            r#"{"kind":"connection","dialled":"192.0.2.1:80","verdict":"deny","reason":"from-the-future","decision":"deny no-rule - -"}"#,
            Err(Skipped::UnknownDecision),
        ),
        (
            r#"{"kind":"request","dialled":"192.0.2.1:80","verdict":null,"reason":null,"refused":"from-the-future"}"#,
            Err(Skipped::UnknownDecision),
        ),
        (
            r#"{"kind":"other","dialled":"192.0.2.1:80","verdict":"allow","reason":"rule"}"#,
            Err(Skipped::OtherFormat),
        ),
        (
            r#"{"kind":"connection","dialled":"somewhere","verdict":"allow","reason":"rule"}"#,
            Err(Skipped::OtherFormat),
        ),
    ] {
        assert_eq!(json::read_line(given), expected, "{given}");
    }
}
