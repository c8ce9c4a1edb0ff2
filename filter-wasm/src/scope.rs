//! The scope: the state that the plugins of one identity share in a VM, with the newest policy.
//!
//! Envoy makes a plugin anew for each configuration and keeps the streams of earlier ones, in the same VM. The newest
//! policy makes every decision nevertheless, and a new policy reviews everything that waits, is open or in flight.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use egress_policy::{Identity, Plugin, Policy};

use crate::config::Config;
use crate::in_flight_requests::InFlightRequest;
use crate::open_connections::OpenConnection;
use crate::pending_connections::PendingConnections;
use crate::plaintext_connections::PlaintextConnections;
use crate::recent_streams::RecentStreams;
use crate::revocation::Review;
use crate::table::Table;
use crate::tick::{ActionKind, MAX_ACTIONS, NEXT_TICK_DELAY, StreamAction, TickPlan};

/// The time after a configuration in which a plugin of an earlier one may still get streams, because Envoy hands the new
/// plugin to a worker in two steps. In milliseconds.
const HANDOVER_MS: u64 = 1000;

/// The share of the time-out that ticks may be late by, and the bounds of their period in milliseconds.
const TICKS_PER_TIMEOUT: u64 = 10;
const TICK_PERIOD_MS: std::ops::RangeInclusive<u64> = 10..=250;

/// The part of a plugin that its streams hold.
#[derive(Debug, Clone)]
pub(crate) struct PluginHandle {
    pub(crate) scope: Rc<Scope>,
    /// The plugin gets ticks.
    pub(crate) is_ticking: Rc<Cell<bool>>,
}

/// The state that the plugins of one identity share in a VM.
#[derive(Debug)]
pub(crate) struct Scope {
    identity: Identity,
    /// Two listeners of one Envoy have scopes of their own, even with one identity.
    listener_port: u16,
    newest: RefCell<Config>,
    last_configured: RefCell<LastConfigured>,
    pub(crate) pending: PendingConnections,
    pub(crate) open: Table<OpenConnection>,
    pub(crate) in_flight: Table<InFlightRequest>,
    pub(crate) plaintext: PlaintextConnections,
    pub(crate) recent: RecentStreams,
    review: Cell<Review>,
}

/// The last configuration of each plugin.
#[derive(Debug, Default)]
struct LastConfigured {
    network: Option<Rc<Policy>>,
    http: Option<Rc<Policy>>,
    /// In milliseconds.
    at: u64,
}

impl LastConfigured {
    fn policy_mut(&mut self, plugin: Plugin) -> &mut Option<Rc<Policy>> {
        match plugin {
            Plugin::Network => &mut self.network,
            Plugin::Http => &mut self.http,
        }
    }
}

thread_local! {
    /// The scopes that a plugin or a stream holds.
    static SCOPES: RefCell<Vec<Weak<Scope>>> = const { RefCell::new(Vec::new()) };
}

impl Scope {
    /// Finds or makes the scope of a plugin that was configured now. Its policy is the newest.
    pub(crate) fn configure(config: &Config, now: u64) -> Rc<Self> {
        let scope = Self::find(config).unwrap_or_else(|| Self::create(config));
        scope.renew(config, now);
        scope
    }

    fn find(config: &Config) -> Option<Rc<Self>> {
        let has_key = |scope: &Rc<Self>| {
            scope.identity == *config.policy.identity() && scope.listener_port == config.listener_port
        };
        SCOPES.with_borrow(|scopes| scopes.iter().filter_map(Weak::upgrade).find(has_key))
    }

    pub(crate) fn create(config: &Config) -> Rc<Self> {
        let scope = Rc::new(Self {
            identity: config.policy.identity().clone(),
            listener_port: config.listener_port,
            newest: RefCell::new(config.clone()),
            last_configured: RefCell::default(),
            pending: PendingConnections::default(),
            open: Table::default(),
            in_flight: Table::default(),
            plaintext: PlaintextConnections::default(),
            recent: RecentStreams::default(),
            review: Cell::default(),
        });
        SCOPES.with_borrow_mut(|scopes| {
            scopes.retain(|scope| scope.strong_count() > 0);
            scopes.push(Rc::downgrade(&scope));
        });
        scope
    }

