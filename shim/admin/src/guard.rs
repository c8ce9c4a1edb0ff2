//! Keeps web pages of others out. A browser goes wherever a page sends it: to this port of its own machine, or of a
//! network that only it can reach.
//!
//! * **Rebinding**: a name of theirs that suddenly leads here makes us, for the browser, the same site. Such a request
//!   carries their name; so only addresses, `localhost` and names that were given by `--admin-host` are answered.
//! * **Cross-site requests**: what a browser says of where a request came from is believed when it says: elsewhere.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{self, HeaderName};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// What a browser may do with the console: its own files, its own origin, and nothing else.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// A name by which the admin interface may be asked, in lower case and without a port.
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

/// Lets a request through, or says why not.
pub(super) async fn guard(State(names): State<Arc<[HostName]>>, request: Request, next: Next) -> Response {
    match check(&names, &request) {
        Ok(()) => next.run(request).await,
        Err(why) => (StatusCode::FORBIDDEN, format!("{why}\n")).into_response(),
    }
}

fn check(names: &[HostName], request: &Request) -> Result<(), String> {
    let headers = request.headers();
    let host = match request.uri().authority() {
        Some(authority) => authority.clone(),
        None => only(headers, &header::HOST)?
            .and_then(|host| host.parse::<Authority>().ok())
            .ok_or("the request does not say for which host it is")?,
    };
    if host.as_str().contains('@') || !is_ours(host.host(), names) {
        return Err(format!(
            "`{}` is not a name of this control plane: use its address or `localhost`, or pass `--admin-host` to \
             `osm-egress serve`",
            host.host().escape_default()
        ));
    }
    if let Some(origin) = only(headers, &header::ORIGIN)? {
        let own = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        if !own.is_some_and(|own| own.eq_ignore_ascii_case(host.as_str())) {
            return Err("the request comes from another site".to_owned());
        }
    }
    // A link from elsewhere is fine: it shows the page to who follows it, and to nobody else.
    let navigates = request.method().is_safe() && only(headers, &FETCH_MODE)? == Some("navigate");
    match only(headers, &FETCH_SITE)? {
        None | Some("same-origin" | "none") => Ok(()),
        Some(_) if navigates => Ok(()),
        Some(_) => Err("the request comes from another site".to_owned()),
    }
}

/// The value of a header that there is once at most.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, String> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            value.to_str().map(Some).map_err(|_| format!("the header `{name}` cannot be read"))
        }
        (Some(_), Some(_)) => Err(format!("the header `{name}` is there twice")),
    }
}

fn is_ours(host: &str, names: &[HostName]) -> bool {
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

/// What every answer carries, unless it says otherwise.
pub(super) async fn headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (RESOURCE_POLICY, "same-origin"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}
