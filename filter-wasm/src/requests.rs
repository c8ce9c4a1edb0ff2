//! The requests of this worker that were let through and are under way, so that a new policy can be
//! asked about them. An upgraded connection is such a request until it ends.

use std::borrow::Cow;
use std::cell::RefCell;
use std::net::SocketAddr;

use egress_policy::{Decision, Headers, Policy, Request};

use crate::table::Table;

/// What is known of a request.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) authority: Option<String>,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) upgrade: Option<String>,
}

impl Asked {
    /// Asks a policy about it.
    pub(crate) fn decide<'p>(
        &self,
        policy: &'p Policy,
        to: SocketAddr,
        headers: &dyn Headers,
    ) -> Decision<'p> {
        let Self { authority, method, path, upgrade } = self;
        let request =
            Request { authority: authority.as_deref(), method, path, upgrade: upgrade.as_deref(), headers };
        policy.request(to, &request)
    }
}

/// The headers that a decision looked at. Envoy does not show them a second time; one that was not
/// looked at counts as absent, so that in doubt a request ends.
#[derive(Debug, Default)]
pub(crate) struct Seen(pub(crate) Vec<(String, String)>);

impl Headers for Seen {
    fn values(&self, name: &str) -> Vec<Cow<'_, str>> {
        let of_name = self.0.iter().filter(|(seen, _)| seen == name);
        of_name.map(|(_, value)| Cow::Borrowed(value.as_str())).collect()
    }
}

#[derive(Debug)]
struct UnderWay {
    id: u32,
    to: SocketAddr,
    asked: Asked,
    headers: Seen,
}

/// The place of a request in the table; it goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Entry(usize);

thread_local! {
    static UNDER_WAY: RefCell<Table<UnderWay>> = const { RefCell::new(Table::new()) };
}

/// A request is let through.
pub(crate) fn opened(id: u32, to: SocketAddr, asked: Asked, headers: Seen) -> Entry {
    Entry(UNDER_WAY.with_borrow_mut(|table| table.insert(UnderWay { id, to, asked, headers })))
}

impl Drop for Entry {
    fn drop(&mut self) {
        // When the VM ends, the table may be gone before the last request.
        let _ = UNDER_WAY.try_with(|table| {
            if let Ok(mut table) = table.try_borrow_mut() {
                table.remove(self.0);
            }
        });
    }
}

/// The requests that a policy does not allow.
pub(crate) fn forbidden_by(policy: &Policy) -> Vec<u32> {
    UNDER_WAY.with_borrow(|table| {
        let forbidden = |request: &UnderWay| {
            (!request.asked.decide(policy, request.to, &request.headers).is_allowed()).then_some(request.id)
        };
        table.iter().filter_map(forbidden).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::config;

    #[test]
    fn a_new_policy_forbids_just_what_it_does_not_allow() {
        let rules = r#"[
            {"policy":"a/web","name":"n","port":80,"protocol":"http","hosts":["a.org"]},
            {"policy":"a/hdr","name":"n","port":80,"protocol":"http","hosts":["b.org"],"routes":[
                {"name":"r","headers":[{"name":"x-key","value":"v"}]}]}]"#;
        let get = |host: &str, upgrade: Option<&str>| Asked {
            authority: Some(host.to_owned()),
            method: "GET".to_owned(),
            path: "/".to_owned(),
            upgrade: upgrade.map(str::to_owned),
        };
        let to = "1.2.3.4:80".parse().expect("valid");
        let key = || Seen(vec![("x-key".to_owned(), "v".to_owned())]);
        let mut entries = vec![
            opened(1, to, get("a.org", None), Seen::default()),
            opened(2, to, get("a.org", Some("websocket")), Seen::default()),
            opened(3, to, get("b.org", None), key()),
            opened(4, to, get("b.org", None), Seen::default()),
            opened(5, to, get("c.org", None), Seen::default()),
        ];
        let forbidden = |mode| forbidden_by(&config("http", mode, rules).policy);
        assert_eq!(forbidden("enforce"), [2, 4, 5]);
        assert!(forbidden("audit").is_empty());
        assert!(forbidden("passthrough").is_empty());
        drop(entries.remove(1));
        assert_eq!(forbidden("enforce"), [4, 5]);
    }
}
