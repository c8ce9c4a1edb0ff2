//! Encoding: from the JSON of a configuration to protobuf, by the descriptors of Envoy's messages.
//!
//! A field that a message does not have is refused. The descriptors are those of the messages that our configurations
//! use: a test makes them from all of Envoy's, which `envoy-types` has as a file. Equal JSON gives equal bytes: fields
//! come by number, and entries of maps by key.

mod template;

use egress_standalone::Value as Config;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value};

use self::template::Part;
pub(crate) use self::template::Template;

/// The descriptors, as a `google.protobuf.FileDescriptorSet`.
const DESCRIPTORS: &[u8] = include_bytes!("encode/descriptors.binpb");
const ANY: &str = "google.protobuf.Any";

/// The reason why a configuration cannot be encoded. Each is a defect of this program, and no setting or policy mends it:
/// what is in force stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The descriptors cannot be read.
    #[error("the descriptors of Envoy's messages cannot be read: {0}; this is a defect: report it")]
    Descriptors(String),
    /// A configuration is not a message of its type.
    #[error("the configuration is no {message}: {problem}; this is a defect: report it")]
    Message {
        /// The type of the message.
        message: String,
        /// The problem.
        problem: String,
    },
    /// A placeholder is not there, or is there twice.
    #[error(
        "the configuration has `{placeholder}` {count} times instead of once; this is a defect: report it"
    )]
    Placeholder {
        /// The placeholder.
        placeholder: &'static str,
        /// The number of times.
        count: usize,
    },
}

fn problem(message: &str, problem: impl ToString) -> EncodeError {
    EncodeError::Message { message: message.to_owned(), problem: problem.to_string() }
}

/// Encodes configurations.
#[derive(Debug)]
pub(crate) struct Encoder {
    pool: DescriptorPool,
}

impl Encoder {
    /// Reads the descriptors.
    pub(crate) fn new() -> Result<Self, EncodeError> {
        Self::with_descriptors(DESCRIPTORS)
    }

    fn with_descriptors(descriptors: &[u8]) -> Result<Self, EncodeError> {
        let pool = DescriptorPool::decode(descriptors)
            .map_err(|error| EncodeError::Descriptors(error.to_string()))?;
        Ok(Self { pool })
    }

    /// Encodes a message of this type.
    pub(crate) fn encode(&self, type_url: &str, config: &Config) -> Result<Vec<u8>, EncodeError> {
        let parts = self.parts(&self.message(type_url, config)?, &[])?;
        Ok(template::encode(&parts))
    }

