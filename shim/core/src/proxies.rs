//! The data of connected proxies, for whoever reports them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// The most objects that a message names.
const MAX_LISTED: usize = 5;

/// The short name of a type of resources: `listener`, `cluster` or `extension`.
pub type ResourceType = Cow<'static, str>;

/// The protocol of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// State of the world.
    #[default]
    Sotw,
    /// Changes only.
    Delta,
}

/// One proxy, as `/status` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Proxy {
    /// The node id.
    pub node: String,
    /// The identity, as `namespace/service-account`.
    pub identity: String,
    /// Envoy's version, as it says.
    pub envoy: String,
    /// The protocol of its stream.
    pub protocol: Protocol,
    /// The version of the policy document that was sent last.
    pub document_sent: String,
    /// The version of the policy document that is in force: every type of it was acknowledged.
    pub document_acknowledged: Option<String>,
    /// By type.
    pub types: BTreeMap<ResourceType, TypeStatus>,
    /// The configuration that it refuses, and what is in force instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_back: Option<HeldBack>,
}

/// The state of one type of resources at a proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TypeStatus {
    /// The version that was sent last.
    pub sent: Option<String>,
    /// The version that is in force.
    pub acknowledged: Option<String>,
    /// The last refusal, until the proxy accepts another version.
    pub rejected: Option<Rejection>,
}

/// A refused version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rejection {
    /// The version.
    pub version: String,
    /// Envoy's own words.
    pub error: String,
}

/// The proxies that are connected to this control plane.
pub trait ProxyRegistry: fmt::Debug + Send + Sync {
    /// The proxies of each identity, by `namespace/service-account`.
    fn fleets(&self) -> BTreeMap<String, Fleet>;

    /// Changes whenever something happens to one of them.
    fn changes(&self) -> watch::Receiver<()>;
}

/// The policies of the proxies of one identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fleet {
    /// The number of proxies with each version of the policy document in force; an empty version where none is.
    pub has: BTreeMap<String, u64>,
    /// The refusal of one of them: of several, that of the first node id.
    pub refusal: Option<ProxyRejection>,
}

/// A refusal by a proxy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProxyRejection {
    /// Its node id.
    pub node: String,
    /// Envoy's own words.
    pub error: String,
}

/// The configuration that a proxy refuses, and what is in force instead.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldBack {
    /// The version of the document that it should have.
    pub document: String,
    /// Envoy's words.
    pub error: String,
    /// True if only what was accepted before is in force, as far as the new document allows it too.
    pub bridged: bool,
    /// The Egress objects whose new rules are left out.
    pub policies: Vec<String>,
    /// The clusters that are left out. What leads there is refused.
    pub clusters: Vec<String>,
}

/// Envoy's words, and what is in force instead.
impl fmt::Display for HeldBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { document: _, error, bridged, policies, clusters } = self;
        // Envoy's words may have several lines.
        let words: Vec<&str> = error.split_whitespace().collect();
        f.write_str(&words.join(" "))?;
        if *bridged {
            f.write_str("; what the accepted and the new policy both allow is in force")?;
        } else if !policies.is_empty() {
            f.write_str("; in force without what is new in")?;
            list(f, policies)?;
        }
        if !clusters.is_empty() {
            f.write_str("; without the clusters")?;
            list(f, clusters)?;
        }
        Ok(())
    }
}

/// A list, as far as anybody reads it.
fn list(f: &mut fmt::Formatter<'_>, items: &[String]) -> fmt::Result {
    for (number, item) in items.iter().take(MAX_LISTED).enumerate() {
        write!(f, "{} {item}", if number == 0 { "" } else { "," })?;
    }
    match items.len().checked_sub(MAX_LISTED) {
        Some(more @ 1..) => write!(f, " and {more} more"),
        Some(_) | None => Ok(()),
    }
}
