//! Route groups, each compiled once.

use std::collections::BTreeMap;
use std::sync::Arc;

use egress_policy::{FullMatch, HeaderMatch, Route};

use crate::manifest::kinds::{Headers, HttpMatch};
use crate::manifest::{Content, Key, Object};
use crate::problem::{Problem, Severity};

/// The methods that SMI knows besides `*`.
const METHODS: [&str; 9] = ["GET", "HEAD", "PUT", "POST", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// All route groups.
#[derive(Debug)]
pub(super) struct Groups<'a>(BTreeMap<&'a Key, (Vec<Route>, Vec<Problem>)>);

impl<'a> Groups<'a> {
    pub(super) fn new(objects: &BTreeMap<&'a Key, &'a Arc<Object>>) -> Self {
        let groups = objects.iter().filter_map(|(key, object)| match &object.content {
            Content::HttpRouteGroup(group) => {
                let mut problems = Vec::new();
                let matches = group.spec.matches.as_deref().unwrap_or_default();
                let routes =
                    matches.iter().enumerate().map(|(n, m)| route(key, n, m, &mut problems)).collect();
                Some((*key, (routes, problems)))
            }
            Content::MeshConfig(_)
            | Content::Egress(_)
            | Content::UpstreamTrafficSetting(_)
            | Content::MetadataOnly => None,
        });
        Self(groups.collect())
    }

    /// The routes of a group; `None` when there is no such group, an error when it is invalid.
    pub(super) fn routes(&self, key: &Key) -> Option<Result<&[Route], ()>> {
        self.0
            .get(key)
            .map(|(routes, problems)| if problems.is_empty() { Ok(routes.as_slice()) } else { Err(()) })
    }

    pub(super) fn problems(&self, key: &Key) -> &[Problem] {
        self.0.get(key).map(|(_, problems)| problems.as_slice()).unwrap_or_default()
    }
}

fn route(group: &Key, number: usize, http: &HttpMatch, problems: &mut Vec<Problem>) -> Route {
    let mut check = |field: String, pattern: &str| {
        if let Err(error) = FullMatch::new(pattern) {
            problems.push(Problem::new(Severity::Error, error.to_string()).at_field(field).advise(
                "write an RE2 expression for the whole text, without look-around and back-references",
            ));
        }
    };
    let field = format!("spec.matches[{number}]");
    let path = http.path_regex.clone().filter(|path| !path.is_empty());
    if let Some(path) = &path {
        check(format!("{field}.pathRegex"), path);
    }
    let headers: BTreeMap<String, String> = match &http.headers {
        None => BTreeMap::new(),
        Some(Headers::Map(map)) => map.iter().map(|(k, v)| (k.to_ascii_lowercase(), v.clone())).collect(),
        Some(Headers::List(list)) => {
            list.iter().flatten().map(|(k, v)| (k.to_ascii_lowercase(), v.clone())).collect()
        }
    };
    for (name, value) in &headers {
        check(format!("{field}.headers.{name}"), value);
    }
    let methods = http.methods.as_deref().unwrap_or_default();
    for (n, method) in methods.iter().enumerate() {
        if method != "*" && !METHODS.contains(&method.as_str()) {
            problems.push(
                Problem::new(Severity::Error, format!("`{method}` is no method"))
                    .at_field(format!("{field}.methods[{n}]"))
                    .advise(format!("use `*` or one of {}", METHODS.join(", "))),
            );
        }
    }
    let any_method = methods.is_empty() || methods.iter().any(|method| method == "*");
    Route {
        name: format!("{}/{}", group.name, http.name),
        path,
        methods: (!any_method).then(|| {
            let mut methods = methods.to_vec();
            methods.sort_unstable();
            methods.dedup();
            methods
        }),
        headers: headers.into_iter().map(|(name, value)| HeaderMatch { name, value }).collect(),
    }
}
