//! Rows of evicted flows, which are to be deleted from the flow database.

/// The most rows that are listed. Beyond this it is cheaper to rewrite the database.
const MAX_LISTED_ROWS: usize = 100_000;

/// The rows of the flows that were evicted since the last write.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Evicted {
    /// The row numbers.
    pub(crate) rows: Vec<u64>,
    /// True if there were too many to list: then the database has to be rewritten.
    pub(crate) is_overflow: bool,
}

impl Evicted {
    pub(super) fn add(&mut self, others: Self) {
        if self.is_overflow || others.is_overflow || self.rows.len() + others.rows.len() > MAX_LISTED_ROWS {
            *self = Self { rows: Vec::new(), is_overflow: true };
        } else {
            self.rows.extend(others.rows);
        }
    }
}
