//! The table of walls: every crate of the workspace, and what it may not know.
//!
//! A crate that is not in the table fails the check, and so does an entry without a crate. A new crate gets an entry
//! with the walls of the crates beside it.

use std::fmt;

/// A kind of dependency.
#[derive(Debug)]
pub(super) struct Family {
    /// With "no": "no Kubernetes client".
    pub(super) denial: &'static str,
    /// Names of packages; `tokio-*` stands for all that begin so.
    pub(super) packages: &'static [&'static str],
    /// Our own crates, by the folder in which they lie; "" is every crate of ours.
    pub(super) folders: &'static [&'static str],
}

impl Family {
    /// Tests a package for this kind. `folder` is that of a crate of ours.
    pub(super) fn has(&self, package: &str, folder: Option<&str>) -> bool {
        let named = |pattern: &&str| match pattern.strip_suffix('*') {
            Some(start) => package.starts_with(start),
            None => package == *pattern,
        };
        let lies_in = |folder: &str| {
            let within = |top: &&str| {
                folder.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            self.folders.iter().any(|top| top.is_empty() || within(top))
        };
        self.packages.iter().any(named) || folder.is_some_and(lies_in)
    }
}

/// Something that a crate may not know, or that may not know the crate.
#[derive(Debug)]
pub(super) enum Wall {
    /// Not itself and not through its dependencies, except through those named.
    KnowsNo { family: &'static Family, except_through: &'static [&'static str], reason: &'static str },
    /// Only these depend on it, not even for tests.
    OnlyUsedBy { users: &'static [&'static str], reason: &'static str },
}

impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KnowsNo { family, except_through: [], reason } => {
                write!(f, "knows {}: {reason}", family.denial)
            }
            Self::KnowsNo { family, except_through, reason } => {
                write!(f, "knows {} except through {}: {reason}", family.denial, except_through.join(", "))
            }
            Self::OnlyUsedBy { users: [], reason } => write!(f, "is used by no crate: {reason}"),
            Self::OnlyUsedBy { users, reason } => {
                write!(f, "is used by {} alone: {reason}", users.join(", "))
            }
        }
    }
}

/// A crate of the workspace.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: &'static str,
    pub(super) folder: &'static str,
    pub(super) walls: &'static [Wall],
}

const fn forbids(family: &'static Family, reason: &'static str) -> Wall {
    Wall::KnowsNo { family, except_through: &[], reason }
}

const IO: Family = Family {
    denial: "no I/O and no runtime for it",
    packages: &[
        "async-io",
        "async-std",
        "axum*",
        "h2",
        "hyper*",
        "mio",
        "nix",
        "notify*",
        "reqwest",
        "rusqlite",
        "rustix",
        "rustls*",
        "smol",
        "socket2",
        "tempfile",
        "tokio*",
        "tower*",
        "ureq",
    ],
    folders: &[],
};
const ENVOY: Family = Family {
    denial: "no protobuf of Envoy's",
    packages: &["envoy-types", "prost*", "protobuf*", "tonic*"],
    folders: &["shim/envoy"],
};
const GRPC: Family = Family { denial: "no gRPC (tonic)", packages: &["tonic*"], folders: &[] };
const KUBERNETES: Family = Family {
    denial: "no Kubernetes client",
    packages: &["k8s-openapi", "kube", "kube-*"],
    folders: &["shim/kubernetes"],
};
const SDK: Family = Family { denial: "no proxy-wasm SDK", packages: &["proxy-wasm*"], folders: &[] };
const FILTER: Family = Family { denial: "no filter", packages: &["proxy-wasm*"], folders: &["filter-wasm"] };
const CONTROL_PLANE: Family =
    Family { denial: "nothing of the control plane", packages: &[], folders: &["shim"] };
/// All but what the others share.
const REST_OF_CONTROL_PLANE: Family = Family {
    denial: "no other part of the control plane",
    packages: &["egress-shim"],
    folders: &[
        "shim/admin",
        "shim/cni",
        "shim/envoy",
        "shim/flows",
        "shim/folder",
        "shim/inject",
        "shim/install",
        "shim/kubernetes",
        "shim/status",
        "shim/xds",
    ],
};
const OURS: Family = Family { denial: "no other crate of ours", packages: &[], folders: &[""] };

const PURE: &str = "it gives the same answer on the host, in Envoy and in a browser";
const FILTER_APART: &str =
    "filter and control plane share the document and the contract, which are in `policy`";
const GRPC_IN_XDS: &str =
    "streams are the business of egress-xds, so that this part is tested without a server";

const SHARED: &str = "all parts of the control plane share it, and none may come with it";
const STATUS_IS_DATA: &str =
    "the command line reads it from an admin port, without the parts that it tells of";

const NO_IO: Wall = forbids(&IO, PURE);
const NO_ENVOY: Wall = forbids(&ENVOY, PURE);
const NO_CLIENT: Wall = forbids(&KUBERNETES, PURE);
const NO_SDK: Wall = forbids(&SDK, PURE);
const NO_FILTER: Wall = forbids(&FILTER, FILTER_APART);
/// envoy-types has tonic among its own dependencies, and Envoy's messages are needed more widely than streams.
const NO_GRPC: Wall =
    Wall::KnowsNo { family: &GRPC, except_through: &["egress-envoy", "envoy-types"], reason: GRPC_IN_XDS };

