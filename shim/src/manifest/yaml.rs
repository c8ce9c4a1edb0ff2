//! YAML into JSON values that remember where each field stands.

use std::collections::{BTreeMap, HashMap};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};
use serde_json::{Map, Number, Value};

use crate::problem::Position;

/// More nodes than this are no manifest but an alias bomb, or a mistake.
const MOST_NODES: usize = 2_000_000;
/// Deeper than any manifest.
const DEEPEST: usize = 64;

/// One YAML document.
#[derive(Debug)]
pub struct Yaml {
    /// Its content.
    pub value: Value,
    /// Where each field stands, by path (`spec.ports[0].protocol`); the document itself by ``.
    pub lines: Lines,
}

/// Where fields stand.
#[derive(Debug, Clone, Default)]
pub struct Lines(BTreeMap<String, Position>);

/// Why a text is not YAML that we read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    /// What is wrong.
    pub message: String,
    /// Where.
    pub position: Position,
}

impl Lines {
    /// Where a field stands, or the nearest one around it.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<Position> {
        let mut path = path;
        loop {
            if let Some(position) = self.0.get(path) {
                return Some(*position);
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return self.0.get("").copied(),
            }
        }
    }
}

impl Lines {
    /// Where the fields behind a path stand (`items[0].`, or nothing), by their paths from there.
    #[must_use]
    pub fn below(&self, prefix: &str) -> Self {
        if prefix.is_empty() {
            return self.clone();
        }
        let start = self.find(prefix.trim_end_matches('.')).map(|position| (String::new(), position));
        let inner = self
            .0
            .range(prefix.to_owned()..)
            .map_while(|(path, position)| path.strip_prefix(prefix).map(|path| (path.to_owned(), *position)));
        Self(start.into_iter().chain(inner).collect())
    }
}

/// Reads all documents of a text. Empty ones are left out.
///
/// # Errors
/// When the text is not YAML, has a key twice, or grows beyond all measure by aliases.
pub fn documents(text: &str) -> Result<Vec<Yaml>, SyntaxError> {
    let mut events = Parser::new_from_str(text);
    let mut found = Vec::new();
    let mut nodes = 0;
    while let Some(event) = events.next() {
        let (event, _) = event.map_err(|e| error(e.info(), *e.marker()))?;
        if matches!(event, Event::DocumentStart(_)) {
            let mut builder =
                Builder { events: &mut events, lines: Lines::default(), anchors: HashMap::new(), nodes };
            let value = builder.next_value("", 0)?;
            nodes = builder.nodes;
            let lines = builder.lines;
            if !value.is_null() {
                found.push(Yaml { value, lines });
            }
        }
    }
    Ok(found)
}

struct Builder<'a, 'input> {
    events: &'a mut Parser<'input, saphyr_parser::StrInput<'input>>,
    lines: Lines,
    anchors: HashMap<usize, (Value, usize)>,
    nodes: usize,
}

impl<'input> Builder<'_, 'input> {
    fn next_event(&mut self) -> Result<(Event<'input>, Marker), SyntaxError> {
        match self.events.next() {
            Some(Ok((event, span))) => Ok((event, span.start)),
            Some(Err(e)) => Err(error(e.info(), *e.marker())),
            None => Err(SyntaxError {
                message: "the text ends too early".to_owned(),
                position: Position::default(),
            }),
        }
    }

    fn next_value(&mut self, path: &str, depth: usize) -> Result<Value, SyntaxError> {
        let (event, at) = self.next_event()?;
        self.value(event, at, path, depth)
    }

    fn value(
        &mut self,
        event: Event<'input>,
        at: Marker,
        path: &str,
        depth: usize,
    ) -> Result<Value, SyntaxError> {
        if depth > DEEPEST {
            return Err(error("nested too deep", at));
        }
        self.lines.0.entry(path.to_owned()).or_insert(position(at));
        let before = self.nodes;
        self.count(1, at)?;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && tag.as_ref().is_none_or(|tag| tag.suffix != "str");
                (if plain { plain_scalar(&text) } else { Value::String(text.into_owned()) }, anchor)
            }
            Event::SequenceStart(anchor, _) => (self.sequence(path, depth)?, anchor),
            Event::MappingStart(anchor, _) => (self.mapping(path, depth)?, anchor),
            Event::Alias(anchor) => {
                let (value, size) =
                    self.anchors.get(&anchor).cloned().ok_or_else(|| error("an alias of itself", at))?;
                self.count(size, at)?;
                return Ok(value);
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => return Err(error("a value was expected", at)),
        };
        if anchor > 0 {
            self.anchors.insert(anchor, (value.clone(), self.nodes - before));
        }
        Ok(value)
    }

    fn sequence(&mut self, path: &str, depth: usize) -> Result<Value, SyntaxError> {
        let mut items = Vec::new();
        loop {
            match self.next_event()? {
                (Event::SequenceEnd, _) => return Ok(Value::Array(items)),
                (event, at) => {
                    let path = format!("{path}[{}]", items.len());
                    items.push(self.value(event, at, &path, depth + 1)?);
                }
            }
        }
    }

    fn mapping(&mut self, path: &str, depth: usize) -> Result<Value, SyntaxError> {
        let mut map = Map::new();
        loop {
            let (key, at) = match self.next_event()? {
                (Event::MappingEnd, _) => return Ok(Value::Object(map)),
                (Event::Scalar(key, ..), at) => (key.into_owned(), at),
                (_, at) => return Err(error("a key must be a plain name", at)),
            };
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            // Where the key stands, which is what one looks for, and not its value.
            self.lines.0.entry(path.clone()).or_insert(position(at));
            let value = self.next_value(&path, depth + 1)?;
            if map.contains_key(&key) {
                return Err(error(&format!("`{path}` is there twice: remove one"), at));
            }
            map.insert(key, value);
        }
    }

    fn count(&mut self, nodes: usize, at: Marker) -> Result<(), SyntaxError> {
        self.nodes += nodes;
        if self.nodes > MOST_NODES {
            return Err(error("more than 2,000,000 values in one file: split it", at));
        }
        Ok(())
    }
}

