//! What the plugins of one identity share in a VM: the newest policy, and everything that it governs.
//!
//! Envoy makes a plugin anew for each configuration and lets the streams of earlier ones live, in the same
//! VM. Every decision is made by the newest policy nevertheless, and a new policy is asked about everything
//! that waits or is open.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use egress_policy::{Identity, ConnectionOutcome, Plugin, Policy, Protocol};

use crate::config::Config;
use crate::in_flight::InFlightRequest;
use crate::open_connections::OpenConnection;
use crate::own_connections::RecentStreams;
use crate::partial_headers::PlaintextConnections;
use crate::pending::{HeldBytes, MAX_PENDING, MAX_PENDING_BYTES, PendingConnection, PendingState};
use crate::table::{Guard, Table};

/// How many streams one tick acts on. Envoy closes them one inside the other when the tick has ended, and
/// some 700 overflow the stack of the VM.
pub(crate) const MAX_ACTIONS: usize = 64;

/// How many streams one tick looks at, so that other connections are not kept waiting: some milliseconds.
const MAX_VISITS: usize = 4096;

/// The same for requests, whose paths and headers may have to be matched with regular expressions.
const MAX_REQUEST_VISITS: usize = 256;

/// When the next tick comes where there is more to do.
pub(crate) const NEXT_TICK: Duration = Duration::from_millis(1);

/// How long after a configuration a plugin of an earlier one may still get streams, because Envoy hands the
/// new plugin to a worker in two steps. In milliseconds.
const HANDOVER: u64 = 1000;

/// What the plugins of one identity share in a VM.
#[derive(Debug)]
pub(crate) struct Scope {
    identity: Identity,
    /// Two listeners of one Envoy are apart even with one identity.
    listener_port: u16,
    newest: RefCell<Config>,
    configured: RefCell<Configured>,
    pub(crate) open: Table<OpenConnection>,
    pub(crate) in_flight: Table<InFlightRequest>,
    pub(crate) plaintext: PlaintextConnections,
    pub(crate) recent: RecentStreams,
    pending: Table<PendingConnection>,
    pending_bytes: Rc<Cell<usize>>,
    pending_number: Cell<u64>,
    review: Cell<Review>,
}

/// What the plugins were configured with last.
#[derive(Debug, Default)]
struct Configured {
    network: Option<Rc<Policy>>,
    http: Option<Rc<Policy>>,
    /// In milliseconds.
    at: u64,
}

impl Configured {
    fn of(&mut self, plugin: Plugin) -> &mut Option<Rc<Policy>> {
        match plugin {
            Plugin::Network => &mut self.network,
            Plugin::Http => &mut self.http,
        }
    }
}

/// How far the newest policy was asked about what was there before it: the next place of each table, `None`
/// at the end.
#[derive(Debug, Clone, Copy, Default)]
struct Review {
    pending: Option<usize>,
    open: Option<usize>,
    in_flight: Option<usize>,
}

impl Review {
    const BEGINNING: Self = Self { pending: Some(0), open: Some(0), in_flight: Some(0) };

    fn is_over(self) -> bool {
        self.pending.is_none() && self.open.is_none() && self.in_flight.is_none()
    }
}

/// A stream that has to be acted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Action {
    pub(crate) id: u32,
    /// Its place in the table that `kind` says.
    pub(crate) place: usize,
    pub(crate) kind: ActionKind,
}

/// What has to be done with a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ActionKind {
    /// A pending connection has waited too long.
    TimedOut,
    /// A pending connection is the oldest of too many.
    Evict,
    /// A connection holds the oldest of too many headers that have not ended.
    EvictPartial,
    /// The newest policy decides a pending connection without its first bytes.
    Decide,
    /// An open connection is not permitted any more.
    CloseConnection(Protocol),
    /// A request is not permitted any more.
    ResetRequest,
}

/// What a tick does.
#[derive(Debug, Default)]
pub(crate) struct Due {
    pub(crate) actions: Vec<Action>,
    /// When to look again; `None` while nothing waits.
    pub(crate) next: Option<Duration>,
}

thread_local! {
    /// The scopes that a plugin or a stream holds.
    static SCOPES: RefCell<Vec<Weak<Scope>>> = const { RefCell::new(Vec::new()) };
}

impl Scope {
    /// The scope of a plugin that was configured now. Its policy is the newest.
    pub(crate) fn configure(config: &Config, now: u64) -> Rc<Self> {
        let scope = Self::find(config).unwrap_or_else(|| Self::create(config));
        scope.renew(config, now);
        scope
    }

    fn find(config: &Config) -> Option<Rc<Self>> {
        let is_of = |scope: &Rc<Self>| {
            scope.identity == *config.policy.identity() && scope.listener_port == config.listener_port
        };
        SCOPES.with_borrow(|scopes| scopes.iter().filter_map(Weak::upgrade).find(is_of))
    }

