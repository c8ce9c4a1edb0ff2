//! YAML 1.2 text (and with it JSON) to JSON values that know where their fields stand.
//!
//! Refused, each with its place: duplicate keys, keys that are not scalars, merge keys, tags that are
//! not YAML's own, values nested or repeated without limit.

mod json;

use std::collections::BTreeMap;
use std::str::Utf8Error;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};
use serde_json::Value;

use super::scalar::{self, core_tag, resolve};
use super::{Places, Position};

/// The longest text that is read, in bytes.
pub const MAX_BYTES: usize = 32 << 20;
/// The most values in a text. 10,000 policies have about 300,000.
const MAX_NODES: usize = 1_000_000;
/// The most values that aliases may repeat.
const MAX_REPEATED: usize = 100_000;
/// How deep values may be nested.
const MAX_DEPTH: usize = 64;

/// One document of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct YamlDocument {
    /// What it says.
    pub value: Value,
    /// Where its fields stand.
    pub places: Places,
}

/// Why a text cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct YamlError {
    /// Where.
    pub position: Option<Position>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub advice: &'static str,
}

/// Reads the documents of a file; empty ones are left out.
///
/// # Errors
/// When the bytes are too many, are not UTF-8, or are not YAML as described above.
pub fn parse_bytes(bytes: &[u8]) -> Result<Vec<YamlDocument>, YamlError> {
    if bytes.len() > MAX_BYTES {
        return Err(too_large());
    }
    let text = std::str::from_utf8(bytes).map_err(|e| not_utf8(bytes, e))?;
    parse(text)
}

/// The error for a file that is longer than [`MAX_BYTES`].
#[must_use]
pub fn too_large() -> YamlError {
    YamlError {
        position: None,
        message: format!("the file is larger than {} MiB", MAX_BYTES >> 20),
        advice: "split it into several files, or move it out of the folder",
    }
}

/// Reads the documents of a text; empty ones are left out.
///
/// # Errors
/// When the text is not YAML as described above.
pub fn parse(text: &str) -> Result<Vec<YamlDocument>, YamlError> {
    read(text, false)
}

/// The same, but plain scalars mean what they mean to kubectl, which reads YAML 1.1: `0644` is octal and
/// `yes` is true. For texts that are not ours.
///
/// # Errors
/// When the text is not YAML as described above.
pub fn parse_as_kubectl(text: &str) -> Result<Vec<YamlDocument>, YamlError> {
    read(text, true)
}

fn read(text: &str, as_kubectl: bool) -> Result<Vec<YamlDocument>, YamlError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reading = Reading { as_kubectl, nodes: 0, repeated: 0 };
    match json::texts(text) {
        Some(texts) => {
            let mut documents = Vec::new();
            for json::JsonText { text, lines, columns } in &texts {
                documents.extend(reading.read(text, *lines, *columns)?);
            }
            Ok(documents)
        }
        None => reading.read(text, 0, 0),
    }
}

/// What the texts of a file have together.
struct Reading {
    as_kubectl: bool,
    nodes: usize,
    repeated: usize,
}

impl Reading {
    fn read(&mut self, text: &str, lines: usize, columns: usize) -> Result<Vec<YamlDocument>, YamlError> {
        let Self { as_kubectl, nodes, repeated } = *self;
        // The scanner reads a whole flow collection before it gives out the first value, and needs some
        // 400 bytes for each.
        if text.bytes().filter(|b| matches!(b, b',' | b'[' | b'{')).count() > MAX_NODES {
            return Err(YamlError { position: None, message: too_many(), advice: TOO_MANY_ADVICE });
        }
        let mut composer = Composer {
            parser: Parser::new_from_str(text),
            as_kubectl,
            lines,
            columns,
            anchors: BTreeMap::new(),
            nodes,
            repeated,
        };
        let mut documents = Vec::new();
        while let Some((event, span)) = composer.next()? {
            match event {
                Event::DocumentStart(_) => composer.anchors.clear(),
                Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
                Event::Alias(_)
                | Event::Scalar(..)
                | Event::SequenceStart(..)
                | Event::SequenceEnd
                | Event::MappingStart(..)
                | Event::MappingEnd => {
                    let (value, places) = composer.node(event, span, 0)?;
                    if !value.is_null() {
                        documents.push(YamlDocument { value, places });
                    }
                }
            }
        }
        (self.nodes, self.repeated) = (composer.nodes, composer.repeated);
        Ok(documents)
    }
}

type Node = (Value, Places);

struct Composer<'a> {
    parser: Parser<'a, StrInput<'a>>,
    as_kubectl: bool,
    /// Of a text in a stream: the lines before it, and on its first line the columns.
    lines: usize,
    columns: usize,
    /// What was anchored in this document, and how many values it has.
    anchors: BTreeMap<usize, (Node, usize)>,
    nodes: usize,
    repeated: usize,
}

