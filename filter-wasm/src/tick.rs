//! The work of a tick of a plugin: actions on streams.

use std::time::Duration;

use egress_policy::Protocol;

/// The most streams that one tick acts on. Envoy closes them one inside the other when the tick has ended, and some 700
/// overflow the stack of the VM.
pub(crate) const MAX_ACTIONS: usize = 64;

/// The delay of the next tick where more is to be done.
pub(crate) const NEXT_TICK_DELAY: Duration = Duration::from_millis(1);

/// An action on one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StreamAction {
    pub(crate) id: u32,
    /// The key of its entry in the table that belongs to `kind`.
    pub(crate) key: usize,
    pub(crate) kind: ActionKind,
}

/// The kind of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ActionKind {
    /// Decide a pending connection whose time is up.
    TimeOut,
    /// Close a pending connection, the oldest of too many.
    Evict,
    /// Close the connection with the oldest of too many headers that have not ended.
    EvictPartialHeaders,
    /// Decide a pending connection that the newest policy decides without first bytes.
    Decide,
    /// Close an open connection that the newest policy forbids.
    CloseConnection(Protocol),
    /// Reset a request that the newest policy forbids.
    ResetRequest,
}

/// The plan of one tick.
#[derive(Debug, Default)]
pub(crate) struct TickPlan {
    pub(crate) actions: Vec<StreamAction>,
    /// The delay of the next tick; `None` while nothing waits.
    pub(crate) next: Option<Duration>,
}
