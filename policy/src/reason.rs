/// Declares the closed list of reason codes once: variant, code, meaning.
macro_rules! reason_codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $code:literal,)+) => {
        /// The reason why a connection or request was allowed or refused. Codes are never renamed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ReasonCode { $($(#[doc = $doc])+ $variant,)+ }

        impl ReasonCode {
            /// Every code, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The code in logs, metrics and headers.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            /// The meaning of the code, in one sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+),)+ }
            }
        }
    };
}

reason_codes! {
    /// A rule of an Egress policy allows it.
    Rule = "rule",
    /// Global egress is on for this identity.
    Passthrough = "passthrough",
    /// The destination is a service of the mesh, which egress policy neither opens nor closes.
    InMesh = "in-mesh",
    /// The identity is in audit mode: what would have been refused was let through.
    Audit = "audit",
    /// No Egress policy names this identity.
    NoPolicy = "no-policy",
    /// No rule covers this port, address and protocol.
    NoRule = "no-rule",
    /// The rules of this port want TLS, and the first bytes are not TLS.
    TlsRequired = "tls-required",
    /// The first bytes begin like TLS but are not a valid ClientHello.
    TlsMalformed = "tls-malformed",
    /// The ClientHello is longer than 16 KiB.
    TlsOversize = "tls-oversize",
    /// The bytes that decide did not come in time.
    FirstBytesTimeout = "first-bytes-timeout",
    /// Too many connections waited for the bytes that decide, and this one had waited longest.
    TooManyPending = "too-many-pending",
    /// The rules of this port name hosts, and the ClientHello names none.
    SniAbsent = "sni-absent",
    /// No rule of this port lists the name in the ClientHello.
    SniNotAllowed = "sni-not-allowed",
    /// The ClientHello carries an encrypted one, and no rule that lists the visible name takes that for the destination.
    EchRefused = "ech-refused",
    /// The request has no authority (no Host).
    AuthorityAbsent = "authority-absent",
    /// The request's authority is not a host with an optional port.
    AuthorityMalformed = "authority-malformed",
    /// The request's authority names another port than the one that was dialled.
    AuthorityPortMismatch = "authority-port-mismatch",
    /// No rule of this port lists the request's host.
    HostNotAllowed = "host-not-allowed",
    /// The host is allowed, but not with this path, method and headers.
    RouteNotAllowed = "route-not-allowed",
    /// A route matches but for an encoded slash or backslash of the path, which its expression does not say.
    EncodedSlash = "encoded-slash",
    /// The request's target is not a path that Envoy can normalise: `*`, or a path with NUL.
    PathRefused = "path-refused",
    /// Envoy cannot read the request as HTTP: its syntax, its framing or its method.
    RequestMalformed = "request-malformed",
    /// The request's headers are larger or more than Envoy takes.
    HeadersTooLarge = "headers-too-large",
    /// CONNECT would make an opaque tunnel.
    ConnectRefused = "connect-refused",
    /// The upgrade would make the connection opaque and no rule allows it.
    UpgradeRefused = "upgrade-refused",
    /// The name resolves only to addresses that a name must never lead to.
    AddressForbidden = "address-forbidden",
    /// The name servers say that the name does not exist or has no address.
    NameNotFound = "name-not-found",
    /// The name servers did not answer, or answered with an error.
    DnsFailed = "dns-failed",
    /// The sidecar has no address for the name: name servers gave none, or only ones that a name must never lead to.
    NameUnresolved = "name-unresolved",
    /// The destination is a service of the mesh, and the mesh's own rules refuse it.
    InMeshDenied = "in-mesh-denied",
    /// The connection was made to the listener itself, so it has no destination.
    NotIntercepted = "not-intercepted",
    /// The sidecar opened the connection itself: it runs as another user than the one whose connections are left alone.
    SelfIntercepted = "self-intercepted",
    /// The filter has no policy that it can read.
    PolicyInvalid = "policy-invalid",
    /// The connection was allowed when it was opened, and the policy changed.
    Revoked = "revoked",
}

/// A text that is no reason code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a reason code")]
pub struct UnknownReason;

impl std::str::FromStr for ReasonCode {
    type Err = UnknownReason;

    fn from_str(text: &str) -> Result<Self, UnknownReason> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text).ok_or(UnknownReason)
    }
}

impl std::fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::ReasonCode;

    #[test]
    fn codes_are_distinct_kebab_case() {
        let codes: std::collections::BTreeSet<_> = ReasonCode::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(codes.len(), 34);
        assert!(codes.iter().all(|c| c.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')));
    }
}
