//! Request bodies of reviews: reading them within a timeout and a shared memory budget, and scheduling them so that
//! no client address takes more than half of the turns.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use egress_transport::connections::{EVICTION_AGE, Pool, Slot};

/// Maximum size of a review: it holds the new and the old object, and an API server accepts at most 3 MiB for each.
pub(super) const MAX_BODY_SIZE: usize = 8 << 20;
/// Time to receive a body, including the wait for memory. An API server waits 10 s for an answer by default, and
/// sends the body at once.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of bodies that are being received or wait for a turn. An API server sends a body at once, so an
/// honest one is here for milliseconds.
const MAX_UNFINISHED: usize = 256;
/// Size up to which a body needs no memory permit: [`MAX_UNFINISHED`] of them take 16 MiB. A pod or a policy has a
/// few kilobytes.
const SMALL_BODY_SIZE: usize = 64 << 10;
/// Memory budget of all larger bodies together, in kB: four of the maximum size.
const MAX_MEMORY: u32 = 32 << 10;
/// Memory budget of one client address, so that a flood from one address leaves half to the others. API servers
/// behind a konnectivity proxy share one address, and then two bodies of the maximum size.
const MAX_MEMORY_OF_ADDRESS: u32 = MAX_MEMORY / 2;
/// Maximum number of large reviews evaluated at once: a parsed review takes many times the memory of its text.
const MAX_LARGE_REVIEWS: usize = 1;
/// Maximum number of small reviews evaluated at once.
const MAX_SMALL_REVIEWS: usize = 16;
/// Maximum number of small reviews of one client address that are evaluated or queued for evaluation. A flood is
/// therefore served at most this often before an honest client. For large reviews the maximum is one.
pub(super) const MAX_SMALL_REVIEWS_OF_ADDRESS: usize = MAX_SMALL_REVIEWS / 2;
/// Number of client addresses above which addresses without permits are forgotten.
const MAX_ADDRESSES: usize = 1024;

/// Reader and scheduler of request bodies.
#[derive(Debug)]
pub(super) struct BodyReader {
    unfinished: Arc<Pool>,
    timeout: Duration,
    all: Quota,
    by_address: Mutex<HashMap<IpAddr, Weak<Quota>>>,
}

/// Budget of all clients, or of one client address.
#[derive(Debug)]
struct Quota {
    /// Memory of large bodies, in kB.
    memory: Arc<Semaphore>,
    large: Arc<Semaphore>,
    small: Arc<Semaphore>,
}

impl Quota {
    fn new(memory: u32, large: usize, small: usize) -> Self {
        let [memory, large, small] =
            [memory as usize, large, small].map(|permits| Arc::new(Semaphore::new(permits)));
        Self { memory, large, small }
    }

    fn review_permits(&self, size: usize) -> Arc<Semaphore> {
        Arc::clone(if size > SMALL_BODY_SIZE { &self.large } else { &self.small })
    }
}

/// Permits from both the budget of the client address and the shared budget.
#[derive(Debug)]
struct QuotaPermit {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
    /// Keeps the address known while it has permits.
    _of_address: Arc<Quota>,
}

/// A received body, with its memory permit and its slot.
#[derive(Debug)]
pub(super) struct ReadBody {
    pub(super) bytes: Bytes,
    memory: Option<QuotaPermit>,
    slot: Slot,
}

/// A body that may be evaluated. It has given back its slot, since it no longer waits.
#[derive(Debug)]
pub(super) struct ScheduledBody {
    pub(super) bytes: Bytes,
    _memory: Option<QuotaPermit>,
    _turn: QuotaPermit,
}

/// Status and reason of a body that was not read.
pub(super) type BodyError = (StatusCode, String);

impl Default for BodyReader {
    fn default() -> Self {
        Self::new(EVICTION_AGE, BODY_TIMEOUT)
    }
}

impl BodyReader {
    /// Creates a reader whose unfinished bodies can be evicted from an age on, and time out.
    fn new(eviction_age: Duration, timeout: Duration) -> Self {
        Self {
            unfinished: Pool::new(MAX_UNFINISHED, eviction_age),
            timeout,
            all: Quota::new(MAX_MEMORY, MAX_LARGE_REVIEWS, MAX_SMALL_REVIEWS),
            by_address: Mutex::default(),
        }
    }

