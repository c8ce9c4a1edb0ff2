//! Classes of characters.

use std::fmt;
use std::str::Chars;

use super::{Refused, escaped};

/// The letters outside of ASCII whose other case is a letter of ASCII: the Kelvin sign and the long s.
const KELVIN: u32 = 0x212a;
const LONG_S: u32 = 0x17f;
/// The last character of Unicode.
const MAX_CODE: u32 = 0x10_ffff;

/// A set of characters, as ranges in order.
#[derive(Debug, Default)]
pub(super) struct Class(Vec<(u32, u32)>);

impl Class {
    /// Reads a class after its `[`.
    pub(super) fn parse(rest: &mut Chars<'_>, ignore_case: bool) -> Result<Self, Refused> {
        const OPEN: Refused = "a `[` has no `]`";
        let mut class = Self::default();
        let is_negated = skip(rest, "^");
        let mut first = true;
        loop {
            let text = rest.as_str();
            if text.is_empty() {
                return Err(OPEN);
            }
            if !first && skip(rest, "]") {
                break;
            }
            first = false;
            if let Some((name, behind)) = text.strip_prefix("[:").and_then(|text| text.split_once(":]")) {
                class.0.extend(Self::posix(name, ignore_case)?.0);
                *rest = behind.chars();
                continue;
            }
            let mut escape = text.strip_prefix('\\').map(str::chars).into_iter().flatten();
            match escape.next() {
                Some(letter @ ('d' | 'D' | 's' | 'S' | 'w' | 'W')) => {
                    skip(rest, "\\");
                    rest.next();
                    class.0.extend(Self::perl(letter, ignore_case).0);
                    continue;
                }
                Some('p' | 'P') => {
                    return Err("classes of Unicode (`\\p`) are not supported: list the characters");
                }
                _ => {}
            }
            let low = character(rest)?;
            let is_range = rest
                .as_str()
                .strip_prefix('-')
                .is_some_and(|rest| !rest.starts_with(']') && !rest.is_empty());
            let high = if is_range {
                rest.next();
                character(rest)?
            } else {
                low
            };
            if high < low {
                return Err("a range in a class ends before it begins");
            }
            class.add(&Self(vec![(low.into(), high.into())]), ignore_case)?;
        }
        class.sort();
        Ok(if is_negated { class.negated() } else { class })
    }

    /// Makes the class of a letter and its other case.
    pub(super) fn letter(letter: char) -> Result<Self, Refused> {
        let mut class = Self::default();
        class.add(&Self(vec![(letter.into(), letter.into())]), true)?;
        class.sort();
        Ok(class)
    }

    /// Makes the class of `\d`, `\s` or `\w`, or of its complement.
    pub(super) fn perl(letter: char, ignore_case: bool) -> Self {
        let ranges: &[(char, char)] = match letter.to_ascii_lowercase() {
            'd' => &[('0', '9')],
            's' => &[('\t', '\n'), ('\x0c', '\r'), (' ', ' ')],
            _ => &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
        };
        Self::of(ranges, ignore_case, letter.is_ascii_uppercase())
    }

    /// Makes the class of `[:alpha:]` and the like.
    fn posix(name: &str, ignore_case: bool) -> Result<Self, Refused> {
        let (name, is_negated) = name.strip_prefix('^').map_or((name, false), |name| (name, true));
        let ranges: &[(char, char)] = match name {
            "alnum" => &[('0', '9'), ('A', 'Z'), ('a', 'z')],
            "alpha" => &[('A', 'Z'), ('a', 'z')],
            "ascii" => &[('\0', '\x7f')],
            "blank" => &[('\t', '\t'), (' ', ' ')],
            "cntrl" => &[('\0', '\x1f'), ('\x7f', '\x7f')],
            "digit" => &[('0', '9')],
            "graph" => &[('!', '~')],
            "lower" => &[('a', 'z')],
            "print" => &[(' ', '~')],
            "punct" => &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
            "space" => &[('\t', '\r'), (' ', ' ')],
            "upper" => &[('A', 'Z')],
            "word" => &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
            "xdigit" => &[('0', '9'), ('A', 'F'), ('a', 'f')],
            _ => return Err("there is no such class: `[:alpha:]`, `[:digit:]` and their like are known"),
        };
        Ok(Self::of(ranges, ignore_case, is_negated))
    }

