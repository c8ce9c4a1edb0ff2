use serde::Serialize;

/// A position in a text. Lines and columns begin at 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

/// The source map of a value: the position of each of its fields. Empty for values that do not come from a
/// text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceMap {
    at: Option<Position>,
    children: Children,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Children {
    #[default]
    None,
    Items(Vec<SourceMap>),
    Fields(Vec<(Box<str>, SourceMap)>),
}

impl SourceMap {
    pub(super) fn scalar(at: Position) -> Self {
        Self { at: Some(at), children: Children::None }
    }

    pub(super) fn sequence(at: Position, items: Vec<Self>) -> Self {
        Self { at: Some(at), children: Children::Items(items) }
    }

    pub(super) fn mapping(at: Position, fields: Vec<(Box<str>, Self)>) -> Self {
        Self { at: Some(at), children: Children::Fields(fields) }
    }

    /// Moves the value itself to another position: that of its key or of an alias.
    pub(super) fn move_to(self, at: Position) -> Self {
        Self { at: Some(at), ..self }
    }

    /// The position of the value itself.
    #[must_use]
    pub fn start(&self) -> Option<Position> {
        self.at
    }

    /// The position of the field with this path, as in `spec.ports[0].protocol`. For a missing field, the
    /// position of the nearest value around it.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<Position> {
        let mut node = self;
        let mut rest = path;
        while let Some((segment, behind)) = next_segment(rest) {
            match node.child(segment) {
                Some(child) => node = child,
                None => break,
            }
            rest = behind;
        }
        node.at
    }

    /// The source map of one field; empty if there is no such field.
    pub(super) fn field(&self, name: &str) -> Self {
        self.child(Segment::Field(name)).cloned().unwrap_or_default()
    }

    /// The source maps of a sequence's items.
    pub(super) fn into_items(self) -> Vec<Self> {
        match self.children {
            Children::Items(items) => items,
            Children::None | Children::Fields(_) => Vec::new(),
        }
    }

    fn child(&self, segment: Segment<'_>) -> Option<&Self> {
        match (&self.children, segment) {
            (Children::Items(items), Segment::Item(index)) => items.get(index),
            (Children::Fields(fields), Segment::Field(name)) => {
                fields.iter().find(|(key, _)| **key == *name).map(|(_, node)| node)
            }
            (
                Children::None | Children::Items(_) | Children::Fields(_),
                Segment::Item(_) | Segment::Field(_),
            ) => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Segment<'a> {
    Field(&'a str),
    Item(usize),
}

fn next_segment(path: &str) -> Option<(Segment<'_>, &str)> {
    if let Some(quoted) = path.strip_prefix("[\"") {
        let (key, rest) = quoted.split_once("\"]")?;
        return Some((Segment::Field(key), rest));
    }
    if let Some(index) = path.strip_prefix('[') {
        let (index, rest) = index.split_once(']')?;
        return Some((Segment::Item(index.parse().ok()?), rest));
    }
    let path = path.strip_prefix('.').unwrap_or(path);
    if path.is_empty() {
        return None;
    }
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let (name, rest) = path.split_at(end);
    Some((Segment::Field(name), rest))
}

/// Appends a field name to a path, in brackets if it would not read as one name.
pub(super) fn push_field(path: &mut String, name: &str) {
    let is_plain =
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if !is_plain {
        path.push_str("[\"");
        path.push_str(name);
        path.push_str("\"]");
    } else {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(name);
    }
}

/// Builds the path of an annotation.
pub(crate) fn annotation_path(name: &str) -> String {
    let mut path = "metadata.annotations".to_owned();
    push_field(&mut path, name);
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::yaml;

    #[test]
    fn fields_are_found_by_path() {
        let text = "spec:\n  ports:\n  - number: 80\n    protocol: http\n  - {number: 90}\nmetadata:\n  annotations:\n    a.b/c: x\n";
        let documents = yaml::parse(text).expect("valid");
        for (path, line, column) in [
            ("", 1, 1),
            ("spec", 1, 1),
            ("spec.ports", 2, 3),
            ("spec.ports[0]", 3, 5),
            ("spec.ports[0].protocol", 4, 5),
            ("spec.ports[1].number", 5, 6),
            ("metadata.annotations[\"a.b/c\"]", 8, 5),
            ("spec.ports[1].protocol", 5, 5),
            ("spec.ports[7].protocol", 2, 3),
            ("spec.hosts[0]", 1, 1),
        ] {
            assert_eq!(documents[0].source_map.find(path), Some(Position { line, column }), "{path}");
        }
        assert_eq!(annotation_path("a.b/c"), "metadata.annotations[\"a.b/c\"]");
        assert_eq!(SourceMap::default().find("spec"), None);
    }
}
