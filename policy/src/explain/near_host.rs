//! The listed name that is most similar to another one: probably the one that was meant.

use serde::Serialize;

use crate::{Host, HostPattern};

/// The largest edit distance of similar names.
const MAX_EDIT_DISTANCE: usize = 2;

/// A listed name that is similar to one that the rule does not list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NearHost {
    /// The rule's host pattern.
    pub pattern: String,
    /// The kind of similarity.
    pub how: Nearness,
}

/// The kind of similarity of a listed name. The first is the nearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nearness {
    /// The rule lists the names below it (`*.`), and not the name itself.
    Apex,
    /// The rule lists a name above it, and not those below that.
    Below,
    /// The rule lists a name below it.
    Above,
    /// The rule lists a name of similar spelling.
    Alike,
}

/// Finds the most similar name of a rule that does not list this one.
pub(super) fn find_nearest(hosts: &[HostPattern], name: &Host) -> Option<NearHost> {
    let near = hosts.iter().filter_map(|pattern| Some((compare(pattern, name.as_str())?, pattern)));
    let (how, pattern) = near.min_by_key(|(how, _)| *how)?;
    Some(NearHost { pattern: pattern.to_string(), how: how.0 })
}

fn compare(pattern: &HostPattern, name: &str) -> Option<(Nearness, usize)> {
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
            let possible = host.len().abs_diff(name.len()) <= MAX_EDIT_DISTANCE
                && host.len() > MAX_EDIT_DISTANCE.saturating_mul(2);
            let distance = possible.then(|| strsim::osa_distance(host, name))?;
            (distance <= MAX_EDIT_DISTANCE).then_some((Nearness::Alike, distance))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_similar_name_is_found() {
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
            let found = find_nearest(&hosts, &Host::canonical(name).expect("a name"));
            let found = found.as_ref().map(|near| (near.pattern.as_str(), near.how));
            assert_eq!(found, expected, "{name}");
        }
    }
}
