//! HTTP routes from route groups.

use std::collections::BTreeMap;
use std::sync::Arc;

use egress_policy::{FullMatch, HeaderMatch, Route};

use super::diagnostic_sink::DiagnosticSink;
use super::digest::Digest;
use super::list::List;
use super::{Invalid, Objects, StatusCollector};
use crate::budget;
use crate::manifest::spec::{Headers, HttpMatch, HttpRouteGroup};
use crate::manifest::{Body, ObjectRef};

/// The routes of each group.
pub(super) type Groups<'s> = BTreeMap<&'s ObjectRef, Result<Group, Invalid>>;

/// The routes of a group, shared by all policies that reference it.
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

    /// The number of routes.
    pub(super) fn len(&self) -> usize {
        self.routes.len()
    }

    /// Merges the routes of several groups.
    pub(super) fn merge(groups: &[&Self]) -> List<Arc<Route>> {
        match groups {
            [one] => one.list.clone(),
            several => {
                Self::new(several.iter().flat_map(|group| group.routes.iter().cloned()).collect()).list
            }
        }
    }
}

/// The HTTP methods that SMI defines.
const METHODS: [&str; 9] = ["GET", "HEAD", "PUT", "POST", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

const INVALID_PATTERN_ADVICE: &str =
    "correct the pattern; until then the http rules of policies that name this group grant nothing";
const GRANTS_NOTHING: &str = "until then the http rules of policies that name this group grant nothing";

/// Reads all route groups.
pub(super) fn read_groups<'s>(objects: &Objects<'s>, collector: &mut StatusCollector) -> Groups<'s> {
    let mut groups = Groups::new();
    for (reference, object) in objects {
        if let Body::HttpRouteGroup(group) = &object.body {
            let mut sink = DiagnosticSink::new(object);
            groups.insert(reference, read_routes(&reference.name, group, &mut sink));
            collector.record(sink, 0);
        }
    }
    groups
}

fn read_routes(group: &str, spec: &HttpRouteGroup, sink: &mut DiagnosticSink<'_>) -> Result<Group, Invalid> {
    if spec.matches.is_empty() {
        sink.warning(
            "spec.matches",
            "the group has no matches, so no request matches it",
            Some("add a match; one without `pathRegex`, `methods` and `headers` matches any request"),
        );
    }
    check_sizes(spec, sink)?;
    let (mut routes, mut valid, mut pattern_bytes) = (Vec::with_capacity(spec.matches.len()), true, 0_usize);
    // All matches are read, so that every diagnostic is reported at once.
    for (i, http) in spec.matches.iter().enumerate() {
        match read_route(group, http, &format!("spec.matches[{i}]"), sink) {
            Ok(route) => {
                pattern_bytes = pattern_bytes.saturating_add(route.pattern_bytes);
                routes.push(route);
            }
            Err(Invalid) => valid = false,
        }
        let excess = budget::check_list(
            "bytes of compiled patterns",
            pattern_bytes,
            budget::MAX_PATTERN_BYTES,
            "split the group, or merge several patterns into one",
        );
        if let Some(excess) = excess {
            // The rest is not even compiled.
            sink.too_large("spec.matches", excess, "the group");
            return Err(Invalid);
        }
    }
    if valid { Ok(Group::new(routes)) } else { Err(Invalid) }
}

