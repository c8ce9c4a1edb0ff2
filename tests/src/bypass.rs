//! The known ways round an egress filter: one table, and for each row checks that send the real bytes
//! through a real Envoy. `tests/tests/bypasses.rs` runs it, `docs/bypasses.md` is what came of it.

pub mod check;
pub mod curl;
pub mod http2;
mod rebinding;
pub mod report;
mod rows;
pub mod send;
pub mod stage;
mod tunnel;

use self::check::Check;

/// How many ways are known.
pub const KNOWN: usize = 36;

/// One way round, and what becomes of it.
#[derive(Debug)]
pub struct Row {
    /// Its number, from 1.
    pub number: usize,
    /// What is tried.
    pub bypass: &'static str,
    /// What happens.
    pub behaviour: &'static str,
    /// Which part decides.
    pub decides: &'static str,
    /// What is sent, and what must become of it.
    pub checks: Vec<Check>,
    /// The part that nothing in the sidecar can decide.
    pub out_of_reach: Option<OutOfReach>,
}

/// What a sidecar cannot decide.
#[derive(Debug, Clone, Copy)]
pub struct OutOfReach {
    /// What it is.
    pub what: &'static str,
    /// Why.
    pub why: &'static str,
    /// What to do instead.
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
