//! A translation of RE2's syntax, as Envoy reads it (`re2/parse.cc`, its default options), to that of regex-lite. Syntax
//! that both have with another meaning (`\<`, `\s`, `a{,2}`) is written unambiguously, and syntax that only one of them
//! has is refused. Greediness and the names of groups are left out: they do not change whether a whole text matches.

mod class;

use std::fmt::Write as _;
use std::str::Chars;

use self::class::Class;

/// The largest number of repetitions that RE2 accepts, nested ones multiplied.
const MAX_REPEAT: u32 = 1000;

/// The reason why a pattern is refused.
pub(super) type Refused = &'static str;

/// Translates a pattern to regex-lite's syntax.
pub(super) fn translate(pattern: &str) -> Result<String, Refused> {
    let mut parser = Parser {
        rest: pattern.chars(),
        out: String::with_capacity(pattern.len()),
        flags: Flags::default(),
        groups: Vec::new(),
        last: Last::Nothing,
        repeated: 1,
    };
    parser.run()?;
    Ok(parser.out)
}

#[derive(Clone, Copy, Default)]
struct Flags {
    ignore_case: bool,
    /// `^` and `$` match at lines, too.
    lines: bool,
    /// `.` matches `\n`, too.
    dot_all: bool,
}

/// The last element, which a repetition would repeat.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Nothing,
    /// An element whose parts are repeated this often at most.
    Item(u32),
    Repetition,
}

struct Group {
    /// The flags outside of the group.
    flags: Flags,
    repeated: u32,
}

struct Parser<'p> {
    rest: Chars<'p>,
    out: String,
    flags: Flags,
    groups: Vec<Group>,
    last: Last,
    /// The largest number of repetitions in this group.
    repeated: u32,
}

impl<'p> Parser<'p> {
    fn run(&mut self) -> Result<(), Refused> {
        while let Some(letter) = self.rest.next() {
            match letter {
                '(' => self.open()?,
                ')' => self.close()?,
                '|' => {
                    self.out.push('|');
                    self.last = Last::Nothing;
                }
                '*' | '+' | '?' => self.repeat(&letter.to_string(), 1)?,
                '{' => match self.counted() {
                    Some((text, least, most)) => {
                        let is_backwards = most.is_some_and(|most| most < least);
                        if is_backwards || least > MAX_REPEAT || most.is_some_and(|most| most > MAX_REPEAT) {
                            return Err(
                                "a repetition is at most 1000, and its second number no less than its first",
                            );
                        }
                        self.repeat(&text, most.unwrap_or(least).max(1))?;
                    }
                    // RE2 takes what is no repetition for letters.
                    None => self.literal('{'),
                },
                '[' => {
                    let class = Class::parse(&mut self.rest, self.flags.ignore_case)?;
                    self.class(&class);
                }
                '.' if self.flags.dot_all => self.item("(?s:.)"),
                '.' => self.item("."),
                '^' if self.flags.lines => self.item("(?m:^)"),
                '^' => self.item(r"\A"),
                '$' if self.flags.lines => self.item("(?m:$)"),
                '$' => self.item(r"\z"),
                '\\' => self.escape()?,
                letter => self.letter(letter)?,
            }
        }
        if self.groups.is_empty() { Ok(()) } else { Err("a `(` has no `)`") }
    }

    fn item(&mut self, text: &str) {
        self.out.push_str(text);
        self.last = Last::Item(1);
    }

    fn class(&mut self, class: &Class) {
        // Writing to a string cannot fail.
        let _ = write!(self.out, "{class}");
        self.last = Last::Item(1);
    }

    /// A letter, which stands for its other case too where the flags say so.
    fn letter(&mut self, letter: char) -> Result<(), Refused> {
        if self.flags.ignore_case && letter.is_alphabetic() {
            let class = Class::letter(letter)?;
            self.class(&class);
        } else {
            self.literal(letter);
        }
        Ok(())
    }

    fn literal(&mut self, letter: char) {
        if letter.is_ascii_punctuation() && !matches!(letter, '<' | '>') {
            self.out.push('\\');
        }
        self.out.push(letter);
        self.last = Last::Item(1);
    }

    fn repeat(&mut self, text: &str, times: u32) -> Result<(), Refused> {
        let inside = match self.last {
            Last::Item(inside) => inside,
            Last::Nothing => return Err("a repetition has nothing before it"),
            Last::Repetition => return Err("a repetition is repeated: put parentheses around the first"),
        };
        let repeated = inside.saturating_mul(times);
        if repeated > MAX_REPEAT {
            return Err("repetitions are at most 1000 together");
        }
        self.repeated = self.repeated.max(repeated);
        self.out.push_str(text);
        self.skip('?');
        self.last = Last::Repetition;
        Ok(())
    }

    /// The rest of `{2}`, `{2,}` or `{2,3}`, and the numbers in it; `None`, and nothing is read, where it is none.
    fn counted(&mut self) -> Option<(String, u32, Option<u32>)> {
        let (inside, rest) = self.rest.as_str().split_once('}')?;
        let number = |text: &str| {
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            (is_number && (text.len() == 1 || !text.starts_with('0')))
                .then(|| text.parse().unwrap_or(u32::MAX))
        };
        let (least, most) = match inside.split_once(',') {
            None => (number(inside)?, Some(number(inside)?)),
            Some((least, "")) => (number(least)?, None),
            Some((least, most)) => (number(least)?, Some(number(most)?)),
        };
        self.rest = rest.chars();
        Some((["{", inside, "}"].concat(), least, most))
    }

