use std::sync::Arc;

use serde::Serialize;

use super::digest::Digest;

/// A list that several rules share, with the properties that each of them needs.
#[derive(Debug)]
pub(super) struct List<T> {
    pub(super) items: Arc<[T]>,
    pub(super) digest: Digest,
    /// The memory of its patterns in the filter.
    pub(super) pattern_bytes: usize,
}

impl<T> Clone for List<T> {
    fn clone(&self) -> Self {
        let Self { items, digest, pattern_bytes } = self;
        Self { items: Arc::clone(items), digest: *digest, pattern_bytes: *pattern_bytes }
    }
}

impl<T: Serialize> List<T> {
    /// Makes a list without patterns.
    pub(super) fn new(items: Vec<T>) -> Self {
        Self { digest: Digest::of(&items), items: items.into(), pattern_bytes: 0 }
    }
}
