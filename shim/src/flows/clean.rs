//! Text that workloads chose, as it may stand anywhere: in a terminal, a log, a comment of YAML.

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

#[cfg(test)]
mod tests {
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
