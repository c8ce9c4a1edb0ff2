//! `--set`, as helm reads it: `a.b=1,c={x,y},d[0].e=z`; a backslash before a character that means something.

use serde_json::{Map, Value};

/// More than anybody lists by index; helm has a limit too.
const MOST: usize = 1000;

/// One step of a key.
enum Step {
    Key(String),
    Index(usize),
}

/// Sets what a text says.
pub(super) fn apply(tree: &mut Value, text: &str) -> Result<(), String> {
    let mut rest = text.chars().peekable();
    loop {
        let steps = key(&mut rest)?;
        let value =
            if rest.next_if_eq(&'{').is_some() { list(&mut rest)? } else { scalar(&word(&mut rest, &[','])) };
        put(tree, &steps, value)?;
        match rest.next() {
            None => return Ok(()),
            Some(',') if rest.peek().is_some() => {}
            Some(',') => return Err("it ends with a comma".to_owned()),
            Some(other) => return Err(format!("`{other}` after a list")),
        }
    }
}

type Rest<'t> = std::iter::Peekable<std::str::Chars<'t>>;

/// Reads up to one of these characters, or to the end.
fn word(rest: &mut Rest<'_>, ends: &[char]) -> String {
    let mut word = String::new();
    while let Some(c) = rest.next_if(|c| !ends.contains(c)) {
        let c = if c == '\\' { rest.next().unwrap_or(c) } else { c };
        word.push(c);
    }
    word
}

fn key(rest: &mut Rest<'_>) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    loop {
        let name = word(rest, &['.', '=', '[', ',']);
        if name.is_empty() {
            return Err("a key has an empty part".to_owned());
        }
        steps.push(Step::Key(name));
        while rest.next_if_eq(&'[').is_some() {
            let index = word(rest, &[']']);
            if rest.next().is_none() {
                return Err("`[` without `]`".to_owned());
            }
            let index = index.parse().ok().filter(|index| *index < MOST);
            steps.push(Step::Index(index.ok_or("an index is a number below 1000")?));
        }
        match rest.next() {
            Some('=') => return Ok(steps),
            Some('.') => {}
            Some(_) | None => return Err("write it as `key=value`".to_owned()),
        }
    }
}

fn list(rest: &mut Rest<'_>) -> Result<Value, String> {
    let mut items = Vec::new();
    if rest.next_if_eq(&'}').is_some() {
        return Ok(Value::Array(items));
    }
    loop {
        items.push(scalar(&word(rest, &[',', '}'])));
        match rest.next() {
            Some('}') => return Ok(Value::Array(items)),
            Some(_) => {}
            None => return Err("`{` without `}`".to_owned()),
        }
    }
}

/// What a word means: true, false, null, a whole number, else text.
fn scalar(word: &str) -> Value {
    match word {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "null" => Value::Null,
        // With a leading zero it is a text, for helm as for us.
        _ if word.len() > 1 && word.starts_with('0') => word.into(),
        _ => word.parse::<i64>().map_or_else(|_| word.into(), Value::from),
    }
}

fn put(tree: &mut Value, steps: &[Step], value: Value) -> Result<(), String> {
    let Some((step, below)) = steps.split_first() else {
        *tree = value;
        return Ok(());
    };
    let place = match step {
        Step::Key(key) => {
            if !tree.is_object() {
                *tree = Value::Object(Map::new());
            }
            tree.as_object_mut().map(|map| map.entry(key.clone()).or_insert(Value::Null))
        }
        Step::Index(index) => {
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
    place.map_or(Ok(()), |place| put(place, below, value))
}
