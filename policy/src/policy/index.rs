//! The rules of one port, by what is looked up: address, then name.

use std::net::IpAddr;

use rustc_hash::FxHashMap;

use crate::addresses::Addresses;
use crate::{Cidr, Host, HostMatch, HostPattern, Protocol};

/// The rules of one port.
#[derive(Debug, Default)]
pub(super) struct PortIndex {
    /// `tcp`: any bytes.
    pub(super) any_bytes: Grants,
    /// `https`.
    pub(super) tls: NameIndex,
    /// `https`: of those, the rules that take the visible name of an encrypted hello.
    pub(super) outer: NameIndex,
    /// `http`.
    pub(super) http: NameIndex,
    /// `http`: of those, the rules that allow a websocket.
    pub(super) websocket: NameIndex,
}

/// The keys of a rule in the index.
#[derive(Clone, Copy)]
pub(super) struct IndexedRule<'r> {
    pub(super) number: u32,
    pub(super) addresses: Option<&'r [Cidr]>,
    pub(super) hosts: Option<&'r [HostPattern]>,
    pub(super) routed: bool,
}

/// The rules of one protocol on one port.
#[derive(Debug, Default)]
pub(super) struct NameIndex {
    /// Rules without hosts.
    pub(super) any_name: Grants,
    exact: FxHashMap<Host, Grants>,
    below: FxHashMap<Host, Grants>,
    /// All addresses that some rule here can allow. For others, more bytes cannot help.
    reach: Grants,
}

/// The rules under one key, by address. A rule is its number in the policy.
#[derive(Debug, Default)]
pub(super) struct Grants {
    /// The first rule without addresses.
    pub(super) anywhere: Option<u32>,
    /// Rules with addresses.
    by_address: Option<Box<Addresses>>,
    /// Rules with routes, which must be evaluated one by one.
    pub(super) routed: Vec<u32>,
    first: Option<u32>,
}

impl PortIndex {
    pub(super) fn add(&mut self, protocol: Protocol, outer: bool, websocket: bool, rule: IndexedRule<'_>) {
        match protocol {
            Protocol::Tcp => self.any_bytes.add(rule.number, rule.addresses, false),
            Protocol::Https => {
                self.tls.add(protocol, rule);
                if outer {
                    self.outer.add(protocol, rule);
                }
            }
            Protocol::Http => {
                self.http.add(protocol, rule);
                if websocket {
                    self.websocket.add(protocol, rule);
                }
            }
        }
    }

    /// Returns whether the first bytes could decide for this address.
    pub(super) fn needs_first_bytes(&self, address: IpAddr) -> bool {
        self.tls.reaches(address) || self.http.reaches(address)
    }
}

impl NameIndex {
    /// Returns whether some rule here could allow something to this address.
    pub(super) fn reaches(&self, address: IpAddr) -> bool {
        self.reach.find(address).is_some()
    }

    fn add(&mut self, protocol: Protocol, IndexedRule { number, addresses, hosts, routed }: IndexedRule<'_>) {
        self.reach.add(number, addresses, false);
        // Routes have no meaning for TLS: a rule that has them all the same allows nothing there.
        if routed && protocol == Protocol::Https {
            return;
        }
        let Some(hosts) = hosts else {
            return self.any_name.add(number, addresses, routed);
        };
        for host in hosts {
            let (table, name) = match host {
                HostPattern::Exact(name) => (&mut self.exact, name),
                HostPattern::Below(name) => (&mut self.below, name),
            };
            table.entry(name.clone()).or_default().add(number, addresses, routed);
        }
    }

    /// The rules that list this name: under itself, then under each name above it.
    pub(super) fn of(&self, host: &Host) -> impl Iterator<Item = (HostMatch, &Grants)> {
        let exact = self.exact.get(host).map(|grants| (HostMatch::Exact, grants));
        let below = (!self.below.is_empty()).then(|| host.ancestors()).into_iter().flatten();
        let below = below.filter_map(|name| Some((HostMatch::Wildcard, self.below.get(name)?)));
        exact.into_iter().chain(below)
    }
}

impl Grants {
    fn add(&mut self, rule: u32, addresses: Option<&[Cidr]>, routed: bool) {
        // Rules come in the order of their numbers, so the first one stays.
        self.first.get_or_insert(rule);
        match addresses {
            _ if routed => {
                if self.routed.last() != Some(&rule) {
                    self.routed.push(rule);
                }
            }
            None => {
                self.anywhere.get_or_insert(rule);
            }
            Some(blocks) => {
                let index = self.by_address.get_or_insert_default();
                for block in blocks {
                    index.insert(*block, rule);
                }
            }
        }
    }

    /// The first rule that lists this address.
    pub(super) fn at(&self, address: IpAddr) -> Option<u32> {
        self.by_address.as_ref()?.find(address)
    }

    /// The first rule that allows this address: one that lists it, else one without addresses.
    pub(super) fn find(&self, address: IpAddr) -> Option<u32> {
        self.at(address).or(self.anywhere)
    }

    /// The first rule under this key.
    pub(super) fn first(&self) -> Option<u32> {
        self.first
    }
}
