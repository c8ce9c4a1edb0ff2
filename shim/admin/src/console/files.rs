//! Files of the page, embedded in the binary. The page loads nothing from elsewhere.

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use egress_core::hash;

struct StaticFile {
    name: &'static str,
    kind: &'static str,
    content: &'static str,
}

const INDEX: &str = "index.html";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
/// Files that the playground also has are the playground's, so that both look alike.
const FILES: [StaticFile; 8] = [
    StaticFile { name: INDEX, kind: "text/html; charset=utf-8", content: include_str!("page/index.html") },
    StaticFile { name: "base.css", kind: CSS, content: include_str!("../../../../playground/page/base.css") },
    StaticFile { name: "style.css", kind: CSS, content: include_str!("page/style.css") },
    StaticFile { name: "console.js", kind: SCRIPT, content: include_str!("page/console.js") },
    StaticFile { name: "common.js", kind: SCRIPT, content: include_str!("page/common.js") },
    StaticFile { name: "flows.js", kind: SCRIPT, content: include_str!("page/flows.js") },
    StaticFile {
        name: "answer.js",
        kind: SCRIPT,
        content: include_str!("../../../../playground/page/answer.js"),
    },
    StaticFile {
        name: "icon.svg",
        kind: "image/svg+xml",
        content: include_str!("../../../../playground/page/icon.svg"),
    },
];

pub(super) async fn index(headers: HeaderMap) -> Response {
    serve_file(INDEX, &headers)
}

pub(super) async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    serve_file(&name, &headers)
}

fn serve_file(name: &str, request_headers: &HeaderMap) -> Response {
    match FILES.iter().find(|file| file.name == name) {
        Some(file) => file_response(file.kind, file.content.as_bytes(), request_headers),
        None => (StatusCode::NOT_FOUND, "file not found\n").into_response(),
    }
}

/// Returns a file, or status 304 if the browser has it already.
pub(super) fn file_response(kind: &'static str, content: &[u8], request_headers: &HeaderMap) -> Response {
    let tag = format!("\"{}\"", hash([content]));
    let is_known =
        request_headers.get_all(header::IF_NONE_MATCH).iter().any(|value| matches_tag(value, &tag));
    let mut response =
        if is_known { StatusCode::NOT_MODIFIED.into_response() } else { content.to_vec().into_response() };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}

/// Returns true if a value of `If-None-Match` lists the tag. A proxy that compresses makes tags weak, and weak comparison
/// is what this header asks for (RFC 9110, 13.1.2).
fn matches_tag(value: &HeaderValue, tag: &str) -> bool {
    let tags = value.to_str().unwrap_or_default().split(',').map(str::trim);
    tags.map(|known| known.strip_prefix("W/").unwrap_or(known)).any(|known| known == tag || known == "*")
}