impl<'a> Composer<'a> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, YamlError> {
        self.parser.next_event().transpose().map_err(|e| syntax(&e, self.position(e.marker())))
    }

    fn position(&self, marker: &Marker) -> Position {
        let columns = if marker.line() == 1 { self.columns } else { 0 };
        Position { line: to_u32(marker.line() + self.lines), column: to_u32(marker.col() + 1 + columns) }
    }

    fn expect(&mut self, before: Position) -> Result<(Event<'a>, Span), YamlError> {
        self.next()?.ok_or_else(|| error(before, "the text ends within a value", "complete the value"))
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, YamlError> {
        let at = self.position(&span.start);
        if depth > MAX_DEPTH {
            let message = format!("values are nested more than {MAX_DEPTH} deep");
            return Err(error(at, message, "this is no manifest: move the file out of the folder"));
        }
        self.count(1, at)?;
        let before = self.nodes;
        let (node, anchor) = match event {
            Event::Alias(anchor) => return self.alias(anchor, at),
            Event::Scalar(text, style, anchor, tag) => {
                let plain = self.as_kubectl && style == ScalarStyle::Plain && tag.is_none();
                let value = match scalar::yaml_1_1(&text).filter(|_| plain) {
                    Some(value) => value,
                    None => resolve(text, style, tag.as_deref())
                        .map_err(|(what, advice)| error(at, what, advice))?,
                };
                ((value, Places::scalar(at)), anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                check_tag(tag.as_deref(), "seq", at)?;
                (self.sequence(at, depth)?, anchor)
            }
            Event::MappingStart(anchor, tag) => {
                check_tag(tag.as_deref(), "map", at)?;
                (self.mapping(at, depth)?, anchor)
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => {
                return Err(error(at, "a value is missing", "complete the value"));
            }
        };
        if anchor > 0 {
            let size = self.nodes - before + 1;
            self.repeat(size, at)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        Ok(node)
    }

    fn alias(&mut self, anchor: usize, at: Position) -> Result<Node, YamlError> {
        let Some(((value, places), size)) = self.anchors.get(&anchor).cloned() else {
            return Err(error(at, "an alias stands within the value that it repeats", "write the value out"));
        };
        self.repeat(size, at)?;
        self.count(size, at)?;
        Ok((value, places.moved_to(at)))
    }

    fn sequence(&mut self, at: Position, depth: usize) -> Result<Node, YamlError> {
        let (mut values, mut places) = (Vec::new(), Vec::new());
        loop {
            let (event, span) = self.expect(at)?;
            if event == Event::SequenceEnd {
                return Ok((Value::Array(values), Places::sequence(at, places)));
            }
            let (value, place) = self.node(event, span, depth + 1)?;
            values.push(value);
            places.push(place);
        }
    }

    fn mapping(&mut self, at: Position, depth: usize) -> Result<Node, YamlError> {
        let (mut values, mut places) = (serde_json::Map::new(), Vec::new());
        loop {
            let (event, span) = self.expect(at)?;
            if event == Event::MappingEnd {
                return Ok((Value::Object(values), Places::mapping(at, places)));
            }
            let key_at = self.position(&span.start);
            let Event::Scalar(key, style, _, _) = event else {
                return Err(error(key_at, "a key is not a plain name", "write `name: value`"));
            };
            if key == "<<" && style == ScalarStyle::Plain {
                return Err(error(
                    key_at,
                    "merge keys (`<<`) are not part of YAML 1.2",
                    "write the fields out",
                ));
            }
            let (event, span) = self.expect(at)?;
            let (value, place) = self.node(event, span, depth + 1)?;
            if values.contains_key(&*key) {
                return Err(error(key_at, format!("key `{key}` stands here twice"), "remove one of them"));
            }
            places.push((Box::from(&*key), place.moved_to(key_at)));
            values.insert(key.into_owned(), value);
        }
    }

    fn count(&mut self, nodes: usize, at: Position) -> Result<(), YamlError> {
        self.nodes += nodes;
        if self.nodes <= MAX_NODES {
            return Ok(());
        }
        Err(error(at, too_many(), TOO_MANY_ADVICE))
    }

    fn repeat(&mut self, nodes: usize, at: Position) -> Result<(), YamlError> {
        self.repeated += nodes;
        if self.repeated <= MAX_REPEATED {
            return Ok(());
        }
        let message = format!("aliases repeat more than {MAX_REPEATED} values");
        Err(error(at, message, "write the values out, or use fewer anchors"))
    }
}

const TOO_MANY_ADVICE: &str = "split it into several files, or move it out of the folder";

fn too_many() -> String {
    format!("the file has more than {MAX_NODES} values")
}

fn check_tag(tag: Option<&Tag>, own: &str, at: Position) -> Result<(), YamlError> {
    match tag {
        Some(tag) if core_tag(tag) != Some(own) => {
            let Tag { handle, suffix } = tag;
            Err(error(
                at,
                format!("tag `{handle}{suffix}` does not fit here"),
                "write the value without a tag",
            ))
        }
        Some(_) | None => Ok(()),
    }
}

fn error(position: Position, message: impl Into<String>, advice: &'static str) -> YamlError {
    YamlError { position: Some(position), message: message.into(), advice }
}

fn syntax(scan: &ScanError, at: Position) -> YamlError {
    let message = format!("this is not YAML: {}", scan.info());
    let advice = if scan.info().contains("tab") {
        "indent with spaces: YAML allows no tabs there"
    } else {
        "look at this line and the ones above it: indentation, quotes, brackets, a missing `:`"
    };
    error(at, message, advice)
}

fn not_utf8(bytes: &[u8], cause: Utf8Error) -> YamlError {
    let valid = bytes.get(..cause.valid_up_to()).unwrap_or_default();
    let line = valid.iter().filter(|b| **b == b'\n').count() + 1;
    let last = valid.rsplit(|b| *b == b'\n').next().unwrap_or_default();
    let column = String::from_utf8_lossy(last).chars().count() + 1;
    let at = Position { line: to_u32(line), column: to_u32(column) };
    error(at, "the text is not UTF-8", "save the file as UTF-8")
}

fn to_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
