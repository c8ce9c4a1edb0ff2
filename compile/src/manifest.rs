//! Manifests: YAML or JSON text to typed objects, with the place of every field.
//!
//! Nothing here knows files, folders or Kubernetes clients. The types of [`spec`] are those of the
//! API, so that a source which gets its objects elsewhere can share them.

mod decode;
mod object;
mod source_map;
mod diagnostic;
mod scalar;
pub mod spec;
pub mod yaml;

pub use decode::unreadable;
pub use decode::{LAST_APPLIED, Parsed, parse, parse_value, restore_empty_lists};
pub use object::{Body, Kind, Metadata, Object, ObjectRef, Revision};
pub use source_map::{Places, Position};
pub use diagnostic::{Cause, Problem, Severity};

pub(crate) use source_map::annotation_path;
