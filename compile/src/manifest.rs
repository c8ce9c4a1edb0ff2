//! Manifests: YAML or JSON text to typed objects, with the place of every field.
//!
//! Nothing here knows files, folders or Kubernetes clients. The types of [`spec`] are those of the
//! API, so that a source which gets its objects elsewhere can share them.

mod decode;
mod object;
mod places;
mod problem;
mod scalar;
pub mod spec;
pub mod yaml;

pub use decode::unreadable;
pub use decode::{LAST_APPLIED, Parsed, parse, parse_value, restore_empty_lists};
pub use object::{Body, Kind, Metadata, Object, ObjectRef, Revision};
pub use places::{Places, Position};
pub use problem::{Cause, Problem, Severity};

pub(crate) use places::annotation_path;
