//! References of an Egress object: route groups and connection settings.

use std::collections::BTreeMap;
use std::sync::Arc;

use egress_policy::Route;

use super::reader::{Part, Reader};
use crate::budget;
use crate::compile::Invalid;
use crate::compile::route::Group;
use crate::compile::upstream::Limits;
use crate::manifest::spec::MatchRef;
use crate::manifest::{Kind, ObjectRef};

const ROUTE_GROUP_API: &str = "specs.smi-spec.io/v1alpha4";
const UPSTREAM_SETTING_API: &str = "policy.openservicemesh.io/v1alpha1";
const NO_GRANT: &str = "correct or remove this match; until then the object grants nothing";

impl Reader<'_, '_> {
    /// Checks `matches` with the rules and messages of OSM's webhook, and looks up connection settings.
    pub(super) fn check_references(&mut self) -> Result<Option<Limits>, Invalid> {
        let mut valid = true;
        let mut count = 0_usize;
        let mut limits = None;
        let egress = self.egress;
        for (i, MatchRef { api_group, kind, name }) in egress.matches.iter().flatten().enumerate() {
            let field = format!("spec.matches[{i}]");
            let expected = match api_group.as_str() {
                ROUTE_GROUP_API => "HTTPRouteGroup",
                UPSTREAM_SETTING_API => "UpstreamTrafficSetting",
                other => {
                    valid = false;
                    let message = format!(
                        "Expected 'matches.apiGroup' to be one of [{ROUTE_GROUP_API} {UPSTREAM_SETTING_API}], got: {other}"
                    );
                    self.sink.error(&format!("{field}.apiGroup"), message, Some(NO_GRANT));
                    continue;
                }
            };
            if kind != expected {
                valid = false;
                let message =
                    format!("Expected 'matches.kind' for match '{name}' to be '{expected}', got: {kind}");
                self.sink.error(&format!("{field}.kind"), message, Some(NO_GRANT));
            } else if api_group == UPSTREAM_SETTING_API {
                count = count.saturating_add(1);
                let target = ObjectRef::new(Kind::UpstreamTrafficSetting, &self.reference.namespace, name);
                match self.settings.get(&target) {
                    Some(Ok(found)) => {
                        limits = Some(*found);
                        self.settings_field = field;
                    }
                    Some(Err(Invalid)) => {
                        valid = false;
                        let advice = "correct the settings; until then the object grants nothing";
                        self.sink.wrong_reference(&field, format!("{target} is invalid"), advice);
                    }
                    None => {
                        valid = false;
                        self.sink.wrong_reference(&field, format!("there is no {target}"), NO_GRANT);
                    }
                }
            }
        }
        if count > 1 {
            valid = false;
            let message = "Cannot have more than 1 UpstreamTrafficSetting match";
            self.sink.error("spec.matches", message, Some(NO_GRANT));
        }
        if valid { Ok(limits) } else { Err(Invalid) }
    }

    /// Reads the routes of the route groups that the object references.
    pub(super) fn read_routes(&mut self) -> Part<Arc<Route>> {
        let mut valid = true;
        let groups = self.groups;
        let mut named: BTreeMap<ObjectRef, &Group> = BTreeMap::new();
        let egress = self.egress;
        for (i, reference) in egress.matches.iter().flatten().enumerate() {
            if reference.api_group != ROUTE_GROUP_API || reference.kind != "HTTPRouteGroup" {
                continue;
            }
            let field = format!("spec.matches[{i}]");
            if !egress.ports.iter().any(|port| port.protocol.eq_ignore_ascii_case("http")) {
                let message = "route groups apply only to protocol `http`, and no port uses it";
                self.sink.warning(&field, message, None);
            }
            let target = ObjectRef::new(Kind::HttpRouteGroup, &self.reference.namespace, &reference.name);
            match groups.get(&target) {
                Some(Ok(group)) => {
                    named.insert(target, group);
                }
                Some(Err(Invalid)) => {
                    valid = false;
                    let message = format!("{target} is invalid");
                    let advice = "correct the group; until then the http rules of the object grant nothing";
                    self.sink.wrong_reference(&field, message, advice);
                }
                None => {
                    valid = false;
                    let message = format!("there is no {target}");
                    let advice = "add the group to the policy's own namespace, or remove this match; until then the http rules of the object grant nothing";
                    self.sink.wrong_reference(&field, message, advice);
                }
            }
        }
        let count = named.values().map(|group| group.len()).sum();
        let remedy = "reference fewer route groups";
        if let Some(excess) = budget::check_list("routes", count, budget::MAX_ROUTES, remedy) {
            self.sink.too_large("spec.matches", excess, "the http rules of the object");
            valid = false;
        }
        if !valid {
            return Err(Invalid);
        }
        let groups: Vec<&Group> = named.into_values().collect();
        Ok((!groups.is_empty()).then(|| Group::merge(&groups)))
    }
}
