use std::fmt;

use regex_lite::RegexBuilder;

/// The largest compiled pattern, in bytes. A pattern costs time by its size, and every worker holds it.
const SIZE_LIMIT: usize = 64 * 1024;

/// A regular expression that must match the whole text, in linear time.
///
/// The syntax is RE2's without Unicode classes: `.`, `\d`, `\w` and `\s` as in RE2, no look-around,
/// no back-references.
#[derive(Clone)]
pub struct FullMatch(regex_lite::Regex);

/// Why a text is not a [`FullMatch`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{pattern}` is not a usable regular expression: {cause}")]
pub struct PatternError {
    pattern: String,
    cause: String,
}

impl FullMatch {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// When the pattern does not compile, or compiles to more than 64 KiB.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        let error =
            |cause: regex_lite::Error| PatternError { pattern: pattern.to_owned(), cause: cause.to_string() };
        let build = |text: &str| RegexBuilder::new(text).size_limit(SIZE_LIMIT).build().map_err(error);
        // Alone first: `a)|(b` is no pattern, and would become one between our parentheses.
        build(pattern)?;
        build(&format!(r"\A(?:{pattern})\z")).map(Self)
    }

    /// Bounds the compiled size of a valid pattern from above: the smallest power of two that it fits into, in
    /// bytes. regex-lite tells no more than whether a pattern keeps a limit.
    #[must_use]
    pub fn compiled_size(pattern: &str) -> usize {
        let text = format!(r"\A(?:{pattern})\z");
        let fits = |limit: &usize| RegexBuilder::new(&text).size_limit(*limit).build().is_ok();
        (8..16).map(|power| 1 << power).find(fits).unwrap_or(SIZE_LIMIT)
    }

    /// Whether the pattern matches the whole text.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

impl fmt::Debug for FullMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_text_must_match() {
        for (pattern, text, expected) in [
            ("/get", "/get", true),
            ("/get", "/getx", false),
            ("/get", "/anything/get", false),
            ("/status.*", "/status/200", true),
            ("/status.*", "/x/status", false),
            ("a|ab", "ab", true),
            ("a|b", "xb", false),
            ("^/get$", "/get", true),
            (".*", "", true),
            ("(?i)/GET", "/get", true),
            (".*", "a\nb", false),
            ("(?s).*", "a\nb", true),
            ("[[:alpha:]]+", "abc", true),
        ] {
            assert_eq!(FullMatch::new(pattern).expect(pattern).matches(text), expected, "{pattern} {text:?}");
        }
    }

    #[test]
    fn sizes_are_bounds() {
        for (pattern, expected) in [("/get", 512), ("/api/v[0-9]+/users/.*", 1024), ("[a-z]{1000}", 64 << 10)]
        {
            assert_eq!(FullMatch::compiled_size(pattern), expected, "{pattern}");
        }
    }

    #[test]
    fn what_does_not_compile() {
        for pattern in ["(", "a)|(b", "*", r"\1", "(?=a)", r"\p{Greek}", "(a{1000}){1000}"] {
            assert!(FullMatch::new(pattern).is_err(), "{pattern}");
        }
    }
}