/// The core schema of YAML 1.2.
fn plain_scalar(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let starts_like_a_number = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'));
    if starts_like_a_number {
        if let Ok(number) = text.parse::<i64>() {
            return Value::Number(number.into());
        }
        let digits = text.bytes().any(|b| b.is_ascii_digit());
        if let Some(number) = text.parse().ok().filter(|_| digits).and_then(Number::from_f64) {
            return Value::Number(number);
        }
    }
    Value::String(text.to_owned())
}

fn position(at: Marker) -> Position {
    Position { line: at.line(), column: at.col() + 1 }
}

fn error(message: &str, at: Marker) -> SyntaxError {
    SyntaxError { message: message.to_owned(), position: position(at) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn one(text: &str) -> Result<Value, String> {
        documents(text)
            .map(|mut found| found.pop().map(|yaml| yaml.value).unwrap_or_default())
            .map_err(|e| format!("{}:{}: {e}", e.position.line, e.position.column))
    }

    #[test]
    fn values() {
        for (text, expected) in [
            (
                "a: 1\nb: [x, 'y', \"z\"]\nc: {d: true}",
                json!({"a": 1, "b": ["x", "y", "z"], "c": {"d": true}}),
            ),
            (
                "a: '1'\nb: !!str 1\nc: ~\nd: 1.5\ne: 1.2.3.4",
                json!({"a": "1", "b": "1", "c": null, "d": 1.5, "e": "1.2.3.4"}),
            ),
            (
                "a: yes\nb: off\nc: 010.0.0.1/8\nd: .\ne: -",
                json!({"a": "yes", "b": "off", "c": "010.0.0.1/8", "d": ".", "e": "-"}),
            ),
            ("a: &x [1]\nb: *x", json!({"a": [1], "b": [1]})),
            ("{\"a\": [1, null]}", json!({"a": [1, null]})),
            ("a: |\n  text\n", json!({"a": "text\n"})),
        ] {
            assert_eq!(one(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn errors_say_where() {
        for (text, expected) in [
            ("a: 1\na: 2", "2:1: `a` is there twice: remove one"),
            ("a:\n  - b: 1\n    b: 2", "3:5: `a[0].b` is there twice: remove one"),
            ("? [1]\n: 2", "1:3: a key must be a plain name"),
        ] {
            assert_eq!(one(text), Err(expected.to_owned()));
        }
        assert!(one("a: [1").is_err());
        assert!(one("a: b: c").expect_err("bad").starts_with("1:"));
        assert!(one(&"[".repeat(1000)).is_err());
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for n in 1..9 {
            let before = format!("*a{}", n - 1);
            text += &format!("a{n}: &a{n} [{}]\n", vec![before; 10].join(","));
        }
        assert!(one(&text).expect_err("a bomb").contains("2,000,000"));
    }

    #[test]
    fn several_documents_and_their_lines() {
        let found =
            documents("# none\n---\na: 1\n---\n---\nspec:\n  ports:\n  - number: 80\n    protocol: http\n")
                .expect("valid");
        assert_eq!(found.len(), 2);
        let line = |path| found[1].lines.find(path).map(|p| (p.line, p.column));
        assert_eq!(line("spec.ports[0].protocol"), Some((9, 5)));
        assert_eq!(line("spec.ports[0].missing"), Some((8, 5)));
        assert_eq!(line("other"), Some((6, 1)));
    }
}
