//! The playground's files, as `cargo xtask playground` writes them: a flat folder that was looked at once. No path of a
//! request reaches the file system.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::files;

pub(super) const INDEX: &str = "index.html";
/// As the playground's own page says it, and that nobody frames it. It runs a wasm module.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; \
    connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// What files are, by how their names end. Others are not given out.
const KINDS: [(&str, &str); 6] = [
    ("html", "text/html; charset=utf-8"),
    ("css", "text/css; charset=utf-8"),
    ("js", "text/javascript; charset=utf-8"),
    ("svg", "image/svg+xml"),
    ("gz", "application/gzip"),
    ("wasm", "application/wasm"),
];

/// The files that are given out.
#[derive(Debug)]
pub struct Playground {
    files: BTreeMap<String, (PathBuf, &'static str)>,
}

impl Playground {
    /// Looks at a folder.
    ///
    /// # Errors
    /// When it has no playground in it.
    pub fn open(folder: &Path) -> Result<Self> {
        let wrong = || format!("cannot read the playground in {}", folder.display());
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(folder).with_context(wrong)? {
            let path = entry.with_context(wrong)?.path();
            let kind = KINDS.iter().find(|(end, _)| path.extension().is_some_and(|found| found == *end));
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

    /// One file.
    pub(super) async fn give(&self, name: &str, asked: &HeaderMap) -> Response {
        let Some((path, kind)) = self.files.get(name) else {
            return (StatusCode::NOT_FOUND, "there is no such file\n").into_response();
        };
        let mut response = match tokio::fs::read(path).await {
            Ok(content) => files::give(kind, &content, asked),
            Err(error) => {
                tracing::warn!(%error, file = %path.display(), "cannot read a file of the playground");
                (StatusCode::NOT_FOUND, "this file cannot be read any more\n").into_response()
            }
        };
        response
            .headers_mut()
            .insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_POLICY));
        response
    }
}
