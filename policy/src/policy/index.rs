//! The rules of one port, by what is looked up: address, then name.

use std::net::IpAddr;

use rustc_hash::FxHashMap;

use crate::addresses::Addresses;
use crate::{Cidr, Host, HostPattern, Protocol};

/// The rules of one port.
#[derive(Debug, Default)]
pub(super) struct PortIndex {
    /// `tcp`: whatever the bytes are.
    pub(super) any_bytes: Grants,
    /// `https`.
    pub(super) tls: Names,
    /// `http`.
    pub(super) http: Names,
}

/// The rules of one protocol on one port.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Rules without hosts.
    pub(super) any_name: Grants,
    exact: FxHashMap<Host, Grants>,
    below: FxHashMap<Host, Grants>,
    /// All addresses that some rule here can allow; it says whether reading on can help.
    reach: Grants,
}

/// The rules under one key, by address. A rule is its number in the policy.
#[derive(Debug, Default)]
pub(super) struct Grants {
    /// The first rule without addresses.
    pub(super) anywhere: Option<u32>,
    /// Rules with addresses.
    by_address: Option<Box<Addresses>>,
    /// Rules with routes, which have to be looked at one by one.
    pub(super) routed: Vec<u32>,
    first: Option<u32>,
}

impl PortIndex {
    pub(super) fn add(
        &mut self,
        rule: u32,
        protocol: Protocol,
        addresses: Option<&[Cidr]>,
        hosts: Option<&[HostPattern]>,
        routed: bool,
    ) {
        let names = match protocol {
            Protocol::Tcp => return self.any_bytes.add(rule, addresses, false),
            Protocol::Https => &mut self.tls,
            Protocol::Http => &mut self.http,
        };
        names.reach.add(rule, addresses, false);
        // Routes have no meaning for TLS: a rule that has them all the same allows nothing there.
        if routed && protocol == Protocol::Https {
            return;
        }
        let Some(hosts) = hosts else {
            return names.any_name.add(rule, addresses, routed);
        };
        for host in hosts {
            let (table, name) = match host {
                HostPattern::Exact(name) => (&mut names.exact, name),
                HostPattern::Below(name) => (&mut names.below, name),
            };
            table.entry(name.clone()).or_default().add(rule, addresses, routed);
        }
    }

    pub(super) fn wants_first_bytes(&self, address: IpAddr) -> bool {
        self.tls.reaches(address) || self.http.reaches(address)
    }
}

impl Names {
    /// Whether some rule here could allow something to this address.
    pub(super) fn reaches(&self, address: IpAddr) -> bool {
        self.reach.find(address).is_some()
    }

    /// The rules that list this name: under itself, then under each name above it.
    pub(super) fn of(&self, host: &Host) -> impl Iterator<Item = &Grants> {
        let exact = self.exact.get(host);
        let below = (!self.below.is_empty()).then(|| host.ancestors()).into_iter().flatten();
        exact.into_iter().chain(below.filter_map(|name| self.below.get(name)))
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
