//! The walls between crates: what each may not know, directly or through the crates that it depends on.

mod graph;
mod table;

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use self::graph::{Graph, Kind};
use self::table::{MEMBERS, Member, Wall};
use super::finding::{Finding, Report};
use super::tree::Tree;

const TABLE: &str = "xtask/src/check/walls/table.rs";

pub(super) fn check(tree: &Tree) -> Result<Report> {
    let graph = Graph::read(&tree.root).context("cannot read the crates' dependencies")?;
    let mut report = check_graph(&graph, MEMBERS);
    let_through(tree, &graph, &mut report);
    Ok(report)
}

fn check_graph(graph: &Graph, members: &[Member]) -> Report {
    let mut report = Report::default();
    let listed: BTreeSet<&str> = members.iter().map(|member| member.name).collect();
    for (name, folder) in graph.members() {
        if !listed.contains(name) {
            let problem = format!("the crate `{name}` has no walls");
            report.add(Finding::new(manifest(folder), 0, problem, format!("add it to {TABLE}")));
        }
    }
    for member in members {
        let Some(folder) = graph.folder(member.name) else {
            let problem = format!("the table names `{}`, which is no crate of the workspace", member.name);
            report.add(Finding::new(TABLE, 0, problem, "remove or rename its entry"));
            continue;
        };
        if folder != member.folder {
            let problem = format!("`{}` lies in {folder}/, the table says {}/", member.name, member.folder);
            report.add(Finding::new(TABLE, 0, problem, "correct the folder"));
        }
        for wall in member.walls {
            report.checked.push(format!("{:<18} {wall}", member.name));
            report.findings.extend(check_wall(graph, member, folder, wall));
        }
    }
    report
}

fn check_wall(graph: &Graph, member: &Member, folder: &str, wall: &Wall) -> Vec<Finding> {
    let breach = |folder: &str, problem: String, reason: &str| {
        Finding::new(manifest(folder), 0, problem, format!("remove the dependency: {reason}"))
    };
    match wall {
        Wall::KnowsNo { family, except_through, reason } => {
            let matches = |package: &str| family.has(package, graph.folder(package));
            let paths = graph.paths_to(member.name, except_through, matches);
            // The shortest way is where to begin; most others lie behind it.
            let Some(shortest) = paths.first() else { return Vec::new() };
            let more = match paths.len() {
                1 => String::new(),
                count => format!(" (and {} more packages)", count - 1),
            };
            let path = shortest.join(" -> ");
            let problem = format!("`{}` must know {}: {path}{more}", member.name, family.denial);
            vec![breach(folder, problem, reason)]
        }
        Wall::OnlyUsedBy { users, reason } => graph
            .users(member.name)
            .filter(|(user, _, _)| !users.contains(user))
            .map(|(user, folder, kind)| {
                let kind = if kind == Kind::Test { "for its tests " } else { "" };
                let allowed = if users.is_empty() { "no crate".to_owned() } else { users.join(", ") };
                let problem = format!("`{user}` depends {kind}on `{}`, which is for {allowed}", member.name);
                breach(folder, problem, reason)
            })
            .collect(),
    }
}

/// Images are built from what .dockerignore lets through: every crate of the workspace must be among it.
fn let_through(tree: &Tree, graph: &Graph, report: &mut Report) {
    const FILE: &str = ".dockerignore";
    let Some(text) = tree.text(FILE) else { return };
    for (name, folder) in graph.members() {
        let parents = folder.match_indices('/').map(|(end, _)| &folder[..end]).chain([folder]);
        if !parents.map(|folder| format!("!{folder}")).any(|line| text.lines().any(|found| found == line)) {
            let problem =
                format!("the crate `{name}` in {folder}/ is not let through: no image can be built");
            report.add(Finding::new(FILE, 0, problem, format!("add the line `!{folder}`")));
        }
    }
}

fn manifest(folder: &str) -> String {
    format!("{folder}/Cargo.toml")
}

#[cfg(test)]
mod tests {
    use super::table::Family;
    use super::*;

    const CLIENT: Family = Family { denial: "no client", packages: &["kube", "kube-*"], folders: &[] };
    const WALL: Wall = Wall::KnowsNo { family: &CLIENT, except_through: &[], reason: "a trait is enough" };

    fn member(name: &'static str, walls: &'static [Wall]) -> Member {
        Member { name, folder: name, walls }
    }

    fn findings(edges: &[(&str, &str, Kind)], members: &[Member]) -> String {
        check_graph(&Graph::of(&["a", "b", "c"], edges), members).text()
    }

    #[test]
    fn a_wall_includes_indirect_dependencies() {
        const FORBIDS_CLIENT: &[Wall] = &[WALL];
        let members = [member("a", FORBIDS_CLIENT), member("b", &[]), member("c", &[])];
        let edges =
            [("a", "b", Kind::Normal), ("b", "kube-client", Kind::Normal), ("c", "kube", Kind::Normal)];
        assert_eq!(
            findings(&edges, &members),
            "a/Cargo.toml: `a` must know no client: a -> b -> kube-client; remove the dependency: a trait is enough\n"
        );
        let tests = [("a", "kube", Kind::Test), ("b", "c", Kind::Normal)];
        assert_eq!(findings(&tests, &members), "", "tests may use what they like");
    }

    #[test]
    fn a_wall_may_have_one_door() {
        const DOOR: &[Wall] = &[Wall::KnowsNo { family: &CLIENT, except_through: &["b"], reason: "r" }];
        let members = [member("a", DOOR), member("b", &[]), member("c", &[])];
        let behind = [("a", "b", Kind::Normal), ("b", "kube", Kind::Normal)];
        assert_eq!(findings(&behind, &members), "");
        let beside = [("a", "b", Kind::Normal), ("b", "kube", Kind::Normal), ("a", "kube", Kind::Normal)];
        assert!(findings(&beside, &members).contains("a -> kube"));
    }

    #[test]
    fn a_crate_may_be_for_one_user() {
        const FOR_B: &[Wall] = &[Wall::OnlyUsedBy { users: &["b"], reason: "it is the end" }];
        let members = [member("a", FOR_B), member("b", &[]), member("c", &[])];
        let edges = [("b", "a", Kind::Normal), ("c", "a", Kind::Test)];
        assert_eq!(
            findings(&edges, &members),
            "c/Cargo.toml: `c` depends for its tests on `a`, which is for b; remove the dependency: it is the end\n"
        );
    }

    #[test]
    fn crates_and_table_are_the_same() {
        let members = [member("a", &[]), member("b", &[]), member("x", &[])];
        let text = findings(&[], &members);
        assert!(text.contains("c/Cargo.toml: the crate `c` has no walls"), "{text}");
        assert!(text.contains("the table names `x`, which is no crate of the workspace"), "{text}");
    }

    #[test]
    fn a_member_in_another_folder_is_reported() {
        let members = [Member { name: "a", folder: "old/a", walls: &[] }, member("b", &[]), member("c", &[])];
        assert!(findings(&[], &members).contains("`a` lies in a/, the table says old/a/"));
    }

    #[test]
    fn images_get_every_crate() {
        let graph = Graph::of(&["a", "b/c"], &[]);
        let missing = |text: &str| {
            let mut report = Report::default();
            let_through(&Tree::of(&[(".dockerignore", text)]), &graph, &mut report);
            report.text()
        };
        assert_eq!(missing("*\n!a\n!b\n"), "");
        assert!(missing("*\n!a\n").contains("the crate `b/c` in b/c/ is not let through"));
    }
}