pub(super) const MEMBERS: &[Member] = &[
    Member {
        name: "egress-policy",
        folder: "policy",
        walls: &[forbids(&OURS, "everything else builds on it"), NO_IO, NO_ENVOY, NO_CLIENT, NO_SDK],
    },
    Member {
        name: "egress-compile",
        folder: "compile",
        walls: &[
            forbids(&CONTROL_PLANE, "it turns text into documents, for whoever has the text"),
            NO_IO,
            NO_ENVOY,
            NO_CLIENT,
            NO_FILTER,
        ],
    },
    Member {
        name: "egress-filter",
        folder: "filter-wasm",
        walls: &[
            forbids(&CONTROL_PLANE, FILTER_APART),
            forbids(&IO, "it runs in Envoy, which does all I/O"),
            forbids(&ENVOY, "it knows Envoy by the proxy-wasm interface alone"),
            forbids(&KUBERNETES, "it learns of policy from its document alone"),
        ],
    },
    Member {
        name: "egress-playground",
        folder: "playground",
        walls: &[NO_IO, forbids(&KUBERNETES, "a browser has no cluster"), NO_FILTER],
    },
    Member {
        name: "egress-standalone",
        folder: "standalone",
        walls: &[NO_IO, NO_CLIENT, NO_FILTER, forbids(&ENVOY, "it writes text, for a browser too")],
    },
    Member {
        name: "egress-core",
        folder: "shim/core",
        walls: &[
            forbids(&ENVOY, SHARED),
            forbids(&KUBERNETES, SHARED),
            forbids(&REST_OF_CONTROL_PLANE, SHARED),
            NO_FILTER,
        ],
    },
    Member {
        name: "egress-transport",
        folder: "shim/transport",
        walls: &[
            forbids(&ENVOY, SHARED),
            forbids(&KUBERNETES, SHARED),
            forbids(&REST_OF_CONTROL_PLANE, SHARED),
            NO_FILTER,
        ],
    },
    Member {
        name: "egress-status",
        folder: "shim/status",
        walls: &[forbids(&ENVOY, STATUS_IS_DATA), forbids(&KUBERNETES, STATUS_IS_DATA), NO_FILTER],
    },
    Member {
        name: "egress-folder",
        folder: "shim/folder",
        walls: &[
            forbids(&ENVOY, "a source gives objects, and knows nobody who uses them"),
            forbids(&KUBERNETES, "it is the source of those who have no cluster"),
            NO_FILTER,
        ],
    },
    Member {
        name: "egress-envoy",
        folder: "shim/envoy",
        walls: &[
            forbids(&KUBERNETES, "Envoy's configuration follows from documents, wherever policy comes from"),
            NO_FILTER,
        ],
    },
    Member {
        name: "egress-xds",
        folder: "shim/xds",
        walls: &[
            forbids(
                &KUBERNETES,
                "what needs a cluster comes through traits, so that streams are tested without one",
            ),
            NO_FILTER,
        ],
    },
    Member { name: "egress-kubernetes", folder: "shim/kubernetes", walls: &[NO_GRPC, NO_FILTER] },
    Member {
        name: "egress-flows",
        folder: "shim/flows",
        walls: &[
            NO_GRPC,
            forbids(&KUBERNETES, "flows come from proxies, with or without a cluster"),
            NO_FILTER,
        ],
    },
    Member { name: "egress-inject", folder: "shim/inject", walls: &[NO_GRPC, NO_FILTER] },
    Member { name: "egress-cni", folder: "shim/cni", walls: &[NO_GRPC, NO_FILTER] },
    Member { name: "egress-install", folder: "shim/install", walls: &[NO_GRPC, NO_FILTER] },
    Member {
        name: "egress-admin",
        folder: "shim/admin",
        walls: &[
            Wall::OnlyUsedBy {
                users: &["egress-shim", "egress-tests"],
                reason: "it shows what the other parts do, and none of them waits for it",
            },
            NO_FILTER,
        ],
    },
    Member { name: "egress-shim", folder: "shim", walls: &[NO_FILTER] },
    Member {
        name: "egress-tests",
        folder: "tests",
        walls: &[Wall::OnlyUsedBy { users: &[], reason: "it is the harness, and ships nowhere" }],
    },
    Member {
        name: "xtask",
        folder: "xtask",
        walls: &[
            forbids(&OURS, "it builds them, and must run when they do not compile"),
            Wall::OnlyUsedBy { users: &[], reason: "it is the door to development, and ships nowhere" },
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_matches_packages_by_name_or_prefix_and_crates_by_folder() {
        assert!(KUBERNETES.has("kube", None) && KUBERNETES.has("kube-client", None));
        assert!(!KUBERNETES.has("kubernetes", None));
        assert!(CONTROL_PLANE.has("egress-shim", Some("shim")));
        assert!(CONTROL_PLANE.has("egress-xds", Some("shim/xds")));
        assert!(!CONTROL_PLANE.has("x", Some("shimmer")));
        assert!(OURS.has("egress-policy", Some("policy")) && !OURS.has("serde", None));
    }
}
