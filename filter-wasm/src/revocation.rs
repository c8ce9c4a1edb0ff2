//! Revocation: after a change of policy, the newest policy decides again about everything that waits, is open or in
//! flight.

use egress_policy::{ConnectionOutcome, Policy};

use crate::in_flight_requests::InFlightRequest;
use crate::open_connections::OpenConnection;
use crate::pending_connections::{PendingConnection, PendingConnections};
use crate::table::Table;
use crate::tick::{ActionKind, MAX_ACTIONS, StreamAction};

/// The most streams that one tick reviews, so that other connections wait only some milliseconds.
pub(crate) const MAX_VISITS: usize = 4096;

/// The same for requests, whose paths and headers regular expressions may have to match.
const MAX_REQUEST_VISITS: usize = 256;

/// The progress of a review: the next key of each table, `None` at its end.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Review {
    pending: Option<usize>,
    open: Option<usize>,
    in_flight: Option<usize>,
}

impl Review {
    /// The start of a review.
    pub(crate) const START: Self = Self { pending: Some(0), open: Some(0), in_flight: Some(0) };

    /// Returns whether everything was reviewed.
    pub(crate) fn is_finished(self) -> bool {
        self.pending.is_none() && self.open.is_none() && self.in_flight.is_none()
    }

    /// Continues the review, and adds an action for each stream that the policy decides or forbids.
    pub(crate) fn advance(
        mut self,
        policy: &Policy,
        pending: &PendingConnections,
        open: &Table<OpenConnection>,
        in_flight: &Table<InFlightRequest>,
        actions: &mut Vec<StreamAction>,
    ) -> Self {
        let timed_out: Vec<usize> = actions.iter().map(|action| action.key).collect();
        if let Some(from) = self.pending {
            let decided =
                |key, connection: &PendingConnection| {
                    let decides =
                        matches!(policy.decide_connection(connection.to), ConnectionOutcome::Decided(_));
                    (connection.is_waiting() && decides && !timed_out.contains(&key))
                        .then_some(StreamAction { id: connection.id, key, kind: ActionKind::Decide })
                };
            self.pending = pending.table().collect_from(from, MAX_VISITS, MAX_ACTIONS, actions, decided);
        }
        if let Some(from) = self.open {
            let forbidden = |key, connection: &OpenConnection| {
                let kind = ActionKind::CloseConnection(connection.first_bytes.protocol());
                (!connection.is_permitted(policy)).then_some(StreamAction { id: connection.id, key, kind })
            };
            self.open = open.collect_from(from, MAX_VISITS, MAX_ACTIONS, actions, forbidden);
        }
        if let Some(from) = self.in_flight {
            let forbidden = |key, request: &InFlightRequest| {
                let kind = ActionKind::ResetRequest;
                (!request.is_permitted(policy)).then_some(StreamAction { id: request.id, key, kind })
            };
            self.in_flight =
                in_flight.collect_from(from, MAX_REQUEST_VISITS, MAX_ACTIONS, actions, forbidden);
        }
        self
    }
}
