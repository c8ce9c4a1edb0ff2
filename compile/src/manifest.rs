//! Manifests: reads YAML or JSON text into typed objects with the position of every field.
//!
//! Nothing here depends on files, folders or Kubernetes clients. The types of [`spec`] are those of the API, so a
//! source that gets its objects elsewhere can share them.

mod decode;
mod diagnostic;
mod object;
mod scalar;
mod source_map;
pub mod spec;
pub mod yaml;

pub use decode::{LAST_APPLIED, ParsedFile, parse, parse_value, restore_empty_fields, yaml_diagnostic};
pub use diagnostic::{Cause, Diagnostic, Severity};
pub use object::{Body, Kind, Metadata, Object, ObjectRef, Revision};
pub use source_map::{Position, SourceMap};

pub(crate) use source_map::annotation_path;
