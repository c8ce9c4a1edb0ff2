//! What all files say together. A plain value: no I/O, and cheap to clone.
//!
//! Every file's contribution is replaced as a whole. What cannot be read keeps what it said before, or says
//! nothing, as its source decides; its problems are kept beside that.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::manifest::{self, Object, ObjectRef, Parsed, Problem};

/// The objects of all files. Equal updates give an equal store, in whatever order files are read;
/// only a file that became unreadable depends on what it said before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Store {
    files: BTreeMap<Arc<str>, File>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct File {
    objects: Arc<[Arc<Object>]>,
    notes: Arc<[Problem]>,
    errors: Arc<[Problem]>,
}

/// One file changed.
#[derive(Clone, Debug, PartialEq)]
pub struct FileUpdate {
    /// What the file is called in problems; files count in the order of these.
    pub file: Arc<str>,
    /// What happened to it.
    pub change: Change,
}

/// What happened to a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It says this now.
    Read(Parsed),
    /// It cannot be read, for these reasons; what it said before counts.
    Unreadable(Vec<Problem>),
    /// It cannot be read, for these reasons; what it said before does not count.
    Void(Vec<Problem>),
    /// It is gone.
    Removed,
}

impl FileUpdate {
    /// The update for a file that holds these bytes.
    #[must_use]
    pub fn read(file: Arc<str>, bytes: &[u8]) -> Self {
        let change = match manifest::parse(&file, bytes) {
            Ok(parsed) => Change::Read(parsed),
            Err(problems) => Change::Unreadable(problems),
        };
        Self { file, change }
    }
}

/// The objects that count, and what is wrong with the others.
#[derive(Debug)]
pub struct Index<'s> {
    /// One object of each name: the first in the order of files.
    pub objects: BTreeMap<&'s ObjectRef, &'s Object>,
    /// The objects that are defined again.
    pub duplicates: Vec<Problem>,
}

impl Store {
    /// Takes in what happened to a file. Says whether anything is different now.
    pub fn apply(&mut self, update: FileUpdate) -> bool {
        let FileUpdate { file, change } = update;
        let before = self.files.get(&file);
        let after = match change {
            Change::Read(Parsed { objects, notes }) => {
                File { objects: objects.into(), notes: notes.into(), errors: Arc::default() }
            }
            Change::Unreadable(problems) => {
                let before = before.cloned().unwrap_or_default();
                File { errors: problems.into(), ..before }
            }
            Change::Void(problems) => File { errors: problems.into(), ..File::default() },
            Change::Removed => return self.files.remove(&file).is_some(),
        };
        if before == Some(&after) {
            return false;
        }
        self.files.insert(file, after);
        true
    }

    /// What there would be if the objects of another store were applied to these: they take the place of those of
    /// the same kind and name.
    #[must_use]
    pub fn overlaid(&self, with: &Self) -> Self {
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
    pub fn of_file(&self, file: &str) -> &[Arc<Object>] {
        self.files.get(file).map_or(&[], |file| &file.objects)
    }

    /// Whether there is no object.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.values().all(|file| file.objects.is_empty())
    }

    /// An object, the first one of its name in the order of files.
    #[must_use]
    pub fn object(&self, reference: &ObjectRef) -> Option<&Arc<Object>> {
        self.files.values().flat_map(|file| file.objects.iter()).find(|object| object.reference == *reference)
    }

    /// The objects that count. Where files define an object twice, the first one counts.
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
                    duplicates.push(duplicate(object, entry.get()));
                }
            }
        }
        Index { objects, duplicates }
    }

    /// What is wrong with files and what else there is to say about them. Problems of what objects say
    /// are found by [`crate::compile::compile`].
    pub fn problems(&self) -> impl Iterator<Item = Problem> {
        self.files
            .values()
            .flat_map(|file| {
                let stale = !file.errors.is_empty() && !file.objects.is_empty();
                file.errors.iter().map(move |problem| if stale { keeps(problem) } else { problem.clone() })
            })
            .chain(self.files.values().flat_map(|file| file.notes.iter().cloned()))
            .chain(self.index().duplicates)
    }
}

/// The problem of a file whose former content is in force.
fn keeps(problem: &Problem) -> Problem {
    let mut problem = problem.clone();
    problem.message.push_str(" (what the file said before stays in force)");
    problem
}

fn duplicate(object: &Object, first: &Object) -> Problem {
    let place = match first.places.at() {
        Some(at) => format!("{}:{}", first.file, at.line),
        None => first.file.to_string(),
    };
    Problem::error(format!("defined again; the one in `{place}` counts"))
        .advice("remove one of them")
        .at(&object.file, object.places.at())
        .object(&object.reference)
}

#[cfg(test)]
mod tests;
