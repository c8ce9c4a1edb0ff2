//! Deserialization that reads structs from JSON objects and words from JSON strings, and from nothing else.
//!
//! Derived implementations also read a struct from the list of its fields (`["egress-policy/v1", …]`) and a word from
//! an object (`{"enforce": null}`). No control plane writes that, so a document that has it is not one to trust.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{Deserialize, Deserializer, Error, IntoDeserializer as _, MapAccess, Visitor};

/// A struct that is read from an object only.
#[derive(Debug)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_map(ObjectVisitor(PhantomData)).map(Self)
    }
}

/// A word that is read from a string only.
struct Word<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for WordVisitor<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<T, E> {
                let word: StrDeserializer<'_, E> = word.into_deserializer();
                T::deserialize(word)
            }
        }

        deserializer.deserialize_str(WordVisitor(PhantomData)).map(Self)
    }
}

/// Reads a list of objects.
pub(crate) fn objects<'de, T, C, D>(deserializer: D) -> Result<C, D::Error>
where
    T: Deserialize<'de>,
    C: FromIterator<T>,
    D: Deserializer<'de>,
{
    let list = Vec::<Object<T>>::deserialize(deserializer)?;
    Ok(list.into_iter().map(|Object(item)| item).collect())
}

/// Reads `null`, or a list of objects.
pub(crate) fn optional_objects<'de, T, C, D>(deserializer: D) -> Result<Option<C>, D::Error>
where
    T: Deserialize<'de>,
    C: FromIterator<T>,
    D: Deserializer<'de>,
{
    let list = Option::<Vec<Object<T>>>::deserialize(deserializer)?;
    Ok(list.map(|list| list.into_iter().map(|Object(item)| item).collect()))
}

/// Reads a word.
pub(crate) fn word<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Word::deserialize(deserializer).map(|Word(word)| word)
}

/// Reads a list of words.
pub(crate) fn words<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let list = Vec::<Word<T>>::deserialize(deserializer)?;
    Ok(list.into_iter().map(|Word(word)| word).collect())
}
