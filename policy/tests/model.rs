//! The engine against a model that looks at every rule, one after the other.

mod generate;
mod naive;

use std::net::SocketAddr;

use egress_policy::{Decision, Document, Grant, Policy};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use self::generate::{given, in_mesh, questions, rule, rules};
use self::naive::{Traffic, Verdict, decide, document, expected, policy, verdict};

fn answers(document: &Value, questions: &[(SocketAddr, Traffic<'_>)]) -> Vec<Verdict> {
    let policy = policy(document);
    questions.iter().map(|(to, traffic)| verdict(&decide(&policy, *to, *traffic))).collect()
}

fn modes() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec!["enforce", "enforce", "audit", "passthrough"])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_engine_is_the_model(
        mode in prop_oneof![8 => Just("enforce"), 1 => Just("audit"), 1 => Just("passthrough")],
        rules in rules(),
        in_mesh in in_mesh(),
        questions in questions(),
    ) {
        let whole = document(mode, &rules, &in_mesh);
        let policy = policy(&whole);
        for (to, traffic) in questions {
            let decision = decide(&policy, to, traffic);
            prop_assert_eq!(verdict(&decision), expected(&whole, to, traffic), "{} {:?}", to, traffic);
            // The rule that is named for it grants it alone, by its own cluster.
            if let Decision::Allow(permit) = &decision && let Grant::Rule(named) = &permit.by {
                let alone: Vec<Value> =
                    rules.iter().filter(|rule| rule["policy"] == *named.policy).cloned().collect();
                prop_assert_eq!(alone[0]["cluster"].as_str(), permit.cluster);
                let alone = document("enforce", &alone, &[]);
                prop_assert_eq!(expected(&alone, to, traffic), verdict(&decision), "{} {:?}", to, traffic);
            }
        }
    }

    #[test]
    fn the_order_of_rules_means_nothing(
        (rules, shuffled) in rules().prop_flat_map(|rules| (Just(rules.clone()), Just(rules).prop_shuffle())),
        (services, turned) in in_mesh().prop_flat_map(|list| (Just(list.clone()), Just(list).prop_shuffle())),
        questions in questions(),
    ) {
        let one = answers(&document("enforce", &rules, &services), &questions);
        let other = answers(&document("enforce", &shuffled, &turned), &questions);
        prop_assert_eq!(one, other);
    }

    #[test]
    fn one_more_rule_takes_nothing_away(
        rules in rules(),
        more in rule(),
        at in any::<Index>(),
        in_mesh in in_mesh(),
        questions in questions(),
    ) {
        let mut with = rules.clone();
        with.insert(at.index(rules.len() + 1), given(more, &[("policy", json!("ns/more"))]));
        let without = answers(&document("enforce", &rules, &in_mesh), &questions);
        let with = answers(&document("enforce", &with, &in_mesh), &questions);
        for ((without, with), question) in without.iter().zip(&with).zip(&questions) {
            // It may go where the new rule leads, which then comes first in the alphabet; nothing else changes.
            let kept = without.is_none() || with.is_some() && with <= without;
            prop_assert!(kept, "{question:?}: {without:?} became {with:?}");
        }
    }

    #[test]
    fn audit_lets_through_what_enforce_refuses_and_nothing_else_changes(
        rules in rules(),
        questions in questions(),
    ) {
        let enforce = policy(&document("enforce", &rules, &[]));
        let audit = policy(&document("audit", &rules, &[]));
        for (to, traffic) in questions {
            let (enforced, audited) = (decide(&enforce, to, traffic), decide(&audit, to, traffic));
            if enforced.is_allowed() {
                prop_assert_eq!(enforced, audited);
            } else {
                prop_assert_eq!(verdict(&audited), Some("dialled".to_owned()));
                prop_assert_eq!(audited.would_refuse(), Some(enforced.reason()));
            }
        }
    }

    /// Both documents allow everything that their intersection allows.
    #[test]
    fn the_intersection_allows_no_more_than_both(
        rules in rules(),
        kept in proptest::collection::vec(any::<(bool, bool)>(), 8),
        modes in (modes(), modes()),
        in_mesh in (in_mesh(), in_mesh()),
        shared in in_mesh(),
        questions in questions(),
    ) {
        let side = |mode: &str, is_kept: fn(&(bool, bool)) -> bool, own: &[Value]| {
            let rules = rules.iter().zip(&kept).filter(|(_, kept)| is_kept(kept)).map(|(rule, _)| rule.clone());
            document(mode, &rules.collect::<Vec<_>>(), &[own, &shared].concat())
        };
        let one = side(modes.0, |kept| kept.0, &in_mesh.0);
        let other = side(modes.1, |kept| kept.1, &in_mesh.1);
        let read = |document: &Value| -> Document { serde_json::from_value(document.clone()).expect("a document") };
        let both = read(&one).intersection(&read(&other));
        prop_assert_eq!(read(&one).intersection(&read(&one)), read(&one));
        let both = serde_json::to_value(both).expect("JSON");
        let (one, other) = (answers(&one, &questions), answers(&other, &questions));
        for (((both, one), other), question) in
            answers(&both, &questions).iter().zip(&one).zip(&other).zip(&questions)
        {
            let allowed = both.is_none() || one.is_some() && other.is_some();
            prop_assert!(allowed, "{question:?}: {both:?}, {one:?}, {other:?}");
        }
        // And of the mesh it allows all that both allow.
        let mesh = |services: &[Value]| policy(&document("enforce", &[], services));
        let services = |own: &[Value]| [own, &shared].concat();
        let (one, other) = (mesh(&services(&in_mesh.0)), mesh(&services(&in_mesh.1)));
        let both: Policy = Policy::new(
            read(&document("enforce", &[], &services(&in_mesh.0)))
                .intersection(&read(&document("enforce", &[], &services(&in_mesh.1)))),
        )
        .expect("valid");
        for (to, traffic) in questions {
            let is_allowed = |policy: &Policy| decide(policy, to, traffic).is_allowed();
            prop_assert_eq!(is_allowed(&both), is_allowed(&one) && is_allowed(&other), "{} {:?}", to, traffic);
        }
    }

    #[test]
    fn a_document_survives_writing_and_reading(rules in rules(), in_mesh in in_mesh()) {
        let document: Document =
            serde_json::from_value(document("enforce", &rules, &in_mesh)).expect("a document");
        let text = serde_json::to_string(&document).expect("writes");
        let read = Document::from_json(&text).expect("reads");
        prop_assert_eq!(&read, &document);
        prop_assert_eq!(serde_json::from_str::<Document>(&text).expect("reads"), document);
        prop_assert!(Policy::new(read).is_ok());
    }
}
