//! The connections of this worker that were let through, so that a new policy can be asked about them.
//!
//! Streams of an old configuration live in the same VM as the new one: they share this table.

use std::cell::RefCell;
use std::net::SocketAddr;

use egress_policy::{
    Decision, Mode, OnConnection, OnOpening, Opening, Policy, Protocol, ReasonCode, Refusal,
};

/// What is known of a connection that was let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) to: SocketAddr,
    pub(crate) opening: Seen,
}

/// What was seen of its first bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Nothing: port and address decided.
    Nothing,
    /// A ClientHello.
    Tls { server_name: Option<Box<str>>, encrypted: bool },
    /// No TLS: each request is decided for itself.
    Plain,
}

/// Slots, so that a connection that goes costs no search.
#[derive(Debug, Default)]
struct Table {
    slots: Vec<Option<(u32, Live)>>,
    free: Vec<usize>,
}

/// The place of a connection in the table; it goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Entry(usize);

thread_local! {
    static LIVE: RefCell<Table> = const { RefCell::new(Table { slots: Vec::new(), free: Vec::new() }) };
}

/// A connection is let through.
pub(crate) fn opened(id: u32, live: Live) -> Entry {
    LIVE.with_borrow_mut(|table| {
        let slot = table.free.pop().unwrap_or(table.slots.len());
        match table.slots.get_mut(slot) {
            Some(place) => *place = Some((id, live)),
            None => table.slots.push(Some((id, live))),
        }
        Entry(slot)
    })
}

impl Drop for Entry {
    fn drop(&mut self) {
        // When the VM ends, the table may be gone before the last stream.
        let _ = LIVE.try_with(|table| {
            if let Ok(mut table) = table.try_borrow_mut() {
                if let Some(place) = table.slots.get_mut(self.0) {
                    *place = None;
                }
                table.free.push(self.0);
            }
        });
    }
}

/// The connections that a policy does not allow, and what they were.
pub(crate) fn forbidden_by(policy: &Policy) -> Vec<(u32, Protocol)> {
    LIVE.with_borrow(|table| {
        let forbidden =
            |(id, live): &(u32, Live)| (!is_allowed(policy, live)).then(|| (*id, live.protocol()));
        table.slots.iter().flatten().filter_map(forbidden).collect()
    })
}

/// The decision that closes such a connection.
pub(crate) fn revocation() -> Decision<'static> {
    Decision::Deny(Refusal { reason: ReasonCode::Revoked, rule: None })
}

impl Live {
    /// What it counts as.
    pub(crate) fn protocol(&self) -> Protocol {
        match self.opening {
            Seen::Nothing | Seen::Plain => Protocol::Tcp,
            Seen::Tls { .. } => Protocol::Https,
        }
    }
}

fn is_allowed(policy: &Policy, live: &Live) -> bool {
    let opening = match (policy.connection(live.to), &live.opening) {
        (OnConnection::Decided(decision), _) => return decision.is_allowed(),
        // Its first bytes were none of our business then, and cannot be asked for now.
        (OnConnection::NeedFirstBytes, Seen::Nothing) => return policy.mode() == Mode::Audit,
        (OnConnection::NeedFirstBytes, Seen::Plain) => Opening::NotTls,
        (OnConnection::NeedFirstBytes, Seen::Tls { server_name, encrypted }) => {
            Opening::Tls { server_name: server_name.as_deref(), encrypted: *encrypted }
        }
    };
    match policy.opening(live.to, opening) {
        OnOpening::Decided(decision) => decision.is_allowed(),
        // The next request is decided by the new policy.
        OnOpening::EachRequest => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::config;

    #[test]
    fn a_new_policy_forbids_just_what_it_does_not_allow() {
        let tls = |name: &str| Seen::Tls { server_name: Some(name.into()), encrypted: false };
        let mut entries: Vec<_> = [
            ("1.2.3.4:22", Seen::Nothing),
            ("1.2.3.4:443", tls("a.org")),
            ("1.2.3.4:443", tls("b.org")),
            ("1.2.3.4:80", Seen::Plain),
            ("1.2.3.4:443", Seen::Nothing),
            ("1.2.3.4:8080", Seen::Plain),
        ]
        .into_iter()
        .zip(1..)
        .map(|((to, opening), id)| opened(id, Live { to: to.parse().expect("valid"), opening }))
        .collect();
        let rules = r#"[
            {"policy":"a/tls","name":"n","port":443,"protocol":"https","hosts":["a.org"]},
            {"policy":"a/web","name":"n","port":80,"protocol":"http","hosts":["a.org"]}]"#;
        let forbidden = |mode| -> Vec<u32> {
            forbidden_by(&config("network", mode, rules).policy).into_iter().map(|(id, _)| id).collect()
        };
        assert_eq!(forbidden("enforce"), [1, 3, 5, 6]);
        assert!(forbidden("audit").is_empty());
        assert!(forbidden("passthrough").is_empty());
        drop(entries.remove(2));
        assert_eq!(forbidden("enforce"), [1, 5, 6]);
        entries.push(opened(9, Live { to: "1.2.3.4:1".parse().expect("valid"), opening: Seen::Nothing }));
        assert_eq!(forbidden("enforce"), [1, 9, 5, 6], "slots are used again");
    }
}
