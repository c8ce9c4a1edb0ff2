//! The page's files. They are part of the program: nothing is fetched from elsewhere.

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use egress_core::hash;

struct File {
    name: &'static str,
    kind: &'static str,
    content: &'static str,
}

const INDEX: &str = "index.html";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
/// Those that the playground has too are its own, so that both look and say the same.
const FILES: [File; 8] = [
    File { name: INDEX, kind: "text/html; charset=utf-8", content: include_str!("page/index.html") },
    File { name: "base.css", kind: CSS, content: include_str!("../../../../playground/page/base.css") },
    File { name: "style.css", kind: CSS, content: include_str!("page/style.css") },
    File { name: "console.js", kind: SCRIPT, content: include_str!("page/console.js") },
    File { name: "common.js", kind: SCRIPT, content: include_str!("page/common.js") },
    File { name: "flows.js", kind: SCRIPT, content: include_str!("page/flows.js") },
    File { name: "answer.js", kind: SCRIPT, content: include_str!("../../../../playground/page/answer.js") },
    File {
        name: "icon.svg",
        kind: "image/svg+xml",
        content: include_str!("../../../../playground/page/icon.svg"),
    },
];

pub(super) async fn index(headers: HeaderMap) -> Response {
    find(INDEX, &headers)
}

pub(super) async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    find(&name, &headers)
}

fn find(name: &str, asked: &HeaderMap) -> Response {
    match FILES.iter().find(|file| file.name == name) {
        Some(file) => give(file.kind, file.content.as_bytes(), asked),
        None => (StatusCode::NOT_FOUND, "there is no such file\n").into_response(),
    }
}

/// A file; or nothing, where the browser has it already.
pub(super) fn give(kind: &'static str, content: &[u8], asked: &HeaderMap) -> Response {
    let tag = format!("\"{}\"", hash([content]));
    let is_known =
        asked.get_all(header::IF_NONE_MATCH).iter().any(|known| known.as_bytes() == tag.as_bytes());
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
