mod re2;

use std::fmt;

use regex_lite::RegexBuilder;

/// The largest compiled pattern, in bytes. A pattern costs time by its size, and every worker holds it.
const SIZE_LIMIT: usize = 64 * 1024;

/// A regular expression that must match the whole text, in linear time.
///
/// It has the meaning that RE2 gives it, which Envoy uses. Classes of Unicode (`\p`), single bytes (`\C`), and letters
/// outside of ASCII under `(?i)` are refused.
///
/// ```
/// # fn main() -> Result<(), egress_policy::PatternError> {
/// let pattern = egress_policy::FullMatch::new("/api/v[0-9]+/.*")?;
/// assert!(pattern.matches("/api/v2/users") && !pattern.matches("/x/api/v2/users"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct FullMatch(regex_lite::Regex);

/// A reason why a text is not a [`FullMatch`].
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
        let error = |cause: String| PatternError { pattern: pattern.to_owned(), cause };
        let text = re2::translate(pattern).map_err(|cause| error(cause.to_owned()))?;
        let whole = format!(r"\A(?:{text})\z");
        let built = RegexBuilder::new(&whole).size_limit(SIZE_LIMIT).build();
        built.map(Self).map_err(|cause| error(cause.to_string()))
    }

    /// Returns an upper bound of a valid pattern's compiled size: the smallest power of two that it fits into, in bytes.
    /// regex-lite tells only whether a pattern keeps a limit.
    #[must_use]
    pub fn compiled_size(pattern: &str) -> usize {
        let Ok(text) = re2::translate(pattern) else { return SIZE_LIMIT };
        let text = format!(r"\A(?:{text})\z");
        let fits = |limit: &usize| RegexBuilder::new(&text).size_limit(*limit).build().is_ok();
        (8..16).map(|power| 1 << power).find(fits).unwrap_or(SIZE_LIMIT)
    }

    /// Matches the whole text.
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
            // Syntax that regex-lite gives another meaning, or does not know.
            (r"\<a\>", "<a>", true),
            (r"\<a\>", "a", false),
            (r"\Qa.b*\E+", "a.b**", true),
            (r"\Q/a.b", "/a.b", true),
            (r"\Q/a.b", "/axb", false),
            (r"\101\0\x41\x{42}", "A\0AB", true),
            ("a{", "a{", true),
            ("{x}", "{x}", true),
            ("a{,2}", "a{,2}", true),
            ("a{,2}", "aa", false),
            ("a{1,2", "a{1,2", true),
            ("a{01}", "a{01}", true),
            (r"\s", "\u{b}", false),
            (r"\s", "\u{c}", true),
            ("[[:space:]]", "\u{b}", true),
            (r"\w", "é", false),
            (r"[^\w]", "é", true),
            (r"\d", "٣", false),
            ("(?i)k", "\u{212a}", true),
            ("(?i)[^k]", "\u{212a}", false),
            ("(?i:a)b", "AB", false),
            ("(?i)a|b", "B", true),
            ("(?i)(?-i)a|b", "B", false),
            ("[a&&b]+", "a&b", true),
            ("[[a]+", "[a", true),
            ("[]a]+", "]a", true),
            ("[a-b-c]+", "a-c", true),
            ("[a-]+", "a-", true),
            ("[^a-c]", "d", true),
            ("(?s).", "\n", true),
            (".", "\n", false),
            ("a$", "a\n", false),
            ("(?m)a$\n", "a\n", true),
            (r"\_\-\/", "_-/", true),
            ("(?P<n>a)(?<m>b)", "ab", true),
            ("()", "", true),
        ] {
            assert_eq!(FullMatch::new(pattern).expect(pattern).matches(text), expected, "{pattern} {text:?}");
        }
    }

    #[test]
    fn the_compiled_size_is_an_upper_bound() {
        for (pattern, expected) in [("/get", 512), ("/api/v[0-9]+/users/.*", 1024), ("[a-z]{1000}", 64 << 10)]
        {
            assert_eq!(FullMatch::compiled_size(pattern), expected, "{pattern}");
        }
    }

    #[test]
    fn syntax_that_re2_refuses_is_refused() {
        for pattern in [
            "(",
            "a)|(b",
            ")",
            "*",
            r"\1",
            r"\8",
            "(?=a)",
            "(?!a)",
            "(?<=a)",
            "(?<!a)",
            "(?>a)",
            "(?#a)",
            r"\p{Greek}",
            r"\pN",
            "(a{1000}){1000}",
            "(a{2}){501}",
            r"\C",
            "(?x)a b",
            "(?R)a",
            "(?u)a",
            "(?i-)a",
            "(?-i-s)a",
            "a**",
            "a++",
            "a{2}{3}",
            "a???",
            "a{1001}",
            "a{2,1}",
            r"\Z",
            r"\h",
            r"\e",
            r"\u0041",
            r"\E",
            r"\x4",
            r"\x{}",
            r"\x{110000}",
            r"\x{d800}",
            r"\é",
            r"\",
            "[",
            "[a",
            "[]",
            "[z-a]",
            r"[a-\d]",
            "[[:x:]]",
            r"[\b]",
            r"[\Q]",
            "(?i)é",
            "(?i)[à-ü]",
            "(?P<>a)",
            "(?P<a-b>a)",
            "(?P=a)",
            "|*",
            "(*)",
            "(?i)*",
        ] {
            assert!(FullMatch::new(pattern).is_err(), "{pattern}");
        }
    }
}
