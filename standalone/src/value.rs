//! Values of a configuration: JSON whose fields keep their order and may have a comment.
//!
//! [`config!`](crate::config) writes them as Envoy's documentation does. A doc comment before a field or an item is
//! a comment in YAML; any other comment is for readers of the source alone.

use std::time::Duration;

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

/// A value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Value {
    /// No value: a field or an item that has none is left out.
    #[default]
    Absent,
    /// A boolean.
    Bool(bool),
    /// A number.
    Number(u64),
    /// A string.
    Text(String),
    /// A list.
    List(List),
    /// An object.
    Object(Object),
}

/// A list of values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List(Vec<Item>);

/// An item of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The comment; empty: none.
    pub comment: String,
    /// The value.
    pub value: Value,
}

/// Fields in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object(Vec<Field>);

/// A field of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// The comment; empty: none.
    pub comment: String,
    /// The name.
    pub name: String,
    /// The value.
    pub value: Value,
}

impl List {
    /// Adds an item, unless its value is absent.
    pub fn push(&mut self, comment: &str, value: impl Into<Value>) {
        let value = value.into();
        if value != Value::Absent {
            self.0.push(Item { comment: comment.to_owned(), value });
        }
    }

    /// The items.
    #[must_use]
    pub fn items(&self) -> &[Item] {
        &self.0
    }
}

impl Object {
    /// Adds a field, unless its value is absent.
    pub fn push(&mut self, comment: &str, name: &str, value: impl Into<Value>) {
        let value = value.into();
        if value != Value::Absent {
            self.0.push(Field { comment: comment.to_owned(), name: name.to_owned(), value });
        }
    }

    /// Adds the fields of another object.
    pub fn splice(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The fields.
    #[must_use]
    pub fn fields(&self) -> &[Field] {
        &self.0
    }

    /// The value of a field.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|field| field.name == name).map(|field| &field.value)
    }
}

impl Value {
    /// The text of a field of an object, such as the `name` of a resource.
    #[must_use]
    pub fn text(&self, field: &str) -> Option<&str> {
        match self {
            Self::Object(object) => match object.get(field)? {
                Self::Text(text) => Some(text),
                Self::Absent | Self::Bool(_) | Self::Number(_) | Self::List(_) | Self::Object(_) => None,
            },
            Self::Absent | Self::Bool(_) | Self::Number(_) | Self::Text(_) | Self::List(_) => None,
        }
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<u16> for Value {
    fn from(value: u16) -> Self {
        Self::Number(value.into())
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Number(value.into())
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<Object> for Value {
    fn from(value: Object) -> Self {
        Self::Object(value)
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Absent, Into::into)
    }
}

impl<T: Into<Self>> FromIterator<T> for Value {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut list = List::default();
        items.into_iter().for_each(|item| list.push("", item));
        Self::List(list)
    }
}

/// Protobuf's form in JSON: seconds, with at most nine digits after the point.
impl From<Duration> for Value {
    fn from(value: Duration) -> Self {
        let text = format!("{}.{:09}", value.as_secs(), value.subsec_nanos());
        Self::Text(format!("{}s", text.trim_end_matches('0').trim_end_matches('.')))
    }
}

/// As JSON, without comments.
impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Absent => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(value) => serializer.serialize_u64(*value),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(list) => {
                let mut items = serializer.serialize_seq(Some(list.0.len()))?;
                list.0.iter().try_for_each(|item| items.serialize_element(&item.value))?;
                items.end()
            }
            Self::Object(object) => {
                let mut fields = serializer.serialize_map(Some(object.0.len()))?;
                object.0.iter().try_for_each(|field| fields.serialize_entry(&field.name, &field.value))?;
                fields.end()
            }
        }
    }
}

/// Makes a [`Value`](crate::Value) from JSON with expressions in it.
///
/// * A doc comment before a field or an item becomes a comment in YAML.
/// * A field whose value is `None` is left out.
/// * `..expression` adds all fields of an [`Object`](crate::value::Object).
///
/// ```
/// use egress_standalone::config;
///
/// let port = 15001_u16;
/// let value = config!({
///     "name": "outbound",
///     /// The port that connections are redirected to.
///     "address": {"socket_address": {"address": "0.0.0.0", "port_value": port}},
///     "idle_timeout": None::<u32>,
/// });
/// assert_eq!(
///     egress_standalone::yaml::text(&value),
///     "name: outbound\n# The port that connections are redirected to.\n\
///      address: {socket_address: {address: \"0.0.0.0\", port_value: 15001}}\n"
/// );
/// ```
#[macro_export]
macro_rules! config {
    (@fields $object:ident) => {};
    (@fields $object:ident ..$other:expr $(, $($rest:tt)*)?) => {
        $object.splice($other);
        $($crate::config!(@fields $object $($rest)*);)?
    };
    (@fields $object:ident $(#[doc = $comment:literal])* $name:literal : { $($inner:tt)* } $(, $($rest:tt)*)?) => {
        $object.push(concat!($($comment),*), $name, $crate::config!({ $($inner)* }));
        $($crate::config!(@fields $object $($rest)*);)?
    };
    (@fields $object:ident $(#[doc = $comment:literal])* $name:literal : [ $($inner:tt)* ] $(, $($rest:tt)*)?) => {
        $object.push(concat!($($comment),*), $name, $crate::config!([ $($inner)* ]));
        $($crate::config!(@fields $object $($rest)*);)?
    };
    (@fields $object:ident $(#[doc = $comment:literal])* $name:literal : $value:expr $(, $($rest:tt)*)?) => {
        $object.push(concat!($($comment),*), $name, $value);
        $($crate::config!(@fields $object $($rest)*);)?
    };
    (@items $list:ident ()) => {};
    (@items $list:ident ($($comment:literal)*) #[doc = $more:literal] $($rest:tt)*) => {
        $crate::config!(@items $list ($($comment)* $more) $($rest)*);
    };
    (@items $list:ident ($($comment:literal)*) { $($inner:tt)* } $(, $($rest:tt)*)?) => {
        $list.push(concat!($($comment),*), $crate::config!({ $($inner)* }));
        $($crate::config!(@items $list () $($rest)*);)?
    };
    (@items $list:ident ($($comment:literal)*) [ $($inner:tt)* ] $(, $($rest:tt)*)?) => {
        $list.push(concat!($($comment),*), $crate::config!([ $($inner)* ]));
        $($crate::config!(@items $list () $($rest)*);)?
    };
    (@items $list:ident ($($comment:literal)*) $value:expr $(, $($rest:tt)*)?) => {
        $list.push(concat!($($comment),*), $value);
        $($crate::config!(@items $list () $($rest)*);)?
    };
    ({ $($fields:tt)* }) => {
        $crate::Value::Object($crate::object!({ $($fields)* }))
    };
    ([ $($items:tt)* ]) => {
        $crate::Value::List({
            #[allow(unused_mut, reason = "a list may have no item")]
            let mut list = $crate::value::List::default();
            $crate::config!(@items list () $($items)*);
            list
        })
    };
}

/// Makes an [`Object`](crate::value::Object), whose fields others can add to theirs, as [`config!`](crate::config) does.
#[macro_export]
macro_rules! object {
    ({ $($fields:tt)* }) => {{
        #[allow(unused_mut, reason = "an object may have no field")]
        let mut object = $crate::value::Object::default();
        $crate::config!(@fields object $($fields)*);
        object
    }};
}
