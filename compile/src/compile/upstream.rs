//! Connection settings, and the clusters that carry them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use egress_policy::{HostPattern, Port, Rule};
use serde::Serialize;

use super::diagnostic_sink::DiagnosticSink;
use super::digest::Digest;
use super::policy_rule::PolicyRule;
use super::{Invalid, Objects, StatusCollector};
use crate::bounds::{MAX_CONNECT_TIMEOUT, MIN_CONNECT_TIMEOUT};
use crate::duration;
use crate::manifest::spec::UpstreamTrafficSetting;
use crate::manifest::{Body, ObjectRef};

/// A cluster with connection settings, for the rules of one policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct OwnCluster {
    /// Its name, in Open Service Mesh's form: `HOST:PORT` or `PORT`.
    pub name: String,
    /// The host pattern that it resolves; `None`: it connects to the original destination.
    pub host: Option<HostPattern>,
    /// The limits of its connections.
    pub limits: Limits,
}

/// Limits of one cluster, over all of its connections. `None` means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Limits {
    /// The connect timeout.
    pub connect_timeout: Option<Duration>,
    /// The most connections at a time.
    pub max_connections: Option<u32>,
    /// The most HTTP requests at a time.
    pub max_requests: Option<u32>,
    /// The most HTTP requests that wait for a connection.
    pub max_pending_requests: Option<u32>,
    /// The most HTTP retries at a time.
    pub max_retries: Option<u32>,
    /// The most HTTP requests on one connection.
    pub max_requests_per_connection: Option<u32>,
}

impl OwnCluster {
    /// Makes the cluster for a port and, if it resolves names, a host pattern.
    pub(super) fn new(host: Option<&HostPattern>, port: Port, limits: Limits) -> Self {
        let name = host.map_or_else(|| port.to_string(), |host| format!("{host}:{port}"));
        Self { name, host: host.cloned(), limits }
    }
}

/// Builds the rules and clusters for identities of other namespaces, named `HOST:PORT@NAMESPACE`. With separate
/// clusters, the settings of one namespace's object never throttle access that another namespace's object
/// grants to the same host and port.
pub(super) fn separate_clusters(
    rules: &[PolicyRule],
    clusters: &[OwnCluster],
    namespace: &str,
) -> (Vec<PolicyRule>, Vec<OwnCluster>) {
    let name = |name: &String| format!("{name}@{namespace}");
    let rules = rules.iter().map(|PolicyRule { rule, digest }| {
        let cluster = rule.cluster.as_ref().map(name);
        let digest = Digest::join([digest, &Digest::of(&cluster)]);
        PolicyRule { rule: Arc::new(Rule { cluster, ..Rule::clone(rule) }), digest }
    });
    let clusters = clusters.iter().map(|cluster| OwnCluster { name: name(&cluster.name), ..cluster.clone() });
    (rules.collect(), clusters.collect())
}

/// The limits of each UpstreamTrafficSetting.
pub(super) type Settings<'s> = BTreeMap<&'s ObjectRef, Result<Limits, Invalid>>;

/// Reads all UpstreamTrafficSettings.
pub(super) fn read_settings<'s>(objects: &Objects<'s>, collector: &mut StatusCollector) -> Settings<'s> {
    let mut settings = Settings::new();
    for (reference, object) in objects {
        if let Body::UpstreamTrafficSetting(spec) = &object.body {
            let mut sink = DiagnosticSink::new(object);
            settings.insert(reference, read_limits(spec, &mut sink));
            collector.record(sink, 0);
        }
    }
    settings
}

fn read_limits(spec: &UpstreamTrafficSetting, sink: &mut DiagnosticSink<'_>) -> Result<Limits, Invalid> {
    for (field, given) in
        [("rateLimit", spec.rate_limit.is_some()), ("httpRoutes", spec.http_routes.is_some())]
    {
        if given {
            sink.info(&format!("spec.{field}"), format!("`{field}` is ignored for egress, as in OSM"), None);
        }
    }
    let connection = spec.connection_settings.clone().unwrap_or_default();
    let (tcp, http) = (connection.tcp.unwrap_or_default(), connection.http.unwrap_or_default());
    let connect_timeout = match tcp.connect_timeout.as_deref().map(|text| (text, duration::parse(text))) {
        None => None,
        Some((_, Some(time))) if (MIN_CONNECT_TIMEOUT..=MAX_CONNECT_TIMEOUT).contains(&time) => Some(time),
        Some((text, _)) => {
            let hours = MAX_CONNECT_TIMEOUT.as_secs() / 3600;
            sink.error(
                "spec.connectionSettings.tcp.connectTimeout",
                format!("`{text}` is not a duration from 1ms to {hours}h"),
                Some(
                    "write it as `5s` or `250ms`; until then policies that reference these settings grant nothing",
                ),
            );
            return Err(Invalid);
        }
    };
    Ok(Limits {
        connect_timeout,
        max_connections: tcp.max_connections,
        max_requests: http.max_requests,
        max_pending_requests: http.max_pending_requests,
        max_retries: http.max_retries,
        max_requests_per_connection: http.max_requests_per_connection,
    })
}
