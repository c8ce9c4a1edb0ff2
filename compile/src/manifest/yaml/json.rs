//! Features of JSON that YAML lacks: several texts in a row (`jq .items[]`), and characters written as two
//! surrogates (`\ud83d\ude00`).

use std::borrow::Cow;

use serde::de::IgnoredAny;

/// A text of a stream.
pub(super) struct JsonText<'t> {
    pub(super) text: Cow<'t, str>,
    /// The lines before it, and the columns on its first line.
    pub(super) lines: usize,
    pub(super) columns: usize,
}

/// Splits a stream of JSON into its texts; `None` if it is not JSON, so that the YAML parser reports the error.
pub(super) fn split_texts(text: &str) -> Option<Vec<JsonText<'_>>> {
    if !text.trim_start().starts_with(['{', '[']) {
        return None;
    }
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let (mut texts, mut begin) = (Vec::new(), 0);
    let (mut lines, mut columns) = (0_usize, 0_usize);
    while let Some(item) = stream.next() {
        item.ok()?;
        let end = stream.byte_offset();
        let own = text.get(begin..end)?;
        texts.push(JsonText { text: join_surrogates(own), lines, columns });
        (lines, columns) = match own.rsplit_once('\n') {
            Some((before, last)) => {
                let ends = before.matches('\n').count().saturating_add(1);
                (lines.saturating_add(ends), last.chars().count())
            }
            None => (lines, columns.saturating_add(own.chars().count())),
        };
        begin = end;
    }
    Some(texts)
}

/// Joins surrogate pairs in valid JSON into one escape, as YAML writes them. In JSON a backslash occurs only
/// inside strings.
fn join_surrogates(json: &str) -> Cow<'_, str> {
    if !json.contains("\\u") {
        return json.into();
    }
    let mut joined = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        joined.push_str(before);
        let both = parse_surrogate(escape).zip(escape.get(6..).and_then(parse_surrogate));
        let letter = both.and_then(|(high, low)| char::decode_utf16([high, low]).next()?.ok());
        // Every other escape, and an escaped backslash, has at least two letters.
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

fn parse_surrogate(escape: &str) -> Option<u16> {
    let digits = escape.strip_prefix("\\u")?.get(..4)?;
    u16::from_str_radix(digits, 16).ok()
}
