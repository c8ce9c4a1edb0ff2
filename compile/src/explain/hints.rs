//! What was probably meant, from what the nearest rules lack.

use egress_policy::ReasonCode;
use egress_policy::explain::{Explanation, Mismatch, NearHost, Nearness, RuleEvaluation, Verdict};

use super::Ask;
use super::evidence::Evidence;
use crate::{ENCRYPTED_HELLO_ANNOTATION, UPGRADES_ANNOTATION};

/// More would not be read.
const MOST: usize = 4;

pub(super) fn hints(ask: &Ask, explanation: &Explanation, evidence: &Evidence) -> Vec<String> {
    if explanation.verdict == Verdict::Allow && explanation.would_refuse.is_none() {
        return Vec::new();
    }
    let mut hints: Vec<String> = Vec::new();
    let reason = explanation.would_refuse.or(explanation.reason);
    if reason == Some(ReasonCode::NoPolicy) {
        hints.extend(evidence.others(&ask.identity).into_iter().map(|(whose, objects)| {
            let more = match objects.len() {
                0 | 1 => String::new(),
                count => format!(" and {} more", count - 1),
            };
            let first = objects.first().cloned().unwrap_or_default();
            let are = if more.is_empty() { "is" } else { "are" };
            format!("{first}{more} {are} for {whose}: is that the source that is meant?")
        }));
    }
    if reason == Some(ReasonCode::FirstBytesTimeout) {
        hints.push(
            "for a server that speaks first, give the port protocol `tcp` or `tcp-server-first`".to_owned(),
        );
    }
    for ruling in explanation.rules.iter().filter(|ruling| !ruling.is_unrelated()) {
        if hints.len() >= MOST {
            break;
        }
        if let Some(hint) = hint(ask, ruling)
            && !hints.contains(&hint)
        {
            hints.push(hint);
        }
    }
    hints.truncate(MOST);
    hints
}

fn hint(ask: &Ask, ruling: &RuleEvaluation) -> Option<String> {
    let policy = format!("Egress {}", ruling.policy);
    Some(match ruling.mismatches.as_slice() {
        [Mismatch::Port { listed, .. }] => format!("{policy} allows the same on port {listed}"),
        [Mismatch::Tls] if ask.call.is_request() => format!("{policy} allows the same over TLS"),
        [Mismatch::Port { listed, .. }, Mismatch::Tls] => {
            format!("{policy} allows the same over TLS on port {listed}")
        }
        [Mismatch::Plaintext] => format!("{policy} allows this host over plaintext HTTP"),
        [Mismatch::Port { listed, .. }, Mismatch::Plaintext] => {
            format!("{policy} allows this host over plaintext HTTP on port {listed}")
        }
        [Mismatch::Host { name, near: Some(NearHost { pattern, how }), .. }] => match how {
            Nearness::Apex => format!("list `{name}` in {policy} too: `{pattern}` is for the names below it"),
            Nearness::Below => {
                format!("list `{name}`, or `*.{pattern}` for every name below, in {policy}")
            }
            Nearness::Above => format!("list `{name}` in {policy} too: it lists `{pattern}`"),
            Nearness::Alike => format!("is `{pattern}` meant? {policy} lists it"),
        },
        [Mismatch::Address { dialled: None, .. }] => {
            format!("{policy} allows some addresses: say which is dialled (`address`)")
        }
        [Mismatch::Upgrade { asked }] if asked.eq_ignore_ascii_case("websocket") => {
            format!("annotate {policy} with `{UPGRADES_ANNOTATION}: websocket` to allow the upgrade")
        }
        [Mismatch::VisibleName] => {
            format!(
                "browsers such as Chrome and Firefox pretend to encrypt (GREASE): annotate {policy} with \
                 `{ENCRYPTED_HELLO_ANNOTATION}: allow-outer` to take the visible name"
            )
        }
        [Mismatch::ServerName] if ask.call.name.is_none() => {
            format!("{policy} decides by name: dial the name, not the address")
        }
        [Mismatch::Name { .. }] => format!("{policy} decides by name: ask for the name, not the address"),
        [Mismatch::AuthorityPort { dialled, .. }] => {
            format!("leave the port out of the authority, or write {dialled}")
        }
        _ => return None,
    })
}
