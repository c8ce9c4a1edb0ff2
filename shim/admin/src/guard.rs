//! Protection against web pages of other sites. A browser sends requests wherever a page points it: to this port of
//! its own machine, or of a network that only the browser can reach.
//!
//! * **DNS rebinding**: an attacker's name that suddenly resolves to this address makes this port, for the browser,
//!   the attacker's site. Such a request carries the attacker's name; therefore only addresses, `localhost` and the
//!   names of `--admin-host` are answered.
//! * **Cross-site requests**: a request is refused if the browser says that it comes from another site.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{self, HeaderName};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Content security policy of the console: its own files, its own origin, and nothing else.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Host name of the admin interface, in lower case and without a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName(String);

impl FromStr for HostName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_name =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        if text.is_empty() || !is_name(text) {
            return Err("write a host name, without scheme and port");
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

/// Lets a request pass, or refuses it with a reason.
pub(super) async fn check_request(
    State(names): State<Arc<[HostName]>>,
    request: Request,
    next: Next,
) -> Response {
    match check_site(&names, &request) {
        Ok(()) => next.run(request).await,
        Err(why) => (StatusCode::FORBIDDEN, format!("{why}\n")).into_response(),
    }
}

fn check_site(names: &[HostName], request: &Request) -> Result<(), String> {
    let headers = request.headers();
    let host = match request.uri().authority() {
        Some(authority) => authority.clone(),
        None => single_header(headers, &header::HOST)?
            .and_then(|host| host.parse::<Authority>().ok())
            .ok_or("the request has no valid `Host` header")?,
    };
    if host.as_str().contains('@') || !is_allowed_host(host.host(), names) {
        return Err(format!(
            "`{}` is not a name of this control plane: use its address or `localhost`, or pass `--admin-host` to \
             `osm-egress serve`",
            host.host().escape_default()
        ));
    }
    if let Some(origin) = single_header(headers, &header::ORIGIN)? {
        let own = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        if !own.is_some_and(|own| own.eq_ignore_ascii_case(host.as_str())) {
            return Err("the request comes from another site".to_owned());
        }
    }
    // A link from another site may navigate to the page: the page is shown to the user only.
    let navigates = request.method().is_safe() && single_header(headers, &FETCH_MODE)? == Some("navigate");
    match single_header(headers, &FETCH_SITE)? {
        None | Some("same-origin" | "none") => Ok(()),
        Some(_) if navigates => Ok(()),
        Some(_) => Err("the request comes from another site".to_owned()),
    }
}

/// Returns the value of a header that may occur at most once.
fn single_header<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, String> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            value.to_str().map(Some).map_err(|_| format!("the header `{name}` cannot be read"))
        }
        (Some(_), Some(_)) => Err(format!("the header `{name}` occurs more than once")),
    }
}

fn is_allowed_host(host: &str, names: &[HostName]) -> bool {
    let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match literal {
        Some(literal) => literal.parse::<Ipv6Addr>().is_ok(),
        None => {
            host.parse::<IpAddr>().is_ok()
                || host.eq_ignore_ascii_case("localhost")
                || names.iter().any(|name| name.0.eq_ignore_ascii_case(host))
        }
    }
}

/// Adds the security headers that an answer does not set itself.
pub(super) async fn add_security_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}
