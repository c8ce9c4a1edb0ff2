//! Parts of a path that Envoy leaves as they are and servers may interpret: dot segments and encoded slashes.

use crate::FullMatch;

/// The encoded slashes (`%2F`) and backslashes (`%5C`) of a text. A server may decode them, and then a path has other
/// segments than the ones that a pattern was written for. So a pattern matches only paths whose kinds it contains itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EncodedSlashes {
    slash: bool,
    backslash: bool,
}

impl EncodedSlashes {
    /// Finds the kinds in a path or in a pattern.
    pub(crate) fn find_in(text: &str) -> Self {
        let holds = |escape: &[u8]| {
            text.as_bytes().windows(escape.len()).any(|part| part.eq_ignore_ascii_case(escape))
        };
        Self { slash: holds(b"%2f"), backslash: holds(b"%5c") }
    }

    /// Returns whether another text has all of these kinds.
    pub(crate) fn is_subset_of(self, other: Self) -> bool {
        (!self.slash || other.slash) && (!self.backslash || other.backslash)
    }

    fn is_empty(self) -> bool {
        !self.slash && !self.backslash
    }
}

/// Matches a path with a pattern; the digits of encoded slashes may be in either case (RFC 3986 §2.1).
pub(crate) fn matches(pattern: &FullMatch, path: &str) -> bool {
    pattern.matches(path)
        || !EncodedSlashes::find_in(path).is_empty()
            && (pattern.matches(&path.replace("%2f", "%2F").replace("%5c", "%5C"))
                || pattern.matches(&path.replace("%2F", "%2f").replace("%5C", "%5c")))
}

/// Returns whether a server may read a segment as `.` or `..`: with parameters (`..;x`, which Tomcat cuts off), encoded once
/// more (`%252e%252e`), or with white space around. Envoy resolves only the plain spellings, so a pattern would match
/// a path that leads elsewhere.
pub(crate) fn has_dot_segment(path: &str) -> bool {
    let decoded = decode(path);
    let mut segments = decoded.split(|byte| matches!(byte, b'/' | b'\\'));
    segments.any(|segment| {
        let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        let is_space = |byte: &u8| *byte <= b' ' || *byte == 0x7f;
        let mut letters = name.iter().skip_while(|byte| is_space(byte)).copied();
        // One dot or two, and then space alone.
        letters.next() == Some(b'.')
            && letters.clone().skip_while(|byte| *byte == b'.').all(|byte| is_space(&byte))
            && letters.take_while(|byte| *byte == b'.').count() <= 1
    })
}

/// Decodes until nothing is encoded: `%252e` is `%2e`, and that is `.`. One pass is enough for any number of encodings,
/// because the workload chooses that number.
fn decode(path: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    for byte in path.bytes() {
        decoded.push(byte);
        while let [.., b'%', high, low] = decoded.as_slice()
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            let length = decoded.len().saturating_sub(3);
            decoded.truncate(length);
            decoded.push(high << 4 | low);
        }
    }
    decoded
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_segments_are_found_in_every_spelling() {
        for path in [
            "/public/..;/private",
            "/public/..;x=1/private",
            "/public/%2e%2e;/private",
            "/public/.%2E;/private",
            "/public/%2e;x/private",
            "/public/.;/private",
            "/public/..%3b/private",
            "/public/..%3B",
            "/public/..%253b/private",
            "/public/%252e%252e/private",
            "/public/%252e%252e;/private",
            "/public/%25252e./private",
            "/public/%2%35%32e./private",
            "/public/..%252fprivate",
            "/public/..%255cprivate",
            "/public/..%20/private",
            "/public/%20../private",
            "/public/..%00;x/private",
            "/public/..%09",
            "/public/../private",
            "/public/.",
            "..;",
        ] {
            assert!(has_dot_segment(path), "{path}");
        }
        for path in [
            "",
            "/",
            "/public/a",
            "/public/...;/a",
            "/public/.../a",
            "/public/..a;/b",
            "/public/a..;/b",
            "/public/.well-known/x",
            "/public/a;..",
            "/public/;../a",
            "/public/a;x=../b;..",
            "/public/%2e%2ea/b",
            "/public/100%/..x",
            "/public/%zz/a",
            "/public/. ./a",
        ] {
            assert!(!has_dot_segment(path), "{path}");
        }
    }

    #[test]
    fn a_pattern_matches_only_encoded_slashes_that_it_contains() {
        for (pattern, path, is_slash_missing, is_match) in [
            ("/a/.*", "/a/b", false, true),
            ("/a/.*", "/a/b%2Fc", true, true),
            ("/a/.*", "/a/b%5cc", true, true),
            ("/a/[^/]*%2F[^/]*", "/a/b%2Fc", false, true),
            ("/a/[^/]*%2F[^/]*", "/a/b%2fc", false, true),
            ("/a/[^/]*%2f[^/]*", "/a/b%2Fc", false, true),
            ("/a/%2F/%2F", "/a/%2f/%2F", false, true),
            ("/a/%2f/%2F", "/a/%2f/%2F", false, true),
            ("/a/%2F.*", "/a/%5C", true, false),
            ("/a/%2F.*", "/a/%2F%5C", true, true),
            ("/a/%2F", "/a//", false, false),
            ("/a/%2F", "/a/%252F", false, false),
            ("/a/b%2Fc", "/A/B%2fC", false, false),
        ] {
            let compiled = FullMatch::new(pattern).expect("a pattern");
            let has_slashes = EncodedSlashes::find_in(path).is_subset_of(EncodedSlashes::find_in(pattern));
            assert_eq!(!has_slashes, is_slash_missing, "{pattern} {path}");
            assert_eq!(matches(&compiled, path), is_match, "{pattern} {path}");
        }
    }

    /// More than a header may hold, with as many encodings as fit into it.
    #[test]
    fn deep_encodings_take_linear_time() {
        let path = format!("/%{}2e./x", "25".repeat(1_000_000));
        assert!(has_dot_segment(&path));
    }
}
