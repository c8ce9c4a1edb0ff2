//! The budgets of an object and of an identity: what one author can cost the control plane, and every sidecar
//! that enforces the policy.
//!
//! INVARIANT(bounded): what is over a budget grants nothing and says so, before anything is made of it. Lists
//! are shared, so what compiling costs follows from what objects hold, and not from ports times hosts times
//! identities. Which objects count follows from their age and name alone, so that replicas agree.

use std::fmt;

/// The most sources of an Egress object. Each makes a document; a namespace has some hundred service accounts.
pub const MAX_SOURCES: usize = 1_000;
/// The most ports of an Egress object: enough for the passive range of an FTP server.
pub const MAX_PORTS: usize = 4_096;
/// The most hosts of an Egress object: as many as are measured to be decided as fast as ten. An API server
/// stores some 40,000 of them in an object (1.5 MB).
pub const MAX_HOSTS: usize = 100_000;
/// The most blocks of an Egress object. The published ranges of the largest cloud have some 8,000.
pub const MAX_ADDRESSES: usize = 10_000;
/// The most matches of an Egress object: each names another object.
pub const MAX_MATCHES: usize = 100;
/// The most matches of a route group. A generated API description has some hundred paths.
pub const MAX_GROUP_MATCHES: usize = 1_000;
/// The most headers and the most methods of a match. SMI knows nine methods.
pub const MAX_MATCH_ITEMS: usize = 64;
/// The longest pattern, in bytes. A longer literal compiles to more than a pattern may (64 KiB).
pub const MAX_PATTERN_LENGTH: usize = 4_096;

/// The most rules of an identity. Each is some 200 bytes in every worker of Envoy, and as many in every document.
pub const MAX_RULES: usize = 100_000;
/// The most entries of an identity in the filter's tables: a name on a port is one, and a block of addresses,
/// for each name beside it, two. At some 130 bytes each these are 33 MB in every worker of Envoy.
pub const MAX_ENTRIES: usize = 250_000;
/// The most routes of an identity, for each port anew. A request is held against them one after the other.
pub const MAX_ROUTES: usize = 20_000;
/// The most memory of an identity's patterns in every worker of Envoy, once each of them was used.
pub const MAX_PATTERN_BYTES: usize = 32 << 20;
/// The most clusters of an identity. One costs Envoy some 50 kB in each worker, and statistics of its own.
pub const MAX_CLUSTERS: usize = 1_000;
/// The longest document of an identity, in bytes, without the services of the mesh: 100,000 names of usual length on
/// two ports. The control plane holds it once for each identity that is connected, and several times while it is sent.
pub const MAX_DOCUMENT_BYTES: usize = 8 << 20;

/// The most references of an object: for each of its sources one to each rule, and four for each cluster, which every source
/// has for itself. One costs the control plane some 50 bytes. 1,000 sources with 300 rules fit, and
/// [`MAX_RULES`] rules of three sources.
pub const MAX_REFERENCES: usize = 300_000;
/// The most references of all objects of a namespace: some 50 MB. Service accounts that nobody made count, so what an
/// author can cost does not follow from how many there are.
pub const MAX_REFERENCES_OF_NAMESPACE: usize = 1_000_000;
/// What a cluster counts: some 200 bytes for each source.
const REFERENCES_OF_CLUSTER: usize = 4;

/// The most memory of the control plane for all Egress objects that count, as `memory` estimates it. With what it needs
/// itself it stays below 300 MB. Some 600,000 hosts of usual length fit, whoever many identities they are granted to.
pub const MAX_MEMORY: usize = 160 << 20;
/// The most memory for the objects of one namespace: two that use all they may leave room for others.
pub const MAX_MEMORY_OF_NAMESPACE: usize = 64 << 20;
/// The memory of a name or block in a list, beside its text: as an object has it, as rules have it, and once more while a
/// change is compiled. Each is a string of its own.
const MEMORY_OF_ITEM: usize = 160;
/// How often the text of a list is there: the same three times.
const TEXTS: usize = 3;
/// The memory of a rule, which all its sources share: before and after a change.
const MEMORY_OF_RULE: usize = 800;
/// The memory of a source, which has a document, of its reference to a rule, and of a cluster.
const MEMORY_OF_SOURCE: usize = 1_000;
const MEMORY_OF_REFERENCE: usize = 40;
const MEMORY_OF_CLUSTER: usize = 500;

/// The most problems of one severity that are kept of an object: nobody reads as many, and an object can have
/// one in each of 400,000 hosts.
pub const MAX_PROBLEMS: usize = 100;

/// The memory of a pattern that compiled to this many bytes: its cache is several times its program, and even
/// that of the shortest has 9 kB (measured with regex-lite 0.1.9).
pub(crate) const fn pattern_memory(compiled: usize) -> usize {
    (10 << 10) + 6 * compiled
}

/// An amount of what policies cost, or may cost.
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
const IDENTITY: Usage = Usage {
    rules: MAX_RULES,
    entries: MAX_ENTRIES,
    routes: MAX_ROUTES,
    pattern_bytes: MAX_PATTERN_BYTES,
    clusters: MAX_CLUSTERS,
    document_bytes: MAX_DOCUMENT_BYTES,
};

/// An amount over its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Excess {
    noun: &'static str,
    amount: usize,
    limit: usize,
    /// What makes the amount smaller.
    pub(crate) remedy: &'static str,
}

/// As in `120000 hosts, of which 100000 are allowed`.
impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { noun, amount, limit, remedy: _ } = self;
        write!(f, "{amount} {noun}, of which {limit} are allowed")
    }
}