    /// Encodes a message of this type around the places of some texts, each of which is in it once.
    pub(crate) fn template(
        &self,
        type_url: &str,
        config: &Config,
        placeholders: &[&'static str],
    ) -> Result<Template, EncodeError> {
        let parts = self.parts(&self.message(type_url, config)?, placeholders)?;
        for (hole, placeholder) in placeholders.iter().enumerate() {
            let count = template::count(&parts, hole);
            if count != 1 {
                return Err(EncodeError::Placeholder { placeholder, count });
            }
        }
        Ok(Template::new(parts))
    }

    /// Reads JSON as a message.
    fn message(&self, type_url: &str, config: &Config) -> Result<DynamicMessage, EncodeError> {
        let name = type_url.rsplit('/').next().unwrap_or_default();
        let descriptor =
            self.pool.get_message_by_name(name).ok_or_else(|| problem(name, "it has no descriptor"))?;
        let json = serde_json::to_string(config).map_err(|error| problem(name, error))?;
        let mut reader = serde_json::Deserializer::from_str(&json);
        let message =
            DynamicMessage::deserialize(descriptor, &mut reader).map_err(|error| problem(name, error))?;
        reader.end().map_err(|error| problem(name, error))?;
        Ok(message)
    }

    /// The fields of a message, one after the other.
    fn parts(&self, message: &DynamicMessage, holes: &[&str]) -> Result<Vec<Part>, EncodeError> {
        let mut parts = Vec::new();
        for (field, value) in message.fields() {
            match value {
                Value::Message(inner) => parts.push(Part::nested(&field, self.content(inner, holes)?)),
                Value::List(items) if matches!(field.kind(), Kind::Message(_)) => {
                    for item in items {
                        let inner = item.as_message().ok_or_else(|| wrong_kind(&field))?;
                        parts.push(Part::nested(&field, self.content(inner, holes)?));
                    }
                }
                Value::Map(entries) => {
                    let mut entries: Vec<(&MapKey, &Value)> = entries.iter().collect();
                    entries.sort_by_key(|(key, _)| key.as_str().map(str::to_owned));
                    for (key, value) in entries {
                        parts.push(Part::nested(&field, self.entry(&field, key, value, holes)?));
                    }
                }
                Value::String(text) if holes.iter().any(|hole| text.contains(hole)) => {
                    parts.push(Part::nested(&field, template::split(text, holes)));
                }
                Value::Bytes(bytes) if holes.iter().any(|hole| bytes == hole.as_bytes()) => {
                    parts.push(Part::nested(&field, template::split(&String::from_utf8_lossy(bytes), holes)));
                }
                Value::Bool(_)
                | Value::I32(_)
                | Value::I64(_)
                | Value::U32(_)
                | Value::U64(_)
                | Value::F32(_)
                | Value::F64(_)
                | Value::String(_)
                | Value::Bytes(_)
                | Value::EnumNumber(_)
                | Value::List(_) => {
                    let mut alone = DynamicMessage::new(message.descriptor());
                    alone.set_field(&field, value.clone());
                    parts.push(Part::Bytes(alone.encode_to_vec()));
                }
            }
        }
        Ok(parts)
    }

    /// An entry of a map, which is a message of key and value.
    fn entry(
        &self,
        field: &FieldDescriptor,
        key: &MapKey,
        value: &Value,
        holes: &[&str],
    ) -> Result<Vec<Part>, EncodeError> {
        let Kind::Message(entry) = field.kind() else { return Err(wrong_kind(field)) };
        let value_field = entry.map_entry_value_field();
        let mut alone = DynamicMessage::new(entry.clone());
        alone.set_field(&entry.map_entry_key_field(), key.clone().into());
        let key = Part::Bytes(alone.encode_to_vec());
        let value = match value.as_message() {
            Some(inner) => Part::nested(&value_field, self.content(inner, holes)?),
            None => {
                let mut alone = DynamicMessage::new(entry);
                alone.set_field(&value_field, value.clone());
                Part::Bytes(alone.encode_to_vec())
            }
        };
        Ok(vec![key, value])
    }

    /// The content of a nested message. Of an `Any`, what is in it is written anew: its maps have an order as well.
    fn content(&self, message: &DynamicMessage, holes: &[&str]) -> Result<Vec<Part>, EncodeError> {
        let descriptor = message.descriptor();
        if descriptor.full_name() != ANY {
            return self.parts(message, holes);
        }
        let field = |name: &str| {
            let field = descriptor.get_field_by_name(name).ok_or_else(|| problem(ANY, "it lacks a field"))?;
            let value = message.get_field(&field).into_owned();
            Ok::<_, EncodeError>((field, value))
        };
        let (type_field, type_url) = field("type_url")?;
        let (value_field, value) = field("value")?;
        let name = type_url.as_str().and_then(|url| url.rsplit('/').next()).unwrap_or_default();
        let inner =
            self.pool.get_message_by_name(name).ok_or_else(|| problem(name, "it has no descriptor"))?;
        let bytes = value.as_bytes().ok_or_else(|| wrong_kind(&value_field))?;
        let inner = DynamicMessage::decode(inner, bytes.clone()).map_err(|error| problem(name, error))?;
        let mut alone = DynamicMessage::new(descriptor.clone());
        alone.set_field(&type_field, type_url);
        let type_url = Part::Bytes(alone.encode_to_vec());
        let content = self.parts(&inner, holes)?;
        // A field that is empty is left out, as everywhere.
        let value = (!content.is_empty()).then(|| Part::nested(&value_field, content));
        Ok([type_url].into_iter().chain(value).collect())
    }
}

fn wrong_kind(field: &FieldDescriptor) -> EncodeError {
    problem(field.full_name(), "it is of another kind than its descriptor says")
}

#[cfg(test)]
mod descriptors;
#[cfg(test)]
mod tests;
