//! The check of proxies: each should have the document that its control plane sent.

use std::net::SocketAddr;

use egress_status::{AdminClient, ProxyStatus, Status};

use super::super::names::{ADMIN_PORT, NAME, Names};
use super::report::{Report, State};

/// The name of the check.
const CHECK: &str = "proxies";

pub(super) async fn check_proxies(admin: Option<SocketAddr>, names: &Names, report: &mut Report) {
    let Some(admin) = admin else {
        report.add(
            CHECK,
            State::Unknown,
            format!(
                "no control plane was asked: run `kubectl -n {} port-forward deploy/{NAME} {ADMIN_PORT}`, and pass \
                 `--admin 127.0.0.1:{ADMIN_PORT}`",
                names.namespace
            ),
        );
        return;
    };
    match AdminClient::new(admin).status().await {
        Ok(status) => check_status(&status, report),
        Err(error) => report.add(CHECK, State::Fail, format!("{error:#}")),
    }
}

fn check_status(status: &Status, report: &mut Report) {
    if let Some(reason) = &status.source_unavailable {
        report.add("source", State::Warn, format!("{reason}; the last good state is in force"));
    }
    let mut wrong = Vec::new();
    for ProxyStatus { proxy, warnings: _ } in &status.proxies {
        let name = format!("{} ({})", proxy.node, proxy.identity);
        if proxy.document_acknowledged.as_ref() != Some(&proxy.document_sent) {
            let acknowledged = proxy.document_acknowledged.as_deref().unwrap_or("-");
            wrong.push(format!("{name} has document {acknowledged}, not {}", proxy.document_sent));
        }
        for (kind, of) in &proxy.types {
            if let Some(rejection) = &of.rejected {
                wrong.push(format!("{name} rejected {kind}: {}", rejection.error));
            }
        }
    }
    report.add_findings(
        CHECK,
        State::Warn,
        &wrong,
        format!("{} connected, all up to date", status.proxies.len()),
    );
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(json: serde_json::Value) -> Status {
        serde_json::from_value(json).expect("a status")
    }

    #[test]
    fn proxies_that_are_behind_are_named() {
        let proxy = |node: &str, has: &str| {
            json!({ "node": node, "identity": "a/b", "documentSent": "2",
            "documentAcknowledged": has, "types": {} })
        };
        let mut report = Report::default();
        check_status(&status(json!({ "proxies": [proxy("one", "2"), proxy("two", "1")] })), &mut report);
        assert_eq!(report.checks[0].state, State::Warn);
        assert_eq!(report.checks[0].message, "two (a/b) has document 1, not 2");
        let mut report = Report::default();
        check_status(
            &status(json!({ "proxies": [proxy("one", "2")], "sourceUnavailable": "gone" })),
            &mut report,
        );
        assert_eq!(report.checks[0].state, State::Warn);
        assert_eq!(report.checks[1].state, State::Ok);
    }
}
