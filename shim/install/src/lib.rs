//! Puts the control plane into a cluster and takes it out again: `install`, `upgrade`, `uninstall`, `namespace`
//! and `verify`.
//!
//! What is there follows from typed [`values`] by `render`, which asks nobody. [`apply`] and [`remove`] bring
//! the API server there and back. An object counts as ours by a label ([`names`]): what was there before is
//! never taken away.

pub mod apply;
mod certificates;
mod cluster;
pub mod crds;
mod grants;
mod id;
mod image;
pub mod names;
pub mod namespaces;
mod plan;
pub mod remove;
mod render;
pub mod values;
pub mod verify;

use std::io::Write;

/// Says what is done, as it is done. A reader that has had enough does not stop the work.
fn say(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Says what the user should know besides.
fn warn(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "warning: {line}");
}
