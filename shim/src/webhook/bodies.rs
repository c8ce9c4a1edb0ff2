//! The bodies of reviews: read within a time, and within a memory that all of them share.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::connections::{EVICTION_AGE, Place, Pool};

/// The longest review: the new object and the old one, of which an API server takes 3 MiB each at most.
pub(super) const MAX_BODY_SIZE: usize = 8 << 20;
/// How long a body may take, with the wait for memory. An API server waits 10 s for an answer unless it is told
/// otherwise, and sends what it has at once.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How many bodies may be unfinished. An API server sends a body at once, so that honest ones are here for milliseconds.
const MAX_UNFINISHED: usize = 256;
/// A body up to this size is read at once: [`MAX_UNFINISHED`] of them need 16 MiB. A pod or a policy has a few
/// kilobytes.
const SMALL: usize = 64 << 10;
/// The memory of all larger bodies together, in kB: four of the longest.
const MAX_MEMORY: u32 = 32 << 10;
/// How much of it those of one address may have, so that one that floods leaves the other half. An API server behind
/// a konnectivity proxy has one address for all, and then two of the longest at a time.
const MAX_MEMORY_OF_ADDRESS: u32 = MAX_MEMORY / 2;
/// How many addresses are remembered before those are forgotten that have nothing.
const MAX_ADDRESSES: usize = 1024;

/// What reads bodies.
#[derive(Debug)]
pub(super) struct Bodies {
    unfinished: Arc<Pool>,
    timeout: Duration,
    memory: Arc<Semaphore>,
    by_address: Mutex<HashMap<IpAddr, Weak<Semaphore>>>,
    /// One large review at a time is parsed and judged: what it becomes in memory is many times its text.
    large: Arc<Semaphore>,
    /// And so many small ones.
    small: Arc<Semaphore>,
}

/// A body that was read, with the memory that it has.
#[derive(Debug)]
pub(super) struct ReadBody {
    pub(super) bytes: Bytes,
    _memory: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

/// Why a body was not read.
pub(super) type Unread = (StatusCode, String);

impl Default for Bodies {
    fn default() -> Self {
        Self::new(EVICTION_AGE, BODY_TIMEOUT)
    }
}

impl Bodies {
    /// Bodies of which the unfinished make room from an age on, and end after a time.
    fn new(eviction_age: Duration, timeout: Duration) -> Self {
        Self {
            unfinished: Pool::new(MAX_UNFINISHED, eviction_age),
            timeout,
            memory: Arc::new(Semaphore::new(MAX_MEMORY as usize)),
            by_address: Mutex::default(),
            large: Arc::new(Semaphore::new(1)),
            small: Arc::new(Semaphore::new(16)),
        }
    }

