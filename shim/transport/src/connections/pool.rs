//! Places for what waits for its client.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// A bounded number of places. Whoever has the most makes room.
#[derive(Debug)]
pub struct Pool {
    capacity: usize,
    eviction_age: Duration,
    waiting: Mutex<Waiting>,
    next: AtomicU64,
    /// The number of connections that were evicted or not admitted.
    evictions: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    count: usize,
    /// By address and in the order in which they came.
    by_address: HashMap<IpAddr, BTreeMap<u64, Waiter>>,
}

#[derive(Debug)]
struct Waiter {
    since: Instant,
    evicted: watch::Sender<bool>,
}

impl Waiting {
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

    /// The address that has the most, how many it has, and its oldest. Of several, the one whose oldest is older.
    fn busiest(&self) -> Option<(IpAddr, usize, u64, Instant)> {
        let oldest = self.by_address.iter().filter_map(|(address, waiters)| {
            let (key, waiter) = waiters.first_key_value()?;
            Some((*address, waiters.len(), *key, waiter.since))
        });
        oldest.max_by_key(|(_, count, key, _)| (*count, std::cmp::Reverse(*key)))
    }
}

impl Pool {
    /// A pool of this many places, in which whoever is younger than `eviction_age` makes no room for its like.
    #[must_use]
    pub fn new(capacity: usize, eviction_age: Duration) -> Arc<Self> {
        Arc::new(Self {
            capacity,
            eviction_age,
            waiting: Mutex::default(),
            next: AtomicU64::default(),
            evictions: AtomicU64::default(),
        })
    }

    /// Takes a place. Where none is free, the oldest of the address with the most goes: at once, if that has more than
    /// this one; else when it is old enough. `None` where nobody has to go.
    #[must_use]
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = network(address);
        let mut waiting = self.waiting();
        if waiting.count >= self.capacity {
            let (mut busiest, count, mut oldest, mut since) = waiting.busiest()?;
            self.evictions.fetch_add(1, Ordering::Relaxed);
            let own = waiting.by_address.get(&address);
            let has = own.map_or(0, BTreeMap::len);
            if let Some((key, waiter)) = own.and_then(BTreeMap::first_key_value)
                && has == count
            {
                // No other address has more: this one makes room for itself.
                (busiest, oldest, since) = (address, *key, waiter.since);
            }
            if has + 1 >= count && since.elapsed() < self.eviction_age {
                return None;
            }
            if let Some(waiter) = waiting.remove(busiest, oldest) {
                waiter.evicted.send_replace(true);
            }
        }
        let place = Place {
            pool: Arc::clone(self),
            address,
            key: self.next.fetch_add(1, Ordering::Relaxed),
            evicted: watch::Sender::new(false),
            carries: AtomicUsize::default(),
        };
        waiting.insert(address, place.key, place.waiter());
        drop(waiting);
        Some(place)
    }

    /// The number of connections that were evicted or not admitted since the start.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Relaxed)
    }

    /// The number of waiting connections.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting().count
    }

    /// Returns whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Nothing is left half done under this lock.
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in a pool. It is given back when this is dropped.
#[derive(Debug)]
pub struct Place {
    pool: Arc<Pool>,
    address: IpAddr,
    key: u64,
    evicted: watch::Sender<bool>,
    /// For how many things the client is not waited for.
    carries: AtomicUsize,
}

impl Place {
    fn waiter(&self) -> Waiter {
        Waiter { since: Instant::now(), evicted: self.evicted.clone() }
    }

    /// Resolves when somebody else gets the place.
    pub fn evicted(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut evicted = self.evicted.subscribe();
        async move {
            if evicted.wait_for(|evicted| *evicted).await.is_err() {
                // The place is gone, and nobody got it.
                std::future::pending().await
            }
        }
    }

    /// Ends the connection.
    pub fn close(&self) {
        self.evicted.send_replace(true);
    }

    /// Since when the client is waited for, if it is.
    #[must_use]
    pub fn waits_since(&self) -> Option<Instant> {
        if self.carries.load(Ordering::Relaxed) > 0 {
            return None;
        }
        self.pool.waiting().by_address.get(&self.address)?.get(&self.key).map(|waiter| waiter.since)
    }

    /// Gives the place back for as long as the answer is there: something is done for the client.
    #[must_use]
    pub fn carry(self: &Arc<Self>) -> Carried {
        let mut waiting = self.pool.waiting();
        if self.carries.fetch_add(1, Ordering::Relaxed) == 0 {
            waiting.remove(self.address, self.key);
        }
        drop(waiting);
        Carried(Arc::clone(self))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pool.waiting().remove(self.address, self.key);
    }
}

/// A mark that a connection works for its client. When the last of these is dropped, it waits again, whether there is room or
/// not.
#[derive(Debug)]
pub struct Carried(Arc<Place>);

impl Drop for Carried {
    fn drop(&mut self) {
        let Self(place) = self;
        let mut waiting = place.pool.waiting();
        if place.carries.fetch_sub(1, Ordering::Relaxed) == 1 {
            waiting.insert(place.address, place.key, place.waiter());
        }
    }
}

/// The network that counts as one address: of IPv6 a whole /64, which one machine has for itself.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
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

    fn is_evicted(place: &Place) -> bool {
        place.evicted().now_or_never().is_some()
    }

    #[test]
    fn who_makes_room() {
        let pool = Pool::new(3, YOUNG);
        let flood: Vec<_> = (0..3).filter_map(|_| pool.enter(address(1))).collect();
        assert_eq!((flood.len(), pool.len()), (3, 3));
        assert!(pool.enter(address(1)).is_none(), "the young make no room for their like");
        // Another address has less: it is let in at once, and the oldest of those goes.
        let honest = pool.enter(address(2)).expect("a place");
        assert!(is_evicted(&flood[0]) && !is_evicted(&flood[1]) && !is_evicted(&honest));
        assert_eq!((pool.len(), pool.evictions()), (3, 2));
        drop((flood, honest));
        assert!(pool.is_empty());
    }

    #[test]
    fn the_old_make_room_for_their_like() {
        let pool = Pool::new(2, Duration::ZERO);
        let honest = pool.enter(address(2)).expect("a place");
        let flood: Vec<_> = (0..4).filter_map(|_| pool.enter(address(1))).collect();
        let evicted: Vec<bool> = flood.iter().map(is_evicted).collect();
        assert_eq!(evicted, [true, true, true, false]);
        assert!(!is_evicted(&honest), "as many as the others, and older");
        assert_eq!((pool.len(), pool.evictions()), (2, 3));
    }

    #[test]
    fn who_is_served_does_not_wait() {
        let pool = Pool::new(1, Duration::ZERO);
        let served = Arc::new(pool.enter(address(1)).expect("a place"));
        let (one, two) = (served.carry(), served.carry());
        let other = pool.enter(address(1)).expect("a place");
        drop(one);
        assert!(!is_evicted(&served) && served.waits_since().is_none());
        let before = Instant::now();
        drop(two);
        assert!(served.waits_since().is_some_and(|since| since >= before), "it waits again, from now on");
        assert_eq!(pool.len(), 2);
        drop(other);
    }

    #[test]
    fn many_addresses_of_one_machine() {
        let network = |text: &str| super::network(text.parse().expect("an address")).to_string();
        assert_eq!(network("::ffff:10.0.0.1"), "10.0.0.1");
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    }
}
