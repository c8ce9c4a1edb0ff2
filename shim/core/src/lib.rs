//! Types and traits that the parts of the control plane share, so that none of them depends on another.
//!
//! A source of objects publishes a [`source::SourceState`]. Streams ask a [`token_review::TokenReviewer`] for the owner of a
//! token, and whoever reports on proxies reads a [`proxies::ProxyRegistry`]; a cluster implements the first and reads the
//! second without knowing the streams. The rest is text: hashes, YAML, and the text of others made safe to print.

mod hash;
pub mod policy_status;
pub mod proxies;
pub mod sanitize;
pub mod source;
pub mod token_review;
pub mod yaml;

pub use self::hash::{hash, hex};
