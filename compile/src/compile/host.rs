use egress_policy::{HostError, HostPattern};

use super::Invalid;
use super::diagnostic_sink::DiagnosticSink;

/// Parses a list of host patterns. One invalid pattern invalidates the whole list.
pub(super) fn read_patterns(
    texts: &[String],
    field: &str,
    sink: &mut DiagnosticSink<'_>,
) -> Result<Vec<HostPattern>, Invalid> {
    let mut valid = true;
    let mut patterns = Vec::with_capacity(texts.len());
    for (i, text) in texts.iter().enumerate() {
        let field = format!("{field}[{i}]");
        match parse_pattern(text) {
            Ok(pattern) => {
                let written = pattern.to_string();
                if written != *text {
                    sink.info(&field, format!("`{text}` is read as `{written}`"), None);
                }
                if let HostPattern::Below(suffix) = &pattern
                    && !suffix.as_str().contains('.')
                {
                    let message = format!("`{written}` allows every name of a whole top-level domain");
                    sink.warning(&field, message, Some("list the domains that you need"));
                }
                patterns.push(pattern);
            }
            Err(error) => {
                valid = false;
                sink.error(&field, format_error(text, &error), Some(&suggest(text)));
            }
        }
    }
    patterns.sort_unstable();
    patterns.dedup();
    if valid { Ok(patterns) } else { Err(Invalid) }
}

/// Normalizes a host pattern and parses it.
pub(crate) fn parse_pattern(text: &str) -> Result<HostPattern, HostError> {
    let (wildcard, name) = match text.strip_prefix("*.") {
        Some(name) => ("*.", name),
        None => ("", text),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let ascii = if name.is_ascii() {
        name.to_ascii_lowercase()
    } else {
        // The parser below reports names that `idna` refuses, by their first invalid letter.
        idna::domain_to_ascii_strict(name).unwrap_or_else(|_| name.to_owned())
    };
    format!("{wildcard}{ascii}").parse()
}

fn format_error(text: &str, error: &HostError) -> String {
    let error = error.to_string();
    if error.contains(&format!("`{text}`")) { error } else { format!("`{text}` is not a host: {error}") }
}

/// Suggests the host that the author probably meant.
fn suggest(text: &str) -> String {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') && port.bytes().all(|b| b.is_ascii_digit()) => host,
        Some(_) | None => authority,
    };
    if host != text && parse_pattern(host).is_ok() {
        return format!(
            "write `{host}`: leave out the scheme, list ports in `ports`, and match paths with a route group"
        );
    }
    "correct or remove this host; until then the http and https rules of the object grant nothing".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_normalized() {
        for (text, expected) in [
            ("httpbin.org", Some("httpbin.org")),
            ("HTTPBIN.Org.", Some("httpbin.org")),
            ("*.HTTPBIN.org.", Some("*.httpbin.org")),
            ("bücher.example", Some("xn--bcher-kva.example")),
            ("BÜCHER.example", Some("xn--bcher-kva.example")),
            ("*.bücher.example", Some("*.xn--bcher-kva.example")),
            ("bücher。example", Some("xn--bcher-kva.example")),
            ("XN--BCHER-KVA.example", Some("xn--bcher-kva.example")),
            ("my_service.internal", Some("my_service.internal")),
            ("localhost", Some("localhost")),
            ("１２７.０.０.１", None),
            ("10.0.0.1", None),
            ("[::1]", None),
            ("*", None),
            ("*.", None),
            ("*foo.org", None),
            ("a*.foo.org", None),
            ("a.*.org", None),
            ("*.*.org", None),
            ("*。bücher.example", None),
            ("a\u{200d}b.example", None),
            ("", None),
            (".", None),
            ("a..", None),
            ("a b.org", None),
            ("httpbin.org:80", None),
            ("https://httpbin.org", None),
        ] {
            assert_eq!(parse_pattern(text).ok().map(|p| p.to_string()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn mistakes_get_the_host_that_was_meant() {
        for (text, expected) in [
            ("httpbin.org:8080", "write `httpbin.org`"),
            ("https://httpbin.org/get", "write `httpbin.org`"),
            ("https://*.httpbin.org:443/", "write `*.httpbin.org`"),
            ("10.0.0.1:80", "correct or remove"),
            ("[::1]:80", "correct or remove"),
        ] {
            assert!(suggest(text).starts_with(expected), "{text}: {}", suggest(text));
        }
    }
}
