//! Name overrides of a pod: settings by which its author can map the names that policies allow to other addresses.
//!
//! The sidecar has its own hosts file, so `hostAliases` affect the workload only. The sidecar uses the pod's name
//! servers, unless the control plane names others.

use std::fmt;

use egress_policy::{Document, HostPattern};
use serde_json::Value;

/// Treatment of a pod that overrides names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum PodDns {
    /// Admitted.
    Allow,
    /// Admitted with a warning.
    #[default]
    Warn,
    /// Refused.
    Refuse,
}

/// A setting of a pod that overrides names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameOverride {
    /// An entry in the pod's hosts file, for a name that policies allow.
    HostAlias {
        /// Name.
        host: String,
        /// Address for the workload.
        address: String,
    },
    /// A name server.
    NameServer(String),
    /// An option that can contain further lines of the resolver's configuration.
    ResolverOption(String),
}

impl fmt::Display for NameOverride {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostAlias { host, address } => write!(
                f,
                "`hostAliases` maps `{host}` to {address} for the workload only; the sidecar resolves the name itself: \
                 remove the alias, or allow the address with `ipAddresses`"
            ),
            Self::NameServer(address) => write!(
                f,
                "`dnsConfig` makes the sidecar use name server {address}, whose owner controls the addresses of allowed names: \
                 remove it, or pass `--dns-resolver` to the control plane"
            ),
            Self::ResolverOption(option) => {
                write!(f, "`dnsConfig.options` has {option:?}, which is not a resolver option: remove it")
            }
        }
    }
}

/// Finds the name overrides of a pod or pod template. An entry of `hostAliases` counts if the identity's policy
/// allows its name, or if there is no policy.
pub fn find_name_overrides(pod: &Value, policy: Option<&Document>) -> Vec<NameOverride> {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let mut found = Vec::new();
    for alias in items(spec.get("hostAliases")) {
        let address = text(alias.get("ip"));
        for host in items(alias.get("hostnames")).map(|host| text(Some(host))) {
            if policy.is_none_or(|policy| allows(policy, &host)) {
                found.push(NameOverride::HostAlias { host, address: address.clone() });
            }
        }
    }
    // Search domains are not used, and options change no answer. `dnsPolicy: None` requires name servers here.
    let servers = items(spec.pointer("/dnsConfig/nameservers"));
    found.extend(servers.map(|server| NameOverride::NameServer(text(Some(server)))));
    for option in items(spec.pointer("/dnsConfig/options")) {
        let parts = [text(option.get("name")), text(option.get("value"))];
        // They are written into resolv.conf unescaped.
        found.extend(
            parts
                .into_iter()
                .filter(|part| part.contains(char::is_control))
                .map(NameOverride::ResolverOption),
        );
    }
    found
}

fn items(list: Option<&Value>) -> impl Iterator<Item = &Value> {
    list.and_then(Value::as_array).into_iter().flatten()
}

fn text(value: Option<&Value>) -> String {
    value.and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Returns true if a rule lists the name, exactly or by a wildcard.
fn allows(policy: &Document, host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let mut patterns = policy.rules.iter().flat_map(|rule| rule.hosts.iter().flat_map(|hosts| hosts.iter()));
    patterns.any(|pattern| match pattern {
        HostPattern::Exact(name) => name.as_str() == host,
        HostPattern::Below(above) => {
            host.strip_suffix(above.as_str()).is_some_and(|below| below.len() > 1 && below.ends_with('.'))
        }
    })
}
