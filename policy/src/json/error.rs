use std::borrow::Cow;
use std::fmt;

/// What is wrong with a JSON text, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    message: Cow<'static, str>,
    line: usize,
    column: usize,
}

impl Error {
    pub(super) fn new(message: &'static str) -> Self {
        Self { message: Cow::Borrowed(message), line: 0, column: 0 }
    }

    /// Says where, unless that is known already.
    pub(super) fn at(mut self, text: &str, offset: usize) -> Self {
        if self.line == 0 {
            let before = text.get(..offset).unwrap_or(text);
            self.line = before.matches('\n').count().saturating_add(1);
            self.column = before.rsplit('\n').next().unwrap_or_default().chars().count().saturating_add(1);
        }
        self
    }

    fn named(what: &str, name: &str) -> Self {
        Self { message: Cow::Owned([what, " `", name, "`"].concat()), line: 0, column: 0 }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at line {} column {}", self.message, self.line, self.column)
    }
}

impl std::error::Error for Error {}

// Each method that serde would otherwise answer by formatting whatever value it met.
impl serde::de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { message: Cow::Owned(message.to_string()), line: 0, column: 0 }
    }

    fn invalid_type(_found: serde::de::Unexpected<'_>, _expected: &dyn serde::de::Expected) -> Self {
        Self::new("a value of the wrong type")
    }

    fn invalid_value(_found: serde::de::Unexpected<'_>, _expected: &dyn serde::de::Expected) -> Self {
        Self::new("a value out of range")
    }

    fn invalid_length(_length: usize, _expected: &dyn serde::de::Expected) -> Self {
        Self::new("a list of the wrong length")
    }

    fn unknown_variant(variant: &str, _expected: &'static [&'static str]) -> Self {
        Self::named("unknown value", variant)
    }

    fn unknown_field(field: &str, _expected: &'static [&'static str]) -> Self {
        Self::named("unknown field", field)
    }

    fn missing_field(field: &'static str) -> Self {
        Self::named("missing field", field)
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::named("duplicate field", field)
    }
}
