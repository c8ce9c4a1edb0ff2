//! Reads JSON (RFC 8259), small enough for the module that Envoy loads.
//!
//! With serde, half of that module would be reading: each type and field is code of its own there. Here
//! a type says by [`Read`] what it wants, and the reader is written once. It knows what policy documents
//! are made of (objects, arrays, strings, integers, booleans, null); a fraction or an exponent is an
//! error. It is checked against `serde_json` by property tests, and so is what it makes of documents.

mod error;

use std::borrow::Cow;
use std::fmt::Display;
use std::str::FromStr;

pub use self::error::Error;

/// Deeper than any document, shallow enough for the stack of a wasm VM.
const DEEPEST: u8 = 32;

/// What can be read from JSON.
pub trait Read<'t>: Sized {
    /// Reads one value.
    ///
    /// # Errors
    /// When the text is not JSON, or not what this type is written as.
    fn read(reader: &mut Reader<'t>) -> Result<Self, Error>;
}

/// Reads a value from a complete JSON text.
///
/// # Errors
/// When the text is not JSON, has something after its value, or is not what `T` wants.
pub fn from_str<'t, T: Read<'t>>(text: &'t str) -> Result<T, Error> {
    let mut reader = Reader { text, at: 0, depth: 0 };
    let value = T::read(&mut reader).map_err(|error| error.at(text, reader.at))?;
    match reader.peek() {
        None => Ok(value),
        Some(_) => Err(Error::new("something after the end").at(text, reader.at)),
    }
}

/// A value left as text, to be read later or not at all. Only [`from_str`] makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw<'t>(&'t str);

impl<'t> Raw<'t> {
    /// The JSON text.
    #[must_use]
    pub fn get(self) -> &'t str {
        self.0
    }
}

impl<'t> Read<'t> for Raw<'t> {
    fn read(reader: &mut Reader<'t>) -> Result<Self, Error> {
        reader.peek();
        let start = reader.at;
        reader.skip_value()?;
        Ok(Self(reader.text.get(start..reader.at).unwrap_or_default()))
    }
}

/// A JSON text, and how far it was read.
#[derive(Debug)]
pub struct Reader<'t> {
    text: &'t str,
    at: usize,
    depth: u8,
}

impl<'t> Reader<'t> {
    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        loop {
            match self.text.as_bytes().get(self.at) {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.skip(1),
                next => return next.copied(),
            }
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.at = self.at.saturating_add(bytes);
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), Error> {
        if self.peek() == Some(byte) {
            self.skip(1);
            Ok(())
        } else {
            Err(Error::new(what))
        }
    }

    fn word(&mut self, word: &str) -> bool {
        let found = self.peek().is_some() && self.rest().starts_with(word);
        if found {
            self.skip(word.len());
        }
        found
    }

    /// An integer as the standard spells it: no `+`, no leading zero.
    fn integer(&mut self) -> Result<(bool, u64), Error> {
        let negative = self.word("-");
        let rest = self.rest();
        let digits = rest.len().saturating_sub(rest.trim_start_matches(|c: char| c.is_ascii_digit()).len());
        let text = rest.get(..digits).unwrap_or_default();
        if digits == 0 || (digits > 1 && text.starts_with('0')) {
            return Err(Error::new("not a value"));
        }
        if matches!(rest.as_bytes().get(digits), Some(b'.' | b'e' | b'E')) {
            return Err(Error::new("a number that is not an integer"));
        }
        let number = text.parse().map_err(|_| Error::new("a number that is too large"))?;
        self.skip(digits);
        Ok((negative, number))
    }

