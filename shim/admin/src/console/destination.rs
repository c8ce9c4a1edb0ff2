//! The destination of an explain query: all that the console suggests, and all that a policy created by it may allow.
//! The list of a workload's denied flows is long, and the workload chooses what is in it.

use std::fmt;
use std::net::IpAddr;

use egress_compile::explain::ExplainRequest;
use egress_policy::{Cidr, Host, HostPattern, Rule};

use egress_flows::Flow;

/// A name, or an address if there is no name, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Destination {
    name: Option<Host>,
    address: Option<IpAddr>,
    port: u16,
}

impl Destination {
    /// Reads the destination of a query.
    pub(super) fn from_request(explain_request: &ExplainRequest) -> Self {
        let port = explain_request.probe.port;
        Self {
            name: explain_request.probe.visible_name().and_then(|name| parse_host(name, port)),
            address: explain_request.addresses.first().copied(),
            port,
        }
    }

    /// Returns the flow without its other addresses, or `None` if it has another destination.
    pub(super) fn narrow_flow(&self, flow: &Flow) -> Option<Flow> {
        if flow.port != self.port {
            return None;
        }
        let name = flow.name.as_deref().and_then(|name| parse_host(name, self.port));
        if name != self.name {
            return None;
        }
        let mut flow = flow.clone();
        if name.is_none() {
            flow.addresses.retain(|address| Some(*address) == self.address);
        }
        (name.is_some() || !flow.addresses.is_empty()).then_some(flow)
    }

    /// Describes what a rule allows beyond the destination; `None` if nothing.
    pub(super) fn find_excess(&self, rule: &Rule) -> Option<String> {
        if rule.port.get() != self.port {
            return Some(format!("port {}", rule.port));
        }
        let other_host = |hosts: &[HostPattern]| {
            let mut others = hosts.iter().filter(
                |host| !matches!((host, &self.name), (HostPattern::Exact(host), Some(name)) if host == name),
            );
            others.next().map(|host| format!("`{host}`"))
        };
        let other_block = |blocks: &[Cidr]| {
            let own = self.address.map(Cidr::host);
            blocks.iter().find(|block| Some(**block) != own).map(ToString::to_string)
        };
        match (&rule.hosts, &rule.addresses, &self.name) {
            (Some(hosts), _, Some(_)) => other_host(hosts),
            (_, Some(blocks), _) => other_block(blocks),
            (Some(hosts), None, None) => other_host(hosts),
            (None, None, _) => Some("any destination".to_owned()),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, address, port } = self;
        match (name, address) {
            (Some(name), _) => write!(f, "{name}:{port}"),
            (None, Some(address)) => std::net::SocketAddr::new(*address, *port).fmt(f),
            (None, None) => write!(f, "port {port}"),
        }
    }
}

/// Normalizes a server name or an authority as a policy lists it.
fn parse_host(name: &str, port: u16) -> Option<Host> {
    let host = match name.rsplit_once(':') {
        Some((host, found)) if found.parse() == Ok(port) => host,
        _ => name,
    };
    Host::canonical(host).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use egress_compile::explain::probe_form::ProbeForm;
    use serde_json::json;

    fn destination(to: &str, address: &str) -> Destination {
        let form = ProbeForm {
            identity: "shop/app".to_owned(),
            to: to.to_owned(),
            address: address.to_owned(),
            ..ProbeForm::default()
        };
        Destination::from_request(
            &form.to_request(15001, egress_compile::blocked_ranges::BlockedRanges::default()).expect("sense"),
        )
    }

    #[test]
    fn a_destination_is_read_from_a_query() {
        for (to, address, expected) in [
            ("https://A.org/x", "192.0.2.1", "a.org:443"),
            ("http://a.org:8080/x", "", "a.org:8080"),
            ("https://192.0.2.1", "", "192.0.2.1:443"),
            ("http://[2001:db8::1]/", "", "[2001:db8::1]:80"),
            ("tcp://a.org:5432", "192.0.2.1", "192.0.2.1:5432"),
            ("tcp://a.org:5432", "", "port 5432"),
        ] {
            assert_eq!(destination(to, address).to_string(), expected, "{to} {address}");
        }
    }

    #[test]
    fn a_rule_that_allows_more_has_an_excess() {
        let named = destination("https://a.org", "192.0.2.1");
        let bare = destination("tcp://db.example:443", "192.0.2.1");
        for (destination, hosts, addresses, port, expected) in [
            (&named, json!(["a.org"]), json!(null), 443, None),
            (&named, json!(["a.org"]), json!(["10.0.0.0/8"]), 443, None),
            (&named, json!(["a.org"]), json!(null), 80, Some("port 80")),
            (&named, json!(["a.org", "b.org"]), json!(null), 443, Some("`b.org`")),
            (&named, json!(["*.a.org"]), json!(null), 443, Some("`*.a.org`")),
            (&named, json!(null), json!(null), 443, Some("any destination")),
            (&named, json!(null), json!(["192.0.2.1/32"]), 443, None),
            (&named, json!(null), json!(["192.0.2.0/24"]), 443, Some("192.0.2.0/24")),
            (&bare, json!(null), json!(["192.0.2.1/32"]), 443, None),
            (&bare, json!(null), json!(["192.0.2.1/32", "192.0.2.2/32"]), 443, Some("192.0.2.2/32")),
            (&bare, json!(["a.org"]), json!(null), 443, Some("`a.org`")),
            (&bare, json!(["a.org"]), json!(["0.0.0.0/0"]), 443, Some("0.0.0.0/0")),
        ] {
            let mut rule = json!({ "policy": "a/b", "name": "n", "port": port, "protocol": "https" });
            for (field, value) in [("hosts", hosts), ("addresses", addresses)] {
                if !value.is_null() {
                    rule[field] = value;
                }
            }
            let rule: Rule = serde_json::from_value(rule.clone()).expect("a rule");
            assert_eq!(destination.find_excess(&rule).as_deref(), expected, "{destination} {rule:?}");
        }
    }
}
