//! The specifications of OSM's and SMI's objects, field by field.
//!
//! Unknown fields are refused. Where an absent field means "any", it differs from an empty one: `field:`
//! without a value, which remains when every entry is commented out, is empty.

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

/// Deserializes a list that may be written without a value.
fn nullable_list<'de, D, T>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::<Vec<T>>::deserialize(deserializer).map(|items| Some(items.unwrap_or_default()))
}

/// Deserializes a field that may be written without a value, which makes it empty.
fn nullable<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(deserializer).map(|value| Some(value.unwrap_or_default()))
}

/// Deserializes a list that must be present but may be written without a value.
fn required_nullable_list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::<Vec<T>>::deserialize(deserializer).map(Option::unwrap_or_default)
}
