//! The parser of `--set`, in helm's syntax: `a.b=1,c={x,y},d[0].e=z`, with a backslash to escape a special character.

use serde_json::{Map, Value};

/// The limit of list indexes, which bounds memory; helm has one too.
const MAX_INDEX: usize = 1000;

/// A part of a key.
enum KeyPart {
    Key(String),
    Index(usize),
}

/// Applies a setting to a tree of values.
pub(super) fn apply_setting(tree: &mut Value, text: &str) -> Result<(), String> {
    let mut rest = text.chars().peekable();
    loop {
        let parts = parse_key(&mut rest)?;
        let value = if rest.next_if_eq(&'{').is_some() {
            parse_list(&mut rest)?
        } else {
            parse_scalar(&read_word(&mut rest, &[',']))
        };
        insert(tree, &parts, value)?;
        match rest.next() {
            None => return Ok(()),
            Some(',') if rest.peek().is_some() => {}
            Some(',') => return Err("it ends with a comma".to_owned()),
            Some(other) => return Err(format!("unexpected `{other}` after a list")),
        }
    }
}

type Rest<'t> = std::iter::Peekable<std::str::Chars<'t>>;

/// Reads up to one of these characters, or to the end.
fn read_word(rest: &mut Rest<'_>, ends: &[char]) -> String {
    let mut word = String::new();
    while let Some(c) = rest.next_if(|c| !ends.contains(c)) {
        let c = if c == '\\' { rest.next().unwrap_or(c) } else { c };
        word.push(c);
    }
    word
}

fn parse_key(rest: &mut Rest<'_>) -> Result<Vec<KeyPart>, String> {
    let mut parts = Vec::new();
    loop {
        let name = read_word(rest, &['.', '=', '[', ',']);
        if name.is_empty() {
            return Err("a key has an empty part".to_owned());
        }
        parts.push(KeyPart::Key(name));
        while rest.next_if_eq(&'[').is_some() {
            let index = read_word(rest, &[']']);
            if rest.next().is_none() {
                return Err("`[` without `]`".to_owned());
            }
            let index = index.parse().ok().filter(|index| *index < MAX_INDEX);
            parts.push(KeyPart::Index(index.ok_or("an index is a number below 1000")?));
        }
        match rest.next() {
            Some('=') => return Ok(parts),
            Some('.') => {}
            Some(_) | None => return Err("write it as `key=value`".to_owned()),
        }
    }
}

fn parse_list(rest: &mut Rest<'_>) -> Result<Value, String> {
    let mut items = Vec::new();
    if rest.next_if_eq(&'}').is_some() {
        return Ok(Value::Array(items));
    }
    loop {
        items.push(parse_scalar(&read_word(rest, &[',', '}'])));
        match rest.next() {
            Some('}') => return Ok(Value::Array(items)),
            Some(_) => {}
            None => return Err("`{` without `}`".to_owned()),
        }
    }
}

/// Parses a word: true, false, null, a whole number, else text.
fn parse_scalar(word: &str) -> Value {
    match word {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "null" => Value::Null,
        // A word with a leading zero is text, as in helm.
        _ if word.len() > 1 && word.starts_with('0') => word.into(),
        _ => word.parse::<i64>().map_or_else(|_| word.into(), Value::from),
    }
}

/// Inserts a value at a key.
fn insert(tree: &mut Value, parts: &[KeyPart], value: Value) -> Result<(), String> {
    let Some((part, below)) = parts.split_first() else {
        *tree = value;
        return Ok(());
    };
    let place = match part {
        KeyPart::Key(key) => {
            if !tree.is_object() {
                *tree = Value::Object(Map::new());
            }
            tree.as_object_mut().map(|map| map.entry(key.clone()).or_insert(Value::Null))
        }
        KeyPart::Index(index) => {
            if !tree.is_array() {
                *tree = Value::Array(Vec::new());
            }
            let list = tree.as_array_mut();
            if list.as_ref().is_some_and(|list| list.len() < *index) {
                return Err(format!("index {index}, but the ones before it are not set"));
            }
            list.map(|list| {
                if list.len() == *index {
                    list.push(Value::Null);
                }
                &mut list[*index]
            })
        }
    };
    place.map_or(Ok(()), |place| insert(place, below, value))
}
