//! Route groups.

use std::collections::BTreeMap;
use std::sync::Arc;

use egress_policy::{FullMatch, HeaderMatch, Route};

use super::digest::Digest;
use super::diagnostic_sink::Issues;
use super::list::List;
use super::{Compiler, Invalid, Objects};
use crate::budget;
use crate::manifest::spec::{Headers, HttpMatch, HttpRouteGroup};
use crate::manifest::{Body, ObjectRef};

/// The routes of each group.
pub(super) type Groups<'s> = BTreeMap<&'s ObjectRef, Result<Group, Invalid>>;

/// The routes of a group, shared by all policies that name it.
#[derive(Clone, Debug)]
pub(super) struct Group {
    routes: Vec<GroupRoute>,
    list: List<Arc<Route>>,
}

#[derive(Clone, Debug)]
struct GroupRoute {
    route: Arc<Route>,
    digest: Digest,
    /// The memory of its patterns in the filter.
    pattern_bytes: usize,
}

impl Group {
    fn new(mut routes: Vec<GroupRoute>) -> Self {
        routes.sort_by(|a, b| a.route.cmp(&b.route));
        routes.dedup_by(|a, b| a.route == b.route);
        let list = List {
            items: routes.iter().map(|route| Arc::clone(&route.route)).collect(),
            digest: Digest::join(routes.iter().map(|route| &route.digest)),
            pattern_bytes: routes.iter().map(|route| route.pattern_bytes).sum(),
        };
        Self { routes, list }
    }

    /// How many routes it has.
    pub(super) fn len(&self) -> usize {
        self.routes.len()
    }

    /// The routes of several groups together.
    pub(super) fn merge(groups: &[&Self]) -> List<Arc<Route>> {
        match groups {
            [one] => one.list.clone(),
            several => {
                Self::new(several.iter().flat_map(|group| group.routes.iter().cloned()).collect()).list
            }
        }
    }
}

