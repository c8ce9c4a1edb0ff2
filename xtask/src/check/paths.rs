//! Paths in texts.

/// Joins a relative path to the folder of a file. `None` when it leaves the repository.
pub(super) fn join(file: &str, path: &str) -> Option<String> {
    let folder = match path.strip_prefix('/') {
        Some(_) => "",
        None => file.rsplit_once('/').map_or("", |(folder, _)| folder),
    };
    let mut segments: Vec<&str> = Vec::new();
    for segment in folder.split('/').chain(path.split('/')) {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop()?;
            }
            name => segments.push(name),
        }
    }
    Some(segments.join("/"))
}

/// The line, counted from 1, in which a text first has a word.
pub(super) fn line_of(text: &str, word: &str) -> Option<usize> {
    text.lines().position(|line| line.contains(word)).map(|index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_to_the_folder_of_their_file() {
        for (file, path, joined) in [
            ("docs/a.md", "b.md", Some("docs/b.md")),
            ("docs/a.md", "../README.md", Some("README.md")),
            ("docs/a.md", "/README.md", Some("README.md")),
            ("a.md", "./docs/", Some("docs")),
            ("docs/a.md", "../../x", None),
        ] {
            assert_eq!(join(file, path).as_deref(), joined, "{path} in {file}");
        }
    }
}