    /// Makes a class of ranges of ASCII, or of their complement.
    fn of(ranges: &[(char, char)], ignore_case: bool, is_negated: bool) -> Self {
        let mut class = Self::default();
        let ranges = ranges.iter().map(|(low, high)| (u32::from(*low), u32::from(*high))).collect();
        // Ranges of ASCII are never refused.
        let _ = class.add(&Self(ranges), ignore_case);
        class.sort();
        if is_negated { class.negated() } else { class }
    }

    /// Adds ranges, and where case is ignored, the other case of their letters.
    fn add(&mut self, other: &Self, ignore_case: bool) -> Result<(), Refused> {
        self.0.extend(&other.0);
        if !ignore_case {
            return Ok(());
        }
        for (low, high) in other.0.iter().copied() {
            let has = |code: u32| (low..=high).contains(&code);
            // The cases of other letters would be a table of their own.
            let mut others = (low.max(0x80)..=high).filter_map(char::from_u32);
            if others.any(char::is_alphabetic) {
                return Err("with `(?i)` letters are those of ASCII: write both cases of others without it");
            }
            for (from, to) in [(u32::from('a'), u32::from('A')), (u32::from('A'), u32::from('a'))] {
                let (first, last) = (low.max(from), high.min(from.saturating_add(25)));
                if first <= last {
                    let other = |code: u32| code.saturating_sub(from).saturating_add(to);
                    self.0.push((other(first), other(last)));
                }
            }
            for (letter, odd) in [('k', KELVIN), ('s', LONG_S)] {
                if has(letter.into()) || has(letter.to_ascii_uppercase().into()) {
                    self.0.push((odd, odd));
                }
            }
        }
        Ok(())
    }

    /// Puts the ranges in order, and joins those that touch.
    fn sort(&mut self) {
        self.0.sort_unstable();
        let mut joined: Vec<(u32, u32)> = Vec::with_capacity(self.0.len());
        for (low, high) in self.0.iter().copied() {
            match joined.last_mut() {
                Some((_, end)) if low <= end.saturating_add(1) => *end = high.max(*end),
                _ => joined.push((low, high)),
            }
        }
        self.0 = joined;
    }

    /// Makes the class of all other characters; the ranges are in order.
    fn negated(&self) -> Self {
        let mut gaps = Vec::with_capacity(self.0.len().saturating_add(1));
        let mut next = 0_u32;
        for (low, high) in self.0.iter().copied() {
            if next < low {
                gaps.push((next, low.saturating_sub(1)));
            }
            next = high.saturating_add(1);
        }
        if next <= MAX_CODE {
            gaps.push((next, MAX_CODE));
        }
        Self(gaps)
    }
}

/// Reads a character of a class, escaped or not.
fn character(rest: &mut Chars<'_>) -> Result<char, Refused> {
    match rest.next() {
        Some('\\') => escaped(rest),
        Some(letter) => Ok(letter),
        None => Err("a `[` has no `]`"),
    }
}

fn skip(rest: &mut Chars<'_>, text: &str) -> bool {
    let behind = rest.as_str().strip_prefix(text);
    if let Some(behind) = behind {
        *rest = behind.chars();
    }
    behind.is_some()
}

/// The class in regex-lite's syntax.
impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Surrogates of UTF-16 are not characters.
        let start = |code: u32| if (0xd800..=0xdfff).contains(&code) { 0xe000 } else { code };
        let end = |code: u32| if (0xd800..=0xdfff).contains(&code) { 0xd7ff } else { code };
        let ranges =
            self.0.iter().map(|(low, high)| (start(*low), end(*high))).filter(|(low, high)| low <= high);
        let mut is_empty = true;
        for (low, high) in ranges {
            f.write_str(if is_empty { "[" } else { "" })?;
            is_empty = false;
            write!(f, "\\x{{{low:x}}}")?;
            if high > low {
                write!(f, "-\\x{{{high:x}}}")?;
            }
        }
        // The empty class.
        f.write_str(if is_empty { r"[^\x00-\x{10ffff}]" } else { "]" })
    }
}
