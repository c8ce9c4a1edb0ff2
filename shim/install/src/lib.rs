//! Installation of the control plane in a cluster: `install`, `upgrade`, `uninstall`, `namespace` and `verify`.
//!
//! `render` makes the objects from typed [`values`], without asking the cluster. [`apply`] creates and updates them, and
//! [`remove`] deletes them. A label marks the objects that `install` manages ([`names`]): other objects are never
//! deleted.

pub mod apply;
mod certificates;
mod cluster;
pub mod crds;
mod grants;
mod image;
pub mod names;
pub mod namespaces;
mod nodes;
mod object_id;
mod plan;
pub mod remove;
mod render;
pub mod values;
pub mod verify;

use std::io::Write;

/// Prints a line of progress. A closed pipe does not stop the work.
fn print_line(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Prints a warning.
fn print_warning(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "warning: {line}");
}
