//! Reads JSON (RFC 8259) for serde, small enough for the module that Envoy loads.
//!
//! `serde_json` would be half of that module: its errors pull in the formatting of floating point
//! numbers, and we have none. This reader knows what policy documents are made of (objects, arrays,
//! strings, integers, booleans, null); a fraction or an exponent is an error. It is checked against
//! `serde_json` by property tests.

mod error;

use std::borrow::Cow;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor,
};

pub use self::error::Error;

/// Deeper than any document, shallow enough for the stack of a wasm VM.
const DEEPEST: u8 = 32;

/// Reads a value from a complete JSON text.
///
/// # Errors
/// When the text is not JSON, has something after its value, or is not what `T` wants.
pub fn from_str<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, Error> {
    let mut reader = Reader { text, at: 0, depth: 0 };
    let value = T::deserialize(&mut reader).map_err(|error| error.at(text, reader.at))?;
    match reader.peek() {
        None => Ok(value),
        Some(_) => Err(Error::new("something after the end").at(text, reader.at)),
    }
}

/// A value left as text, to be read later or not at all. Only [`from_str`] makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw<'a>(&'a str);

impl<'a> Raw<'a> {
    /// The JSON text.
    #[must_use]
    pub fn get(self) -> &'a str {
        self.0
    }
}

/// The name by which [`Raw`] asks [`Reader`] for the text itself.
const RAW: &str = "egress_policy::json::Raw";

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = &'de str;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("JSON that can be borrowed")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<&'de str, E> {
                Ok(text)
            }
        }
        deserializer.deserialize_newtype_struct(RAW, Text).map(Self)
    }
}

struct Reader<'de> {
    text: &'de str,
    at: usize,
    depth: u8,
}

impl<'de> Reader<'de> {
    fn rest(&self) -> &'de str {
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
    fn string(&mut self) -> Result<Cow<'de, str>, Error> {
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

    fn open(&mut self, byte: u8, what: &'static str) -> Result<(), Error> {
        self.expect(byte, what)?;
        self.depth = self.depth.saturating_add(1);
        if self.depth > DEEPEST { Err(Error::new("nested too deep")) } else { Ok(()) }
    }

    fn close(&mut self, byte: u8, what: &'static str) -> Result<(), Error> {
        self.expect(byte, what)?;
        self.depth = self.depth.saturating_sub(1);
        Ok(())
    }
}

impl<'de> Deserializer<'de> for &mut Reader<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.peek() {
            Some(b'"') => self.deserialize_str(visitor),
            Some(b'{') => self.deserialize_map(visitor),
            Some(b'[') => self.deserialize_seq(visitor),
            Some(b'-' | b'0'..=b'9') => self.deserialize_i64(visitor),
            Some(b't' | b'f') => self.deserialize_bool(visitor),
            Some(b'n') => self.deserialize_unit(visitor),
            Some(_) => Err(Error::new("not a value")),
            None => Err(Error::new("the text ends where a value was expected")),
        }
    }

    // Each type asks for what it wants, so that the module holds no code for what it does not.

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.string()? {
            Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
            Cow::Owned(text) => visitor.visit_string(text),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.open(b'{', "an object was expected")?;
        let value = visitor.visit_map(Members { reader: &mut *self, first: true })?;
        self.close(b'}', "`,` or `}` was expected")?;
        Ok(value)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.open(b'[', "a list was expected")?;
        let value = visitor.visit_seq(Members { reader: &mut *self, first: true })?;
        self.close(b']', "`,` or `]` was expected")?;
        Ok(value)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.integer()? {
            (false, number) => visitor.visit_u64(number),
            (true, number) => {
                let number = i64::try_from(number).map_err(|_| Error::new("a number that is too large"))?;
                visitor.visit_i64(number.saturating_neg())
            }
        }
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.word("true") {
            visitor.visit_bool(true)
        } else if self.word("false") {
            visitor.visit_bool(false)
        } else {
            Err(Error::new("`true` or `false` was expected"))
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.word("null") { visitor.visit_unit() } else { Err(Error::new("`null` was expected")) }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.word("null") { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        if name != RAW {
            return visitor.visit_newtype_struct(self);
        }
        self.peek();
        let start = self.at;
        serde::de::IgnoredAny::deserialize(&mut *self)?;
        visitor.visit_borrowed_str(self.text.get(start..self.at).unwrap_or_default())
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_enum(Name(self))
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 u8 u32 f32 f64 char bytes byte_buf unit_struct tuple tuple_struct ignored_any
    }
}

/// The members of an object, or the elements of an array.
struct Members<'a, 'de> {
    reader: &'a mut Reader<'de>,
    first: bool,
}

impl Members<'_, '_> {
    /// Goes to the next one; `false` at the end.
    fn advance(&mut self, end: u8) -> Result<bool, Error> {
        match self.reader.peek() {
            Some(byte) if byte == end => return Ok(false),
            Some(b',') if !self.first => {
                self.reader.skip(1);
                // `[1,]` is not JSON.
                if self.reader.peek() == Some(end) {
                    return Err(Error::new("a comma before the end"));
                }
            }
            Some(_) if self.first => {}
            _ => return Err(Error::new("a comma was expected")),
        }
        self.first = false;
        Ok(true)
    }
}

impl<'de> MapAccess<'de> for Members<'_, 'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        if !self.advance(b'}')? {
            return Ok(None);
        }
        if self.reader.peek() != Some(b'"') {
            return Err(Error::new("a name in quotes was expected"));
        }
        seed.deserialize(&mut *self.reader).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        self.reader.expect(b':', "`:` was expected")?;
        seed.deserialize(&mut *self.reader)
    }
}

impl<'de> SeqAccess<'de> for Members<'_, 'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        if self.advance(b']')? { seed.deserialize(&mut *self.reader).map(Some) } else { Ok(None) }
    }
}

/// An enum is written as the name of its variant; variants with content do not occur.
struct Name<'a, 'de>(&'a mut Reader<'de>);

impl<'de> EnumAccess<'de> for Name<'_, 'de> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        if self.0.peek() != Some(b'"') {
            return Err(Error::new("a string was expected"));
        }
        seed.deserialize(&mut *self.0).map(|value| (value, self))
    }
}

impl<'de> VariantAccess<'de> for Name<'_, 'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _seed: T) -> Result<T::Value, Error> {
        Err(Error::new("a variant with content"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, _visitor: V) -> Result<V::Value, Error> {
        Err(Error::new("a variant with content"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Error> {
        Err(Error::new("a variant with content"))
    }
}

#[cfg(test)]
mod tests;
