//! Explanations compared with the engine and with the naive model, on random documents.

mod generate;
mod naive;

use std::borrow::Cow;
use std::net::SocketAddr;

use egress_policy::explain::{Explainer, Explanation, Mismatch, Question, Traffic as Sent, Verdict};
use egress_policy::{Decision, Document, Grant, Headers, ReasonCode, Request};
use proptest::prelude::*;
use serde_json::{Value, json};

use self::generate::{given, in_mesh, questions, rule, rules};
use self::naive::{Traffic, decide, document, expected, policy, verdict};

struct List<'a>(&'a [(&'a str, &'a str)]);

impl Headers for List<'_> {
    fn values(&self, name: &str) -> Vec<Cow<'_, str>> {
        self.0.iter().filter(|(n, _)| *n == name).map(|(_, value)| Cow::Borrowed(*value)).collect()
    }
}

fn explainer(document: &Value) -> Explainer {
    let document: Document = serde_json::from_value(document.clone()).expect("a document");
    Explainer::new(document).expect("a policy")
}

fn explain(explainer: &Explainer, to: SocketAddr, known: bool, traffic: Traffic<'_>) -> Explanation {
    let headers = List(if let Traffic::Http { headers, .. } = traffic { headers } else { &[] });
    let request = if let Traffic::Http { authority, method, path, upgrade, .. } = traffic {
        Some(Request { authority, method, path, upgrade, headers: &headers })
    } else {
        None
    };
    let sent = match (traffic, &request) {
        (Traffic::Tls { name, encrypted }, _) => Sent::Tls { server_name: name, encrypted },
        (Traffic::BrokenTls, _) => Sent::BrokenTls(ReasonCode::TlsMalformed),
        (Traffic::TimedOut, _) => Sent::Silence,
        (Traffic::Http { .. }, Some(request)) => Sent::Http(request),
        (Traffic::Http { .. }, None) => Sent::Other,
    };
    let address = known.then(|| to.ip());
    explainer.explain(&Question { address, port: to.port(), listener_port: 15001, traffic: sent })
}

