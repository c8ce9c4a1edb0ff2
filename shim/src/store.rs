//! All objects that are known, by where they come from.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::manifest::{Key, Object};
use crate::problem::{Problem, Severity};

/// All objects that are known. A plain value: a source changes it and gives out copies.
#[derive(Debug, Clone, Default)]
pub struct Store {
    files: BTreeMap<PathBuf, File>,
}

#[derive(Debug, Clone, Default)]
struct File {
    /// What the file said when it could last be read.
    objects: Vec<Arc<Object>>,
    /// What is wrong with it now.
    problems: Vec<Problem>,
}

impl Store {
    /// A file has this content now. One that cannot be read keeps what it said before.
    pub fn set(&mut self, path: PathBuf, content: Result<Vec<Arc<Object>>, Vec<Problem>>) {
        let file = self.files.entry(path).or_default();
        match content {
            Ok(objects) => *file = File { objects, problems: vec![] },
            Err(problems) => file.problems = problems,
        }
    }

    /// A file is gone, and what it said with it.
    pub fn remove(&mut self, path: &PathBuf) {
        self.files.remove(path);
    }

    /// The files that are known.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.keys()
    }

    /// The objects by name. Of two with one name the first file, in the order of paths, counts.
    #[must_use]
    pub fn objects(&self) -> BTreeMap<&Key, &Arc<Object>> {
        let mut objects = BTreeMap::new();
        for object in self.files.values().flat_map(|file| &file.objects) {
            objects.entry(&object.key).or_insert(object);
        }
        objects
    }

    /// What is wrong with files and with objects that are there twice.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<_> =
            self.files.values().flat_map(|file| file.problems.iter().cloned()).collect();
        let mut seen: BTreeMap<&Key, &Arc<Object>> = BTreeMap::new();
        for object in self.files.values().flat_map(|file| &file.objects) {
            match seen.get(&object.key) {
                None => {
                    seen.insert(&object.key, object);
                }
                Some(first) => {
                    let place =
                        first.file.as_ref().map(|file| file.display().to_string()).unwrap_or_default();
                    let line = first.position("").map(|position| position.line).unwrap_or_default();
                    let message = format!("is there already in {place}:{line}, which counts");
                    let problem = Problem::new(Severity::Error, message).advise("remove one of them");
                    problems.push(object.locate(problem));
                }
            }
        }
        problems
    }
}
