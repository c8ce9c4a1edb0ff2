//! What JSON has and YAML has not: texts one after the other (`jq .items[]`), and characters as two halves (`\ud83d\ude00`).

use std::borrow::Cow;

use serde::de::IgnoredAny;

/// A text of a stream.
pub(super) struct JsonText<'t> {
    pub(super) text: Cow<'t, str>,
    /// The lines before it, and on its first line the columns.
    pub(super) lines: usize,
    pub(super) columns: usize,
}

/// The texts of a stream of JSON; `None` where it is not JSON, and YAML says what it is.
pub(super) fn texts(text: &str) -> Option<Vec<JsonText<'_>>> {
    if !text.trim_start().starts_with(['{', '[']) {
        return None;
    }
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let (mut texts, mut begin) = (Vec::new(), 0);
    let (mut lines, mut columns) = (0, 0);
    while let Some(item) = stream.next() {
        item.ok()?;
        let end = stream.byte_offset();
        let own = text.get(begin..end)?;
        texts.push(JsonText { text: joined(own), lines, columns });
        (lines, columns) = match own.rsplit_once('\n') {
            Some((before, last)) => (lines + before.matches('\n').count() + 1, last.chars().count()),
            None => (lines, columns + own.chars().count()),
        };
        begin = end;
    }
    Some(texts)
}

/// Valid JSON with characters in one piece, as YAML writes them. In JSON a backslash stands in texts alone.
fn joined(json: &str) -> Cow<'_, str> {
    if !json.contains("\\u") {
        return json.into();
    }
    let mut joined = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        joined.push_str(before);
        let both = half(escape).zip(escape.get(6..).and_then(half));
        let letter = both.and_then(|(high, low)| char::decode_utf16([high, low]).next()?.ok());
        // An escaped backslash, and any other escape, is two letters long at least.
        let (text, length) = match letter {
            Some(letter) if letter > '\u{ffff}' => (format!("\\U{:08X}", u32::from(letter)), 12),
            _ => (escape.chars().take(2).collect(), 2),
        };
        joined.push_str(&text);
        rest = escape.get(length..).unwrap_or_default();
    }
    joined.push_str(rest);
    joined.into()
}

fn half(escape: &str) -> Option<u16> {
    let digits = escape.strip_prefix("\\u")?.get(..4)?;
    u16::from_str_radix(digits, 16).ok()
}
