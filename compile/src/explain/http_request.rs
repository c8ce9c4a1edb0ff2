//! Envoy's normalization of a request before the policy sees it, with `normalize_path`, `merge_slashes` and
//! encoded slashes kept. It follows `source/common/http/path_utility.cc`, `url_canon_path.cc` of `googleurl`
//! and `balsa_parser.cc`.

use egress_policy::ReasonCode;

/// The methods that Envoy's HTTP/1.1 parser accepts.
const METHODS: [&str; 35] = [
    "ACL",
    "BIND",
    "CHECKOUT",
    "CONNECT",
    "COPY",
    "DELETE",
    "GET",
    "HEAD",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MOVE",
    "MSEARCH",
    "NOTIFY",
    "OPTIONS",
    "PATCH",
    "POST",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "PUT",
    "QUERY",
    "REBIND",
    "REPORT",
    "SEARCH",
    "SOURCE",
    "SUBSCRIBE",
    "TRACE",
    "UNBIND",
    "UNLINK",
    "UNLOCK",
    "UNSUBSCRIBE",
];

/// Envoy's reason to respond with status 400: a reason code and a message.
pub(super) type Rejection = (ReasonCode, &'static str);

/// Returns Envoy's reason to reject the request with status 400, if it does.
pub(super) fn reject_request(method: &str, authority: &str, has_content_type: bool) -> Option<Rejection> {
    let malformed = |message| Some((ReasonCode::RequestMalformed, message));
    if !METHODS.contains(&method) {
        return malformed("its HTTP/1.1 parser does not know the method");
    }
    if method == "QUERY" && !has_content_type {
        return malformed("a QUERY request needs a `content-type`");
    }
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!$%&'()*+,-.:;=@[]_~".contains(&byte);
    if !authority.bytes().all(is_allowed) {
        return malformed("the authority contains an invalid character");
    }
    None
}

const ZERO_BYTE: Rejection = (ReasonCode::PathRefused, "the path contains an encoded zero byte");

/// Percent-encodes the bytes that a request line cannot carry, as clients do.
pub(super) fn encode_path(path: &str) -> String {
    let mut sent = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_graphic() { sent.push(byte.into()) } else { push_encoded(&mut sent, byte) }
    }
    sent
}

/// Normalizes a path with an optional query, as the policy and the server see it, or returns Envoy's reason to
/// reject it.
pub(super) fn normalize_path(target: &str) -> Result<String, Rejection> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let mut normalized = merge_slashes(&canonicalize(&strip_dot_segment_parameters(path)).ok_or(ZERO_BYTE)?);
    if let Some(query) = query {
        normalized.push('?');
        normalized.push_str(query);
    }
    Ok(normalized)
}

/// Removes parameters (`;x`) from dot segments, as Envoy does since 1.40, in the plain spellings only.
fn strip_dot_segment_parameters(path: &str) -> String {
    let segments = path.split('/').map(|segment| match segment {
        segment if segment.starts_with("..;") => "..",
        segment if segment.starts_with(".;") => ".",
        segment => segment,
    });
    segments.collect::<Vec<_>>().join("/")
}

/// Resolves dot segments, decodes unreserved characters and encodes forbidden ones; `None` for a zero byte.
fn canonicalize(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    // The position of the last `%` that begins no encoding.
    let mut lone = None;
    while let Some(letter) = rest.chars().next() {
        if let Some(behind) = strip_dot(rest) {
            if !out.ends_with('/') {
                out.push('.');
                rest = behind;
            } else if let Some(after) = end_of_segment(behind) {
                rest = after;
            } else if let Some(after) = strip_dot(behind).and_then(end_of_segment) {
                // The output ends in a slash, and the first one stays.
                let above = out.strip_suffix('/').and_then(|out| out.rfind('/')).unwrap_or(0);
                out.truncate(above.saturating_add(1));
                rest = after;
            } else {
                out.push('.');
                rest = behind;
            }
            continue;
        }
        let behind = rest.get(letter.len_utf8()..).unwrap_or_default();
        match (letter, decode_percent(rest)) {
            ('\\', _) => out.push('/'),
            ('%', Some((0, _))) => return None,
            ('%', Some((byte, after))) if is_unreserved(byte) => {
                out.push(byte.into());
                escape_lone_percent(&mut out, lone, after);
                rest = after;
                continue;
            }
            ('%', Some((_, after))) => {
                out.push_str(rest.get(..3).unwrap_or_default());
                rest = after;
                continue;
            }
            ('%', None) => {
                lone = Some(out.len());
                out.push('%');
            }
            (letter, _) if letter.is_ascii_graphic() && !"\"#<>?^`{|}".contains(letter) => out.push(letter),
            (letter, _) => {
                let mut bytes = [0; 4];
                letter.encode_utf8(&mut bytes).bytes().for_each(|byte| push_encoded(&mut out, byte));
            }
        }
        rest = behind;
    }
    Some(out)
}

