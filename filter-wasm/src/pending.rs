//! The connections of this worker whose first bytes are awaited, so that none is awaited for ever.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use egress_policy::Policy;

use crate::live;
use crate::table::Table;

/// A connection that has waited too long.
#[derive(Debug, Clone)]
pub(crate) struct Late {
    pub(crate) id: u32,
    pub(crate) to: SocketAddr,
    pub(crate) policy: Rc<Policy>,
    place: usize,
}

#[derive(Debug)]
struct Waiting {
    id: u32,
    to: SocketAddr,
    policy: Rc<Policy>,
    /// In milliseconds, as [`crate::host::Connection::now`] counts.
    deadline: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Waits,
    /// The wait is over, and the connection was let through or not.
    Over(Option<live::Entry>),
}

/// The place of a connection in the table; it goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Entry(usize);

thread_local! {
    static WAITING: RefCell<Table<Waiting>> = const { RefCell::new(Table::new()) };
}

/// A connection begins to wait.
pub(crate) fn begin(id: u32, to: SocketAddr, policy: Rc<Policy>, deadline: u64) -> Entry {
    let waiting = Waiting { id, to, policy, deadline, state: State::Waits };
    Entry(WAITING.with_borrow_mut(|table| table.insert(waiting)))
}

/// The connections whose time is up, and whether others wait on.
pub(crate) fn late(now: u64) -> (Vec<Late>, bool) {
    WAITING.with_borrow_mut(|table| {
        let mut late = Vec::new();
        let mut others = false;
        for (place, waiting) in table.iter_mut().filter(|(_, w)| matches!(w.state, State::Waits)) {
            if waiting.deadline > now {
                others = true;
                continue;
            }
            waiting.state = State::Over(None);
            let policy = Rc::clone(&waiting.policy);
            late.push(Late { id: waiting.id, to: waiting.to, policy, place });
        }
        (late, others)
    })
}

/// Such a connection was let through all the same.
pub(crate) fn let_through(late: &Late, entry: live::Entry) {
    WAITING.with_borrow_mut(|table| {
        if let Some(waiting) = table.get_mut(late.place).filter(|waiting| waiting.id == late.id) {
            waiting.state = State::Over(Some(entry));
        }
    });
}

impl Entry {
    /// What became of it meanwhile: nothing yet, or it was let through, or refused.
    pub(crate) fn outcome(&self) -> Option<Option<live::Entry>> {
        WAITING.with_borrow_mut(|table| match &mut table.get_mut(self.0)?.state {
            State::Waits => None,
            State::Over(entry) => Some(entry.take()),
        })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // When the VM ends, the table may be gone before the last stream.
        let _ = WAITING.try_with(|table| {
            let gone = table.try_borrow_mut().ok().and_then(|mut table| table.remove(self.0));
            // It may hold the entry of another table: dropped after this one is free again.
            drop(gone);
        });
    }
}
