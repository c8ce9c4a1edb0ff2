//! The refusal of a stream.

use egress_policy::{Identity, IdentityError};
use egress_standalone::{EnvoyVersion, OLDEST};
use tonic::{Code, Status};

use super::trust_domain::TrustDomain;

/// The reason why a token proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// There are several.
    #[error("the stream has several values of `authorization`")]
    Several,
    /// Another scheme, or nothing.
    #[error("`authorization` is not of the form `Bearer <token>`")]
    Scheme,
    /// Not what the API server gives out.
    #[error("it is not a token of a projected volume: {0}")]
    Form(&'static str),
    /// Its time is over.
    #[error("it expired {0} s ago: does Envoy read the file that the kubelet renews?")]
    Expired(u64),
    /// It is for another server.
    #[error("its audience is {found:?}, not `{expected}` (`--token-audience`)")]
    Audience {
        /// For whom it is.
        found: Vec<String>,
        /// Our audience.
        expected: String,
    },
    /// The API server does not confirm it.
    #[error("the API server does not confirm it: {0}")]
    Unconfirmed(String),
    /// It is somebody's, but not a service account's.
    #[error("it is of `{0}`, which is no service account")]
    User(String),
    /// A part of its name is no Kubernetes name.
    #[error("it is of `{0}`: {1}")]
    Name(String, #[source] IdentityError),
}

/// The reason why a certificate proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// It is not what it should be.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// Its authority does not count any more, or its time is over.
    #[error("{0}")]
    Invalid(String),
    /// It is of our authority, but names no identity.
    #[error(
        "it names no service account: its common name is `{common_name}`, and it has no SPIFFE URI; expected \
         `<uuid>.sidecar.<service account>.<namespace>.{trust_domain}` or \
         `spiffe://{trust_domain}/ns/<namespace>/sa/<service account>`"
    )]
    NoIdentity {
        /// Its common name.
        common_name: String,
        /// Ours.
        trust_domain: TrustDomain,
    },
    /// It has more than one name of a kind.
    #[error("it has {0}, and must have one")]
    Several(&'static str),
    /// A name is not in its form.
    #[error("`{name}` is not of the form `{form}`")]
    Form {
        /// The name.
        name: String,
        /// Its form.
        form: &'static str,
    },
    /// A name is of another trust domain.
    #[error("`{name}` is of trust domain `{found}`, not `{expected}` (`--trust-domain`)")]
    TrustDomain {
        /// The name.
        name: String,
        /// Its trust domain.
        found: String,
        /// Ours.
        expected: TrustDomain,
    },
    /// A part of a name is no Kubernetes name.
    #[error("`{0}`: {1}")]
    Name(String, #[source] IdentityError),
    /// Its two names are of two identities.
    #[error("its common name says {by_common_name}, its SPIFFE URI {by_uri}")]
    Disagreement {
        /// The identity in the common name.
        by_common_name: Identity,
        /// The identity in the URI.
        by_uri: Identity,
    },
}

/// The refusal of a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamRefusal {
    /// The stream has no accepted credentials.
    #[error(
        "the stream shows no credentials that count here: give Envoy a bootstrap of `osm-egress bootstrap` with \
         `--token-file` or `--client-cert`"
    )]
    NoCredentials,
    /// The certificate has no identity that is accepted.
    #[error("client certificate: {0}")]
    Certificate(#[from] CertificateError),
    /// The token is not good.
    #[error("token: {0}")]
    Token(#[from] TokenError),
    /// The token cannot be reviewed now.
    #[error("tokens cannot be reviewed now: {0}")]
    Unavailable(String),
    /// Two credentials of two identities.
    #[error("the client certificate is of {by_certificate}, the token of {by_token}")]
    Disagreement {
        /// The identity of the certificate.
        by_certificate: Identity,
        /// The identity of the token.
        by_token: Identity,
    },
    /// Somebody asks for what is another's.
    #[error("{identity} (by {by}) asks for what is of {claimed}")]
    OtherIdentity {
        /// The identity that the credentials prove.
        identity: Identity,
        /// The credentials that prove it.
        by: &'static str,
        /// For whom, as it says.
        claimed: String,
    },
    /// Somebody becomes another in the middle of a stream.
    #[error("the node of a stream cannot change: it was `{first}`, and is `{now}`")]
    NodeChanged {
        /// The id of the first message.
        first: String,
        /// The id of this one.
        now: String,
    },
    /// A request must say of what it is.
    #[error("a request has no `type_url`: an aggregated stream carries several types")]
    NoType,
    /// The first message of a stream must say who is there.
    #[error("the first request of the stream has no node")]
    NoNode,
    /// The node id does not end in service account and namespace.
    #[error("node id `{0}` is not of the form `<anything>.<service account>.<namespace>`")]
    NodeId(String),
    /// The node's metadata and its id name different identities.
    #[error("node id `{id}` says {by_id}, its metadata say {by_metadata}")]
    Contradiction {
        /// The node id.
        id: String,
        /// The identity in it.
        by_id: Identity,
        /// The identity in the metadata.
        by_metadata: Identity,
    },
    /// A name in it is no Kubernetes name.
    #[error("node id `{0}`: {1}")]
    Name(String, #[source] IdentityError),
    /// An Envoy that skips, with a warning, what the listener needs.
    #[error(
        "Envoy {0} is too old, and would not do all that it is told: the listener needs {OLDEST} or newer"
    )]
    TooOld(EnvoyVersion),
    /// There are as many proxies as there may be.
    #[error(
        "{0} proxies are connected, which is the most (`sidecar.maxDataPlaneConnections` of the MeshConfig)"
    )]
    TooMany(usize),
    /// Somebody has as many streams as there may be.
    #[error(
        "{owner_kind} has {most} streams for {service} already, which is the most: each pod has a token of its own, and an \
         Envoy opens one stream"
    )]
    TooManyStreams {
        /// The service of the streams.
        service: &'static str,
        /// The owner of the streams.
        owner_kind: &'static str,
        /// The most that there may be.
        most: usize,
    },
    /// A stream has subscribed to more than any proxy does.
    #[error("the stream has subscribed to {names} names of {bytes} bytes, which is more than any Envoy does")]
    TooManyNames {
        /// The number of names.
        names: usize,
        /// Of how many bytes.
        bytes: usize,
    },
    /// A proxy takes nothing of what it is sent.
    #[error("the proxy {0} in time: it connects again when it can")]
    NotReading(&'static str),
    /// The credentials of an open stream are at their end.
    #[error("the {by} expired: Envoy connects again with a new one")]
    Expired {
        /// The type.
        by: &'static str,
    },
    /// The credentials of an open stream are not good any more.
    #[error("the credentials are not good any more: {0}")]
    Revoked(Box<Self>),
}

