//! Reads YAML 1.2 (and with it JSON) into JSON values with a source map.
//!
//! Duplicate keys, keys that are not scalars, merge keys, tags other than YAML's own, and values nested or
//! repeated without limit are refused with their position.

mod json;

use std::collections::BTreeMap;
use std::str::Utf8Error;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};
use serde_json::Value;

use super::scalar::{self, core_tag, resolve_scalar};
use super::{Position, SourceMap};

/// The largest text that is read, in bytes.
pub const MAX_BYTES: usize = 32 << 20;
/// The most values in a text. 10,000 policies have about 300,000.
const MAX_NODES: usize = 1_000_000;
/// The most values that aliases may repeat.
const MAX_REPEATED: usize = 100_000;
/// The deepest nesting of values.
const MAX_DEPTH: usize = 64;

/// One document of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct YamlDocument {
    /// The value.
    pub value: Value,
    /// The positions of its fields.
    pub source_map: SourceMap,
}

/// The error for a text that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct YamlError {
    /// The position.
    pub position: Option<Position>,
    /// The message.
    pub message: String,
    /// The remedy.
    pub advice: &'static str,
}

/// Parses the documents of a file. Empty documents are left out.
///
/// # Errors
/// Fails if there are too many bytes, or they are not UTF-8, or not YAML as described above.
pub fn parse_bytes(bytes: &[u8]) -> Result<Vec<YamlDocument>, YamlError> {
    if bytes.len() > MAX_BYTES {
        return Err(file_too_large());
    }
    let text = std::str::from_utf8(bytes).map_err(|e| utf8_error(bytes, e))?;
    parse(text)
}

/// Makes the error for a file that is longer than [`MAX_BYTES`].
#[must_use]
pub fn file_too_large() -> YamlError {
    YamlError {
        position: None,
        message: format!("the file is larger than {} MiB", MAX_BYTES >> 20),
        advice: "split it into several files, or move it out of the folder",
    }
}

/// Parses the documents of a text. Empty documents are left out.
///
/// # Errors
/// Fails if the text is not YAML as described above.
pub fn parse(text: &str) -> Result<Vec<YamlDocument>, YamlError> {
    read(text, false)
}

/// Parses the documents of a text with plain scalars resolved as kubectl does, which reads YAML 1.1: `0644` is
/// octal and `yes` is true. For texts that were written for kubectl.
///
/// # Errors
/// Fails if the text is not YAML as described above.
pub fn parse_as_kubectl(text: &str) -> Result<Vec<YamlDocument>, YamlError> {
    read(text, true)
}

fn read(text: &str, as_kubectl: bool) -> Result<Vec<YamlDocument>, YamlError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut state = ReadState { as_kubectl, nodes: 0, repeated: 0 };
    match json::split_texts(text) {
        Some(texts) => {
            let mut documents = Vec::new();
            for json::JsonText { text, lines, columns } in &texts {
                documents.extend(state.read(text, *lines, *columns)?);
            }
            Ok(documents)
        }
        None => state.read(text, 0, 0),
    }
}

/// The counts over all texts of a file.
struct ReadState {
    as_kubectl: bool,
    nodes: usize,
    repeated: usize,
}

impl ReadState {
    fn read(&mut self, text: &str, lines: usize, columns: usize) -> Result<Vec<YamlDocument>, YamlError> {
        let Self { as_kubectl, nodes, repeated } = *self;
        // The scanner reads a whole flow collection before it returns the first value, and needs some 400 bytes
        // for each.
        if text.bytes().filter(|b| matches!(b, b',' | b'[' | b'{')).count() > MAX_NODES {
            return Err(YamlError { position: None, message: too_many_values(), advice: TOO_MANY_ADVICE });
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
                    let (value, source_map) = composer.read_node(event, span, 0)?;
                    if !value.is_null() {
                        documents.push(YamlDocument { value, source_map });
                    }
                }
            }
        }
        (self.nodes, self.repeated) = (composer.nodes, composer.repeated);
        Ok(documents)
    }
}

type Node = (Value, SourceMap);

struct Composer<'a> {
    parser: Parser<'a, StrInput<'a>>,
    as_kubectl: bool,
    /// The position of this text in its stream: the lines before it, and the columns on its first line.
    lines: usize,
    columns: usize,
    /// The anchored values of this document, with their sizes.
    anchors: BTreeMap<usize, (Node, usize)>,
    nodes: usize,
    repeated: usize,
}

