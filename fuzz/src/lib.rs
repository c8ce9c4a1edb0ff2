//! The fuzz targets as plain functions of bytes: each panics at a violation.
//!
//! They need no fuzzer and no nightly compiler, so an ordinary test (`compile/tests/regressions.rs`) runs them on the
//! files of `seeds` and `regressions`.

mod client_hello;
mod document;
mod input;
mod manifests;
#[path = "../../policy/tests/naive/mod.rs"]
mod naive;
mod request;

pub use self::client_hello::client_hello;
pub use self::document::document;
pub use self::manifests::manifests;
pub use self::request::request;

/// A fuzz target.
pub type Target = fn(&[u8]);

/// Every target, by the name of its folders.
pub const TARGETS: [(&str, Target); 4] =
    [("client_hello", client_hello), ("request", request), ("document", document), ("manifests", manifests)];
