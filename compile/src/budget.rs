//! Limits on one object and on one identity. They bound the cost that one author can impose on the control
//! plane and on every sidecar that enforces the policy.
//!
//! INVARIANT(bounded): anything over a budget grants nothing and is reported before any work is done for it.
//! Lists are shared, so the cost of compiling grows with the size of the objects and not with ports times hosts
//! times identities. Age and name alone decide which objects fit, so that replicas agree.

use std::fmt;

/// The most sources of an Egress object. Each source makes a document; a namespace has some hundred service
/// accounts.
pub const MAX_SOURCES: usize = 1_000;
/// The most ports of an Egress object: enough for the passive range of an FTP server.
pub const MAX_PORTS: usize = 4_096;
/// The most hosts of an Egress object. Decisions are measured to be as fast with this many as with ten. An API
/// server stores some 40,000 hosts in one object (1.5 MB).
pub const MAX_HOSTS: usize = 100_000;
/// The most address blocks of an Egress object. The largest cloud publishes some 8,000 ranges.
pub const MAX_ADDRESSES: usize = 10_000;
/// The most matches of an Egress object. Each match names another object.
pub const MAX_MATCHES: usize = 100;
/// The most matches of a route group. A generated API description has some hundred paths.
pub const MAX_GROUP_MATCHES: usize = 1_000;
/// The most headers and the most methods of a match. SMI defines nine methods.
pub const MAX_MATCH_ITEMS: usize = 64;
/// The longest pattern, in bytes. A longer literal exceeds the compiled size of 64 KiB that a pattern may have.
pub const MAX_PATTERN_LENGTH: usize = 4_096;

/// The most rules of an identity. A rule takes some 200 bytes in every worker of Envoy, and as many in every
/// document.
pub const MAX_RULES: usize = 100_000;
/// The most table entries of an identity in the filter. A name on a port makes one entry; an address block
/// makes two for each name beside it. At some 130 bytes an entry, this is 33 MB in every worker of Envoy.
pub const MAX_ENTRIES: usize = 250_000;
/// The most routes of an identity, counted per port. A request is compared with them one after the other.
pub const MAX_ROUTES: usize = 20_000;
/// The most memory for an identity's patterns in each worker of Envoy, once every pattern has been used.
pub const MAX_PATTERN_BYTES: usize = 32 << 20;
/// The most clusters of an identity. A cluster costs Envoy some 50 kB in each worker, plus its own statistics.
pub const MAX_CLUSTERS: usize = 1_000;
/// The longest document of an identity, in bytes, without the services of the mesh: 100,000 names of usual
/// length on two ports. The control plane holds one copy for each connected identity, and several while it
/// sends it.
pub const MAX_DOCUMENT_BYTES: usize = 8 << 20;

/// The most references of an object: one for each pair of source and rule, and four for each pair of source and
/// cluster, because every source has its own clusters. A reference costs the control plane some 50 bytes. 1,000
/// sources with 300 rules fit, and [`MAX_RULES`] rules of three sources.
pub const MAX_REFERENCES: usize = 300_000;
/// The most references of all objects of a namespace: some 50 MB. Service accounts that do not exist count too,
/// so the cost that an author can cause does not depend on how many exist.
pub const MAX_NAMESPACE_REFERENCES: usize = 1_000_000;
/// The references that one cluster counts as: it takes some 200 bytes for each source.
const CLUSTER_REFERENCES: usize = 4;

/// The most memory of the control plane for all Egress objects in force, as `estimate_memory` counts it.
/// Together with the control plane's own needs this stays below 300 MB. Some 600,000 hosts of usual length fit,
/// whatever the number of identities that they are granted to.
pub const MAX_MEMORY: usize = 160 << 20;
/// The most memory for the objects of one namespace. Two namespaces that use all of it leave room for others.
pub const MAX_NAMESPACE_MEMORY: usize = 64 << 20;
/// The memory of a name or block in a list, without its text: in the object, in the rules, and once more while
/// a change is compiled. Each is a separate string.
const ITEM_MEMORY: usize = 160;
/// The number of copies of a list's text, for the same three reasons.
const TEXT_COPIES: usize = 3;
/// The memory of a rule, which all its sources share, before and after a change.
const RULE_MEMORY: usize = 800;
/// The memory of a source with its document, of its reference to a rule, and of a cluster.
const SOURCE_MEMORY: usize = 1_000;
const REFERENCE_MEMORY: usize = 40;
const CLUSTER_MEMORY: usize = 500;

