//! The three decisions of a policy.

use std::net::{IpAddr, SocketAddr};

use super::index::{NameIndex, PortIndex};
use super::{ConnectionOutcome, ConnectionStart, Policy, Request, Service, StartOutcome};
use crate::authority::{Authority, AuthorityHost};
use crate::decision::{Decision, Destination, Grant, Permit, Refusal, RuleId};
use crate::{Host, Mode, ReasonCode};

impl Policy {
    /// Decides by the original destination, where it is enough.
    pub fn decide_connection(&self, to: SocketAddr) -> ConnectionOutcome<'_> {
        let address = to.ip().to_canonical();
        if let Some(decision) = self.decide_without_rules(address, to.port()) {
            return ConnectionOutcome::Decided(decision);
        }
        let Some(port) = self.ports.get(&to.port()) else {
            let reason = if self.rules.is_empty() { ReasonCode::NoPolicy } else { ReasonCode::NoRule };
            return ConnectionOutcome::Decided(self.refuse(reason.into()));
        };
        match port.any_bytes.find(address) {
            Some(rule) => ConnectionOutcome::Decided(self.allow(rule, Destination::Original)),
            None if port.needs_first_bytes(address) => ConnectionOutcome::NeedFirstBytes,
            None => ConnectionOutcome::Decided(self.refuse(ReasonCode::NoRule.into())),
        }
    }

    /// Decides by the first bytes, for a connection that [`Policy::decide_connection`] left undecided.
    pub fn decide_start(&self, to: SocketAddr, start: ConnectionStart<'_>) -> StartOutcome<'_> {
        let address = to.ip().to_canonical();
        if let Some(decision) = self.decide_without_rules(address, to.port()) {
            return StartOutcome::Decided(decision);
        }
        let Some(port) = self.ports.get(&to.port()) else {
            return StartOutcome::Decided(self.refuse(ReasonCode::NoRule.into()));
        };
        let decision = match start {
            ConnectionStart::NotTls if port.http.reaches(address) => return StartOutcome::EachRequest,
            ConnectionStart::NotTls if port.tls.reaches(address) => {
                self.refuse(ReasonCode::TlsRequired.into())
            }
            ConnectionStart::NotTls => self.refuse(ReasonCode::NoRule.into()),
            ConnectionStart::TimedOut => self.refuse(ReasonCode::FirstBytesTimeout.into()),
            ConnectionStart::Evicted => self.refuse(ReasonCode::TooManyPending.into()),
            ConnectionStart::BrokenTls(reason) => self.refuse(reason.into()),
            ConnectionStart::Tls { server_name, encrypted } => {
                self.decide_tls(port, address, server_name, encrypted)
            }
        };
        StartOutcome::Decided(decision)
    }

    fn decide_tls(
        &self,
        port: &PortIndex,
        address: IpAddr,
        server_name: Option<&str>,
        encrypted: bool,
    ) -> Decision<'_> {
        if !port.tls.reaches(address) {
            return self.refuse(ReasonCode::NoRule.into());
        }
        if let Some(rule) = port.tls.any_name.find(address) {
            return self.allow(rule, Destination::Original);
        }
        let Some(name) = server_name else {
            let reason = if encrypted { ReasonCode::EchRefused } else { ReasonCode::SniAbsent };
            return self.refuse(reason.into());
        };
        let Ok(host) = Host::canonical(name) else {
            return self.refuse(ReasonCode::TlsMalformed.into());
        };
        if !encrypted {
            return self.decide_tls_by_name(&port.tls, address, host);
        }
        let by_outer = self.decide_tls_by_name(&port.outer, address, host.clone());
        if by_outer.is_allowed_by_rule() {
            return by_outer;
        }
        let by_name = self.decide_tls_by_name(&port.tls, address, host);
        match by_name.rule() {
            Some(rule) if by_name.is_allowed_by_rule() => {
                self.refuse(Refusal { reason: ReasonCode::EchRefused, rule: Some(rule) })
            }
            Some(_) | None => by_name,
        }
    }

    fn decide_tls_by_name(&self, names: &NameIndex, address: IpAddr, host: Host) -> Decision<'_> {
        let mut resolved = None;
        let mut named = None;
        for (matched, grants) in names.of(&host) {
            if let Some(rule) = grants.at(address) {
                return self.allow(rule, Destination::Original);
            }
            resolved = min_some(resolved, grants.anywhere.map(|rule| (matched, rule)));
            named = min_some(named, grants.first());
        }
        match (resolved, named) {
            (Some((matched, rule)), _) => self.allow(rule, Destination::Resolved(host, matched)),
            (None, Some(rule)) => self.refuse(Refusal { reason: ReasonCode::NoRule, rule: self.id(rule) }),
            (None, None) => self.refuse(ReasonCode::SniNotAllowed.into()),
        }
    }

    /// Decides one HTTP request of a connection to `to`.
    pub fn decide_request(&self, to: SocketAddr, request: &Request<'_>) -> Decision<'_> {
        let address = to.ip().to_canonical();
        if let Some(decision) = self.decide_without_rules(address, to.port()) {
            return decision;
        }
        if request.method == "CONNECT" {
            return self.refuse(ReasonCode::ConnectRefused.into());
        }
        let Some(authority) = request.authority.filter(|text| !text.is_empty()) else {
            return self.refuse(ReasonCode::AuthorityAbsent.into());
        };
        let Some(authority) = Authority::parse(authority) else {
            return self.refuse(ReasonCode::AuthorityMalformed.into());
        };
        if authority.port.is_some_and(|port| port != to.port()) {
            return self.refuse(ReasonCode::AuthorityPortMismatch.into());
        }
        let Some(port) = self.ports.get(&to.port()).filter(|port| port.http.reaches(address)) else {
            return self.refuse(ReasonCode::NoRule.into());
        };
        let Some(upgrade) = request.upgrade else {
            return self.decide_authority(&port.http, address, authority.host, request);
        };
        let by_upgrade = self.decide_authority(&port.websocket, address, authority.host.clone(), request);
        if upgrade.eq_ignore_ascii_case("websocket") && by_upgrade.is_allowed_by_rule() {
            return by_upgrade;
        }
        let plain = self.decide_authority(&port.http, address, authority.host, request);
        match plain.rule() {
            Some(rule) if plain.is_allowed_by_rule() => {
                self.refuse(Refusal { reason: ReasonCode::UpgradeRefused, rule: Some(rule) })
            }
            Some(_) | None => plain,
        }
    }

    fn decide_authority(
        &self,
        names: &NameIndex,
        address: IpAddr,
        host: AuthorityHost,
        request: &Request<'_>,
    ) -> Decision<'_> {
        match host {
            AuthorityHost::Name(host) => self.decide_named_request(names, address, host, request),
            AuthorityHost::Address(host) => self.decide_addressed_request(names, address, host, request),
        }
    }

    fn decide_named_request(
        &self,
        names: &NameIndex,
        address: IpAddr,
        host: Host,
        request: &Request<'_>,
    ) -> Decision<'_> {
        // A rule without names leads to the original destination.
        let any_name = std::iter::once((None, &names.any_name));
        let by_name = names.of(&host).map(|(matched, grants)| (Some(matched), grants));
        let mut resolved = None;
        let mut named = None;
        for (matched, grants) in any_name.chain(by_name) {
            if let Some(rule) = grants.at(address) {
                return self.allow(rule, Destination::Original);
            }
            match (matched, grants.anywhere) {
                (None, Some(rule)) => return self.allow(rule, Destination::Original),
                (Some(matched), Some(rule)) => resolved = min_some(resolved, Some((matched, rule))),
                (_, None) => {}
            }
            named = min_some(named, grants.first());
            for &number in &grants.routed {
                let Some(rule) = self.rules.get(number as usize) else { continue };
                if !rule.routes.as_ref().is_some_and(|routes| routes.match_any(host.as_str(), request)) {
                    continue;
                }
                match (&rule.addresses, matched) {
                    (Some(blocks), _) if blocks.iter().any(|block| block.contains(address)) => {
                        return self.allow(number, Destination::Original);
                    }
                    (Some(_), _) => {}
                    (None, Some(matched)) => resolved = min_some(resolved, Some((matched, number))),
                    (None, None) => return self.allow(number, Destination::Original),
                }
            }
        }
        match (resolved, named) {
            (Some((matched, rule)), _) => self.allow(rule, Destination::Resolved(host, matched)),
            (None, Some(rule)) => {
                let refusal = self.refuse_near_miss(rule, address, host.as_str(), request);
                self.refuse(refusal)
            }
            (None, None) => self.refuse(ReasonCode::HostNotAllowed.into()),
        }
    }

    /// Decides a request for a bare address: only rules without names allow it, and only to that original destination.
    fn decide_addressed_request(
        &self,
        names: &NameIndex,
        address: IpAddr,
        host: IpAddr,
        request: &Request<'_>,
    ) -> Decision<'_> {
        let grants = &names.any_name;
        if host != address {
            return self.refuse(ReasonCode::HostNotAllowed.into());
        }
        if let Some(rule) = grants.find(address) {
            return self.allow(rule, Destination::Original);
        }
        // The value of the header `host`, in one spelling (RFC 5952): routes must not see how the workload wrote it.
        let text = host.to_string();
        let routed = grants.routed.iter().copied().find(|&number| {
            self.rules.get(number as usize).is_some_and(|rule| {
                rule.routes.as_ref().is_some_and(|routes| routes.match_any(&text, request))
                    && rule.addresses.as_ref().is_none_or(|blocks| blocks.iter().any(|b| b.contains(address)))
            })
        });
        match (routed, grants.first()) {
            (Some(rule), _) => self.allow(rule, Destination::Original),
            (None, Some(rule)) => self.refuse(self.refuse_near_miss(rule, address, &text, request)),
            (None, None) => self.refuse(ReasonCode::HostNotAllowed.into()),
        }
    }

    /// Refuses for the mismatch of a rule that names the host.
    fn refuse_near_miss(
        &self,
        number: u32,
        address: IpAddr,
        host: &str,
        request: &Request<'_>,
    ) -> Refusal<'_> {
        let rule = self.rules.get(number as usize);
        let reaches = rule.is_some_and(|rule| {
            rule.addresses.as_ref().is_none_or(|blocks| blocks.iter().any(|block| block.contains(address)))
        });
        let misses_only_slash = || {
            rule.and_then(|rule| rule.routes.as_ref())
                .is_some_and(|routes| routes.match_but_for_slash(host, request))
        };
        let reason = match reaches {
            true if misses_only_slash() => ReasonCode::EncodedSlash,
            true => ReasonCode::RouteNotAllowed,
            false => ReasonCode::NoRule,
        };
        Refusal { reason, rule: self.id(number) }
    }

    /// Decides before any rule is evaluated: destinations in the mesh, and global egress.
    fn decide_without_rules(&self, address: IpAddr, port: u16) -> Option<Decision<'_>> {
        if !self.in_mesh.is_empty()
            && let Some(number) = self.in_mesh.get(&(address, port))
        {
            return Some(match self.services.get(*number as usize) {
                Some(Service { id, allowed: true }) => Decision::Allow(Permit {
                    by: Grant::InMesh(id),
                    to: Destination::Original,
                    cluster: None,
                }),
                // No mode of egress relaxes it: it is not egress.
                Some(Service { id, allowed: false }) => {
                    Decision::Deny(Refusal { reason: ReasonCode::InMeshDenied, rule: Some(id) })
                }
                None => Decision::Deny(ReasonCode::PolicyInvalid.into()),
            });
        }
        (self.mode == Mode::Passthrough).then_some(Decision::Allow(Permit {
            by: Grant::Passthrough,
            to: Destination::Passthrough,
            cluster: None,
        }))
    }

    fn allow(&self, number: u32, to: Destination) -> Decision<'_> {
        match self.rules.get(number as usize) {
            Some(rule) => {
                let found = self.clusters.binary_search_by_key(&number, |(number, _)| *number).ok();
                let cluster = found.and_then(|at| self.clusters.get(at)).map(|(_, name)| name.as_str());
                Decision::Allow(Permit { by: Grant::Rule(&rule.id), to, cluster })
            }
            // The index holds only numbers of rules. If it held another one, it must not allow anything.
            None => Decision::Deny(ReasonCode::PolicyInvalid.into()),
        }
    }

    /// Refuses, or in audit mode lets through what would have been refused.
    fn refuse<'p>(&'p self, refusal: Refusal<'p>) -> Decision<'p> {
        match self.mode {
            Mode::Audit => Decision::Allow(Permit {
                by: Grant::Audit(refusal),
                to: Destination::Original,
                cluster: None,
            }),
            Mode::Enforce | Mode::Passthrough => Decision::Deny(refusal),
        }
    }

    fn id(&self, number: u32) -> Option<&RuleId> {
        self.rules.get(number as usize).map(|rule| &rule.id)
    }
}

fn min_some<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
    }
}
