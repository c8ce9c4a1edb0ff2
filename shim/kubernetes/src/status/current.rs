//! The conditions of policies, for those who do not ask an API server: the console, and `osm-egress status`.

use std::collections::BTreeMap;
use std::sync::Arc;

use egress_core::policy_status::{ConditionView, PolicyStatus};
use serde_json::Value;
use tokio::sync::watch;

use super::super::Statuses;
use super::super::object::Observed;
use super::super::replicas::{Report, tally};
use super::verdict::{Condition, PROGRAMMED, find, programmed, verdicts};
use egress_compile::Compiled;
use egress_compile::store::Store;
use egress_core::proxies::ProxyRegistry;

/// Where conditions come from: from what this control plane knows, and in a cluster from what all of them said.
#[derive(Clone, Debug, Default)]
pub struct PolicyStatuses {
    observed: Option<watch::Receiver<Statuses>>,
}

impl PolicyStatuses {
    pub(crate) fn of_cluster(observed: watch::Receiver<Statuses>) -> Self {
        Self { observed: Some(observed) }
    }

    /// What there is to say now, in the order of names.
    #[must_use]
    pub fn now(&self, compiled: &Compiled, store: &Store, proxies: &dyn ProxyRegistry) -> Vec<PolicyStatus> {
        let own = Arc::new(Report::of(proxies.fleets(), compiled));
        let reports = BTreeMap::from([(String::new(), own)]);
        let observed = self.observed.as_ref().map(|observed| Arc::clone(&observed.borrow()));
        let verdicts = verdicts(compiled, store).into_iter();
        verdicts
            .map(|(key, verdict)| {
                let written = observed.as_ref().and_then(|all| all_said(all.get(&key)?));
                let of_all = written.is_some();
                let (condition, programmed) = written.unwrap_or_else(|| {
                    let (condition, short) = programmed(&tally(&verdict.sources, &reports, compiled));
                    (ConditionView::from(&condition), short)
                });
                let mut conditions = vec![ConditionView::from(&verdict.accepted), condition];
                conditions.extend(verdict.conflicts.as_ref().map(ConditionView::from));
                let (namespace, name) = key;
                PolicyStatus { namespace, name, conditions, programmed, of_all }
            })
            .collect()
    }
}

/// What all control planes together said of the proxies.
fn all_said(observed: &Observed) -> Option<(ConditionView, String)> {
    let condition = find(observed, PROGRAMMED)?;
    let text = |key: &str| condition.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let told = ConditionView {
        kind: PROGRAMMED.to_owned(),
        status: text("status"),
        reason: text("reason"),
        message: text("message"),
    };
    Some((told, observed.programmed.clone()?))
}

impl From<&Condition> for ConditionView {
    fn from(Condition { kind, status, reason, message }: &Condition) -> Self {
        Self {
            kind: (*kind).to_owned(),
            status: (*status).to_owned(),
            reason: (*reason).to_owned(),
            message: message.clone(),
        }
    }
}