    /// Makes a configuration the newest one.
    pub(crate) fn renew(&self, config: &Config, now: u64) {
        let before = self.newest.replace(config.clone());
        let mut last = self.last_configured.borrow_mut();
        *last.policy_mut(config.plugin) = Some(Rc::clone(&config.policy));
        last.at = now;
        // Both plugins of a worker have the same policy.
        if !Rc::ptr_eq(&before.policy, &config.policy) {
            self.review.set(Review::START);
        }
    }

    /// Returns whether Envoy gives streams to the plugin of an earlier configuration again.
    /// Envoy does that without configuring the plugin where a configuration comes back byte by byte; one with a nonce
    /// does not. The two plugins get their configurations one after the other, so each is compared with its own.
    pub(crate) fn notice_return(&self, config: &Config, now: impl FnOnce() -> u64) -> bool {
        if config.has_nonce {
            return false;
        }
        let mut last = self.last_configured.borrow_mut();
        let is_last =
            last.policy_mut(config.plugin).as_ref().is_none_or(|policy| Rc::ptr_eq(policy, &config.policy));
        let configured_at = last.at;
        drop(last);
        if is_last {
            return false;
        }
        let now = now();
        if now.saturating_sub(configured_at) < HANDOVER_MS {
            return false;
        }
        self.renew(config, now);
        true
    }

    /// The newest configuration.
    pub(crate) fn newest(&self) -> Config {
        self.newest.borrow().clone()
    }

    /// The period of ticks while something waits: precise to a tenth of the time-out, and short where a review goes on.
    pub(crate) fn tick_period(&self) -> Duration {
        if !self.review.get().is_finished() {
            return NEXT_TICK_DELAY;
        }
        let timeout = u64::from(self.newest.borrow().first_bytes_timeout_ms);
        let period = timeout.checked_div(TICKS_PER_TIMEOUT).unwrap_or_default();
        Duration::from_millis(period.clamp(*TICK_PERIOD_MS.start(), *TICK_PERIOD_MS.end()))
    }

