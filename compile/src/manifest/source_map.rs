use serde::Serialize;

/// A place in a text. Both numbers begin at 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

/// Where each field of a value stands in its text. Empty for values that come from elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    at: Option<Position>,
    parts: Parts,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Parts {
    #[default]
    None,
    Items(Vec<Places>),
    Fields(Vec<(Box<str>, Places)>),
}

impl Places {
    pub(super) fn scalar(at: Position) -> Self {
        Self { at: Some(at), parts: Parts::None }
    }

    pub(super) fn sequence(at: Position, items: Vec<Self>) -> Self {
        Self { at: Some(at), parts: Parts::Items(items) }
    }

    pub(super) fn mapping(at: Position, fields: Vec<(Box<str>, Self)>) -> Self {
        Self { at: Some(at), parts: Parts::Fields(fields) }
    }

    /// The same parts, seen from another place: where a key or an alias stands.
    pub(super) fn moved_to(self, at: Position) -> Self {
        Self { at: Some(at), ..self }
    }

    /// Where the value itself begins.
    #[must_use]
    pub fn at(&self) -> Option<Position> {
        self.at
    }

    /// Where the field of this path stands, as in `spec.ports[0].protocol`; where there is no such
    /// field, the nearest value around it.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<Position> {
        let mut place = self;
        let mut rest = path;
        while let Some((segment, behind)) = next_segment(rest) {
            match place.part(segment) {
                Some(part) => place = part,
                None => break,
            }
            rest = behind;
        }
        place.at
    }

    /// The places of one field; nothing where there is no such field.
    pub(super) fn field(&self, name: &str) -> Self {
        self.part(Segment::Field(name)).cloned().unwrap_or_default()
    }

    /// The places of a sequence's items.
    pub(super) fn into_items(self) -> Vec<Self> {
        match self.parts {
            Parts::Items(items) => items,
            Parts::None | Parts::Fields(_) => Vec::new(),
        }
    }

    fn part(&self, segment: Segment<'_>) -> Option<&Self> {
        match (&self.parts, segment) {
            (Parts::Items(items), Segment::Item(index)) => items.get(index),
            (Parts::Fields(fields), Segment::Field(name)) => {
                fields.iter().find(|(key, _)| **key == *name).map(|(_, place)| place)
            }
            (Parts::None | Parts::Items(_) | Parts::Fields(_), Segment::Item(_) | Segment::Field(_)) => None,
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

/// Appends a field's name to a path, in brackets if it would not read as one name.
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

/// The path of an annotation.
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
    fn fields_are_found() {
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
            assert_eq!(documents[0].places.find(path), Some(Position { line, column }), "{path}");
        }
        assert_eq!(annotation_path("a.b/c"), "metadata.annotations[\"a.b/c\"]");
        assert_eq!(Places::default().find("spec"), None);
    }
}
