//! Bounded pool of idle connections.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// A bounded number of slots. When all are taken, the client address with the most makes room.
#[derive(Debug)]
pub struct Pool {
    capacity: usize,
    eviction_age: Duration,
    waiters: Mutex<Waiters>,
    next: AtomicU64,
    /// Number of connections that were evicted or refused.
    evictions: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiters {
    count: usize,
    /// Idle connections by client address, in order of arrival.
    by_address: HashMap<IpAddr, BTreeMap<u64, Waiter>>,
}

#[derive(Debug)]
struct Waiter {
    since: Instant,
    evicted: watch::Sender<bool>,
}

impl Waiters {
    fn remove(&mut self, address: IpAddr, key: u64) -> Option<Waiter> {
        let of_address = self.by_address.get_mut(&address)?;
        let waiter = of_address.remove(&key);
        if of_address.is_empty() {
            self.by_address.remove(&address);
        }
        self.count -= usize::from(waiter.is_some());
        waiter
    }

    fn insert(&mut self, address: IpAddr, key: u64, waiter: Waiter) {
        self.by_address.entry(address).or_default().insert(key, waiter);
        self.count += 1;
    }

    /// The address with the most slots, their number, and its oldest slot. Of several, the one with the oldest slot.
    fn busiest(&self) -> Option<(IpAddr, usize, u64, Instant)> {
        let oldest = self.by_address.iter().filter_map(|(address, waiters)| {
            let (key, waiter) = waiters.first_key_value()?;
            Some((*address, waiters.len(), *key, waiter.since))
        });
        oldest.max_by_key(|(_, count, key, _)| (*count, std::cmp::Reverse(*key)))
    }
}

impl Pool {
    /// Creates a pool. Connections younger than `eviction_age` are not evicted for another one of the same address.
    #[must_use]
    pub fn new(capacity: usize, eviction_age: Duration) -> Arc<Self> {
        Arc::new(Self {
            capacity,
            eviction_age,
            waiters: Mutex::default(),
            next: AtomicU64::default(),
            evictions: AtomicU64::default(),
        })
    }

    /// Acquires a slot. If none is free, evicts the oldest connection of the address with the most slots: at once if
    /// that address has more than this one, else only above the eviction age. Returns `None` if no connection can be
    /// evicted.
    #[must_use]
    pub fn acquire(self: &Arc<Self>, address: IpAddr) -> Option<Slot> {
        let address = client_network(address);
        let mut waiters = self.waiters();
        if waiters.count >= self.capacity {
            let (mut busiest, count, mut oldest, mut since) = waiters.busiest()?;
            self.evictions.fetch_add(1, Ordering::Relaxed);
            let own = waiters.by_address.get(&address);
            let has = own.map_or(0, BTreeMap::len);
            if let Some((key, waiter)) = own.and_then(BTreeMap::first_key_value)
                && has == count
            {
                // No other address has more: evict a connection of this address.
                (busiest, oldest, since) = (address, *key, waiter.since);
            }
            if has + 1 >= count && since.elapsed() < self.eviction_age {
                return None;
            }
            if let Some(waiter) = waiters.remove(busiest, oldest) {
                waiter.evicted.send_replace(true);
            }
        }
        let slot = Slot {
            pool: Arc::clone(self),
            address,
            key: self.next.fetch_add(1, Ordering::Relaxed),
            evicted: watch::Sender::new(false),
            requests: AtomicUsize::default(),
        };
        waiters.insert(address, slot.key, slot.waiter());
        drop(waiters);
        Some(slot)
    }

    /// Number of connections evicted or refused since the start.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Relaxed)
    }

    /// Number of idle connections.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiters().count
    }

    /// Returns true if no connection is idle.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Locks the waiters. A panic leaves no half-done change under this lock, so poisoning is ignored.
    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A slot in a pool. Dropping it gives it back.
#[derive(Debug)]
pub struct Slot {
    pool: Arc<Pool>,
    address: IpAddr,
    key: u64,
    evicted: watch::Sender<bool>,
    /// Number of requests in flight; the connection is idle at zero.
    requests: AtomicUsize,
}

impl Slot {
    fn waiter(&self) -> Waiter {
        Waiter { since: Instant::now(), evicted: self.evicted.clone() }
    }

