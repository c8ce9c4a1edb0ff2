use std::fmt;

use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{nullable, nullable_list, required_nullable_list};

/// `HTTPRouteGroup`, `specs.smi-spec.io/v1alpha4`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRouteGroup {
    /// The matches; a request must satisfy one of them.
    #[serde(deserialize_with = "required_nullable_list")]
    pub matches: Vec<HttpMatch>,
}

/// A condition on HTTP requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpMatch {
    /// The name, unique in the group.
    pub name: String,
    /// A regular expression for the whole path. Absent: any path.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Option::is_none")]
    pub path_regex: Option<String>,
    /// The methods. Absent: any method.
    #[serde(default, deserialize_with = "nullable_list", skip_serializing_if = "Option::is_none")]
    pub methods: Option<Vec<String>>,
    /// The headers that must all match. Absent: any headers.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Option::is_none")]
    pub headers: Option<Headers>,
}

/// Headers in their written order: a list of single-key maps as in the CRD, or one map as in the text of SMI.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<HeaderPattern>);

/// A header and the regular expression for its whole value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderPattern {
    /// The name of the header.
    pub name: String,
    /// The regular expression.
    pub value: String,
    /// The index in the list, where it was written as a list.
    pub item: Option<usize>,
}

/// Writes the list form, the only one that the CRD accepts.
impl Serialize for Headers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(
            self.0.iter().map(|h| std::collections::BTreeMap::from([(h.name.as_str(), h.value.as_str())])),
        )
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(HeadersVisitor)
    }
}

struct HeadersVisitor;

impl<'de> Visitor<'de> for HeadersVisitor {
    type Value = Headers;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of headers, each as `- name: pattern`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
        let mut headers = Vec::new();
        while let Some((name, value)) = map.next_entry()? {
            headers.push(HeaderPattern { name, value, item: None });
        }
        Ok(Headers(headers))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Headers, A::Error> {
        let mut headers = Vec::new();
        while let Some(SingleHeader(name, value)) = seq.next_element()? {
            let item = Some(headers.len());
            headers.push(HeaderPattern { name, value, item });
        }
        Ok(Headers(headers))
    }
}

/// A map of exactly one header; SMI's own parser refuses more.
struct SingleHeader(String, String);

impl<'de> Deserialize<'de> for SingleHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = std::collections::BTreeMap::<String, String>::deserialize(deserializer)?;
        let count = map.len();
        match map.into_iter().next() {
            Some((name, value)) if count == 1 => Ok(Self(name, value)),
            Some(_) | None => Err(D::Error::custom(format!(
                "an item of `headers` holds one header, this one holds {count}"
            ))),
        }
    }
}
