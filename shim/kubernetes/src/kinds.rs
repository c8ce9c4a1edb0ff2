//! The kinds that are watched, and the versions of them that an API server serves.

use kube::Client;
use kube::api::ApiResource;

use super::client::is_unknown;
use egress_compile::manifest::Kind;

/// A kind that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WatchedKind {
    /// The kind.
    pub(super) kind: Kind,
    /// True if the API server may be without it: then there are no objects of it.
    pub(super) optional: bool,
}

const fn required(kind: Kind) -> WatchedKind {
    WatchedKind { kind, optional: false }
}

const fn optional(kind: Kind) -> WatchedKind {
    WatchedKind { kind, optional: true }
}

/// All kinds that are watched. Deployments and the like are not: their pods are.
pub(super) const WATCHED: &[WatchedKind] = &[
    required(Kind::MeshConfig),
    required(Kind::Egress),
    optional(Kind::UpstreamTrafficSetting),
    optional(Kind::HttpRouteGroup),
    optional(Kind::TrafficTarget),
    required(Kind::Namespace),
    required(Kind::ServiceAccount),
    required(Kind::Service),
    required(Kind::Pod),
    optional(Kind::EndpointSlice),
];

/// Finds the best version of a kind that the API server serves.
pub(super) async fn discover(client: &Client, kind: Kind) -> kube::Result<Option<ApiResource>> {
    for version in kind.versions() {
        let group = kind.group();
        let (api_version, found) = if group.is_empty() {
            ((*version).to_owned(), client.list_core_api_resources(version).await)
        } else {
            let api_version = format!("{group}/{version}");
            let found = client.list_api_group_resources(&api_version).await;
            (api_version, found)
        };
        let list = match found {
            Ok(list) => list,
            Err(error) if is_unknown(&error) => continue,
            Err(error) => return Err(error),
        };
        let resource = list.resources.into_iter().find(|r| r.kind == kind.as_str() && !r.name.contains('/'));
        if let Some(resource) = resource {
            return Ok(Some(ApiResource {
                group: group.to_owned(),
                version: (*version).to_owned(),
                api_version,
                kind: kind.as_str().to_owned(),
                plural: resource.name,
            }));
        }
    }
    Ok(None)
}