    /// Receives a body from this client address.
    pub(super) async fn read(
        &self,
        address: IpAddr,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<ReadBody, BodyError> {
        let Some(slot) = self.unfinished.acquire(address) else {
            return Err(busy_error("too many requests from this address are unfinished"));
        };
        let (bytes, memory) = tokio::select! {
            read = tokio::time::timeout(self.timeout, self.read_within(address, headers, body)) => {
                read.unwrap_or_else(|_| {
                    let why = format!("the body was not received within {:?}", self.timeout);
                    Err((StatusCode::REQUEST_TIMEOUT, why))
                })
            }
            () = slot.evicted() => Err(eviction_error()),
        }?;
        Ok(ReadBody { bytes, memory, slot })
    }

    async fn read_within(
        &self,
        address: IpAddr,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<(Bytes, Option<QuotaPermit>), BodyError> {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        // A body without a length counts as one of the maximum size.
        let length: usize = length.unwrap_or(MAX_BODY_SIZE);
        if length > MAX_BODY_SIZE {
            return Err(body_too_long());
        }
        let size = u32::try_from(length.div_ceil(1 << 10)).unwrap_or(u32::MAX);
        let memory = if length > SMALL_BODY_SIZE {
            Some(self.acquire_permit(address, size, |quota| Arc::clone(&quota.memory)).await?)
        } else {
            None
        };
        let read = Limited::new(body, length).collect().await.map_err(|error| {
            if error.downcast_ref::<LengthLimitError>().is_some() {
                body_too_long()
            } else {
                (StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}"))
            }
        })?;
        Ok((read.to_bytes(), memory))
    }

    /// Acquires permits: of the address first, so that an address over its budget blocks nobody else.
    async fn acquire_permit(
        &self,
        address: IpAddr,
        size: u32,
        which: impl Fn(&Quota) -> Arc<Semaphore>,
    ) -> Result<QuotaPermit, BodyError> {
        let of_address = self.address_quota(address);
        // Nothing closes the semaphores.
        let closed = |_| busy_error("the webhook is stopping");
        let own = which(&of_address).acquire_many_owned(size).await.map_err(closed)?;
        let all = which(&self.all).acquire_many_owned(size).await.map_err(closed)?;
        Ok(QuotaPermit { _own: own, _all: all, _of_address: of_address })
    }

    fn address_quota(&self, address: IpAddr) -> Arc<Quota> {
        let address = egress_transport::connections::client_network(address);
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = by_address.get(&address).and_then(Weak::upgrade) {
            return known;
        }
        if by_address.len() >= MAX_ADDRESSES {
            by_address.retain(|_, shares| shares.strong_count() > 0);
        }
        let new =
            Arc::new(Quota::new(MAX_MEMORY_OF_ADDRESS, MAX_LARGE_REVIEWS, MAX_SMALL_REVIEWS_OF_ADDRESS));
        by_address.insert(address, Arc::downgrade(&new));
        new
    }

    /// Waits until a body may be evaluated. Until then it keeps its slot, and can be evicted.
    pub(super) async fn wait_turn(
        &self,
        address: IpAddr,
        body: ReadBody,
    ) -> Result<ScheduledBody, BodyError> {
        let ReadBody { bytes, memory, slot } = body;
        let waiting = self.acquire_permit(address, 1, |quota| quota.review_permits(bytes.len()));
        let turn = tokio::select! {
            turn = tokio::time::timeout(self.timeout, waiting) => {
                turn.map_err(|_| busy_error("too many reviews are waiting"))??
            }
            () = slot.evicted() => return Err(eviction_error()),
        };
        Ok(ScheduledBody { bytes, _memory: memory, _turn: turn })
    }
}

#[cfg(test)]
impl BodyReader {
    /// Available memory in kB, and available turns for large and for small reviews.
    pub(super) fn free(&self) -> [usize; 3] {
        let Quota { memory, large, small } = &self.all;
        [memory, large, small].map(|all| all.available_permits())
    }

    /// Number of bodies that are being received or wait for a turn.
    pub(super) fn waiting(&self) -> usize {
        self.unfinished.len()
    }
}

fn eviction_error() -> BodyError {
    busy_error("the request was evicted, because too many were waiting")
}

fn busy_error(why: &str) -> BodyError {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{why}: try again"))
}

fn body_too_long() -> BodyError {
    (StatusCode::PAYLOAD_TOO_LARGE, format!("the body is longer than {} MiB", MAX_BODY_SIZE >> 20))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::StreamExt;

    use super::*;

    const FLOOD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const HONEST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn length(length: usize) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_LENGTH, length.into())])
    }

    /// A body that stops after its first bytes.
    fn unfinished() -> Body {
        let first = futures::stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"{"))]);
        Body::from_stream(first.chain(futures::stream::pending()))
    }

    const LONG: Duration = Duration::from_secs(3600);

    /// 256 bodies that never end keep nobody out, neither of another address nor, above the eviction age, of their
    /// own.
    #[tokio::test]
    async fn unfinished_bodies_block_no_other_request() {
        for (eviction_age, honest) in [(LONG, HONEST), (Duration::ZERO, FLOOD)] {
            let bodies = Arc::new(BodyReader::new(eviction_age, LONG));
            let mut flood = tokio::task::JoinSet::new();
            for _ in 0..MAX_UNFINISHED {
                let bodies = Arc::clone(&bodies);
                flood.spawn(async move { bodies.read(FLOOD, &length(1000), unfinished()).await });
            }
            while bodies.unfinished.len() < MAX_UNFINISHED {
                tokio::task::yield_now().await;
            }
            let read = bodies.read(honest, &length(2), Body::from("{}")).await.expect("read");
            assert_eq!(read.bytes.as_ref(), b"{}");
            let (status, why) =
                flood.join_next().await.expect("one").expect("no panic").expect_err("evicted");
            assert_eq!(status.as_u16(), 503, "{why}");
        }
    }

    /// Large bodies stay within the memory budget, and those of one address within half of it.
    #[tokio::test]
    async fn large_bodies_share_their_memory() {
        let bodies = Arc::new(BodyReader::new(LONG, Duration::from_millis(300)));
        let mut flood = tokio::task::JoinSet::new();
        for _ in 0..30 {
            let bodies = Arc::clone(&bodies);
            flood.spawn(async move { bodies.read(FLOOD, &length(MAX_BODY_SIZE), unfinished()).await });
        }
        let half = (MAX_MEMORY - MAX_MEMORY_OF_ADDRESS) as usize;
        while bodies.all.memory.available_permits() > half {
            tokio::task::yield_now().await;
        }
        let large = vec![b' '; MAX_BODY_SIZE];
        let one = bodies.read(HONEST, &length(large.len()), Body::from(large.clone())).await.expect("read");
        // A body without a length counts as one of the maximum size.
        let two = bodies.read(HONEST, &HeaderMap::new(), Body::from(large)).await.expect("read");
        assert_eq!(
            bodies.all.memory.available_permits(),
            0,
            "one address has half of it, the other the rest"
        );
        bodies.read(HONEST, &length(2), Body::from("{}")).await.expect("a small one needs none");
        drop((one, two));
        let ended = flood.join_all().await;
        assert!(ended.iter().all(|read| read.as_ref().is_err_and(|(status, _)| status.as_u16() == 408)));
        assert_eq!(bodies.all.memory.available_permits(), MAX_MEMORY as usize);
    }

    #[tokio::test]
    async fn too_long_bodies_are_refused() {
        let bodies = BodyReader::default();
        let long = || Body::from(vec![b' '; MAX_BODY_SIZE + 1]);
        for headers in [length(MAX_BODY_SIZE + 1), HeaderMap::new()] {
            let (status, why) = bodies.read(HONEST, &headers, long()).await.expect_err("too long");
            assert_eq!((status.as_u16(), &*why), (413, "the body is longer than 8 MiB"));
        }
    }
}
