//! The crates of a checkout as trees of modules.

use std::collections::BTreeMap;

use anyhow::Result;

use super::rust::{Source, UsedPath, is_test_path};
use super::tree::Tree;

/// A path of modules from the crate's root, which is `[]`.
pub(super) type ModulePath = Vec<String>;

/// One crate: its library, or its program where there is no library.
pub(super) struct Crate {
    /// The folder of its Cargo.toml.
    pub(super) folder: String,
    pub(super) files: Vec<ModuleFile>,
    imports: BTreeMap<ModulePath, Vec<UsedPath>>,
}

/// A file outside test code.
pub(super) struct ModuleFile {
    pub(super) file: String,
    pub(super) module: ModulePath,
    pub(super) source: Source,
}

/// Reads every crate that has a folder `src`.
pub(super) fn read_crates(tree: &Tree) -> Result<Vec<Crate>> {
    let manifests = tree.paths().filter_map(|path| path.strip_suffix("/Cargo.toml"));
    manifests.filter(|folder| !is_test_path(folder)).map(|folder| Crate::read(tree, folder)).collect()
}

impl Crate {
    fn read(tree: &Tree, folder: &str) -> Result<Self> {
        let start = format!("{folder}/src/");
        let is_library = tree.has_file(&format!("{start}lib.rs"));
        let mut files = Vec::new();
        for (path, _) in tree.texts(".rs").filter(|(path, _)| path.starts_with(&start)) {
            let relative = path.strip_prefix(&start).unwrap_or(path);
            // Programs beside a library are crates of their own.
            if relative.starts_with("bin/") || (is_library && relative == "main.rs") {
                continue;
            }
            let source = Source::of(tree.syntax(path)?);
            files.push(ModuleFile { file: path.to_owned(), module: module_path(relative), source });
        }
        let tests: Vec<ModulePath> = files
            .iter()
            .flat_map(|file| file.source.test_modules.iter().map(|name| child(&file.module, name)))
            .collect();
        files.retain(|file| !tests.iter().any(|test| file.module.starts_with(test)));
        let mut imports: BTreeMap<ModulePath, Vec<UsedPath>> = BTreeMap::new();
        for file in &files {
            imports.entry(file.module.clone()).or_default();
            for path in &file.source.paths {
                let module = [file.module.as_slice(), &path.inside].concat();
                let known = imports.entry(module).or_default();
                if path.imported_as.is_some() {
                    known.push(path.clone());
                }
            }
        }
        Ok(Self { folder: folder.to_owned(), files, imports })
    }

    /// The module in which a path of a module ends, following imports; `None` for other crates.
    pub(super) fn resolve(&self, module: &[String], segments: &[String]) -> Option<ModulePath> {
        self.resolve_within(module, segments, 8)
    }

    /// `depth` bounds how many imports are followed: `use` can go in a circle.
    fn resolve_within(&self, module: &[String], segments: &[String], depth: usize) -> Option<ModulePath> {
        let (first, rest) = segments.split_first()?;
        let mut place: ModulePath = match first.as_str() {
            "crate" => Vec::new(),
            "self" => module.to_vec(),
            "super" => module.split_last()?.1.to_vec(),
            name if self.imports.contains_key(&child(module, name)) => child(module, name),
            name => {
                let import = self.import(module, name)?;
                // A name that imports itself is that of another crate.
                let followed = [import.segments.as_slice(), rest].concat();
                if depth == 0 || import.segments.first() == Some(first) {
                    return None;
                }
                return self.resolve_within(module, &followed, depth - 1);
            }
        };
        for (at, name) in rest.iter().enumerate() {
            if name == "super" {
                place.pop();
            } else if self.imports.contains_key(&child(&place, name)) {
                place.push(name.clone());
            } else {
                let import = self.import(&place, name).filter(|_| depth > 0);
                let followed = import.map(|import| [import.segments.as_slice(), &rest[at + 1..]].concat());
                let resolved = followed.and_then(|path| self.resolve_within(&place, &path, depth - 1));
                return Some(resolved.unwrap_or(place));
            }
        }
        Some(place)
    }

    fn import(&self, module: &[String], name: &str) -> Option<&UsedPath> {
        self.imports.get(module)?.iter().find(|path| path.imported_as.as_deref() == Some(name))
    }
}

fn child(module: &[String], name: &str) -> ModulePath {
    [module, &[name.to_owned()]].concat()
}

/// `a/b.rs`, `a/b/mod.rs` → `[a, b]`; `lib.rs`, `main.rs` → `[]`.
fn module_path(file: &str) -> ModulePath {
    let path = file.strip_suffix(".rs").unwrap_or(file);
    let path = path.strip_suffix("/mod").unwrap_or(path);
    match path {
        "lib" | "main" => Vec::new(),
        path => path.split('/').map(str::to_owned).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(module: &[&str], path: &str) -> Option<String> {
        let tree = Tree::of(&[
            ("c/Cargo.toml", ""),
            (
                "c/src/lib.rs",
                "mod a; mod b; pub use b::Thing; pub use a::inner::f as g; #[cfg(test)] mod fake;",
            ),
            ("c/src/a.rs", "mod inner; use super::b; use serde::Deserialize;"),
            ("c/src/a/inner.rs", "pub fn f() {}"),
            ("c/src/b.rs", "pub struct Thing;"),
            ("c/src/fake.rs", "use crate::a;"),
            ("c/src/bin/tool.rs", "use c::a;"),
        ]);
        let crates = read_crates(&tree).expect("crates");
        assert_eq!(crates[0].files.len(), 4, "neither tests nor programs");
        let module: Vec<_> = module.iter().map(|name| (*name).to_owned()).collect();
        let path: Vec<_> = path.split("::").map(str::to_owned).collect();
        crates[0].resolve(&module, &path).map(|module| module.join("::"))
    }

    #[test]
    fn a_path_ends_in_the_module_that_defines_its_item() {
        for (module, path, expected) in [
            (&["a"][..], "crate::b::Thing", Some("b")),
            (&["a"], "crate::Thing", Some("b")),
            (&["a"], "crate::g", Some("a::inner")),
            (&["a"], "b::Thing", Some("b")),
            (&["a"], "inner::f", Some("a::inner")),
            (&["a", "inner"], "super::super::b::Thing", Some("b")),
            (&["a", "inner"], "super::b::Thing", Some("b")),
            (&["a"], "self::x", Some("a")),
            (&["a"], "Deserialize::x", None),
            (&["a"], "std::fs", None),
        ] {
            assert_eq!(resolved(module, path).as_deref(), expected, "{path} in {module:?}");
        }
    }

    #[test]
    fn files_have_their_module() {
        for (file, module) in [("lib.rs", ""), ("a.rs", "a"), ("a/mod.rs", "a"), ("a/b.rs", "a::b")] {
            assert_eq!(module_path(file).join("::"), module);
        }
    }
}
