//! Building blocks of schemas.

use serde_json::{Value, json};

/// An object with these fields; an API server drops others.
pub(super) fn object(required: &[&str], properties: Value) -> Value {
    if required.is_empty() {
        json!({ "type": "object", "properties": properties })
    } else {
        json!({ "type": "object", "required": required, "properties": properties })
    }
}

/// An object with any fields.
pub(super) fn anything() -> Value {
    json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

pub(super) fn text(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}

pub(super) fn choice(description: &str, values: &[&str]) -> Value {
    json!({ "type": "string", "description": description, "enum": values })
}

pub(super) fn boolean(description: &str) -> Value {
    json!({ "type": "boolean", "description": description })
}

pub(super) fn list(description: &str, items: Value) -> Value {
    json!({ "type": "array", "description": description, "items": items })
}

pub(super) fn strings(description: &str) -> Value {
    list(description, json!({ "type": "string" }))
}

pub(super) fn integer(description: &str) -> Value {
    json!({ "type": "integer", "description": description })
}

pub(super) fn at_least(description: &str, minimum: i64) -> Value {
    json!({ "type": "integer", "description": description, "minimum": minimum })
}

pub(super) fn within(description: &str, minimum: i64, maximum: i64) -> Value {
    json!({ "type": "integer", "description": description, "minimum": minimum, "maximum": maximum })
}

pub(super) fn port(description: &str) -> Value {
    within(description, 1, 65535)
}

/// An address block. OSM's pattern is not anchored, accepts 999 as an octet, and has no IPv6.
pub(super) fn block() -> Value {
    const OCTET: &str = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
    let v4 = format!("({OCTET}\\.){{3}}{OCTET}/(3[0-2]|[0-2]?[0-9])");
    let v6 = "[0-9A-Fa-f]*:[0-9A-Fa-f:.]*/(12[0-8]|1[01][0-9]|[0-9]?[0-9])";
    json!({ "type": "string", "pattern": format!("^({v4}|{v6})$") })
}

/// Adds a description to a schema.
pub(super) fn described(description: &str, mut schema: Value) -> Value {
    if let Some(map) = schema.as_object_mut() {
        map.insert("description".to_owned(), json!(description));
    }
    schema
}

/// Limits the length of a list or text.
pub(super) fn at_most(length: usize, mut schema: Value) -> Value {
    let field = if schema["type"] == "array" { "maxItems" } else { "maxLength" };
    schema[field] = json!(length);
    schema
}

/// A field that may be written without a value. An API server would drop such a field as if it had not been written, and
/// where an absent field means "any", that would allow more than was written.
pub(super) fn kept_if_null(mut schema: Value) -> Value {
    schema["nullable"] = json!(true);
    schema
}