/// The most diagnostics of one severity that are kept for an object. Nobody reads more, and an object can have
/// one for each of 400,000 hosts.
pub const MAX_DIAGNOSTICS: usize = 100;

/// The most patterns of a route group: more exceed [`MAX_PATTERN_BYTES`] however short they are.
pub(crate) const MAX_PATTERNS: usize = MAX_PATTERN_BYTES / pattern_memory(0);

/// The memory of a pattern with a compiled size of `compiled` bytes. Its cache is several times its program;
/// even the shortest has 9 kB (measured with regex-lite 0.1.9).
pub(crate) const fn pattern_memory(compiled: usize) -> usize {
    compiled.saturating_mul(6).saturating_add(10 << 10)
}

/// The resources that policies use, or may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) rules: usize,
    pub(crate) entries: usize,
    pub(crate) routes: usize,
    pub(crate) pattern_bytes: usize,
    pub(crate) clusters: usize,
    pub(crate) document_bytes: usize,
}

/// The budget of an identity.
const IDENTITY_BUDGET: Usage = Usage {
    rules: MAX_RULES,
    entries: MAX_ENTRIES,
    routes: MAX_ROUTES,
    pattern_bytes: MAX_PATTERN_BYTES,
    clusters: MAX_CLUSTERS,
    document_bytes: MAX_DOCUMENT_BYTES,
};

/// An amount that exceeds its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Excess {
    noun: &'static str,
    amount: usize,
    limit: usize,
    /// The change that reduces the amount.
    pub(crate) remedy: &'static str,
}

/// Writes `120000 hosts exceed the limit of 100000`.
impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { noun, amount, limit, remedy: _ } = self;
        write!(f, "{amount} {noun} exceed the limit of {limit}")
    }
}

impl Usage {
    /// Adds two usages.
    #[must_use]
    pub(crate) const fn plus(self, other: Self) -> Self {
        Self {
            rules: self.rules.saturating_add(other.rules),
            entries: self.entries.saturating_add(other.entries),
            routes: self.routes.saturating_add(other.routes),
            pattern_bytes: self.pattern_bytes.saturating_add(other.pattern_bytes),
            clusters: self.clusters.saturating_add(other.clusters),
            document_bytes: self.document_bytes.saturating_add(other.document_bytes),
        }
    }

    /// Multiplies the usage by a count.
    #[must_use]
    pub(crate) const fn times(self, count: usize) -> Self {
        Self {
            rules: self.rules.saturating_mul(count),
            entries: self.entries.saturating_mul(count),
            routes: self.routes.saturating_mul(count),
            pattern_bytes: self.pattern_bytes.saturating_mul(count),
            clusters: self.clusters.saturating_mul(count),
            document_bytes: self.document_bytes.saturating_mul(count),
        }
    }

    /// Counts the references of `sources` sources to these rules and clusters.
    #[must_use]
    pub(crate) const fn count_references(&self, sources: usize) -> usize {
        self.rules.saturating_add(self.clusters.saturating_mul(CLUSTER_REFERENCES)).saturating_mul(sources)
    }

    /// Returns the first amount that exceeds the budget of an identity.
    pub(crate) fn excess(&self) -> Option<Excess> {
        let fewer_ports = "list fewer ports or hosts, or use a wildcard such as `*.example.com`";
        let fewer_routes = "list fewer ports or matches, or merge several patterns into one";
        let each = [
            (
                self.clusters,
                IDENTITY_BUDGET.clusters,
                "clusters (one per host and port with connection settings)",
                "remove the UpstreamTrafficSetting, or list fewer hosts or ports beside it",
            ),
            (self.rules, IDENTITY_BUDGET.rules, "rules", fewer_ports),
            (
                self.entries,
                IDENTITY_BUDGET.entries,
                "names and address blocks (counted per port)",
                fewer_ports,
            ),
            (self.routes, IDENTITY_BUDGET.routes, "routes (counted per port)", fewer_routes),
            (
                self.pattern_bytes,
                IDENTITY_BUDGET.pattern_bytes,
                "bytes of compiled patterns (counted per port)",
                fewer_routes,
            ),
            (self.document_bytes, IDENTITY_BUDGET.document_bytes, "bytes of policy document", fewer_ports),
        ];
        let over = each.into_iter().find(|(amount, limit, ..)| amount > limit);
        over.map(|(amount, limit, noun, remedy)| Excess { noun, amount, limit, remedy })
    }
}

