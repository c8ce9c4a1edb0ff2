//! Hints about what was probably meant, from the mismatches of the nearest rules.

use egress_policy::ReasonCode;
use egress_policy::explain::{Explanation, Mismatch, NearHost, Nearness, RuleEvaluation, Verdict};

use super::ExplainRequest;
use super::policy_source::PolicySource;
use crate::{ENCRYPTED_HELLO_ANNOTATION, UPGRADES_ANNOTATION};

/// The most hints; nobody reads more.
const MAX_HINTS: usize = 4;

/// Collects hints about a refused connection.
pub(super) fn collect_hints(
    request: &ExplainRequest,
    explanation: &Explanation,
    source: &PolicySource,
) -> Vec<String> {
    if explanation.verdict == Verdict::Allow && explanation.would_refuse.is_none() {
        return Vec::new();
    }
    let mut hints: Vec<String> = Vec::new();
    let reason = explanation.would_refuse.or(explanation.reason);
    if reason == Some(ReasonCode::NoPolicy) {
        hints.extend(source.similar_identities(&request.identity).into_iter().map(|(identity, objects)| {
            let more = match objects.len() {
                0 | 1 => String::new(),
                count => format!(" and {} more", count.saturating_sub(1)),
            };
            let first = objects.first().cloned().unwrap_or_default();
            let apply = if more.is_empty() { "applies" } else { "apply" };
            format!("{first}{more} {apply} to {identity}: did you mean that identity?")
        }));
    }
    if reason == Some(ReasonCode::FirstBytesTimeout) {
        hints.push(
            "if the server speaks first, use protocol `tcp` or `tcp-server-first` for the port".to_owned(),
        );
    }
    for evaluation in explanation.rules.iter().filter(|evaluation| !evaluation.is_unrelated()) {
        if hints.len() >= MAX_HINTS {
            break;
        }
        if let Some(hint) = suggest(request, evaluation)
            && !hints.contains(&hint)
        {
            hints.push(hint);
        }
    }
    hints.truncate(MAX_HINTS);
    hints
}

fn suggest(request: &ExplainRequest, evaluation: &RuleEvaluation) -> Option<String> {
    let policy = format!("Egress {}", evaluation.policy);
    Some(match evaluation.mismatches.as_slice() {
        [Mismatch::Port { listed, .. }] => format!("{policy} allows the same on port {listed}"),
        [Mismatch::Tls] if request.probe.is_request() => format!("{policy} allows the same over TLS"),
        [Mismatch::Port { listed, .. }, Mismatch::Tls] => {
            format!("{policy} allows the same over TLS on port {listed}")
        }
        [Mismatch::Plaintext] => format!("{policy} allows this host over plaintext HTTP"),
        [Mismatch::Port { listed, .. }, Mismatch::Plaintext] => {
            format!("{policy} allows this host over plaintext HTTP on port {listed}")
        }
        [Mismatch::Host { name, near: Some(NearHost { pattern, how }), .. }] => match how {
            Nearness::Apex => {
                format!("list `{name}` in {policy} too: `{pattern}` covers only the names below it")
            }
            Nearness::Below => {
                format!("list `{name}`, or `*.{pattern}` for every name below, in {policy}")
            }
            Nearness::Above => format!("list `{name}` in {policy} too: it lists `{pattern}`"),
            Nearness::Alike => format!("did you mean `{pattern}`? {policy} lists it"),
        },
        [Mismatch::Address { dialled: None, .. }] => {
            format!("{policy} allows some addresses: give the dialled address (`address`)")
        }
        [Mismatch::Upgrade { requested }] if requested.eq_ignore_ascii_case("websocket") => {
            format!("annotate {policy} with `{UPGRADES_ANNOTATION}: websocket` to allow the upgrade")
        }
        [Mismatch::VisibleName] => {
            format!(
                "browsers such as Chrome and Firefox send a dummy encrypted ClientHello (GREASE): annotate {policy} with \
                 `{ENCRYPTED_HELLO_ANNOTATION}: allow-outer` to use the visible name"
            )
        }
        [Mismatch::ServerName] if request.probe.name.is_none() => {
            format!("{policy} filters by name: connect to the name, not to the address")
        }
        [Mismatch::Name { .. }] => format!("{policy} filters by name: request the name, not the address"),
        [Mismatch::AuthorityPort { dialled, .. }] => {
            format!("leave the port out of the authority, or write {dialled}")
        }
        _ => return None,
    })
}
