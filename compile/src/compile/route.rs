//! Route groups.

use std::collections::BTreeMap;

use egress_policy::{FullMatch, HeaderMatch, Route};

use super::issues::Issues;
use super::{Compiler, Invalid, Objects};
use crate::manifest::spec::{Headers, HttpMatch, HttpRouteGroup};
use crate::manifest::{Body, ObjectRef};

/// The routes of each group.
pub(super) type Groups<'s> = BTreeMap<&'s ObjectRef, Result<Vec<Route>, Invalid>>;

/// The methods that SMI knows.
const METHODS: [&str; 9] = ["GET", "HEAD", "PUT", "POST", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

const NO_RULE: &str = "correct it: until then the http rules of policies that name this group grant nothing";

/// Reads all groups.
pub(super) fn groups<'s>(objects: &Objects<'s>, compiler: &mut Compiler) -> Groups<'s> {
    let mut groups = Groups::new();
    for (reference, object) in objects {
        if let Body::HttpRouteGroup(group) = &object.body {
            let mut issues = Issues::new(object);
            groups.insert(reference, routes(&reference.name, group, &mut issues));
            compiler.describe(issues, 0);
        }
    }
    groups
}

fn routes(group: &str, spec: &HttpRouteGroup, issues: &mut Issues<'_>) -> Result<Vec<Route>, Invalid> {
    if spec.matches.is_empty() {
        issues.warning(
            "spec.matches",
            "the group has no matches, so no request matches it",
            Some("add a match; one without `pathRegex`, `methods` and `headers` matches any request"),
        );
    }
    // All of them, so that every problem is named at once.
    let routes: Vec<_> = spec
        .matches
        .iter()
        .enumerate()
        .map(|(i, http)| route(group, http, &format!("spec.matches[{i}]"), issues))
        .collect();
    routes.into_iter().collect()
}

fn route(group: &str, http: &HttpMatch, field: &str, issues: &mut Issues<'_>) -> Result<Route, Invalid> {
    let path = http.path_regex.clone().filter(|path| !path.is_empty());
    let path_is_valid = match path.as_deref() {
        Some(path) => pattern(path, &format!("{field}.pathRegex"), issues),
        None => Ok(()),
    };
    let methods = methods(http.methods.as_deref().unwrap_or_default(), field, issues);
    let headers = headers(&http.headers, field, issues);
    path_is_valid?;
    Ok(Route { name: format!("{group}/{}", http.name), path, methods: methods?, headers: headers? })
}

fn pattern(text: &str, field: &str, issues: &mut Issues<'_>) -> Result<(), Invalid> {
    match FullMatch::new(text) {
        Ok(_) => Ok(()),
        Err(error) => {
            issues.error(field, error.to_string(), Some(NO_RULE));
            Err(Invalid)
        }
    }
}

/// `None`: any method.
fn methods(texts: &[String], field: &str, issues: &mut Issues<'_>) -> Result<Option<Vec<String>>, Invalid> {
    let mut valid = true;
    let mut methods = Vec::new();
    for (i, text) in texts.iter().enumerate().filter(|(_, text)| !text.is_empty()) {
        let upper = text.to_ascii_uppercase();
        if text != "*" && !METHODS.contains(&upper.as_str()) {
            valid = false;
            let message = format!("`{text}` is not a method that SMI knows");
            issues.error(&format!("{field}.methods[{i}]"), message, Some("write `*`, `GET`, `HEAD`, `PUT`, `POST`, `DELETE`, `CONNECT`, `OPTIONS`, `TRACE` or `PATCH`"));
        }
        methods.push(upper);
    }
    methods.sort_unstable();
    methods.dedup();
    let any = methods.is_empty() || methods.iter().any(|method| method == "*");
    if valid { Ok(if any { None } else { Some(methods) }) } else { Err(Invalid) }
}

fn headers(headers: &Headers, field: &str, issues: &mut Issues<'_>) -> Result<Vec<HeaderMatch>, Invalid> {
    let mut valid = true;
    let mut patterns = BTreeMap::new();
    for header in &headers.0 {
        let name = header.name.to_ascii_lowercase();
        let field = match header.item {
            Some(item) => format!("{field}.headers[{item}]"),
            None => format!("{field}.headers"),
        };
        if !is_header_name(&name) {
            valid = false;
            let message = format!("`{}` is not a header's name", header.name);
            issues.error(&field, message, Some("for the request's authority, write `host`"));
        }
        valid &= pattern(&header.value, &field, issues).is_ok();
        if patterns.insert(name, header.value.clone()).is_some() {
            let message = format!("header `{}` stands here twice; the last one counts", header.name);
            issues.warning(&field, message, Some("write one pattern that says both"));
        }
    }
    if !valid {
        return Err(Invalid);
    }
    Ok(patterns.into_iter().map(|(name, value)| HeaderMatch { name, value }).collect())
}

/// RFC 9110 §5.6.2; pseudo-headers are none.
fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}