impl Usage {
    /// Both together.
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

    /// The same so many times.
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

    /// The references of so many sources to this.
    #[must_use]
    pub(crate) const fn references(&self, sources: usize) -> usize {
        self.rules.saturating_add(self.clusters.saturating_mul(REFERENCES_OF_CLUSTER)).saturating_mul(sources)
    }

    /// The first amount that an identity may not have.
    pub(crate) fn excess(&self) -> Option<Excess> {
        let fewer_ports = "list fewer ports or hosts, or name the domain by a wildcard";
        let fewer_routes = "list fewer ports or matches, or say with one pattern what several say";
        let each = [
            (
                self.clusters,
                IDENTITY.clusters,
                "clusters (one for each host and port with connection settings)",
                "take the UpstreamTrafficSetting away, or list fewer hosts or ports beside it",
            ),
            (self.rules, IDENTITY.rules, "rules", fewer_ports),
            (
                self.entries,
                IDENTITY.entries,
                "names and blocks of addresses, counted for each port",
                fewer_ports,
            ),
            (self.routes, IDENTITY.routes, "routes, counted for each port", fewer_routes),
            (
                self.pattern_bytes,
                IDENTITY.pattern_bytes,
                "bytes of compiled patterns, counted for each port",
                fewer_routes,
            ),
            (self.document_bytes, IDENTITY.document_bytes, "bytes of policy document", fewer_ports),
        ];
        let over = each.into_iter().find(|(amount, limit, ..)| amount > limit);
        over.map(|(amount, limit, noun, remedy)| Excess { noun, amount, limit, remedy })
    }
}

/// What the lists of an object hold, each once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) items: usize,
    pub(crate) bytes: usize,
}

/// Estimates the memory that an object costs the control plane: for its lists, its rules, and each of its sources.
pub(crate) const fn memory(content: Content, usage: &Usage, sources: usize) -> usize {
    let of_lists = content
        .items
        .saturating_mul(MEMORY_OF_ITEM)
        .saturating_add(content.bytes.saturating_mul(TEXTS))
        .saturating_add(usage.rules.saturating_mul(MEMORY_OF_RULE));
    let of_source = MEMORY_OF_SOURCE
        .saturating_add(usage.rules.saturating_mul(MEMORY_OF_REFERENCE))
        .saturating_add(usage.clusters.saturating_mul(MEMORY_OF_CLUSTER));
    of_lists.saturating_add(of_source.saturating_mul(sources))
}

/// The share of each namespace, of which these want so much memory: all that it wants as far as there is enough. What there
/// is goes to small ones first, so who wants much takes nothing from those who want little.
pub(crate) fn share(wanted: impl Iterator<Item = usize>) -> usize {
    let mut wanted: Vec<usize> = wanted.collect();
    wanted.sort_unstable();
    let mut left = MAX_MEMORY;
    for (number, amount) in wanted.iter().enumerate() {
        let equal = left / (wanted.len() - number);
        if *amount > equal {
            return equal.min(MAX_MEMORY_OF_NAMESPACE);
        }
        left -= amount;
    }
    MAX_MEMORY_OF_NAMESPACE
}

/// The excess of a namespace's memory over its share.
pub(crate) fn memory_excess(amount: usize, limit: usize) -> Option<Excess> {
    let remedy = "list fewer hosts or sources, or name domains by a wildcard";
    list("bytes of the control plane's memory", amount, limit, remedy)
}

/// The excess of references over a limit.
pub(crate) fn references(amount: usize, limit: usize) -> Option<Excess> {
    let remedy = "list fewer sources, ports or hosts";
    list("rules, counted for each source (a cluster as four)", amount, limit, remedy)
}

/// The excess of a list over its limit.
pub(crate) fn list(noun: &'static str, amount: usize, limit: usize, remedy: &'static str) -> Option<Excess> {
    (amount > limit).then_some(Excess { noun, amount, limit, remedy })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever wants little has it, whatever others want.
    #[test]
    fn small_namespaces_come_first() {
        let share = |wanted: &[usize]| share(wanted.iter().copied());
        assert_eq!(share(&[]), MAX_MEMORY_OF_NAMESPACE);
        assert_eq!(share(&[usize::MAX]), MAX_MEMORY_OF_NAMESPACE);
        assert_eq!(share(&[1 << 20, 50 << 20, 60 << 20]), MAX_MEMORY_OF_NAMESPACE);
        // 160 MiB: 10 for the small one, and the rest for the others in equal parts.
        assert_eq!(share(&[usize::MAX, 10 << 20, usize::MAX, 70 << 20]), 50 << 20);
        let many = share(&[usize::MAX; 1000]);
        assert!(many * 1000 <= MAX_MEMORY && many > 0);
    }

    #[test]
    fn amounts_do_not_overflow() {
        let most = IDENTITY.times(usize::MAX).plus(IDENTITY);
        assert_eq!(most.rules, usize::MAX);
        assert!(most.excess().is_some());
        assert_eq!(IDENTITY.excess(), None);
        let one_more = Usage { rules: MAX_RULES + 1, ..Usage::default() };
        let text = one_more.excess().expect("too many").to_string();
        assert_eq!(text, "100001 rules, of which 100000 are allowed");
        assert_eq!(most.references(2), usize::MAX);
        assert_eq!(Usage { rules: 3, clusters: 2, ..Usage::default() }.references(10), 110);
    }
}
