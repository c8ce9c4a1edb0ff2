//! The playground: a flat folder written by `cargo xtask playground`, listed once at the start. No path of a request
//! reaches the file system.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::files;

pub(super) const INDEX: &str = "index.html";
/// Content security policy of the playground's own page, plus `frame-ancestors`. The page runs a wasm module.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; \
    connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Content types by file extension. Other files are not served.
const CONTENT_TYPES: [(&str, &str); 6] = [
    ("html", "text/html; charset=utf-8"),
    ("css", "text/css; charset=utf-8"),
    ("js", "text/javascript; charset=utf-8"),
    ("svg", "image/svg+xml"),
    ("gz", "application/gzip"),
    ("wasm", "application/wasm"),
];

/// The files that are served.
#[derive(Debug)]
pub struct Playground {
    files: BTreeMap<String, (PathBuf, &'static str)>,
}

impl Playground {
    /// Lists the files of a folder.
    ///
    /// # Errors
    /// Returns an error if the folder has no playground.
    pub fn open(folder: &Path) -> Result<Self> {
        let wrong = || format!("cannot read the playground in {}", folder.display());
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(folder).with_context(wrong)? {
            let path = entry.with_context(wrong)?.path();
            let kind =
                CONTENT_TYPES.iter().find(|(end, _)| path.extension().is_some_and(|found| found == *end));
            let (Some((_, kind)), Some(name)) = (kind, path.file_name().and_then(|name| name.to_str()))
            else {
                continue;
            };
            if path.symlink_metadata().with_context(wrong)?.is_file() && !name.starts_with('.') {
                files.insert(name.to_owned(), (path.clone(), *kind));
            }
        }
        ensure!(
            files.contains_key(INDEX),
            "{} has no {INDEX}: name the folder that `cargo xtask playground` wrote",
            folder.display()
        );
        Ok(Self { files })
    }

    /// Serves one file.
    pub(super) async fn serve_file(&self, name: &str, request_headers: &HeaderMap) -> Response {
        let Some((path, kind)) = self.files.get(name) else {
            return (StatusCode::NOT_FOUND, "file not found\n").into_response();
        };
        let mut response = match tokio::fs::read(path).await {
            Ok(content) => files::file_response(kind, &content, request_headers),
            Err(error) => {
                tracing::warn!(%error, file = %path.display(), "cannot read a file of the playground");
                (StatusCode::NOT_FOUND, "the file can no longer be read\n").into_response()
            }
        };
        response
            .headers_mut()
            .insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
        response
    }
}
