//! The rows of flows that were forgotten.

/// Beyond this it is cheaper to write everything anew.
const MOST: usize = 100_000;

/// Rows to delete.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Gone {
    /// Their numbers.
    pub(crate) rows: Vec<u64>,
    /// Whether there are more than are listed.
    pub(crate) too_many: bool,
}

impl Gone {
    pub(super) fn add(&mut self, others: Self) {
        if self.too_many || others.too_many || self.rows.len() + others.rows.len() > MOST {
            *self = Self { rows: Vec::new(), too_many: true };
        } else {
            self.rows.extend(others.rows);
        }
    }
}