impl<'a> Composer<'a> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, YamlError> {
        self.parser.next_event().transpose().map_err(|e| syntax_error(&e, self.position(e.marker())))
    }

    fn position(&self, marker: &Marker) -> Position {
        let columns = if marker.line() == 1 { self.columns } else { 0 };
        let line = marker.line().saturating_add(self.lines);
        let column = marker.col().saturating_add(1).saturating_add(columns);
        Position { line: to_u32(line), column: to_u32(column) }
    }

    fn expect_next(&mut self, before: Position) -> Result<(Event<'a>, Span), YamlError> {
        self.next()?.ok_or_else(|| error(before, "the text ends inside a value", "complete the value"))
    }

    fn read_node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, YamlError> {
        let at = self.position(&span.start);
        if depth > MAX_DEPTH {
            let message = format!("values are nested more than {MAX_DEPTH} levels deep");
            return Err(error(at, message, "this is not a manifest; move the file out of the folder"));
        }
        self.count_nodes(1, at)?;
        let before = self.nodes;
        let (node, anchor) = match event {
            Event::Alias(anchor) => return self.read_alias(anchor, at),
            Event::Scalar(text, style, anchor, tag) => {
                let plain = self.as_kubectl && style == ScalarStyle::Plain && tag.is_none();
                let value = match scalar::resolve_yaml_1_1(&text).filter(|_| plain) {
                    Some(value) => value,
                    None => resolve_scalar(text, style, tag.as_deref())
                        .map_err(|(what, advice)| error(at, what, advice))?,
                };
                ((value, SourceMap::scalar(at)), anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                check_tag(tag.as_deref(), "seq", at)?;
                (self.read_sequence(at, depth)?, anchor)
            }
            Event::MappingStart(anchor, tag) => {
                check_tag(tag.as_deref(), "map", at)?;
                (self.read_mapping(at, depth)?, anchor)
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
            let size = self.nodes.saturating_sub(before).saturating_add(1);
            self.count_repeated(size, at)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        Ok(node)
    }

    fn read_alias(&mut self, anchor: usize, at: Position) -> Result<Node, YamlError> {
        let Some(((value, source_map), size)) = self.anchors.get(&anchor).cloned() else {
            return Err(error(at, "an alias refers to the value that contains it", "write the value out"));
        };
        self.count_repeated(size, at)?;
        self.count_nodes(size, at)?;
        Ok((value, source_map.move_to(at)))
    }

    fn read_sequence(&mut self, at: Position, depth: usize) -> Result<Node, YamlError> {
        let (mut values, mut source_map) = (Vec::new(), Vec::new());
        loop {
            let (event, span) = self.expect_next(at)?;
            if event == Event::SequenceEnd {
                return Ok((Value::Array(values), SourceMap::sequence(at, source_map)));
            }
            let (value, map) = self.read_node(event, span, depth.saturating_add(1))?;
            values.push(value);
            source_map.push(map);
        }
    }

    fn read_mapping(&mut self, at: Position, depth: usize) -> Result<Node, YamlError> {
        let (mut values, mut source_map) = (serde_json::Map::new(), Vec::new());
        loop {
            let (event, span) = self.expect_next(at)?;
            if event == Event::MappingEnd {
                return Ok((Value::Object(values), SourceMap::mapping(at, source_map)));
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
            let (event, span) = self.expect_next(at)?;
            let (value, map) = self.read_node(event, span, depth.saturating_add(1))?;
            if values.contains_key(&*key) {
                return Err(error(key_at, format!("duplicate key `{key}`"), "remove one of them"));
            }
            source_map.push((Box::from(&*key), map.move_to(key_at)));
            values.insert(key.into_owned(), value);
        }
    }

    fn count_nodes(&mut self, nodes: usize, at: Position) -> Result<(), YamlError> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes <= MAX_NODES {
            return Ok(());
        }
        Err(error(at, too_many_values(), TOO_MANY_ADVICE))
    }

    fn count_repeated(&mut self, nodes: usize, at: Position) -> Result<(), YamlError> {
        self.repeated = self.repeated.saturating_add(nodes);
        if self.repeated <= MAX_REPEATED {
            return Ok(());
        }
        let message = format!("aliases repeat more than {MAX_REPEATED} values");
        Err(error(at, message, "write the values out, or use fewer anchors"))
    }
}

const TOO_MANY_ADVICE: &str = "split it into several files, or move it out of the folder";

fn too_many_values() -> String {
    format!("the file has more than {MAX_NODES} values")
}

fn check_tag(tag: Option<&Tag>, own: &str, at: Position) -> Result<(), YamlError> {
    match tag {
        Some(tag) if core_tag(tag) != Some(own) => {
            let Tag { handle, suffix } = tag;
            Err(error(
                at,
                format!("tag `{handle}{suffix}` is not allowed here"),
                "write the value without a tag",
            ))
        }
        Some(_) | None => Ok(()),
    }
}

fn error(position: Position, message: impl Into<String>, advice: &'static str) -> YamlError {
    YamlError { position: Some(position), message: message.into(), advice }
}

fn syntax_error(scan: &ScanError, at: Position) -> YamlError {
    let message = format!("this is not YAML: {}", scan.info());
    let advice = if scan.info().contains("tab") {
        "indent with spaces: YAML allows no tabs there"
    } else {
        "look at this line and the ones above it: indentation, quotes, brackets, a missing `:`"
    };
    error(at, message, advice)
}

fn utf8_error(bytes: &[u8], cause: Utf8Error) -> YamlError {
    let valid = bytes.get(..cause.valid_up_to()).unwrap_or_default();
    let line = valid.iter().filter(|b| **b == b'\n').count().saturating_add(1);
    let last = valid.rsplit(|b| *b == b'\n').next().unwrap_or_default();
    let column = String::from_utf8_lossy(last).chars().count().saturating_add(1);
    let at = Position { line: to_u32(line), column: to_u32(column) };
    error(at, "the text is not UTF-8", "save the file as UTF-8")
}

fn to_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
