//! The connections of this worker that were let through, so that a new policy can be asked about them.
//!
//! Streams of an old configuration live in the same VM as the new one: they share this table.

use std::cell::RefCell;
use std::net::SocketAddr;

use egress_policy::{Decision, OnConnection, OnOpening, Opening, Policy, Protocol, ReasonCode, Refusal};

use crate::table::Table;

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

/// The place of a connection in the table; it goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Entry(usize);

thread_local! {
    static LIVE: RefCell<Table<(u32, Live)>> = const { RefCell::new(Table::new()) };
}

/// A connection is let through.
pub(crate) fn opened(id: u32, live: Live) -> Entry {
    Entry(LIVE.with_borrow_mut(|table| table.insert((id, live))))
}

impl Entry {
    /// What is known of it.
    pub(crate) fn live(&self) -> Option<Live> {
        LIVE.with_borrow(|table| table.get(self.0).map(|(_, live)| live.clone()))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // When the VM ends, the table may be gone before the last stream.
        let _ = LIVE.try_with(|table| {
            if let Ok(mut table) = table.try_borrow_mut() {
                table.remove(self.0);
            }
        });
    }
}

/// The connections that a policy does not allow, and what they were.
pub(crate) fn forbidden_by(policy: &Policy) -> Vec<(u32, Protocol)> {
    LIVE.with_borrow(|table| {
        let forbidden =
            |(id, live): &(u32, Live)| (!is_allowed(policy, live)).then(|| (*id, live.protocol()));
        table.iter().filter_map(forbidden).collect()
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
    match policy.connection(live.to) {
        OnConnection::Decided(decision) => decision.is_allowed(),
        OnConnection::NeedFirstBytes => match policy.opening(live.to, live.opening.as_opening()) {
            OnOpening::Decided(decision) => decision.is_allowed(),
            // The next request is decided by the new policy.
            OnOpening::EachRequest => true,
        },
    }
}

impl Seen {
    /// The same in the policy's terms.
    pub(crate) fn as_opening(&self) -> Opening<'_> {
        match self {
            // Its first bytes were none of our business then, and cannot be asked for now.
            Self::Nothing => Opening::Late,
            Self::Plain => Opening::NotTls,
            Self::Tls { server_name, encrypted } => {
                Opening::Tls { server_name: server_name.as_deref(), encrypted: *encrypted }
            }
        }
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
