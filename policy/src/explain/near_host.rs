//! The listed name that was probably meant.

use serde::Serialize;

use crate::{Host, HostPattern};

/// Names that differ by more letters are not alike.
const ALIKE: usize = 2;

/// A name of a rule that comes near one that it does not list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NearHost {
    /// As the rule has it.
    pub pattern: String,
    /// How near it comes.
    pub how: Nearness,
}

/// How a listed name comes near another. The first is the nearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nearness {
    /// The rule lists the names below it (`*.`), and not the name itself.
    Apex,
    /// The rule lists a name above it, and not those below that.
    Below,
    /// The rule lists a name below it.
    Above,
    /// The rule lists a name that looks like it.
    Alike,
}

/// The nearest of the names of a rule that lists another one.
pub(super) fn nearest(hosts: &[HostPattern], name: &Host) -> Option<NearHost> {
    let near = hosts.iter().filter_map(|pattern| Some((how(pattern, name.as_str())?, pattern)));
    let (how, pattern) = near.min_by_key(|(how, _)| *how)?;
    Some(NearHost { pattern: pattern.to_string(), how: how.0 })
}

fn how(pattern: &HostPattern, name: &str) -> Option<(Nearness, usize)> {
    let is_below = |name: &str, other: &str| name.strip_suffix(other).is_some_and(|rest| rest.ends_with('.'));
    match pattern {
        HostPattern::Below(suffix) => (suffix.as_str() == name).then_some((Nearness::Apex, 0)),
        // A top-level domain is above everything and near to nothing.
        HostPattern::Exact(host) if host.as_str().contains('.') && is_below(name, host.as_str()) => {
            Some((Nearness::Below, name.len()))
        }
        HostPattern::Exact(host) if name.contains('.') && is_below(host.as_str(), name) => {
            Some((Nearness::Above, host.as_str().len()))
        }
        HostPattern::Exact(host) => {
            let host = host.as_str();
            let possible = host.len().abs_diff(name.len()) <= ALIKE && host.len() > ALIKE.saturating_mul(2);
            let distance = possible.then(|| strsim::osa_distance(host, name))?;
            (distance <= ALIKE).then_some((Nearness::Alike, distance))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_probably_meant() {
        let hosts = ["*.example.com", "httpbin.org", "www.openservicemesh.io", "org"];
        let hosts: Vec<HostPattern> = hosts.iter().map(|host| host.parse().expect("a host")).collect();
        for (name, expected) in [
            ("example.com", Some(("*.example.com", Nearness::Apex))),
            ("api.httpbin.org", Some(("httpbin.org", Nearness::Below))),
            ("openservicemesh.io", Some(("www.openservicemesh.io", Nearness::Above))),
            ("htpbin.org", Some(("httpbin.org", Nearness::Alike))),
            ("httpbni.org", Some(("httpbin.org", Nearness::Alike))),
            ("evilexample.com", None),
            ("github.com", None),
            ("a.net", None),
            ("com", None),
        ] {
            let found = nearest(&hosts, &Host::canonical(name).expect("a name"));
            let found = found.as_ref().map(|near| (near.pattern.as_str(), near.how));
            assert_eq!(found, expected, "{name}");
        }
    }
}
