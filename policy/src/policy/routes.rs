use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::path::{self, EncodedSlashes, has_dot_segment};
use crate::{FullMatch, PatternError, Route};

/// An HTTP request, as far as a policy evaluates it.
pub struct Request<'a> {
    /// `:authority`, or `Host` in HTTP/1.1; `None` when there is none.
    pub authority: Option<&'a str>,
    /// The method.
    pub method: &'a str,
    /// The normalised path, with or without a query.
    pub path: &'a str,
    /// The value of `Upgrade`, where the request asks to change the protocol.
    pub upgrade: Option<&'a str>,
    /// The other headers.
    pub headers: &'a dyn Headers,
}

/// A look-up of headers by lower-case name.
pub trait Headers {
    /// Returns the values of all fields of this name, in order: none where there is no such field, and where one of them
    /// is not UTF-8.
    fn values(&self, name: &str) -> Vec<Cow<'_, str>>;
}

/// Matches all values of a header: each field's, because a server may read any one of them, and all of them joined by
/// commas (RFC 9110 §5.3), as other servers read them and as Envoy's own matchers compare them.
pub(crate) fn all_match(pattern: &FullMatch, values: &[Cow<'_, str>]) -> bool {
    values.iter().all(|value| pattern.matches(value))
        && match values {
            [] => false,
            [_] => true,
            several => pattern.matches(&several.join(",")),
        }
}

/// The routes of a rule: a request needs one of them.
#[derive(Debug)]
pub(super) struct Routes(Vec<CompiledRoute>);

#[derive(Debug)]
struct CompiledRoute {
    path: Option<PathPattern>,
    methods: Option<Vec<String>>,
    headers: Vec<(String, FullMatch)>,
}

/// A pattern for paths, and the encoded slashes that it contains.
#[derive(Debug)]
struct PathPattern {
    pattern: FullMatch,
    slashes: EncodedSlashes,
}

impl PathPattern {
    fn new(text: &str) -> Result<Self, PatternError> {
        Ok(Self { pattern: FullMatch::new(text)?, slashes: EncodedSlashes::find_in(text) })
    }

    /// Matches a path whose encoded slashes are in the pattern.
    fn matches(&self, path: &str) -> bool {
        path::matches(&self.pattern, path) && !has_dot_segment(path)
    }
}

impl Routes {
    /// Compiles routes; an error names the route.
    pub(super) fn new(routes: &[Arc<Route>]) -> Result<Self, (String, PatternError)> {
        let compile = |route: &Route| {
            Ok(CompiledRoute {
                path: route.path.as_deref().map(PathPattern::new).transpose()?,
                methods: route.methods.clone(),
                headers: route
                    .headers
                    .iter()
                    .map(|header| Ok((header.name.to_ascii_lowercase(), FullMatch::new(&header.value)?)))
                    .collect::<Result<_, _>>()?,
            })
        };
        routes
            .iter()
            .map(|route| compile(route).map_err(|cause| (route.name.clone(), cause)))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Returns whether one of the routes matches a request for this canonical host.
    pub(super) fn match_any(&self, host: &str, request: &Request<'_>) -> bool {
        let (path, slashes) = path_without_query(request);
        self.0.iter().any(|route| route.permits_slashes(slashes) && route.matches(path, host, request))
    }

    /// Returns whether one of the routes would match if its pattern contained the path's encoded slashes.
    pub(super) fn match_but_for_slash(&self, host: &str, request: &Request<'_>) -> bool {
        let (path, slashes) = path_without_query(request);
        self.0.iter().any(|route| !route.permits_slashes(slashes) && route.matches(path, host, request))
    }
}

impl CompiledRoute {
    fn permits_slashes(&self, slashes: EncodedSlashes) -> bool {
        self.path.as_ref().is_none_or(|pattern| slashes.is_subset_of(pattern.slashes))
    }

    fn matches(&self, path: &str, host: &str, request: &Request<'_>) -> bool {
        self.path.as_ref().is_none_or(|pattern| pattern.matches(path))
            && self.methods.as_ref().is_none_or(|methods| methods.iter().any(|m| m == request.method))
            && self.headers.iter().all(|(name, pattern)| match name.as_str() {
                "host" => pattern.matches(host),
                name => all_match(pattern, &request.headers.values(name)),
            })
    }
}

fn path_without_query<'r>(request: &Request<'r>) -> (&'r str, EncodedSlashes) {
    let path = request.path.split(['?', '#']).next().unwrap_or_default();
    (path, EncodedSlashes::find_in(path))
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { authority, method, path, upgrade, headers: _ } = self;
        f.debug_struct("Request")
            .field("authority", authority)
            .field("method", method)
            .field("path", path)
            .field("upgrade", upgrade)
            .finish_non_exhaustive()
    }
}
