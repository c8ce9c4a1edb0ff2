//! The state of a source of objects. A source publishes it as one value whenever it changes.

use std::sync::Arc;

use egress_compile::store::Store;

/// The current state of a source.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceState {
    /// The objects. While the source is unavailable: the last ones.
    pub store: Arc<Store>,
    /// The availability of the source.
    pub availability: Availability,
}

/// The availability of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Availability {
    /// It can.
    #[default]
    Available,
    /// It cannot: the objects are the last ones that could be read.
    Unavailable {
        /// The reason, in one line.
        reason: String,
    },
}

impl Availability {
    /// Returns whether the source can be read.
    #[must_use]
    pub fn is_available(&self) -> bool {
        matches!(self, Self::Available)
    }

    /// The reason why the source cannot be read, if it cannot.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Available => None,
            Self::Unavailable { reason } => Some(reason),
        }
    }
}