    /// Plans the work of a tick.
    pub(crate) fn plan_tick(&self, now: u64) -> TickPlan {
        let mut actions = self.pending.timed_out(now);
        let review = self.review.get();
        if !review.is_finished() {
            let policy = self.newest().policy;
            self.review.set(review.advance(
                &policy,
                &self.pending,
                &self.open,
                &self.in_flight,
                &mut actions,
            ));
        }
        let max_evictions = MAX_ACTIONS.saturating_sub(actions.len());
        let excess = self.plaintext.excess(max_evictions).into_iter();
        let kind = ActionKind::EvictPartialHeaders;
        actions.extend(excess.map(|(id, key)| StreamAction { id, key, kind }));
        let has_more = actions.len() >= MAX_ACTIONS || !self.review.get().is_finished();
        let next = if has_more {
            Some(NEXT_TICK_DELAY)
        } else {
            (self.pending.table().len() > actions.len()).then(|| self.tick_period())
        };
        TickPlan { actions, next }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::fake_host::config;
    use crate::open_connections::FirstBytes;
    use crate::revocation::MAX_VISITS;
    use crate::route::Route;
    use crate::table::Guard;

    const RULES: &str = r#"[{"policy":"a/tcp","name":"n","port":22,"protocol":"tcp"}]"#;

    fn open(scope: &Scope, id: u32, port: u16) -> Guard<OpenConnection> {
        let to = SocketAddr::from(([1, 2, 3, 4], port));
        let route = Route::OriginalDestination;
        scope.open.insert(OpenConnection { id, to, first_bytes: FirstBytes::Unseen, route })
    }

    #[test]
    fn a_change_is_reviewed_in_parts() {
        let scope = Scope::create(&config("network", "passthrough", "[]"));
        let mut guards: Vec<_> =
            (0..20_000).map(|id| open(&scope, id, if id % 10 == 0 { 22 } else { 23 })).collect();
        assert_eq!(scope.plan_tick(0).next, None, "nothing changed");
        scope.renew(&config("network", "enforce", RULES), 0);
        let mut closed = Vec::new();
        let mut ticks = 0;
        loop {
            let TickPlan { actions, next } = scope.plan_tick(1);
            assert!(actions.len() <= MAX_ACTIONS);
            closed.extend(actions.iter().map(|action| action.id));
            ticks += 1;
            match next {
                Some(next) => assert_eq!(next, NEXT_TICK_DELAY),
                None => break,
            }
        }
        assert_eq!(closed.len(), 18_000);
        assert!(closed.iter().all(|id| id % 10 != 0));
        assert!(ticks <= 18_000 / MAX_ACTIONS + 20_000 / MAX_VISITS + 2, "{ticks} ticks");
        // Another change begins at the beginning.
        guards.truncate(100);
        scope.renew(&config("network", "enforce", "[]"), 2);
        assert_eq!(scope.plan_tick(3).actions.len(), MAX_ACTIONS);
        scope.renew(&config("network", "enforce", RULES), 4);
        assert_eq!(scope.plan_tick(5).actions.first().map(|action| action.id), Some(1));
    }

    #[test]
    fn the_plugins_of_one_identity_and_port_share_a_scope() {
        let rules = r#"[{"policy":"a/scope","name":"n","port":22,"protocol":"tcp"}]"#;
        let network = Scope::configure(&config("network", "enforce", rules), 0);
        let _ = network.plan_tick(0);
        let http = Scope::configure(&config("http", "enforce", rules), 1);
        assert!(Rc::ptr_eq(&network, &http));
        assert!(http.review.get().is_finished(), "the same policy is not reviewed twice");
        let other = config("network", "enforce", RULES);
        assert!(Rc::ptr_eq(&network, &Scope::configure(&other, 2)));
        assert!(Rc::ptr_eq(&network.newest().policy, &other.policy));
        let port = Config { listener_port: 15002, ..other };
        assert!(!Rc::ptr_eq(&network, &Scope::configure(&port, 3)));
    }

    #[test]
    fn an_earlier_configuration_that_comes_back_is_noticed() {
        let (a, b) = (config("network", "enforce", RULES), config("network", "enforce", "[]"));
        let scope = Scope::create(&a);
        scope.renew(&a, 0);
        scope.renew(&b, 10_000);
        assert!(!scope.notice_return(&b, || 10_000));
        assert!(!scope.notice_return(&a, || 10_500), "the hand-over");
        assert!(Rc::ptr_eq(&scope.newest().policy, &b.policy));
        assert!(!scope.notice_return(&Config { has_nonce: true, ..a.clone() }, || 11_000));
        assert!(scope.notice_return(&a, || 11_000));
        assert!(Rc::ptr_eq(&scope.newest().policy, &a.policy));
        assert!(!scope.review.get().is_finished());
    }

    /// Envoy may take long between the two.
    #[test]
    fn a_plugin_that_is_configured_later_does_not_bring_back_its_old_policy() {
        let (a, b) = (config("network", "enforce", RULES), config("network", "enforce", "[]"));
        let http = Config { plugin: Plugin::Http, ..a.clone() };
        let scope = Scope::create(&a);
        scope.renew(&a, 0);
        scope.renew(&http, 0);
        scope.renew(&b, 10_000);
        assert!(!scope.notice_return(&http, || 90_000), "it has no newer one");
        assert!(Rc::ptr_eq(&scope.newest().policy, &b.policy));
    }
}
