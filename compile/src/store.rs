//! The objects of all files. A plain value without I/O that is cheap to clone.
//!
//! A file's objects are replaced as a whole. If a file cannot be read, its source decides whether its former
//! objects stay in force; the diagnostics are kept beside them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::manifest::{self, Diagnostic, Object, ObjectRef, ParsedFile};

/// The objects of all files. Equal updates give an equal store, in whatever order files are read. Only an
/// unreadable file depends on its former content.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Store {
    files: BTreeMap<Arc<str>, File>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct File {
    objects: Arc<[Arc<Object>]>,
    notes: Arc<[Diagnostic]>,
    errors: Arc<[Diagnostic]>,
}

/// A change of one file.
#[derive(Clone, Debug, PartialEq)]
pub struct FileUpdate {
    /// The name of the file in diagnostics. Files are ordered by it.
    pub file: Arc<str>,
    /// The change.
    pub change: Change,
}

/// The kind of change of a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The file was read.
    Read(ParsedFile),
    /// The file cannot be read, for these reasons. Its former objects stay in force.
    Unreadable(Vec<Diagnostic>),
    /// The file cannot be read, for these reasons. Its former objects are dropped.
    Void(Vec<Diagnostic>),
    /// The file was removed.
    Removed,
}

impl FileUpdate {
    /// Reads the bytes of a file.
    #[must_use]
    pub fn read(file: Arc<str>, bytes: &[u8]) -> Self {
        let change = match manifest::parse(&file, bytes) {
            Ok(parsed) => Change::Read(parsed),
            Err(diagnostics) => Change::Unreadable(diagnostics),
        };
        Self { file, change }
    }
}

/// The objects in force, and diagnostics about duplicates.
#[derive(Debug)]
pub struct Index<'s> {
    /// One object for each name: the first in the order of files.
    pub objects: BTreeMap<&'s ObjectRef, &'s Object>,
    /// Diagnostics about objects that are defined more than once.
    pub duplicates: Vec<Diagnostic>,
}

impl Store {
    /// Applies a change of a file. Returns true if the store changed.
    pub fn apply(&mut self, update: FileUpdate) -> bool {
        let FileUpdate { file, change } = update;
        let before = self.files.get(&file);
        let after = match change {
            Change::Read(ParsedFile { objects, notes }) => {
                File { objects: objects.into(), notes: notes.into(), errors: Arc::default() }
            }
            Change::Unreadable(diagnostics) => {
                let before = before.cloned().unwrap_or_default();
                File { errors: diagnostics.into(), ..before }
            }
            Change::Void(diagnostics) => File { errors: diagnostics.into(), ..File::default() },
            Change::Removed => return self.files.remove(&file).is_some(),
        };
        if before == Some(&after) {
            return false;
        }
        self.files.insert(file, after);
        true
    }

    /// Returns this store with the objects of another store applied on top: they replace those of the same kind
    /// and name.
    #[must_use]
    pub fn overlay(&self, with: &Self) -> Self {
        let replaced = with.index().objects;
        let mut files: BTreeMap<Arc<str>, File> = BTreeMap::new();
        for (name, file) in &self.files {
            let objects = file.objects.iter().filter(|object| !replaced.contains_key(&object.reference));
            files.insert(Arc::clone(name), File { objects: objects.cloned().collect(), ..file.clone() });
        }
        for (name, file) in &with.files {
            // A file of the same name says something else.
            let mut own = name.to_string();
            while files.contains_key(own.as_str()) {
                own = format!("new {own}");
            }
            files.insert(own.into(), file.clone());
        }
        Self { files }
    }

    /// The names of the files.
    pub fn files(&self) -> impl Iterator<Item = &Arc<str>> {
        self.files.keys()
    }

    /// The objects of one file.
    #[must_use]
    pub fn file_objects(&self, file: &str) -> &[Arc<Object>] {
        self.files.get(file).map_or(&[], |file| &file.objects)
    }

    /// Returns true if there is no object.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.values().all(|file| file.objects.is_empty())
    }

    /// The object of this name; the first one in the order of files.
    #[must_use]
    pub fn object(&self, reference: &ObjectRef) -> Option<&Arc<Object>> {
        self.files.values().flat_map(|file| file.objects.iter()).find(|object| object.reference == *reference)
    }

    /// Indexes the objects in force. Where files define an object twice, the first definition applies.
    #[must_use]
    pub fn index(&self) -> Index<'_> {
        let mut objects: BTreeMap<&ObjectRef, &Object> = BTreeMap::new();
        let mut duplicates = Vec::new();
        for object in self.files.values().flat_map(|file| file.objects.iter()) {
            match objects.entry(&object.reference) {
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(object);
                }
                std::collections::btree_map::Entry::Occupied(entry) => {
                    duplicates.push(duplicate_definition(object, entry.get()));
                }
            }
        }
        Index { objects, duplicates }
    }

    /// Diagnostics about files. [`crate::compile`](fn@crate::compile) reports diagnostics about the content of
    /// objects.
    pub fn diagnostics(&self) -> impl Iterator<Item = Diagnostic> {
        self.files
            .values()
            .flat_map(|file| {
                let stale = !file.errors.is_empty() && !file.objects.is_empty();
                file.errors
                    .iter()
                    .map(move |diagnostic| if stale { mark_stale(diagnostic) } else { diagnostic.clone() })
            })
            .chain(self.files.values().flat_map(|file| file.notes.iter().cloned()))
            .chain(self.index().duplicates)
    }
}

/// Adds to a diagnostic that the file's former content stays in force.
fn mark_stale(diagnostic: &Diagnostic) -> Diagnostic {
    let mut diagnostic = diagnostic.clone();
    diagnostic.message.push_str(" (the file's last valid content stays in force)");
    diagnostic
}

fn duplicate_definition(object: &Object, first: &Object) -> Diagnostic {
    let place = match first.source_map.start() {
        Some(at) => format!("{}:{}", first.file, at.line),
        None => first.file.to_string(),
    };
    Diagnostic::error(format!("duplicate definition; the one in `{place}` applies"))
        .advice("remove one of the two")
        .at(&object.file, object.source_map.start())
        .object(&object.reference)
}

#[cfg(test)]
mod tests;
