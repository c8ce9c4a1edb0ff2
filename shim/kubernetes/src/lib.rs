//! All that needs a Kubernetes client: the source that watches a cluster, the status of policies, token reviews, audit events
//! and the webhooks of an API server.

pub mod audit;
mod audit_events;
mod client;
mod cluster;
mod cluster_cache;
mod kind_watcher;
mod kinds;
mod load;
mod object;
mod probe;
mod replicas;
mod services;
mod status;
mod token_review;
pub mod webhook;
mod write;

pub use self::audit_events::{AuditEvent, AuditEvents};
pub use self::client::{ConnectError, Connection, connect, is_unknown, reason};
pub use self::cluster::Cluster;
pub use self::load::{Pod, find_pod, read_once};
pub use self::object::is_ours;
pub use self::replicas::{LABEL as REPORTS_LABEL, reported_versions};
pub use self::status::PolicyStatuses;
pub use self::token_review::ApiTokenReviewer;
pub use self::write::{ClusterWriter, Refused};
