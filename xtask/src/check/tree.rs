//! The files of a checkout: those that git tracks, and those that it would.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Endings of the files that some rule reads.
const READ: &[&str] = &[".rs", ".md", ".toml", ".dockerignore"];

#[derive(Default)]
pub(super) struct Tree {
    /// The folder of the checkout. Empty in tests.
    pub(super) root: PathBuf,
    files: BTreeMap<String, File>,
    folders: BTreeSet<String>,
}

#[derive(Default)]
struct File {
    text: Option<String>,
    syntax: OnceCell<std::result::Result<syn::File, (usize, String)>>,
}

impl Tree {
    pub(super) fn read(root: &Path) -> Result<Self> {
        let listed = git(root, &["ls-files", "-z", "--cached", "--others", "--exclude-standard"])?;
        let mut files = BTreeMap::new();
        for path in listed.split('\0').filter(|path| !path.is_empty()) {
            let absolute = root.join(path);
            // Deleted and not committed yet: it does not count.
            if !absolute.exists() {
                continue;
            }
            let mut file = File::default();
            if READ.iter().any(|ending| path.ends_with(ending)) {
                let text = fs::read_to_string(&absolute)
                    .with_context(|| format!("cannot read {}", absolute.display()))?;
                file.text = Some(text);
            }
            files.insert(path.to_owned(), file);
        }
        Ok(Self::with_files(root.to_owned(), files))
    }

    /// A checkout made of texts.
    #[cfg(test)]
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        let file = |text: &str| File { text: Some(text.to_owned()), syntax: OnceCell::new() };
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), file(text))).collect();
        Self::with_files(PathBuf::new(), files)
    }

    fn with_files(root: PathBuf, files: BTreeMap<String, File>) -> Self {
        let parents = |path: &String| {
            let folders = Path::new(path).ancestors().skip(1);
            folders.map(|folder| folder.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        let folders = files.keys().flat_map(parents).filter(|folder| !folder.is_empty()).collect();
        Self { root, files, folders }
    }

    /// The text of a file, if there is such a file.
    pub(super) fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path)?.text.as_deref()
    }

    /// Files whose name ends so, with their text.
    pub(super) fn texts<'a>(&'a self, ending: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.files
            .iter()
            .filter(move |(path, _)| path.ends_with(ending))
            .filter_map(|(path, file)| Some((path.as_str(), file.text.as_deref()?)))
    }

    /// The syntax of a Rust file.
    pub(super) fn syntax(&self, path: &str) -> Result<&syn::File> {
        let file = self.files.get(path).with_context(|| format!("there is no file {path}"))?;
        let text = file.text.as_deref().with_context(|| format!("{path} was not read"))?;
        let parsed = file.syntax.get_or_init(|| {
            syn::parse_file(text).map_err(|error| (error.span().start().line, error.to_string()))
        });
        match parsed {
            Ok(syntax) => Ok(syntax),
            Err((line, error)) => bail!("{path}:{line}: {error}"),
        }
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    pub(super) fn has_file(&self, path: &str) -> bool {
        self.files.contains_key(path)
    }

    pub(super) fn has_folder(&self, path: &str) -> bool {
        path.is_empty() || self.folders.contains(path)
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.has_file(path) || self.has_folder(path)
    }

    /// The first segments of all paths in folders.
    pub(super) fn top_folders(&self) -> impl Iterator<Item = &str> {
        self.folders.iter().map(String::as_str).filter(|folder| !folder.contains('/'))
    }

    /// Asks .gitignore for a path: it is made here, and not checked in.
    pub(super) fn is_ignored(&self, path: &str) -> bool {
        !self.root.as_os_str().is_empty() && git(&self.root, &["check-ignore", "-q", path]).is_ok()
    }
}

fn git(root: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new("git")
        .current_dir(root)
        .args(arguments)
        .output()
        .context("cannot run git: install it, the rules check the files that it tracks")?;
    if !output.status.success() {
        bail!("git {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).context("git prints a path that is not UTF-8")
}
