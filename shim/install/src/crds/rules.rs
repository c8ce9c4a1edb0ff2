//! Validation rules in the definitions (CEL), for API servers that have them. They refuse an object while the webhook is
//! not installed or does not answer. Older API servers refuse a definition with rules, or drop them.

use serde_json::{Value, json};

/// The length of `tcp-server-first`, the longest protocol.
const MAX_PROTOCOL: usize = 16;
/// The longest name of a kind in Kubernetes.
const MAX_KIND: usize = 63;

/// Adds the rules to a definition.
pub(crate) fn add_rules(definition: &mut Value) {
    if definition["spec"]["names"]["kind"] != "Egress" {
        return;
    }
    for version in definition["spec"]["versions"].as_array_mut().into_iter().flatten() {
        let spec = &mut version["schema"]["openAPIV3Schema"]["properties"]["spec"];
        spec["x-kubernetes-validations"] = egress();
        // An API server estimates the cost of a rule by the longest text that it may compare.
        let fields = &mut spec["properties"];
        fields["ports"]["items"]["properties"]["protocol"]["maxLength"] = json!(MAX_PROTOCOL);
        fields["matches"]["items"]["properties"]["kind"]["maxLength"] = json!(MAX_KIND);
    }
}

/// The rules of an Egress: what the compiler refuses, whatever other objects there are.
fn egress() -> Value {
    let not_empty = |field: &str| {
        json!({
            "rule": format!("!has(self.{field}) || size(self.{field}) > 0"),
            "message": format!("{field} is present but empty, which grants nothing: list entries, or leave it out for any"),
        })
    };
    let settings = "m.kind == 'UpstreamTrafficSetting'";
    json!([
        not_empty("hosts"),
        not_empty("ipAddresses"),
        not_empty("matches"),
        {
            "rule": "has(self.hosts) || !self.ports.exists(p, p.protocol.lowerAscii() == 'http')",
            "message": "protocol http without hosts grants nothing: list hosts, or use tcp",
        },
        {
            "rule": format!("!has(self.matches) || self.matches.all(m, m.kind == 'HTTPRouteGroup' || {settings})"),
            "message": "the kind of a match is HTTPRouteGroup or UpstreamTrafficSetting",
        },
        {
            "rule": format!("!has(self.matches) || self.matches.filter(m, {settings}).size() <= 1"),
            "message": "an Egress has at most one UpstreamTrafficSetting",
        },
    ])
}
