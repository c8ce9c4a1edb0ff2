//! Whether proxies have what they should have, by a control plane that can be asked.

use std::net::SocketAddr;

use serde_json::Value;

use super::super::names::{ADMIN_PORT, NAME, Names};
use super::{Report, State};

const CHECK: &str = "proxies";

pub(super) async fn look(admin: Option<SocketAddr>, names: &Names, report: &mut Report) {
    let Some(admin) = admin else {
        report.add(
            CHECK,
            State::Unknown,
            format!(
                "nobody was asked: `kubectl -n {} port-forward deploy/{NAME} {ADMIN_PORT}` and `--admin \
                 127.0.0.1:{ADMIN_PORT}` asks a control plane",
                names.namespace
            ),
        );
        return;
    };
    let status = match egress_status::fetch(admin).await {
        Ok(text) => serde_json::from_str::<Value>(&text).map_err(anyhow::Error::from),
        Err(error) => Err(error),
    };
    match status {
        Ok(status) => judge(&status, report),
        Err(error) => report.add(CHECK, State::Fail, format!("{error:#}")),
    }
}

fn judge(status: &Value, report: &mut Report) {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    if let Some(reason) = status["sourceUnavailable"].as_str() {
        report.add("source", State::Warn, format!("{reason}; the last good state is in force"));
    }
    let proxies = status["proxies"].as_array().cloned().unwrap_or_default();
    let mut wrong = Vec::new();
    for proxy in &proxies {
        let name = format!("{} ({})", text(&proxy["node"]), text(&proxy["identity"]));
        let (sent, has) = (&proxy["documentSent"], &proxy["documentAcknowledged"]);
        if sent != has {
            wrong.push(format!("{name} has document {}, not {}", text(has), text(sent)));
        }
        for (kind, of) in proxy["types"].as_object().into_iter().flatten() {
            if let Some(error) = of["rejected"]["error"].as_str() {
                wrong.push(format!("{name} rejected {kind}: {error}"));
            }
        }
    }
    report.sum(
        CHECK,
        State::Warn,
        &wrong,
        format!("{} connected, all with what they were sent", proxies.len()),
    );
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn proxies_that_are_behind_are_named() {
        let proxy = |node: &str, has: &str| {
            json!({ "node": node, "identity": "a/b", "documentSent": "2",
            "documentAcknowledged": has, "types": {} })
        };
        let mut report = Report::default();
        judge(&json!({ "proxies": [proxy("one", "2"), proxy("two", "1")] }), &mut report);
        assert_eq!(report.checks[0].state, State::Warn);
        assert_eq!(report.checks[0].message, "two (a/b) has document 1, not 2");
        let mut report = Report::default();
        judge(&json!({ "proxies": [proxy("one", "2")], "sourceUnavailable": "gone" }), &mut report);
        assert_eq!(report.checks[0].state, State::Warn);
        assert_eq!(report.checks[1].state, State::Ok);
    }
}