/// The methods that SMI knows.
const METHODS: [&str; 9] = ["GET", "HEAD", "PUT", "POST", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

const NO_RULE: &str = "correct it: until then the http rules of policies that name this group grant nothing";
const UNTIL_THEN: &str = "until then the http rules of policies that name this group grant nothing";

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

fn routes(group: &str, spec: &HttpRouteGroup, issues: &mut Issues<'_>) -> Result<Group, Invalid> {
    if spec.matches.is_empty() {
        issues.warning(
            "spec.matches",
            "the group has no matches, so no request matches it",
            Some("add a match; one without `pathRegex`, `methods` and `headers` matches any request"),
        );
    }
    check_sizes(spec, issues)?;
    let (mut routes, mut valid, mut pattern_bytes) = (Vec::with_capacity(spec.matches.len()), true, 0);
    // All of them, so that every problem is named at once.
    for (i, http) in spec.matches.iter().enumerate() {
        match route(group, http, &format!("spec.matches[{i}]"), issues) {
            Ok(route) => {
                pattern_bytes += route.pattern_bytes;
                routes.push(route);
            }
            Err(Invalid) => valid = false,
        }
        let excess = budget::list(
            "bytes of compiled patterns",
            pattern_bytes,
            budget::MAX_PATTERN_BYTES,
            "split the group, or say with one pattern what several say",
        );
        if let Some(excess) = excess {
            // The rest is not even compiled.
            issues.too_large("spec.matches", excess, "the group");
            return Err(Invalid);
        }
    }
    if valid { Ok(Group::new(routes)) } else { Err(Invalid) }
}

/// Checks the lengths of lists and patterns, before anything is made of them.
fn check_sizes(spec: &HttpRouteGroup, issues: &mut Issues<'_>) -> Result<(), Invalid> {
    let mut valid = true;
    let mut check = |field: String, noun, amount, limit, remedy| {
        if let Some(excess) = budget::list(noun, amount, limit, remedy) {
            issues.too_large(&field, excess, "the group");
            valid = false;
        }
        valid
    };
    let most = budget::MAX_GROUP_MATCHES;
    if !check("spec.matches".to_owned(), "matches", spec.matches.len(), most, "split the group") {
        return Err(Invalid);
    }
    let header_count = |headers: &Option<Headers>| headers.as_ref().map_or(0, |headers| headers.0.len());
    let patterns = |http: &HttpMatch| header_count(&http.headers) + usize::from(http.path_regex.is_some());
    let count = spec.matches.iter().map(patterns).sum();
    let most = budget::MAX_PATTERN_BYTES / budget::pattern_memory(0);
    if !check("spec.matches".to_owned(), "patterns", count, most, "split the group") {
        return Err(Invalid);
    }
    for (i, HttpMatch { name: _, path_regex, methods, headers }) in spec.matches.iter().enumerate() {
        let field = |part: &str| format!("spec.matches[{i}].{part}");
        let (methods, most) = (methods.as_ref().map_or(0, Vec::len), budget::MAX_MATCH_ITEMS);
        let once = "list each once";
        let values = headers.iter().flat_map(|headers| &headers.0).map(|header| header.value.len());
        let patterns = values.chain(path_regex.as_ref().map(String::len));
        let longest = patterns.max().unwrap_or_default();
        // One of a kind is enough to refuse the group.
        let fits = check(field("methods"), "methods", methods, most, once)
            && check(field("headers"), "headers", header_count(headers), most, once)
            && check(
                field("pathRegex"),
                "bytes of one pattern",
                longest,
                budget::MAX_PATTERN_LENGTH,
                "split the pattern into several matches",
            );
        if !fits {
            return Err(Invalid);
        }
    }
    Ok(())
}

fn route(group: &str, http: &HttpMatch, field: &str, issues: &mut Issues<'_>) -> Result<GroupRoute, Invalid> {
    let path = http.path_regex.clone();
    let path_size = match path.as_deref() {
        Some("") => empty(&format!("{field}.pathRegex"), "any path", issues),
        Some(path) => pattern(path, &format!("{field}.pathRegex"), issues),
        None => Ok(0),
    };
    let methods = match &http.methods {
        Some(texts) => methods(texts, field, issues),
        None => Ok(None),
    };
    let headers = match &http.headers {
        Some(list) => headers(list, field, issues),
        None => Ok((Vec::new(), 0)),
    };
    let path_size = path_size?;
    let (headers, header_size) = headers?;
    let route = Route { name: format!("{group}/{}", http.name), path, methods: methods?, headers };
    let digest = Digest::of(&route);
    Ok(GroupRoute { route: Arc::new(route), digest, pattern_bytes: path_size + header_size })
}

/// Refuses a field that is there and empty: by a slip, nothing is left of a list, and only a field that is absent
/// means "any".
fn empty<T>(field: &str, any: &str, issues: &mut Issues<'_>) -> Result<T, Invalid> {
    let message = "it is there and empty, so it matches nothing";
    let advice = format!("write what is meant, or remove the field to match {any}: {UNTIL_THEN}");
    issues.error(field, message, Some(&advice));
    Err(Invalid)
}

/// Checks a pattern; returns the memory that it has in the filter.
fn pattern(text: &str, field: &str, issues: &mut Issues<'_>) -> Result<usize, Invalid> {
    match FullMatch::new(text) {
        Ok(_) => Ok(budget::pattern_memory(FullMatch::compiled_size(text))),
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
    if texts.iter().all(String::is_empty) {
        return empty(&format!("{field}.methods"), "any method", issues);
    }
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
    let any = methods.iter().any(|method| method == "*");
    if valid { Ok(if any { None } else { Some(methods) }) } else { Err(Invalid) }
}

fn headers(
    headers: &Headers,
    field: &str,
    issues: &mut Issues<'_>,
) -> Result<(Vec<HeaderMatch>, usize), Invalid> {
    let (mut valid, mut size) = (true, 0);
    let mut patterns = BTreeMap::new();
    if headers.0.is_empty() {
        return empty(&format!("{field}.headers"), "any headers", issues);
    }
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
        match pattern(&header.value, &field, issues) {
            Ok(bytes) => size += bytes,
            Err(Invalid) => valid = false,
        }
        if patterns.insert(name, header.value.clone()).is_some() {
            let message = format!("header `{}` stands here twice; the last one counts", header.name);
            issues.warning(&field, message, Some("write one pattern that says both"));
        }
    }
    if !valid {
        return Err(Invalid);
    }
    Ok((patterns.into_iter().map(|(name, value)| HeaderMatch { name, value }).collect(), size))
}

/// RFC 9110 §5.6.2; pseudo-headers are none.
fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}