impl StreamRefusal {
    /// All that [`Self::reason`] gives.
    pub const REASONS: [&str; 16] = [
        "no-credentials",
        "certificate",
        "token",
        "unavailable",
        "credentials-disagree",
        "other-identity",
        "node-changed",
        "node",
        "no-type",
        "envoy-version",
        "too-many",
        "too-many-streams",
        "too-many-names",
        "not-reading",
        "expired",
        "revoked",
    ];

    /// In one word, for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCredentials => "no-credentials",
            Self::Certificate(_) => "certificate",
            Self::Token(_) => "token",
            Self::Unavailable(_) => "unavailable",
            Self::Disagreement { .. } => "credentials-disagree",
            Self::OtherIdentity { .. } => "other-identity",
            Self::NodeChanged { .. } => "node-changed",
            Self::NoNode | Self::NodeId(_) | Self::Contradiction { .. } | Self::Name(..) => "node",
            Self::NoType => "no-type",
            Self::TooOld(_) => "envoy-version",
            Self::TooMany(_) => "too-many",
            Self::TooManyStreams { .. } => "too-many-streams",
            Self::TooManyNames { .. } => "too-many-names",
            Self::NotReading(_) => "not-reading",
            Self::Expired { .. } => "expired",
            Self::Revoked(_) => "revoked",
        }
    }
}

impl From<&StreamRefusal> for Status {
    fn from(refusal: &StreamRefusal) -> Self {
        let code = match refusal {
            StreamRefusal::Unavailable(_) => Code::Unavailable,
            StreamRefusal::Disagreement { .. }
            | StreamRefusal::OtherIdentity { .. }
            | StreamRefusal::NodeChanged { .. } => Code::PermissionDenied,
            StreamRefusal::TooOld(_) => Code::FailedPrecondition,
            StreamRefusal::TooMany(_)
            | StreamRefusal::TooManyStreams { .. }
            | StreamRefusal::TooManyNames { .. } => Code::ResourceExhausted,
            StreamRefusal::NotReading(_) => Code::DeadlineExceeded,
            StreamRefusal::NoType => Code::InvalidArgument,
            StreamRefusal::NoCredentials
            | StreamRefusal::Certificate(_)
            | StreamRefusal::Token(_)
            | StreamRefusal::NoNode
            | StreamRefusal::NodeId(_)
            | StreamRefusal::Contradiction { .. }
            | StreamRefusal::Name(..)
            | StreamRefusal::Expired { .. }
            | StreamRefusal::Revoked(_) => Code::Unauthenticated,
        };
        Self::new(code, refusal.to_string())
    }
}