    pub(crate) fn create(config: &Config) -> Rc<Self> {
        let scope = Rc::new(Self {
            identity: config.policy.identity().clone(),
            listener_port: config.listener_port,
            newest: RefCell::new(config.clone()),
            configured: RefCell::default(),
            open: Table::default(),
            in_flight: Table::default(),
            plaintext: PlaintextConnections::default(),
            recent: RecentStreams::default(),
            pending: Table::default(),
            pending_bytes: Rc::default(),
            pending_number: Cell::default(),
            review: Cell::default(),
        });
        SCOPES.with_borrow_mut(|scopes| {
            scopes.retain(|scope| scope.strong_count() > 0);
            scopes.push(Rc::downgrade(&scope));
        });
        scope
    }

    pub(crate) fn renew(&self, config: &Config, now: u64) {
        let before = self.newest.replace(config.clone());
        let mut configured = self.configured.borrow_mut();
        *configured.of(config.plugin) = Some(Rc::clone(&config.policy));
        configured.at = now;
        // Both plugins of a worker carry the same policy.
        if !Rc::ptr_eq(&before.policy, &config.policy) {
            self.review.set(Review::BEGINNING);
        }
    }

    /// Notices that Envoy gives streams to the plugin of an earlier configuration again, which it does without
    /// configuring it where a configuration comes back byte by byte. Says whether that is so. With a nonce none
    /// comes back. The two plugins get their configurations one after the other, so each is compared with its own.
    pub(crate) fn notice_return(&self, config: &Config, now: impl FnOnce() -> u64) -> bool {
        if config.has_nonce {
            return false;
        }
        let mut configured = self.configured.borrow_mut();
        let is_last =
            configured.of(config.plugin).as_ref().is_none_or(|last| Rc::ptr_eq(last, &config.policy));
        let configured_at = configured.at;
        drop(configured);
        if is_last {
            return false;
        }
        let now = now();
        if now.saturating_sub(configured_at) < HANDOVER {
            return false;
        }
        self.renew(config, now);
        true
    }

    /// The newest configuration.
    pub(crate) fn newest(&self) -> Config {
        self.newest.borrow().clone()
    }

    /// Lists a connection whose first bytes decide.
    pub(crate) fn wait(&self, id: u32, to: SocketAddr, deadline: u64) -> Guard<PendingConnection> {
        let number = self.pending_number.get();
        self.pending_number.set(number.saturating_add(1));
        let held = HeldBytes::none(&self.pending_bytes);
        let state = PendingState::Waiting;
        self.pending.insert(PendingConnection { id, to, deadline, number, held, state })
    }

    /// The pending connections that are too many: the oldest, of those that hold bytes where bytes are too many.
    /// They have to go at once, because the memory of a VM never shrinks.
    pub(crate) fn excess(&self) -> Vec<Action> {
        if self.pending.len() <= MAX_PENDING && self.pending_bytes.get() <= MAX_PENDING_BYTES {
            return Vec::new();
        }
        let mut waiting = Vec::new();
        let entry = |place, pending: &PendingConnection| {
            pending.is_waiting().then(|| (pending.number, place, pending.id, pending.held.get()))
        };
        self.pending.collect_from(0, usize::MAX, usize::MAX, &mut waiting, entry);
        let mut count = waiting.len();
        let mut bytes = self.pending_bytes.get();
        let mut excess = Vec::new();
        while excess.len() < MAX_ACTIONS && (count > MAX_PENDING || bytes > MAX_PENDING_BYTES) {
            let may_go = |(_, _, _, held): &&(u64, usize, u32, usize)| count > MAX_PENDING || *held > 0;
            let Some(&oldest) = waiting.iter().filter(may_go).min() else { break };
            waiting.retain(|entry| *entry != oldest);
            let (_, place, id, held) = oldest;
            count = count.saturating_sub(1);
            bytes = bytes.saturating_sub(held);
            excess.push(Action { id, place, kind: ActionKind::Evict });
        }
        excess
    }

    /// How often to look where something waits: as precise as a tenth of the time-out, and at once where more
    /// is to be done.
    pub(crate) fn tick_period(&self) -> Duration {
        if !self.review.get().is_over() {
            return NEXT_TICK;
        }
        let timeout = u64::from(self.newest.borrow().first_bytes_timeout_ms);
        Duration::from_millis((timeout / 10).clamp(10, 250))
    }

    /// A pending connection by its place.
    pub(crate) fn pending<R>(&self, place: usize, f: impl FnOnce(&mut PendingConnection) -> R) -> Option<R> {
        self.pending.with(place, f)
    }

    /// What has to be done now.
    pub(crate) fn due(&self, now: u64) -> Due {
        let mut actions = self.overdue(now);
        self.review(&mut actions);
        let most = MAX_ACTIONS.saturating_sub(actions.len());
        let excess = self.plaintext.excess(most).into_iter();
        actions.extend(excess.map(|(id, place)| Action { id, place, kind: ActionKind::EvictPartial }));
        let more = actions.len() >= MAX_ACTIONS || !self.review.get().is_over();
        let next = if more {
            Some(NEXT_TICK)
        } else {
            (self.pending.len() > actions.len()).then(|| self.tick_period())
        };
        Due { actions, next }
    }