    fn open(&mut self) -> Result<(), Refused> {
        let outside = Group { flags: self.flags, repeated: self.repeated };
        if self.skip('?') {
            let named = if self.rest.as_str().starts_with("P<") || self.rest.as_str().starts_with('<') {
                self.skip('P');
                self.skip('<')
            } else {
                false
            };
            if named {
                self.name()?;
            } else if !self.flags()? {
                return Ok(());
            }
        }
        self.groups.push(outside);
        self.repeated = 1;
        self.out.push_str("(?:");
        self.last = Last::Nothing;
        Ok(())
    }

    fn close(&mut self) -> Result<(), Refused> {
        let Group { flags, repeated } = self.groups.pop().ok_or("a `)` has no `(`")?;
        self.out.push(')');
        self.last = Last::Item(self.repeated);
        self.flags = flags;
        self.repeated = self.repeated.max(repeated);
        Ok(())
    }

    fn name(&mut self) -> Result<(), Refused> {
        let (name, rest) = self.rest.as_str().split_once('>').ok_or("a group's name has no `>`")?;
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err("a group's name has letters, digits and `_`");
        }
        self.rest = rest.chars();
        Ok(())
    }

    /// Reads flags, and returns whether they begin a group.
    fn flags(&mut self) -> Result<bool, Refused> {
        const KNOWN: Refused =
            "behind `(?` RE2 knows the flags `i`, `m`, `s` and `U`, and neither look-around nor comments";
        let (mut flags, mut on, mut is_flag_missing) = (self.flags, true, false);
        loop {
            match self.rest.next() {
                Some('i') => flags.ignore_case = on,
                Some('m') => flags.lines = on,
                Some('s') => flags.dot_all = on,
                Some('U') => {}
                Some('-') if on => {
                    (on, is_flag_missing) = (false, true);
                    continue;
                }
                Some(end @ (':' | ')')) if !is_flag_missing => {
                    self.flags = flags;
                    // A repetition after flags alone would repeat the element before them.
                    self.last = Last::Nothing;
                    return Ok(end == ':');
                }
                _ => return Err(KNOWN),
            }
            is_flag_missing = false;
        }
    }

    fn escape(&mut self) -> Result<(), Refused> {
        let mut ahead = self.rest.clone();
        match ahead.next() {
            Some('Q') => {
                self.rest = ahead;
                return self.quoted();
            }
            Some('C') => return Err(r"`\C` is a single byte, which no pattern here can match"),
            Some('p' | 'P') => {
                return Err(
                    r"classes of Unicode (`\p`) are not supported: list the characters, as in `[a-zäöü]`",
                );
            }
            Some('A') => self.item(r"\A"),
            Some('z') => self.item(r"\z"),
            Some('b') => self.item(r"(?:\b)"),
            Some('B') => self.item(r"(?:\B)"),
            Some(letter @ ('d' | 'D' | 's' | 'S' | 'w' | 'W')) => {
                let class = Class::perl(letter, self.flags.ignore_case);
                self.class(&class);
            }
            _ => {
                let letter = escaped(&mut self.rest)?;
                return self.letter(letter);
            }
        }
        self.rest = ahead;
        Ok(())
    }

    /// `\Q…\E`, or `\Q` up to the end: all of it is letters.
    fn quoted(&mut self) -> Result<(), Refused> {
        let text = self.rest.as_str();
        let (inside, rest) = text.split_once(r"\E").unwrap_or((text, ""));
        self.rest = rest.chars();
        // A repetition after an empty quotation would repeat the element before it.
        self.last = Last::Nothing;
        inside.chars().try_for_each(|letter| self.letter(letter))
    }

    fn skip(&mut self, letter: char) -> bool {
        let rest = self.rest.as_str().strip_prefix(letter);
        if let Some(rest) = rest {
            self.rest = rest.chars();
        }
        rest.is_some()
    }
}

/// Reads the character that an escape stands for, after its backslash.
fn escaped(rest: &mut Chars<'_>) -> Result<char, Refused> {
    const NONE: Refused = "RE2 knows no such escape";
    let letter = rest.next().ok_or("it ends with a `\\`")?;
    Ok(match letter {
        'a' => '\x07',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        'x' => hexadecimal(rest)?,
        '0'..='7' => {
            let first = letter.to_digit(8).unwrap_or_default();
            let mut more = 0_u32;
            let mut number = first;
            while more < 2
                && let Some(digit) = rest.clone().next().and_then(|letter| letter.to_digit(8))
            {
                rest.next();
                number = number.saturating_mul(8).saturating_add(digit);
                more = more.saturating_add(1);
            }
            if first > 0 && more == 0 {
                return Err("references back to a group are not supported");
            }
            char::from_u32(number).ok_or(NONE)?
        }
        '8' | '9' => return Err("references back to a group are not supported"),
        letter if letter.is_ascii() && !letter.is_ascii_alphanumeric() => letter,
        _ => return Err(NONE),
    })
}

/// Reads the rest of `\x41` or `\x{41}`.
fn hexadecimal(rest: &mut Chars<'_>) -> Result<char, Refused> {
    const WRONG: Refused = r"`\x` is followed by two digits, or by the number of a character in braces";
    let text = rest.as_str();
    let (digits, behind) = match text.strip_prefix('{') {
        Some(inside) => inside.split_once('}').ok_or(WRONG)?,
        None => text.split_at_checked(2).ok_or(WRONG)?,
    };
    *rest = behind.chars();
    let is_number = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = if is_number { u32::from_str_radix(digits, 16).ok() } else { None };
    number.and_then(char::from_u32).ok_or(WRONG)
}
