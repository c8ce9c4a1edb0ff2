//! The strings that the filter and the control plane share: a name is spelled here and nowhere else.
//!
//! Clusters and filter chains keep the names of Open Service Mesh where it has one.

mod decision_record;

pub use self::decision_record::{DecisionRecord, DecisionRecordError};

/// Names of clusters.
pub mod cluster {
    /// The cluster of global egress, by Open Service Mesh's name. It exists only while global egress is on.
    pub const PASSTHROUGH: &str = "passthrough-outbound";
    /// The cluster that connects to the original destination.
    pub const ORIGINAL_DST: &str = "egress-original-dst";
    /// The cluster that connects to an address that the sidecar resolves.
    pub const DNS: &str = "egress-dns";
    /// The cluster for names that only a wildcard lists, which may lead to fewer addresses.
    pub const DNS_WILDCARD: &str = "egress-dns-wildcard";
    /// The cluster, and internal listener, where each plaintext HTTP request is decided.
    pub const HTTP: &str = "egress-http";
}

/// Names of the two plugins, which are also their resources.
pub mod plugin {
    /// The network plugin.
    pub const NETWORK: &str = "egress-policy";
    /// The HTTP plugin.
    pub const HTTP: &str = "egress-http-policy";
}

/// Names of HTTP headers.
pub mod header {
    /// The request header with the cluster that the route leads to. The connection manager removes it from the
    /// workload's requests before the HTTP plugin runs, and the route removes it from the request to the origin.
    pub const CLUSTER: &str = "x-egress-cluster";
    /// The response header with the reason code of a refusal.
    pub const DENIED: &str = "x-egress-denied";
}

/// Keys of filter state.
pub mod filter_state {
    /// The cluster of `tcp_proxy` for one connection.
    pub const TCP_CLUSTER: &str = "envoy.tcp_proxy.cluster";
    /// The host that the dynamic forward proxy resolves.
    pub const DYNAMIC_HOST: &str = "envoy.upstream.dynamic_host";
    /// The port that belongs to [`DYNAMIC_HOST`].
    pub const DYNAMIC_PORT: &str = "envoy.upstream.dynamic_port";
    /// The name that a rule lists itself, for a TCP connection. Envoy has no use for a string of this key; the listener
    /// copies it to [`DYNAMIC_HOST`] after the filter for names that only a wildcard lists.
    pub const EXACT_NAME: &str = "envoy.string";
    /// The name that the plugin allowed, by whichever host pattern. The listener sets it.
    pub const NAME: &str = "egress.name";
}

/// A field that the filter writes for access logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogField {
    /// The key in a JSON access log.
    pub column: &'static str,
    /// The property that the filter sets.
    pub property: &'static str,
    /// The filter state in which Envoy keeps that property.
    pub filter_state: &'static str,
    /// The access log's format string for the field.
    pub format: &'static str,
}

/// Declares log fields by their column.
macro_rules! log_fields {
    ($($(#[doc = $doc:literal])+ $name:ident = $column:literal,)+) => {
        /// The fields that the filter writes for access logs.
        pub mod log_field {
            use super::LogField;

            $($(#[doc = $doc])+
            pub const $name: LogField = LogField {
                column: $column,
                property: concat!("egress.", $column),
                filter_state: concat!("wasm.egress.", $column),
                format: concat!("%FILTER_STATE(wasm.egress.", $column, ":PLAIN)%"),
            };)+

            /// Every field.
            pub const ALL: &[LogField] = &[$($name,)+];
        }
    };
}

log_fields! {
    /// The identity of the workload: `namespace/service-account`.
    IDENTITY = "identity",
    /// The mode of the policy.
    MODE = "mode",
    /// The version of the policy document.
    POLICY_VERSION = "policy_version",
    /// The verdict.
    VERDICT = "verdict",
    /// The reason code.
    REASON = "reason",
    /// The Egress object that decided, or that nearly allowed it. A revocation leaves the one that had allowed the
    /// connection.
    POLICY = "policy",
    /// The part of that object.
    RULE = "rule",
    /// In audit mode, the reason of the refusal that was not enforced.
    WOULD_REFUSE = "would_refuse",
    /// The whole decision, as a [`DecisionRecord`](super::DecisionRecord).
    DECISION = "decision",
    /// The protocol of a connection. The log of requests has a constant for it.
    PROTOCOL = "protocol",
    /// The server name of a ClientHello that Envoy does not resolve; `-` stands for none.
    SERVER_NAME = "server_name",
    /// Set to `true` where a ClientHello carries an encrypted one, or pretends to.
    ENCRYPTED_HELLO = "encrypted_hello",
}

#[cfg(test)]
mod tests {
    use super::log_field;

    #[test]
    fn log_fields_are_distinct_and_derive_from_their_column() {
        let columns: std::collections::BTreeSet<_> =
            log_field::ALL.iter().map(|field| field.column).collect();
        assert_eq!(columns.len(), log_field::ALL.len());
        assert_eq!(log_field::DECISION.format, "%FILTER_STATE(wasm.egress.decision:PLAIN)%");
        assert_eq!(log_field::DECISION.filter_state, ["wasm.", log_field::DECISION.property].concat());
    }
}
