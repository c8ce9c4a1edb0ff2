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

    pub(super) fn named(what: &str, name: &str) -> Self {
        Self { message: Cow::Owned([what, " `", name, "`"].concat()), line: 0, column: 0 }
    }

    pub(crate) fn other(error: &dyn fmt::Display) -> Self {
        Self { message: Cow::Owned(error.to_string()), line: 0, column: 0 }
    }

    /// A string that is none of those that are known.
    pub(crate) fn unknown(what: &str) -> Self {
        Self::named("unknown value", what)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at line {} column {}", self.message, self.line, self.column)
    }
}

impl std::error::Error for Error {}
