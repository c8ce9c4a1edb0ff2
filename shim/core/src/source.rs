//! Where objects come from. A source publishes what it knows as one value, whenever that changes.

use std::sync::Arc;

use egress_compile::store::Store;

/// What a source knows now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceState {
    /// The objects. While the source is unavailable: the last ones.
    pub store: Arc<Store>,
    /// Whether the source can be read.
    pub availability: Availability,
}

/// Whether a source can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Availability {
    /// It can.
    #[default]
    Available,
    /// It cannot: the objects are the last ones that could be read.
    Unavailable {
        /// Why, in one line.
        reason: String,
    },
}

impl Availability {
    /// Whether the source can be read.
    #[must_use]
    pub fn is_available(&self) -> bool {
        matches!(self, Self::Available)
    }

    /// Why the source cannot be read, if it cannot.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Available => None,
            Self::Unavailable { reason } => Some(reason),
        }
    }
}
