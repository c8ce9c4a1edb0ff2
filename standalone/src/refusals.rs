//! Envoy's own responses, before or after the filter, and their reason codes.

use egress_policy::ReasonCode;

/// A response of Envoy's own.
#[derive(Clone, Copy, Debug)]
pub struct EnvoyRefusal {
    /// The condition, as a CEL expression over `response.code_details`.
    pub condition: &'static str,
    /// The reason code.
    pub reason: ReasonCode,
    /// True if it gets the status of a refusal by policy. The others keep Envoy's status, which tells a client
    /// more: a failed name server is worth another try (503), and headers that are too large are not (431).
    pub by_policy: bool,
}

const fn refusal(condition: &'static str, reason: ReasonCode) -> EnvoyRefusal {
    EnvoyRefusal { condition, reason, by_policy: false }
}

/// All of Envoy's own responses. The first entry with a true condition applies.
pub const REFUSALS: [EnvoyRefusal; 9] = [
    EnvoyRefusal {
        by_policy: true,
        ..refusal("response.code_details == 'upgrade_failed'", ReasonCode::UpgradeRefused)
    },
    EnvoyRefusal {
        by_policy: true,
        ..refusal("response.code_details == 'request_header_timeout'", ReasonCode::FirstBytesTimeout)
    },
    EnvoyRefusal {
        by_policy: true,
        ..refusal("response.code_details.contains('address_denied')", ReasonCode::AddressForbidden)
    },
    refusal("response.code_details.contains('cares_norecords')", ReasonCode::NameNotFound),
    refusal("response.code_details.contains('dns_resolution_failure')", ReasonCode::DnsFailed),
    refusal("response.code_details == 'missing_host_header'", ReasonCode::AuthorityAbsent),
    refusal(
        "response.code_details == 'path_normalization_failed' || response.code_details == 'absolute_path_rejected'",
        ReasonCode::PathRefused,
    ),
    refusal(
        "response.code_details.contains('headers_too_large') || response.code_details.contains('too_many_headers')",
        ReasonCode::HeadersTooLarge,
    ),
    refusal(
        "response.code_details.startsWith('http') || response.code_details == 'query_missing_content_type'",
        ReasonCode::RequestMalformed,
    ),
];

impl EnvoyRefusal {
    /// The response body.
    #[must_use]
    pub fn body(&self) -> String {
        format!("egress denied: {}: {}\n", self.reason, self.reason.meaning().trim())
    }
}
