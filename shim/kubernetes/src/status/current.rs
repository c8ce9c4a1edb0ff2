//! The current conditions of policies, for readers without an API server: the console and `osm-egress status`.

use std::collections::BTreeMap;
use std::sync::Arc;

use egress_core::policy_status::{ConditionView, PolicyStatus};
use serde_json::Value;
use tokio::sync::watch;

use super::super::object::{Observed, Statuses};
use super::super::replicas::{Report, tally};
use super::desired::{Condition, PROGRAMMED, find, policy_conditions, programmed};
use egress_compile::Compiled;
use egress_compile::store::Store;
use egress_core::proxies::ProxyRegistry;

/// The source of policy conditions: this control plane, and in a cluster what all control planes wrote.
#[derive(Clone, Debug, Default)]
pub struct PolicyStatuses {
    observed: Option<watch::Receiver<Statuses>>,
}

impl PolicyStatuses {
    pub(crate) fn of_cluster(observed: watch::Receiver<Statuses>) -> Self {
        Self { observed: Some(observed) }
    }

    /// The current statuses, in the order of names.
    #[must_use]
    pub fn now(&self, compiled: &Compiled, store: &Store, proxies: &dyn ProxyRegistry) -> Vec<PolicyStatus> {
        let own = Arc::new(Report::of(proxies.fleets(), compiled));
        let reports = BTreeMap::from([(String::new(), own)]);
        let observed = self.observed.as_ref().map(|observed| Arc::clone(&observed.borrow()));
        let policies = policy_conditions(compiled, store).into_iter();
        policies
            .map(|(key, policy)| {
                let written = observed.as_ref().and_then(|all| reported_by_all(all.get(&key)?));
                let of_all = written.is_some();
                let (condition, programmed) = written.unwrap_or_else(|| {
                    let (condition, short) = programmed(&tally(&policy.sources, &reports, compiled));
                    (ConditionView::from(&condition), short)
                });
                let mut conditions = vec![ConditionView::from(&policy.accepted), condition];
                conditions.extend(policy.conflicts.as_ref().map(ConditionView::from));
                let (namespace, name) = key;
                PolicyStatus { namespace, name, conditions, programmed, of_all }
            })
            .collect()
    }
}

/// The condition `Programmed` and its short form that all control planes wrote.
fn reported_by_all(observed: &Observed) -> Option<(ConditionView, String)> {
    let condition = find(observed, PROGRAMMED)?;
    let text = |key: &str| condition.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let view = ConditionView {
        kind: PROGRAMMED.to_owned(),
        status: text("status"),
        reason: text("reason"),
        message: text("message"),
    };
    Some((view, observed.programmed.clone()?))
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
