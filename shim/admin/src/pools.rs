//! The connections that wait at each port of the control plane.

use std::sync::Arc;

use egress_kubernetes::webhook;
use egress_transport::connections::{EVICTION_AGE, Pool};
use egress_xds::limits;

/// How many connections to the admin port may wait for their client: a kubelet, Prometheus and a few browsers have some each.
const MAX_WAITING: usize = 128;

/// The pool of each port.
#[derive(Clone, Debug)]
pub struct Pools {
    /// Of the port where proxies connect.
    pub xds: Arc<Pool>,
    /// Of the one where API servers do.
    pub webhook: Arc<Pool>,
    /// Of the one where people and Prometheus do.
    pub admin: Arc<Pool>,
}

impl Default for Pools {
    fn default() -> Self {
        Self {
            xds: Pool::new(limits::MAX_WAITING, EVICTION_AGE),
            webhook: Pool::new(webhook::MAX_WAITING, EVICTION_AGE),
            admin: Pool::new(MAX_WAITING, EVICTION_AGE),
        }
    }
}

impl Pools {
    /// By the names of their ports.
    pub(crate) fn named(&self) -> [(&'static str, &Pool); 3] {
        [("xds", &self.xds), ("webhook", &self.webhook), ("admin", &self.admin)]
    }
}
