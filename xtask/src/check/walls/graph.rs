//! The dependencies between packages, from `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;

use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// The targets of the build. Without them cargo would fetch the crates of every other system.
const PLATFORMS: &[&str] = &["x86_64-unknown-linux-gnu", "wasm32-unknown-unknown"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Compiled into the crate, or run by its build.
    Normal,
    /// Compiled into its tests only.
    Test,
}

/// Packages by name: of two versions of a package, the dependencies are one set.
#[derive(Debug, Default)]
pub(super) struct Graph {
    /// Name and folder of the crates of the workspace.
    members: BTreeMap<String, String>,
    dependencies: BTreeMap<String, BTreeSet<(String, Kind)>>,
}

impl Graph {
    pub(super) fn read(root: &Path) -> Result<Self> {
        let mut command = MetadataCommand::new();
        let platforms =
            PLATFORMS.iter().flat_map(|platform| ["--filter-platform".to_owned(), (*platform).to_owned()]);
        command
            .current_dir(root)
            .other_options(["--locked".to_owned()].into_iter().chain(platforms).collect::<Vec<_>>());
        Self::from_metadata(&command.exec()?)
    }

    fn from_metadata(metadata: &Metadata) -> Result<Self> {
        let resolved = metadata.resolve.as_ref().context("cargo metadata has no resolved dependencies")?;
        let names: BTreeMap<_, _> =
            metadata.packages.iter().map(|package| (&package.id, package.name.to_string())).collect();
        let name = |id| names.get(id).with_context(|| format!("cargo metadata has no package {id}"));
        let mut graph = Self::default();
        for package in metadata.workspace_packages() {
            let folder = package.manifest_path.parent().context("a manifest has no folder")?;
            let folder = folder.strip_prefix(&metadata.workspace_root).unwrap_or(folder);
            graph.members.insert(package.name.to_string(), folder.to_string());
        }
        for node in &resolved.nodes {
            let dependencies = graph.dependencies.entry(name(&node.id)?.clone()).or_default();
            for dependency in &node.deps {
                for kind in &dependency.dep_kinds {
                    let kind =
                        if kind.kind == DependencyKind::Development { Kind::Test } else { Kind::Normal };
                    dependencies.insert((name(&dependency.pkg)?.clone(), kind));
                }
            }
        }
        Ok(graph)
    }

    /// A graph that is made up; each member lies in a folder of its name.
    #[cfg(test)]
    pub(super) fn of(members: &[&str], edges: &[(&str, &str, Kind)]) -> Self {
        let mut graph = Self::default();
        for member in members {
            graph.members.insert((*member).to_owned(), (*member).to_owned());
        }
        for (from, to, kind) in edges {
            graph.dependencies.entry((*from).to_owned()).or_default().insert(((*to).to_owned(), *kind));
        }
        graph
    }

    /// Name and folder of each crate of the workspace.
    pub(super) fn members(&self) -> impl Iterator<Item = (&str, &str)> {
        self.members.iter().map(|(name, folder)| (name.as_str(), folder.as_str()))
    }

    pub(super) fn folder(&self, member: &str) -> Option<&str> {
        self.members.get(member).map(String::as_str)
    }

    /// The members that depend on a package themselves: name, folder and kind.
    pub(super) fn users<'a>(&'a self, package: &'a str) -> impl Iterator<Item = (&'a str, &'a str, Kind)> {
        self.members().flat_map(move |(name, folder)| {
            let dependencies = self.dependencies.get(name).into_iter().flatten();
            dependencies.filter(move |(used, _)| used == package).map(move |(_, kind)| (name, folder, *kind))
        })
    }

    /// The shortest way from a package to each that matches, which a crate's own code or its build goes. What lies
    /// behind the packages of `except_through` does not count, nor what lies behind a match.
    pub(super) fn paths_to(
        &self,
        from: &str,
        except_through: &[&str],
        matches: impl Fn(&str) -> bool,
    ) -> Vec<Vec<String>> {
        let mut found = Vec::new();
        let mut seen = BTreeSet::from([from.to_owned()]);
        let mut queue = VecDeque::from([vec![from.to_owned()]]);
        while let Some(path) = queue.pop_front() {
            let Some(last) = path.last() else { continue };
            for (next, kind) in self.dependencies.get(last).into_iter().flatten() {
                if *kind == Kind::Test || !seen.insert(next.clone()) {
                    continue;
                }
                let path = [path.as_slice(), std::slice::from_ref(next)].concat();
                if matches(next) {
                    found.push(path);
                } else if !except_through.contains(&next.as_str()) {
                    queue.push_back(path);
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_workspace_has_its_crates_and_kinds() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a root");
        let graph = Graph::read(root).expect("metadata");
        assert_eq!(graph.folder("xtask"), Some("xtask"));
        let users: Vec<_> = graph.users("egress-policy").map(|(name, _, _)| name).collect();
        assert!(users.contains(&"egress-compile"), "{users:?}");
        let paths = graph.paths_to("egress-compile", &[], |package| package == "egress-policy");
        assert_eq!(paths, [["egress-compile", "egress-policy"]]);
        let paths = graph.paths_to("egress-policy", &[], |package| package == "proptest");
        assert!(paths.is_empty(), "only its tests: {paths:?}");
    }

    #[test]
    fn the_way_is_the_shortest_and_ends_at_a_match() {
        let edges = [
            ("a", "b", Kind::Normal),
            ("b", "c", Kind::Normal),
            ("a", "c", Kind::Normal),
            ("c", "d", Kind::Normal),
        ];
        let graph = Graph::of(&["a"], &edges);
        assert_eq!(graph.paths_to("a", &[], |name| name == "c" || name == "d"), [["a", "c"]]);
    }
}
