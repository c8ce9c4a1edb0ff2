//! The known bypasses of an egress filter: a table whose rows have checks that send the real bytes through a
//! real Envoy. `tests/tests/bypasses.rs` runs it, and `docs/bypasses.md` is its result.

pub mod check;
pub mod curl;
pub mod http2;
pub mod observed_mesh;
mod rebinding;
pub mod report;
mod rows;
pub mod send;
mod tunnel;

use self::check::Check;

/// The number of known bypasses.
pub const KNOWN_BYPASSES: usize = 36;

/// A row of the table: a bypass and its result.
#[derive(Debug)]
pub struct Row {
    /// The number of the row, from 1.
    pub number: usize,
    /// The attempt.
    pub bypass: &'static str,
    /// The behaviour that the table documents.
    pub behaviour: &'static str,
    /// The part that decides.
    pub decides: &'static str,
    /// The checks of the row.
    pub checks: Vec<Check>,
    /// The part of the bypass that nothing in the sidecar can decide.
    pub out_of_reach: Option<OutOfReach>,
}

/// A part of a bypass that a sidecar cannot decide.
#[derive(Debug, Clone, Copy)]
pub struct OutOfReach {
    /// A description.
    pub what: &'static str,
    /// The reason.
    pub why: &'static str,
    /// The remedy.
    pub instead: &'static str,
}

impl Row {
    fn new(number: usize, bypass: &'static str, behaviour: &'static str, decides: &'static str) -> Self {
        Self { number, bypass, behaviour, decides, checks: vec![], out_of_reach: None }
    }

    fn check(mut self, check: Check) -> Self {
        self.checks.push(check);
        self
    }

    fn checks(mut self, checks: impl IntoIterator<Item = Check>) -> Self {
        self.checks.extend(checks);
        self
    }

    fn out_of_reach(mut self, what: &'static str, why: &'static str, instead: &'static str) -> Self {
        self.out_of_reach = Some(OutOfReach { what, why, instead });
        self
    }

    /// The reason codes and statuses by which this row is refused, each once.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        for reason in self.checks.iter().flat_map(|check| &check.expect).filter_map(check::Expect::reason) {
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
        reasons
    }
}

/// All rows, in the order of their numbers.
#[must_use]
pub fn table() -> Vec<Row> {
    let mut rows: Vec<Row> = [
        rows::names(),
        rows::requests(),
        rows::tunnels(),
        rows::hellos(),
        rows::extensions(),
        rows::addresses(),
        rows::around(),
        rows::policies(),
    ]
    .into_iter()
    .flatten()
    .collect();
    rows.sort_by_key(|row| row.number);
    rows
}