    /// The pending connections whose time is up.
    fn overdue(&self, now: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        let timed_out = |place, pending: &PendingConnection| {
            (pending.is_waiting() && pending.deadline <= now).then_some(Action {
                id: pending.id,
                place,
                kind: ActionKind::TimedOut,
            })
        };
        self.pending.collect_from(0, usize::MAX, MAX_ACTIONS, &mut actions, timed_out);
        actions
    }

    /// Asks the newest policy about what was there before it.
    fn review(&self, actions: &mut Vec<Action>) {
        let mut review = self.review.get();
        if review.is_over() {
            return;
        }
        let config = self.newest();
        let policy = &config.policy;
        let overdue: Vec<usize> = actions.iter().map(|action| action.place).collect();
        if let Some(from) = review.pending {
            let decided = |place, pending: &PendingConnection| {
                let decides = matches!(policy.decide_connection(pending.to), ConnectionOutcome::Decided(_));
                (pending.is_waiting() && decides && !overdue.contains(&place)).then_some(Action {
                    id: pending.id,
                    place,
                    kind: ActionKind::Decide,
                })
            };
            review.pending = self.pending.collect_from(from, MAX_VISITS, MAX_ACTIONS, actions, decided);
        }
        if let Some(from) = review.open {
            let forbidden = |place, open: &OpenConnection| {
                let kind = ActionKind::CloseConnection(open.first_bytes.protocol());
                (!open.is_permitted(policy)).then_some(Action { id: open.id, place, kind })
            };
            review.open = self.open.collect_from(from, MAX_VISITS, MAX_ACTIONS, actions, forbidden);
        }
        if let Some(from) = review.in_flight {
            let forbidden = |place, request: &InFlightRequest| {
                let kind = ActionKind::ResetRequest;
                (!request.is_permitted(policy)).then_some(Action { id: request.id, place, kind })
            };
            review.in_flight =
                self.in_flight.collect_from(from, MAX_REQUEST_VISITS, MAX_ACTIONS, actions, forbidden);
        }
        self.review.set(review);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::config;
    use crate::open_connections::FirstBytes;
    use crate::review::Route;

    const RULES: &str = r#"[{"policy":"a/tcp","name":"n","port":22,"protocol":"tcp"}]"#;

    fn open(scope: &Scope, id: u32, port: u16) -> Guard<OpenConnection> {
        let to = SocketAddr::from(([1, 2, 3, 4], port));
        let route = Route::OriginalDestination;
        scope.open.insert(OpenConnection { id, to, first_bytes: FirstBytes::Unseen, route })
    }

    #[test]
    fn a_change_is_asked_about_in_parts() {
        let scope = Scope::create(&config("network", "passthrough", "[]"));
        let mut guards: Vec<_> =
            (0..20_000).map(|id| open(&scope, id, if id % 10 == 0 { 22 } else { 23 })).collect();
        assert_eq!(scope.due(0).next, None, "nothing changed");
        scope.renew(&config("network", "enforce", RULES), 0);
        let mut closed = Vec::new();
        let mut ticks = 0;
        loop {
            let Due { actions, next } = scope.due(1);
            assert!(actions.len() <= MAX_ACTIONS);
            closed.extend(actions.iter().map(|action| action.id));
            ticks += 1;
            match next {
                Some(next) => assert_eq!(next, NEXT_TICK),
                None => break,
            }
        }
        assert_eq!(closed.len(), 18_000);
        assert!(closed.iter().all(|id| id % 10 != 0));
        assert!(ticks <= 18_000 / MAX_ACTIONS + 20_000 / MAX_VISITS + 2, "{ticks} ticks");
        // Another change begins at the beginning.
        guards.truncate(100);
        scope.renew(&config("network", "enforce", "[]"), 2);
        assert_eq!(scope.due(3).actions.len(), MAX_ACTIONS);
        scope.renew(&config("network", "enforce", RULES), 4);
        assert_eq!(scope.due(5).actions.first().map(|action| action.id), Some(1));
    }

    #[test]
    fn one_policy_for_both_plugins_and_a_scope_for_each_identity() {
        let rules = r#"[{"policy":"a/scope","name":"n","port":22,"protocol":"tcp"}]"#;
        let network = Scope::configure(&config("network", "enforce", rules), 0);
        let _ = network.due(0);
        let http = Scope::configure(&config("http", "enforce", rules), 1);
        assert!(Rc::ptr_eq(&network, &http));
        assert!(http.review.get().is_over(), "the same policy is not asked twice");
        let other = config("network", "enforce", RULES);
        assert!(Rc::ptr_eq(&network, &Scope::configure(&other, 2)));
        assert!(Rc::ptr_eq(&network.newest().policy, &other.policy));
        let port = Config { listener_port: 15002, ..other };
        assert!(!Rc::ptr_eq(&network, &Scope::configure(&port, 3)));
    }

    #[test]
    fn a_configuration_that_comes_back_without_being_configured() {
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
        assert!(!scope.review.get().is_over());
    }

    /// Envoy may take long between the two.
    #[test]
    fn one_plugin_is_ahead_of_the_other() {
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
