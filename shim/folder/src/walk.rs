//! The manifests below a folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The greatest depth of folders.
const MAX_DEPTH: usize = 32;

/// The stamp of a file, which changes with its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    /// Tools can set the other time back, but not this one.
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A manifest.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// `None`: it is there, but nothing can be said about it, for this reason.
    pub(super) stamp: Result<Stamp, String>,
    /// The real path, which is what events name.
    pub(super) real: PathBuf,
}

/// The result of walking a folder.
#[derive(Clone, Debug, Default)]
pub(super) struct Walk {
    /// The manifests by path.
    pub(super) files: BTreeMap<PathBuf, Found>,
    /// The folders in which a change can matter, by real path.
    pub(super) folders: BTreeMap<PathBuf, (u64, u64)>,
    /// Folders whose content cannot be known, and why.
    pub(super) blocked: BTreeMap<PathBuf, String>,
}

/// Looks at everything below a folder. Every real folder is looked at once, so that links cannot
/// make a loop.
///
/// # Errors
/// When the folder itself cannot be read.
pub(super) fn walk(root: &Path) -> io::Result<Walk> {
    let mut walk = Walk::default();
    visit(root, 0, &mut walk, &mut BTreeSet::new())?;
    Ok(walk)
}

fn visit(folder: &Path, depth: usize, walk: &mut Walk, seen: &mut BTreeSet<(u64, u64)>) -> io::Result<()> {
    let metadata = fs::metadata(folder)?;
    let id = (metadata.dev(), metadata.ino());
    let real = fs::canonicalize(folder)?;
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.push(entry?);
    }
    if !seen.insert(id) {
        return Ok(());
    }
    walk.folders.insert(real.clone(), id);
    names.sort_by_key(fs::DirEntry::file_name);
    for entry in names {
        let name = entry.file_name();
        if is_hidden(&name.to_string_lossy()) {
            continue;
        }
        let path = folder.join(&name);
        let file_type = entry.file_type()?;
        // Only links cost a second look; what they lead to is what counts.
        let is_folder = file_type.is_dir()
            || (file_type.is_symlink() && fs::metadata(&path).is_ok_and(|target| target.is_dir()));
        if is_folder {
            descend(&path, depth, walk, seen);
        } else if is_manifest(&path) {
            file(path, file_type.is_symlink(), real.join(&name), walk);
        }
    }
    Ok(())
}

fn descend(path: &Path, depth: usize, walk: &mut Walk, seen: &mut BTreeSet<(u64, u64)>) {
    if depth >= MAX_DEPTH {
        walk.blocked.insert(path.to_owned(), format!("folders lie more than {MAX_DEPTH} deep here"));
        return;
    }
    match visit(path, depth + 1, walk, seen) {
        Ok(()) => {}
        // Gone since it was listed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            walk.blocked.insert(path.to_owned(), format!("the folder cannot be read: {error}"));
        }
    }
}

fn file(path: PathBuf, is_link: bool, real: PathBuf, walk: &mut Walk) {
    let real = if is_link { fs::canonicalize(&path).unwrap_or(real) } else { real };
    // A link out of the folder: what happens over there matters too.
    if is_link
        && let Some(parent) = real.parent()
        && let Ok(metadata) = fs::metadata(parent)
    {
        walk.folders.insert(parent.to_owned(), (metadata.dev(), metadata.ino()));
    }
    let stamp = match fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => Ok(Stamp::of(&metadata)),
        // Reading a pipe would wait for a writer.
        Ok(_) => Err("this is not a regular file".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !is_link => return,
        Err(error) => Err(format!("the file cannot be read: {error}")),
    };
    walk.files.insert(path, Found { stamp, real });
}

/// Hidden files, and what editors keep beside a file. `..data` of a ConfigMap volume is hidden too;
/// the files that users see are links into it.
fn is_hidden(name: &str) -> bool {
    name.starts_with(['.', '#']) || name.ends_with('~')
}

/// Returns whether a file of this name is read.
pub(super) fn is_manifest(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let extension = path.extension().unwrap_or_default();
    !is_hidden(&name) && ["yaml", "yml", "json"].iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// The name of a file in problems: its path, made readable where it is not UTF-8.
pub(super) fn display_name(path: &Path) -> Arc<str> {
    match path.to_str() {
        Some(text) => Arc::from(text),
        None => Arc::from(format!("{path:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_files_are_manifests() {
        for (name, expected) in [
            ("a.yaml", true),
            ("a.yml", true),
            ("a.json", true),
            ("a.YAML", true),
            ("a.b.yaml", true),
            (".a.yaml", false),
            (".yaml", false),
            (".#a.yaml", false),
            ("#a.yaml#", false),
            ("a.yaml~", false),
            (".a.yaml.swp", false),
            ("a.yaml.bak", false),
            ("4913", false),
            ("README.md", false),
            ("..data", false),
        ] {
            assert_eq!(is_manifest(Path::new(name)), expected, "{name}");
        }
    }
}