/// The size of an object's lists, each counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) items: usize,
    pub(crate) bytes: usize,
}

/// Estimates the memory that an object costs the control plane: its lists, its rules and its sources.
pub(crate) const fn estimate_memory(content: Content, usage: &Usage, sources: usize) -> usize {
    let of_lists = content
        .items
        .saturating_mul(ITEM_MEMORY)
        .saturating_add(content.bytes.saturating_mul(TEXT_COPIES))
        .saturating_add(usage.rules.saturating_mul(RULE_MEMORY));
    let of_source = SOURCE_MEMORY
        .saturating_add(usage.rules.saturating_mul(REFERENCE_MEMORY))
        .saturating_add(usage.clusters.saturating_mul(CLUSTER_MEMORY));
    of_lists.saturating_add(of_source.saturating_mul(sources))
}

/// Computes the memory share of a namespace when the namespaces need these amounts. Small amounts are served
/// first, so a namespace that needs much takes nothing from one that needs little.
pub(crate) fn compute_share(wanted: impl Iterator<Item = usize>) -> usize {
    let mut wanted: Vec<usize> = wanted.collect();
    wanted.sort_unstable();
    let mut left = MAX_MEMORY;
    for (number, amount) in wanted.iter().enumerate() {
        let equal = left.checked_div(wanted.len().saturating_sub(number)).unwrap_or(left);
        if *amount > equal {
            return equal.min(MAX_NAMESPACE_MEMORY);
        }
        left = left.saturating_sub(*amount);
    }
    MAX_NAMESPACE_MEMORY
}

/// Checks the memory of a namespace against its share.
pub(crate) fn check_memory(amount: usize, limit: usize) -> Option<Excess> {
    let remedy = "list fewer hosts or sources, or use wildcards such as `*.example.com`";
    check_list("bytes of control plane memory", amount, limit, remedy)
}

/// Checks a number of references against a limit.
pub(crate) fn check_references(amount: usize, limit: usize) -> Option<Excess> {
    let remedy = "list fewer sources, ports or hosts";
    check_list("rules (counted per source; a cluster counts as four)", amount, limit, remedy)
}

/// Checks the length of a list against its limit.
pub(crate) fn check_list(
    noun: &'static str,
    amount: usize,
    limit: usize,
    remedy: &'static str,
) -> Option<Excess> {
    (amount > limit).then_some(Excess { noun, amount, limit, remedy })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A namespace with a small need gets all of it, whatever others need.
    #[test]
    fn small_namespaces_get_their_whole_need() {
        let share = |wanted: &[usize]| compute_share(wanted.iter().copied());
        assert_eq!(share(&[]), MAX_NAMESPACE_MEMORY);
        assert_eq!(share(&[usize::MAX]), MAX_NAMESPACE_MEMORY);
        assert_eq!(share(&[1 << 20, 50 << 20, 60 << 20]), MAX_NAMESPACE_MEMORY);
        // 160 MiB: 10 for the small one, and the rest for the others in equal parts.
        assert_eq!(share(&[usize::MAX, 10 << 20, usize::MAX, 70 << 20]), 50 << 20);
        let many = share(&[usize::MAX; 1000]);
        assert!(many * 1000 <= MAX_MEMORY && many > 0);
    }

    #[test]
    fn amounts_do_not_overflow() {
        let most = IDENTITY_BUDGET.times(usize::MAX).plus(IDENTITY_BUDGET);
        assert_eq!(most.rules, usize::MAX);
        assert!(most.excess().is_some());
        assert_eq!(IDENTITY_BUDGET.excess(), None);
        let one_more = Usage { rules: MAX_RULES + 1, ..Usage::default() };
        let text = one_more.excess().expect("too many").to_string();
        assert_eq!(text, "100001 rules exceed the limit of 100000");
        assert_eq!(most.count_references(2), usize::MAX);
        assert_eq!(Usage { rules: 3, clusters: 2, ..Usage::default() }.count_references(10), 110);
    }
}
