//! `osm-egress check`: reads a folder once and says everything that is wrong with it.

use std::path::Path;

pub use egress_compile::check::{Report, Summary};
use egress_compile::manifest::{Diagnostic, Severity};
use egress_compile::{CompileOptions, Compiled, compile};

use egress_core::source::{Availability, SourceState};
use egress_folder::Folder;

/// Reads a folder and checks it.
#[must_use]
pub fn check(dir: &Path, options: &CompileOptions) -> Report {
    compiled(dir, options).0
}

/// The same, and what follows from it.
#[must_use]
pub fn compiled(dir: &Path, options: &CompileOptions) -> (Report, Compiled) {
    let state = Folder::load_once(dir);
    let compiled = compile(&state.store, options, None);
    (report(dir, &state, &compiled), compiled)
}

fn report(dir: &Path, state: &SourceState, compiled: &Compiled) -> Report {
    let SourceState { store, availability } = state;
    match availability {
        Availability::Available if store.files().next().is_none() => {
            let message = format!("there is no manifest in `{}`", dir.display());
            let advice =
                "manifests are files that end in `.yaml`, `.yml` or `.json` and do not begin with `.`";
            let mut problems = Report::of(store, compiled).diagnostics;
            problems.push(Diagnostic::new(Severity::Warning, message).advice(advice));
            Report::with(problems, store, compiled)
        }
        Availability::Available => Report::of(store, compiled),
        Availability::Unavailable { reason } => {
            let problem = Diagnostic::error(reason).advice("name a folder that exists and that you may read");
            Report::with(vec![problem], store, compiled)
        }
    }
}

#[cfg(test)]
mod tests;