    /// A string; borrowed where it has no escapes.
    pub(crate) fn string(&mut self) -> Result<Cow<'t, str>, Error> {
        self.expect(b'"', "a string was expected")?;
        let mut owned: Option<String> = None;
        loop {
            let rest = self.rest();
            let length = rest
                .bytes()
                .position(|b| matches!(b, b'"' | b'\\' | 0..=0x1f))
                .ok_or(Error::new("a string without an end"))?;
            let plain = rest.get(..length).unwrap_or_default();
            let stop = rest.as_bytes().get(length).copied();
            self.skip(length.saturating_add(1));
            match (stop, &mut owned) {
                (Some(b'"'), None) => return Ok(Cow::Borrowed(plain)),
                (Some(b'"'), Some(text)) => {
                    text.push_str(plain);
                    return Ok(Cow::Owned(std::mem::take(text)));
                }
                (Some(b'\\'), _) => {
                    let text = owned.get_or_insert_default();
                    text.push_str(plain);
                    let escaped = self.escape()?;
                    owned.get_or_insert_default().push(escaped);
                }
                _ => return Err(Error::new("a control character in a string")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Error> {
        let kind = self.rest().bytes().next().ok_or(Error::new("a string without an end"))?;
        self.skip(1);
        Ok(match kind {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode(),
            _ => return Err(Error::new("an unknown escape in a string")),
        })
    }

    /// `XXXX`, or a pair of surrogates `XXXX\uXXXX`.
    fn unicode(&mut self) -> Result<char, Error> {
        let error = Error::new("a `\\u` escape that is no character");
        let first = self.hexadecimal()?;
        let code = if (0xd800..0xdc00).contains(&first) {
            if !self.rest().starts_with("\\u") {
                return Err(error);
            }
            self.skip(2);
            let second = self.hexadecimal()?;
            if !(0xdc00..0xe000).contains(&second) {
                return Err(error);
            }
            0x1_0000 + ((first & 0x3ff) << 10 | (second & 0x3ff))
        } else {
            first
        };
        char::from_u32(code).ok_or(error)
    }

    fn hexadecimal(&mut self) -> Result<u32, Error> {
        let digits = self.rest().get(..4).filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
        self.skip(4);
        digits
            .and_then(|text| u32::from_str_radix(text, 16).ok())
            .ok_or(Error::new("a `\\u` escape without four digits"))
    }

    /// What stands between `open` and `close`: calls `member` at the beginning of each.
    fn members(
        &mut self,
        [open, close]: [u8; 2],
        what: &'static str,
        member: &mut dyn FnMut(&mut Self) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.expect(open, what)?;
        self.depth = self.depth.saturating_add(1);
        if self.depth > DEEPEST {
            return Err(Error::new("nested too deep"));
        }
        let mut first = true;
        loop {
            match self.peek() {
                Some(byte) if byte == close => break,
                Some(b',') if !first => {
                    self.skip(1);
                    // `[1,]` is not JSON.
                    if self.peek() == Some(close) {
                        return Err(Error::new("a comma before the end"));
                    }
                }
                Some(_) if first => {}
                _ => return Err(Error::new("a comma was expected")),
            }
            first = false;
            member(self)?;
        }
        self.skip(1);
        self.depth = self.depth.saturating_sub(1);
        Ok(())
    }

    /// An object: `member` gets each name, and must read the value.
    pub(crate) fn object(
        &mut self,
        member: &mut dyn FnMut(&mut Self, &str) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.members(*b"{}", "an object was expected", &mut |reader| {
            if reader.peek() != Some(b'"') {
                return Err(Error::new("a name in quotes was expected"));
            }
            let name = reader.string()?;
            reader.expect(b':', "`:` was expected")?;
            member(reader, &name)
        })
    }

    /// A list.
    pub(crate) fn list<T>(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let mut list = Vec::new();
        self.members(*b"[]", "a list was expected", &mut |reader| {
            list.push(element(reader)?);
            Ok(())
        })?;
        Ok(list)
    }

    /// `null`, or a value.
    pub(crate) fn option<T>(
        &mut self,
        value: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        if self.word("null") { Ok(None) } else { value(self).map(Some) }
    }

    /// A string that stands for something.
    pub(crate) fn parsed<T: FromStr<Err: Display>>(&mut self) -> Result<T, Error> {
        self.string()?.parse().map_err(|error: T::Err| Error::other(&error))
    }

    /// A string.
    pub(crate) fn owned(&mut self) -> Result<String, Error> {
        self.string().map(Cow::into_owned)
    }

    /// A number of 0 or more.
    pub(crate) fn unsigned<T: TryFrom<u64>>(&mut self) -> Result<T, Error> {
        match self.integer()? {
            (false, number) => T::try_from(number).map_err(|_| Error::new("a number that is too large")),
            (true, _) => Err(Error::new("a number below 0")),
        }
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&mut self) -> Result<bool, Error> {
        if self.word("true") {
            Ok(true)
        } else if self.word("false") {
            Ok(false)
        } else {
            Err(Error::new("`true` or `false` was expected"))
        }
    }

    /// Any value.
    fn skip_value(&mut self) -> Result<(), Error> {
        match self.peek() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'{') => self.object(&mut |reader, _| reader.skip_value()),
            Some(b'[') => self.list(Self::skip_value).map(|_| ()),
            Some(b'-' | b'0'..=b'9') => self.integer().map(|_| ()),
            Some(b't' | b'f') => self.boolean().map(|_| ()),
            Some(b'n') if self.word("null") => Ok(()),
            Some(_) => Err(Error::new("not a value")),
            None => Err(Error::new("the text ends where a value was expected")),
        }
    }
}

/// A field of an object that is being read.
#[derive(Debug)]
pub(crate) struct Field<T>(&'static str, Option<T>);

impl<T> Field<T> {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self(name, None)
    }

    /// Takes its value; a second one is an error.
    pub(crate) fn set(&mut self, value: Result<T, Error>) -> Result<(), Error> {
        match self.1.replace(value?) {
            None => Ok(()),
            Some(_) => Err(Error::named("duplicate field", self.0)),
        }
    }

    /// Its value, which must be there.
    pub(crate) fn required(self) -> Result<T, Error> {
        match self.1 {
            Some(value) => Ok(value),
            None => Err(Error::named("missing field", self.0)),
        }
    }

    /// Its value, or another.
    pub(crate) fn or(self, other: T) -> T {
        self.1.unwrap_or(other)
    }
}

/// The error of a name that an object does not have.
pub(crate) fn unknown_field<T>(name: &str) -> Result<T, Error> {
    Err(Error::named("unknown field", name))
}

#[cfg(test)]
mod tests;