/// Lists the policies of the rules without a mismatch.
fn allowing(explanation: &Explanation) -> Vec<&str> {
    let mut names: Vec<&str> =
        explanation.rules.iter().filter(|rule| rule.allows()).map(|rule| rule.policy.as_str()).collect();
    names.sort_unstable();
    names
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_verdict_is_the_engines_and_rules_without_mismatch_allow(
        mode in prop_oneof![8 => Just("enforce"), 1 => Just("audit"), 1 => Just("passthrough")],
        rules in rules(),
        in_mesh in in_mesh(),
        questions in questions(),
    ) {
        let whole = document(mode, &rules, &in_mesh);
        let (explainer, policy) = (explainer(&whole), policy(&whole));
        for (to, traffic) in questions {
            let case = format!("{to} {traffic:?}");
            let explanation = explain(&explainer, to, true, traffic);
            let decision = decide(&policy, to, traffic);
            prop_assert_eq!(explanation.verdict == Verdict::Allow, verdict(&decision).is_some(), "{}", case);
            prop_assert_eq!(explanation.reason, Some(decision.reason()), "{}", case);
            prop_assert_eq!(explanation.rule.as_ref(), decision.rule(), "{}", case);
            prop_assert_eq!(explanation.would_refuse, decision.would_refuse(), "{}", case);
            if let Decision::Allow(permit) = &decision {
                prop_assert_eq!(explanation.destination.as_ref(), Some(&permit.to), "{}", case);
                prop_assert_eq!(explanation.cluster.as_deref(), permit.cluster, "{}", case);
            }
            prop_assert_eq!(explanation.rules.len(), rules.len());
            let is_in_mesh =
                matches!(decision.reason(), ReasonCode::InMesh | ReasonCode::InMeshDenied);
            // By the naive model, which knows nothing of the engine.
            let mut alone: Vec<&str> = rules
                .iter()
                .filter(|rule| {
                    let alone = document("enforce", &[(*rule).clone()], &[]);
                    !is_in_mesh && expected(&alone, to, traffic).is_some()
                })
                .filter_map(|rule| rule["policy"].as_str())
                .collect();
            alone.sort_unstable();
            prop_assert_eq!(allowing(&explanation), alone, "{} {:#?}", case, explanation.rules);
            if let Decision::Allow(permit) = &decision && let Grant::Rule(named) = &permit.by {
                prop_assert!(allowing(&explanation).contains(&named.policy.as_str()), "{}", case);
            }
            if !decision.is_allowed() || decision.would_refuse().is_some() {
                prop_assert!(explanation.rules.iter().all(|rule| !rule.allows()), "{}", case);
            }
            for pair in explanation.rules.windows(2) {
                prop_assert!(pair[0].distance() <= pair[1].distance());
            }
            for mismatch in explanation.rules.iter().flat_map(|rule| &rule.mismatches) {
                let text = mismatch.to_string();
                prop_assert!(!text.is_empty() && !text.contains(char::is_control), "{text:?}");
                serde_json::to_value(mismatch).expect("JSON");
            }
        }
    }

    /// Checks that an unknown address is the only mismatch of a rule that would allow the connection with its address.
    #[test]
    fn a_connection_without_address_is_allowed_only_at_every_address(
        rules in rules(),
        more in rule(),
        in_mesh in in_mesh(),
        questions in questions(),
    ) {
        let mut rules = rules;
        rules.push(given(more, &[("policy", json!("ns/more"))]));
        let whole = document("enforce", &rules, &in_mesh);
        let (explainer, policy) = (explainer(&whole), policy(&whole));
        for (to, traffic) in questions {
            let case = format!("{to} {traffic:?}");
            // A request for a bare address is about that address.
            if let Traffic::Http { authority: Some(authority), .. } = traffic
                && authority.starts_with(|c: char| c == '[' || c.is_ascii_digit())
            {
                continue;
            }
            let unknown = explain(&explainer, to, false, traffic);
            let decision = decide(&policy, to, traffic);
            if matches!(decision.reason(), ReasonCode::InMesh | ReasonCode::InMeshDenied) {
                continue;
            }
            if unknown.verdict == Verdict::Allow {
                prop_assert!(decision.is_allowed(), "{}", case);
            } else if let Decision::Allow(permit) = &decision && let Grant::Rule(named) = &permit.by {
                let evaluation = unknown.rules.iter().find(|rule| rule.policy == named.policy);
                let evaluation = evaluation.expect("every rule is there");
                prop_assert!(evaluation.mismatches_only_address(), "{case} {evaluation:#?}");
                let unknown = matches!(evaluation.mismatches[..], [Mismatch::Address { dialled: None, .. }]);
                prop_assert!(unknown, "{}", case);
            }
        }
    }
}

/// A header may have several fields, and a server may read a path as another one.
#[test]
fn mismatches_name_the_header_value_and_the_path() {
    let document = document(
        "enforce",
        &[json!({
            "port": 80, "protocol": "http", "hosts": ["a.org"],
            "policy": "ns/p", "name": "spec.ports[0]",
            "routes": [{"name": "g/m", "path": "/p/.*", "headers": [{"name": "x-a", "value": "good.*"}]}],
        })],
        &[],
    );
    let explainer = explainer(&document);
    for (path, headers, expected) in [
        ("/p/a", &[("x-a", "good")][..], None),
        ("/p/a", &[("x-a", "good"), ("x-a", "good")], None),
        ("/p/a", &[], Some("and there is none")),
        ("/p/a", &[("x-a", "evil"), ("x-a", "good")], Some("not `evil`")),
        ("/p/a", &[("x-a", "good"), ("x-a", "evil")], Some("not `evil`")),
        (
            "/p/..;/a",
            &[("x-a", "good")],
            Some("wants a path that no server reads as one with `..`, not `/p/..;/a`"),
        ),
    ] {
        let traffic = Traffic::Http { authority: Some("a.org"), method: "GET", path, upgrade: None, headers };
        let to = "203.0.113.1:80".parse().expect("an address");
        let explanation = explain(&explainer, to, true, traffic);
        let allowed = explanation.verdict == Verdict::Allow;
        assert_eq!(allowed, expected.is_none(), "{path} {headers:?}");
        let mismatches: Vec<String> =
            explanation.rules.iter().flat_map(|rule| &rule.mismatches).map(ToString::to_string).collect();
        assert!(expected.is_none_or(|text| mismatches.concat().contains(text)), "{mismatches:?}");
    }
}
