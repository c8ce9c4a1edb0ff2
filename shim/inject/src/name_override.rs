//! What a pod says about names: whoever writes it may lead those that policies allow.
//!
//! The sidecar has a hosts file of its own, so `hostAliases` lead the workload alone. Its name servers are those of the
//! pod, unless the control plane names some.

use std::fmt;

use egress_policy::{Document, HostPattern};
use serde_json::Value;

/// What becomes of a pod that leads names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum PodDns {
    /// It is taken as it is.
    Allow,
    /// It is taken, with a warning.
    #[default]
    Warn,
    /// It is refused.
    Refuse,
}

/// A way in which a pod leads names elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedName {
    /// An entry of its hosts file, for a name that policies allow.
    HostAlias {
        /// The name.
        host: String,
        /// Where the workload finds it.
        address: String,
    },
    /// A name server of its own.
    NameServer(String),
    /// An option that may hold more lines of the resolver's configuration.
    ResolverOption(String),
}

impl fmt::Display for LedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostAlias { host, address } => write!(
                f,
                "`hostAliases` leads `{host}` to {address} for the workload; the sidecar resolves it, and goes elsewhere: \
                 remove it, or allow the address by `ipAddresses`"
            ),
            Self::NameServer(address) => write!(
                f,
                "`dnsConfig` makes the sidecar ask {address}, whose owner leads the names that policies allow: remove it, \
                 or give the control plane `--dns-resolver`"
            ),
            Self::ResolverOption(option) => {
                write!(f, "`dnsConfig.options` has {option:?}, which is no option: remove it")
            }
        }
    }
}

/// How a pod (or the template of pods) leads names. Of `hostAliases`, those count that the policy of its identity
/// allows; without a policy, all of them.
pub fn led_names(pod: &Value, policy: Option<&Document>) -> Vec<LedName> {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let mut found = Vec::new();
    for alias in items(spec.get("hostAliases")) {
        let address = text(alias.get("ip"));
        for host in items(alias.get("hostnames")).map(|host| text(Some(host))) {
            if policy.is_none_or(|policy| allows(policy, &host)) {
                found.push(LedName::HostAlias { host, address: address.clone() });
            }
        }
    }
    // Search domains are not used, and options change no answer. `dnsPolicy: None` needs name servers here.
    let servers = items(spec.pointer("/dnsConfig/nameservers"));
    found.extend(servers.map(|server| LedName::NameServer(text(Some(server)))));
    for option in items(spec.pointer("/dnsConfig/options")) {
        let parts = [text(option.get("name")), text(option.get("value"))];
        // They are written into the file as they are.
        found.extend(
            parts.into_iter().filter(|part| part.contains(char::is_control)).map(LedName::ResolverOption),
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

/// Whether a rule lists a name, by itself or by a wildcard.
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
