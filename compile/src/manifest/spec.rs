//! The specifications of OSM's and SMI's objects, field for field.
//!
//! Unknown fields are refused. Lists are optional so that an absent one can be told from an empty
//! one; `field:` without a value is an empty one.

mod egress;
mod kubernetes;
mod mesh_config;
mod route_group;
mod traffic_target;
mod upstream;

use serde::{Deserialize, Deserializer};

pub use egress::{Egress, MatchRef, PortSpec, Source};
pub use kubernetes::{
    Backends, Endpoint, Endpoints, Service, ServicePort, Subset, SubsetAddress, TargetRef, Workload,
};
pub(super) use kubernetes::{PodStatus, WorkloadSpec};
pub use mesh_config::{ExternalAuthorization, MeshConfig, Sidecar, Traffic};
pub use route_group::{HeaderPattern, Headers, HttpMatch, HttpRouteGroup};
pub use traffic_target::{Subject, TargetRule, TrafficTarget};
pub use upstream::{ConnectionSettings, HttpSettings, TcpSettings, UpstreamTrafficSetting};

/// Reads a list that may be written without a value.
fn list<'de, D, T>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::<Vec<T>>::deserialize(deserializer).map(|items| Some(items.unwrap_or_default()))
}

/// Reads a list that must be there, but may be written without a value.
fn required_list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::<Vec<T>>::deserialize(deserializer).map(Option::unwrap_or_default)
}
