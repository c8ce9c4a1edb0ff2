//! Connection pools of the control plane's ports.

use std::sync::Arc;

use egress_kubernetes::webhook;
use egress_transport::connections::{EVICTION_AGE, Pool};
use egress_xds::limits;

/// Maximum number of idle connections to the admin port: a kubelet, Prometheus and a few browsers have some each.
const MAX_WAITING: usize = 128;

/// Connection pool of each port.
#[derive(Clone, Debug)]
pub struct Pools {
    /// Pool of the xDS port.
    pub xds: Arc<Pool>,
    /// Pool of the webhook port.
    pub webhook: Arc<Pool>,
    /// Pool of the admin port.
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
    /// Pools with the names of their ports.
    pub(crate) fn named(&self) -> [(&'static str, &Pool); 3] {
        [("xds", &self.xds), ("webhook", &self.webhook), ("admin", &self.admin)]
    }
}