    /// Resolves when the slot was given to another connection.
    pub fn evicted(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut evicted = self.evicted.subscribe();
        async move {
            if evicted.wait_for(|evicted| *evicted).await.is_err() {
                // The slot was dropped without an eviction.
                std::future::pending().await
            }
        }
    }

    /// Closes the connection.
    pub fn close(&self) {
        self.evicted.send_replace(true);
    }

    /// Time since which the connection is idle, or `None` while it serves its client.
    #[must_use]
    pub fn idle_since(&self) -> Option<Instant> {
        if self.requests.load(Ordering::Relaxed) > 0 {
            return None;
        }
        self.pool.waiters().by_address.get(&self.address)?.get(&self.key).map(|waiter| waiter.since)
    }

    /// Gives the slot back until the returned guard is dropped: the server works for the client.
    #[must_use]
    pub fn activate(self: &Arc<Self>) -> ActiveGuard {
        let mut waiters = self.pool.waiters();
        if self.requests.fetch_add(1, Ordering::Relaxed) == 0 {
            waiters.remove(self.address, self.key);
        }
        drop(waiters);
        ActiveGuard(Arc::clone(self))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.pool.waiters().remove(self.address, self.key);
    }
}

/// Marks a connection as serving its client. When its last guard is dropped, the connection is idle again, even if
/// the pool is full.
#[derive(Debug)]
pub struct ActiveGuard(Arc<Slot>);

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        let Self(slot) = self;
        let mut waiters = slot.pool.waiters();
        if slot.requests.fetch_sub(1, Ordering::Relaxed) == 1 {
            waiters.insert(slot.address, slot.key, slot.waiter());
        }
    }
}

/// Network that counts as one client: for IPv6 the whole /64, which a single machine can own.
#[must_use]
pub fn client_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const YOUNG: Duration = Duration::from_secs(3600);

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn is_evicted(slot: &Slot) -> bool {
        slot.evicted().now_or_never().is_some()
    }

    #[test]
    fn the_address_with_the_most_makes_room() {
        let pool = Pool::new(3, YOUNG);
        let flood: Vec<_> = (0..3).filter_map(|_| pool.acquire(address(1))).collect();
        assert_eq!((flood.len(), pool.len()), (3, 3));
        assert!(pool.acquire(address(1)).is_none(), "connections below the eviction age stay");
        // An address with fewer slots is admitted at once, and the oldest of the others is evicted.
        let honest = pool.acquire(address(2)).expect("a slot");
        assert!(is_evicted(&flood[0]) && !is_evicted(&flood[1]) && !is_evicted(&honest));
        assert_eq!((pool.len(), pool.evictions()), (3, 2));
        drop((flood, honest));
        assert!(pool.is_empty());
    }

    #[test]
    fn above_the_eviction_age_an_address_makes_room_for_itself() {
        let pool = Pool::new(2, Duration::ZERO);
        let honest = pool.acquire(address(2)).expect("a slot");
        let flood: Vec<_> = (0..4).filter_map(|_| pool.acquire(address(1))).collect();
        let evicted: Vec<bool> = flood.iter().map(is_evicted).collect();
        assert_eq!(evicted, [true, true, true, false]);
        assert!(!is_evicted(&honest), "it has as many slots as the others, and is older");
        assert_eq!((pool.len(), pool.evictions()), (2, 3));
    }

    #[test]
    fn a_connection_that_serves_is_not_idle() {
        let pool = Pool::new(1, Duration::ZERO);
        let served = Arc::new(pool.acquire(address(1)).expect("a slot"));
        let (one, two) = (served.activate(), served.activate());
        let other = pool.acquire(address(1)).expect("a slot");
        drop(one);
        assert!(!is_evicted(&served) && served.idle_since().is_none());
        let before = Instant::now();
        drop(two);
        assert!(served.idle_since().is_some_and(|since| since >= before), "it is idle again, from now on");
        assert_eq!(pool.len(), 2);
        drop(other);
    }

    #[test]
    fn addresses_of_one_machine_count_as_one() {
        let network = |text: &str| super::client_network(text.parse().expect("an address")).to_string();
        assert_eq!(network("::ffff:10.0.0.1"), "10.0.0.1");
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    }
}