/// Encodes a `%` that began no encoding, if the characters decoded after it would make it begin one.
fn escape_lone_percent(out: &mut String, lone: Option<usize>, rest: &str) {
    let Some(at) = lone else { return };
    let Some(tail) = out.get(at..).map(str::to_owned) else { return };
    let next = rest.chars().next().filter(char::is_ascii);
    let looks_encoded = match (tail.len(), next) {
        (2, Some(next)) => decode_percent(&format!("{tail}{next}")).is_some(),
        (3, _) => decode_percent(&tail).is_some(),
        _ => false,
    };
    if looks_encoded {
        out.replace_range(at..at.saturating_add(1), "%25");
    }
}

fn strip_dot(text: &str) -> Option<&str> {
    text.strip_prefix('.').or_else(|| text.strip_prefix("%2e")).or_else(|| text.strip_prefix("%2E"))
}

/// Returns the text after a segment that ends here.
fn end_of_segment(text: &str) -> Option<&str> {
    if text.is_empty() { Some("") } else { text.strip_prefix(['/', '\\']) }
}

/// Decodes the percent-encoding at the beginning, and returns the byte and the rest.
fn decode_percent(text: &str) -> Option<(u8, &str)> {
    let digits = text.strip_prefix('%')?.get(..2)?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let byte = if is_number { u8::from_str_radix(digits, 16).ok()? } else { return None };
    Some((byte, text.get(3..)?))
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_~".contains(&byte)
}

fn push_encoded(out: &mut String, byte: u8) {
    let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or_default().to_ascii_uppercase();
    out.extend(['%', digit(byte >> 4), digit(byte & 15)]);
}

/// Merges adjacent slashes. A path of slashes alone keeps two.
fn merge_slashes(path: &str) -> String {
    if !path.contains("//") {
        return path.to_owned();
    }
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let slash = |has: bool| if has { "/" } else { "" };
    [slash(path.starts_with('/')), &segments.join("/"), slash(path.ends_with('/'))].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalized_as_in_envoy() {
        for (path, expected) in [
            ("/", Ok("/")),
            ("/a//b", Ok("/a/b")),
            ("///", Ok("//")),
            ("//a//", Ok("/a/")),
            ("/a/./b/../c", Ok("/a/c")),
            ("/..", Ok("/")),
            ("/a/%2e%2E/b", Ok("/b")),
            ("/a\\..\\b", Ok("/b")),
            ("/a/..;x/b", Ok("/b")),
            ("/a/.;x/b", Ok("/a/b")),
            ("/a/%2e%2e;x/b", Ok("/a/..;x/b")),
            ("/a/...", Ok("/a/...")),
            ("/%70ublic", Ok("/public")),
            ("/%7e%5f%2d", Ok("/~_-")),
            ("/%3b%25%20", Ok("/%3b%25%20")),
            ("/%zz%4", Ok("/%zz%4")),
            ("/%%300", Ok("/%2500")),
            ("/%%30%30", Ok("/%2500")),
            ("/a\"<>^`{|}", Ok("/a%22%3C%3E%5E%60%7B%7C%7D")),
            ("/é", Ok("/%C3%A9")),
            ("/a?x=/../%2f", Ok("/a?x=/../%2f")),
            ("/a%2fb", Ok("/a%2fb")),
            ("/a%5Cb", Ok("/a%5Cb")),
            ("/a%00", Err(ZERO_BYTE)),
        ] {
            assert_eq!(normalize_path(path), expected.map(str::to_owned), "{path}");
        }
    }
}
