//! Says what is wrong with a folder of manifests.

use std::path::Path;

use crate::compile::{Compiled, Options, compile};
use crate::problem::{Problem, Severity};
use crate::source::folder::Folder;

/// What is in a folder, and what is wrong with it.
#[derive(Debug)]
pub struct Report {
    /// Everything that follows from it.
    pub compiled: Compiled,
}

impl Report {
    /// Reads a folder.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn of(folder: &Path, options: &Options) -> Result<Self, String> {
        let mut source = Folder::new(folder);
        source.scan()?;
        Ok(Self { compiled: compile(source.store(), options, &Compiled::default()) })
    }

    /// How many problems of a kind there are.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.compiled.problems.iter().filter(|problem| problem.severity == severity).count()
    }

    /// The problems in the order of files and lines.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.compiled.problems.iter()
    }
}