/// Checks the lengths of lists and patterns before any work is done for them.
fn check_sizes(spec: &HttpRouteGroup, sink: &mut DiagnosticSink<'_>) -> Result<(), Invalid> {
    let mut valid = true;
    let mut check = |field: String, noun, amount, limit, remedy| {
        if let Some(excess) = budget::check_list(noun, amount, limit, remedy) {
            sink.too_large(&field, excess, "the group");
            valid = false;
        }
        valid
    };
    let most = budget::MAX_GROUP_MATCHES;
    if !check("spec.matches".to_owned(), "matches", spec.matches.len(), most, "split the group") {
        return Err(Invalid);
    }
    let header_count = |headers: &Option<Headers>| headers.as_ref().map_or(0, |headers| headers.0.len());
    let patterns =
        |http: &HttpMatch| header_count(&http.headers).saturating_add(usize::from(http.path_regex.is_some()));
    let count = spec.matches.iter().map(patterns).sum();
    let most = budget::MAX_PATTERNS;
    if !check("spec.matches".to_owned(), "patterns", count, most, "split the group") {
        return Err(Invalid);
    }
    for (i, HttpMatch { name: _, path_regex, methods, headers }) in spec.matches.iter().enumerate() {
        let field = |part: &str| format!("spec.matches[{i}].{part}");
        let (methods, most) = (methods.as_ref().map_or(0, Vec::len), budget::MAX_MATCH_ITEMS);
        let once = "list each one once";
        let values = headers.iter().flat_map(|headers| &headers.0).map(|header| header.value.len());
        let patterns = values.chain(path_regex.as_ref().map(String::len));
        let longest = patterns.max().unwrap_or_default();
        // One excess is enough to refuse the group.
        let fits = check(field("methods"), "methods", methods, most, once)
            && check(field("headers"), "headers", header_count(headers), most, once)
            && check(
                field("pathRegex"),
                "bytes in one pattern",
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

fn read_route(
    group: &str,
    http: &HttpMatch,
    field: &str,
    sink: &mut DiagnosticSink<'_>,
) -> Result<GroupRoute, Invalid> {
    let path = http.path_regex.clone();
    let path_size = match path.as_deref() {
        Some("") => refuse_empty(&format!("{field}.pathRegex"), "any path", sink),
        Some(path) => check_pattern(path, &format!("{field}.pathRegex"), sink),
        None => Ok(0),
    };
    let methods = match &http.methods {
        Some(texts) => read_methods(texts, field, sink),
        None => Ok(None),
    };
    let headers = match &http.headers {
        Some(list) => read_headers(list, field, sink),
        None => Ok((Vec::new(), 0)),
    };
    let path_size = path_size?;
    let (headers, header_size) = headers?;
    let route = Route { name: format!("{group}/{}", http.name), path, methods: methods?, headers };
    let digest = Digest::of(&route);
    Ok(GroupRoute { route: Arc::new(route), digest, pattern_bytes: path_size.saturating_add(header_size) })
}

/// Refuses a field that is present but empty, as it is left by mistake when its last entry is removed. Only an
/// absent field means "any".
fn refuse_empty<T>(field: &str, any: &str, sink: &mut DiagnosticSink<'_>) -> Result<T, Invalid> {
    let message = "the field is present but empty, so it matches nothing";
    let advice = format!("fill it in, or remove the field to match {any}; {GRANTS_NOTHING}");
    sink.error(field, message, Some(&advice));
    Err(Invalid)
}

/// Checks a pattern, and returns the memory that it takes in the filter.
fn check_pattern(text: &str, field: &str, sink: &mut DiagnosticSink<'_>) -> Result<usize, Invalid> {
    match FullMatch::new(text) {
        Ok(_) => Ok(budget::pattern_memory(FullMatch::compiled_size(text))),
        Err(error) => {
            sink.error(field, error.to_string(), Some(INVALID_PATTERN_ADVICE));
            Err(Invalid)
        }
    }
}

/// Reads the methods of a match; `None` means any method.
fn read_methods(
    texts: &[String],
    field: &str,
    sink: &mut DiagnosticSink<'_>,
) -> Result<Option<Vec<String>>, Invalid> {
    let mut valid = true;
    let mut methods = Vec::new();
    if texts.iter().all(String::is_empty) {
        return refuse_empty(&format!("{field}.methods"), "any method", sink);
    }
    for (i, text) in texts.iter().enumerate().filter(|(_, text)| !text.is_empty()) {
        let upper = text.to_ascii_uppercase();
        if text != "*" && !METHODS.contains(&upper.as_str()) {
            valid = false;
            let message = format!("`{text}` is not an SMI method");
            sink.error(&format!("{field}.methods[{i}]"), message, Some("write `*`, `GET`, `HEAD`, `PUT`, `POST`, `DELETE`, `CONNECT`, `OPTIONS`, `TRACE` or `PATCH`"));
        }
        methods.push(upper);
    }
    methods.sort_unstable();
    methods.dedup();
    let any = methods.iter().any(|method| method == "*");
    if valid { Ok(if any { None } else { Some(methods) }) } else { Err(Invalid) }
}

fn read_headers(
    headers: &Headers,
    field: &str,
    sink: &mut DiagnosticSink<'_>,
) -> Result<(Vec<HeaderMatch>, usize), Invalid> {
    let (mut valid, mut size) = (true, 0_usize);
    let mut patterns = BTreeMap::new();
    if headers.0.is_empty() {
        return refuse_empty(&format!("{field}.headers"), "any headers", sink);
    }
    for header in &headers.0 {
        let name = header.name.to_ascii_lowercase();
        let field = match header.item {
            Some(item) => format!("{field}.headers[{item}]"),
            None => format!("{field}.headers"),
        };
        if !is_header_name(&name) {
            valid = false;
            let message = format!("`{}` is not a header name", header.name);
            sink.error(&field, message, Some("to match the authority, use `host`"));
        }
        match check_pattern(&header.value, &field, sink) {
            Ok(bytes) => size = size.saturating_add(bytes),
            Err(Invalid) => valid = false,
        }
        if patterns.insert(name, header.value.clone()).is_some() {
            let message = format!("header `{}` is listed twice; only the last one applies", header.name);
            sink.warning(&field, message, Some("combine both into one pattern"));
        }
    }
    if !valid {
        return Err(Invalid);
    }
    Ok((patterns.into_iter().map(|(name, value)| HeaderMatch { name, value }).collect(), size))
}

/// Returns true for header names of RFC 9110 §5.6.2. Pseudo-headers are not header names.
fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}
