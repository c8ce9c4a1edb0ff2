//! Text that workloads chose, as it may stand anywhere: in a terminal, a log, a comment of YAML.

use std::fmt::Write;

/// The text without anything that a terminal, an editor or a parser of lines takes for more than a letter, and cut
/// at a number of bytes. What is a host name, a path or a method is left as it is.
#[must_use]
pub fn text(text: &str, longest: usize) -> String {
    let mut clean = String::new();
    for c in text.chars() {
        let before = clean.len();
        if c == '\\' {
            clean.push_str("\\\\");
        } else if c.is_ascii_graphic() || c == ' ' {
            clean.push(c);
        } else {
            clean.extend(c.escape_unicode());
        }
        if clean.len() > longest {
            clean.truncate(before);
            clean.push('…');
            break;
        }
    }
    clean
}

/// The text for a comment of YAML, cut at a number of letters: all but what ends a line, is obeyed, or cannot be seen.
#[must_use]
pub fn comment(text: &str, longest: usize) -> String {
    let clean = text.chars().map(|c| if c.is_control() || is_invisible(c) { '?' } else { c });
    let more = if text.chars().count() > longest { "…" } else { "" };
    clean.take(longest).collect::<String>() + more
}

/// The text, or the JSON, of many lines without what a terminal obeys, and without characters that turn others or cannot
/// be seen. They are written as JSON writes them.
#[must_use]
pub fn lines(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\n' || !(c.is_control() || is_invisible(c)) {
            clean.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a string cannot fail.
                let _ = write!(clean, "\\u{unit:04x}");
            }
        }
    }
    clean
}

/// Marks of direction, joiners, separators of lines, and letters of no width.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_shown() {
        let text = "a\n\x1b[2J\r\t\u{9b}1m\u{202e}b\u{e0041}\u{fc}";
        assert_eq!(super::lines(text), "a\n\\u001b[2J\\u000d\\u0009\\u009b1m\\u202eb\\udb40\\udc41\u{fc}");
        let json = serde_json::to_string_pretty(&[text]).expect("JSON");
        assert_eq!(serde_json::from_str::<[String; 1]>(&super::lines(&json)).expect("JSON"), [text]);
    }

    #[test]
    fn what_workloads_choose() {
        for (given, expected) in [
            ("www.example.com:80", "www.example.com:80"),
            ("/a/b%20c?d=e&f", "/a/b%20c?d=e&f"),
            ("\x1b[31mred\r\n", "\\u{1b}[31mred\\u{d}\\u{a}"),
            ("<script>", "<script>"),
            ("b\u{fc}cher", "b\\u{fc}cher"),
            ("\u{202e}moc", "\\u{202e}moc"),
            ("\\u{1b}", "\\\\u{1b}"),
            ("", ""),
        ] {
            assert_eq!(super::text(given, 260), expected);
        }
        let long = super::text(&"x".repeat(64 << 10), 260);
        assert_eq!(long.chars().count(), 261);
        assert!(super::text(&"\u{1b}".repeat(64 << 10), 260).len() <= 263);
    }
}