    /// Reads a body that comes from this address.
    pub(super) async fn read(
        &self,
        address: IpAddr,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<ReadBody, Unread> {
        let Some(place) = self.unfinished.enter(address) else {
            return Err(busy("too many requests of this address are unfinished"));
        };
        tokio::select! {
            read = tokio::time::timeout(self.timeout, self.read_within(address, headers, body)) => {
                read.unwrap_or_else(|_| {
                    let why = format!("the body did not come within {:?}", self.timeout);
                    Err((StatusCode::REQUEST_TIMEOUT, why))
                })
            }
            () = Place::evicted(&place) => Err(busy("others needed the place of this request, which was unfinished")),
        }
    }

    async fn read_within(
        &self,
        address: IpAddr,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<ReadBody, Unread> {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        // One that does not say how long it is may be as long as any.
        let length: usize = length.unwrap_or(MAX_BODY_SIZE);
        if length > MAX_BODY_SIZE {
            return Err(too_long());
        }
        let memory = if length > SMALL { Some(self.reserve(address, length).await?) } else { None };
        let read = Limited::new(body, length).collect().await.map_err(|error| {
            if error.downcast_ref::<LengthLimitError>().is_some() {
                too_long()
            } else {
                (StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}"))
            }
        })?;
        Ok(ReadBody { bytes: read.to_bytes(), _memory: memory })
    }

    /// Waits for memory: of the address first, so that one that has too much keeps none from others.
    async fn reserve(
        &self,
        address: IpAddr,
        length: usize,
    ) -> Result<(OwnedSemaphorePermit, OwnedSemaphorePermit), Unread> {
        let size = u32::try_from(length.div_ceil(1 << 10)).unwrap_or(u32::MAX);
        let of_address = self.memory_of(address);
        // Closed by nobody.
        let closed = |_| busy("the webhook stops");
        let own = of_address.acquire_many_owned(size).await.map_err(closed)?;
        let all = Arc::clone(&self.memory).acquire_many_owned(size).await.map_err(closed)?;
        Ok((own, all))
    }

    fn memory_of(&self, address: IpAddr) -> Arc<Semaphore> {
        let address = crate::connections::network(address);
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = by_address.get(&address).and_then(Weak::upgrade) {
            return known;
        }
        if by_address.len() >= MAX_ADDRESSES {
            by_address.retain(|_, memory| memory.strong_count() > 0);
        }
        let new = Arc::new(Semaphore::new(MAX_MEMORY_OF_ADDRESS as usize));
        by_address.insert(address, Arc::downgrade(&new));
        new
    }

    /// Waits until a body of this size may be parsed and judged.
    pub(super) async fn turn(&self, size: usize) -> Result<OwnedSemaphorePermit, Unread> {
        let turns = Arc::clone(if size > SMALL { &self.large } else { &self.small });
        let turn = tokio::time::timeout(self.timeout, turns.acquire_owned()).await;
        turn.map_err(|_| busy("too many reviews wait for an answer"))?.map_err(|_| busy("the webhook stops"))
    }
}

#[cfg(test)]
impl Bodies {
    /// The memory in kB and the turns, of large and of small ones, that are free.
    pub(super) fn free(&self) -> [usize; 3] {
        [&self.memory, &self.large, &self.small].map(|all| all.available_permits())
    }
}

fn busy(why: &str) -> Unread {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{why}: try again"))
}

fn too_long() -> Unread {
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

    /// A body of which only the first bytes come.
    fn unfinished() -> Body {
        let first = futures::stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"{"))]);
        Body::from_stream(first.chain(futures::stream::pending()))
    }

    const LONG: Duration = Duration::from_secs(3600);

    /// 256 bodies that never end keep nobody out, be it of another address or, from an age on, of theirs.
    #[tokio::test]
    async fn unfinished_bodies_keep_nobody_out() {
        for (eviction_age, honest) in [(LONG, HONEST), (Duration::ZERO, FLOOD)] {
            let bodies = Arc::new(Bodies::new(eviction_age, LONG));
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

    /// However many large bodies are under way, they have no more memory than there may be, and one address has no more
    /// than half of it.
    #[tokio::test]
    async fn large_bodies_share_their_memory() {
        let bodies = Arc::new(Bodies::new(LONG, Duration::from_millis(300)));
        let mut flood = tokio::task::JoinSet::new();
        for _ in 0..30 {
            let bodies = Arc::clone(&bodies);
            flood.spawn(async move { bodies.read(FLOOD, &length(MAX_BODY_SIZE), unfinished()).await });
        }
        let half = (MAX_MEMORY - MAX_MEMORY_OF_ADDRESS) as usize;
        while bodies.memory.available_permits() > half {
            tokio::task::yield_now().await;
        }
        let large = vec![b' '; MAX_BODY_SIZE];
        let one = bodies.read(HONEST, &length(large.len()), Body::from(large.clone())).await.expect("read");
        // What does not say how long it is counts as the longest.
        let two = bodies.read(HONEST, &HeaderMap::new(), Body::from(large)).await.expect("read");
        assert_eq!(bodies.memory.available_permits(), 0, "one address has half of it, the other the rest");
        bodies.read(HONEST, &length(2), Body::from("{}")).await.expect("a small one needs none");
        drop((one, two));
        let ended = flood.join_all().await;
        assert!(ended.iter().all(|read| read.as_ref().is_err_and(|(status, _)| status.as_u16() == 408)));
        assert_eq!(bodies.memory.available_permits(), MAX_MEMORY as usize);
    }

    #[tokio::test]
    async fn what_is_too_long() {
        let bodies = Bodies::default();
        let long = || Body::from(vec![b' '; MAX_BODY_SIZE + 1]);
        for headers in [length(MAX_BODY_SIZE + 1), HeaderMap::new()] {
            let (status, why) = bodies.read(HONEST, &headers, long()).await.expect_err("too long");
            assert_eq!((status.as_u16(), &*why), (413, "the body is longer than 8 MiB"));
        }
    }
}
