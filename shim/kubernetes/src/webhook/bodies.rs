//! The bodies of reviews: read within a time, and within a memory that all of them share; then judged in turn, of which
//! no address has more than half.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use egress_transport::connections::{EVICTION_AGE, Place, Pool};

/// The longest review: the new object and the old one, of which an API server takes 3 MiB each at most.
pub(super) const MAX_BODY_SIZE: usize = 8 << 20;
/// The time that a body may take, with the wait for memory. An API server waits 10 s for an answer unless it is told
/// otherwise, and sends what it has at once.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The most bodies that may be unfinished, or wait for their turn. An API server sends a body at once, so that honest ones are
/// here for milliseconds.
const MAX_UNFINISHED: usize = 256;
/// A body up to this size is read at once: [`MAX_UNFINISHED`] of them need 16 MiB. A pod or a policy has a few
/// kilobytes.
const SMALL: usize = 64 << 10;
/// The memory of all larger bodies together, in kB: four of the longest.
const MAX_MEMORY: u32 = 32 << 10;
/// The part of it that those of one address may have, so that one that floods leaves the other half. An API server behind
/// a konnectivity proxy has one address for all, and then two of the longest at a time.
const MAX_MEMORY_OF_ADDRESS: u32 = MAX_MEMORY / 2;
/// The most large reviews that are parsed and judged at a time: what one becomes in memory is many times its text.
const LARGE_TURNS: usize = 1;
/// The same of small reviews.
const SMALL_TURNS: usize = 16;
/// The most small reviews of one address, or that wait for others to end. So whoever floods is before an honest
/// client no more than this often, however many of theirs wait. Of large ones it is one.
pub(super) const SMALL_TURNS_OF_ADDRESS: usize = SMALL_TURNS / 2;
/// The number of addresses at which those without a body are forgotten.
const MAX_ADDRESSES: usize = 1024;

/// The reader of bodies, which gives each its turn.
#[derive(Debug)]
pub(super) struct Bodies {
    unfinished: Arc<Pool>,
    timeout: Duration,
    all: Shares,
    by_address: Mutex<HashMap<IpAddr, Weak<Shares>>>,
}

/// The budget of all, or of one address.
#[derive(Debug)]
struct Shares {
    /// Of large bodies, in kB.
    memory: Arc<Semaphore>,
    large: Arc<Semaphore>,
    small: Arc<Semaphore>,
}

impl Shares {
    fn new(memory: u32, large: usize, small: usize) -> Self {
        let [memory, large, small] =
            [memory as usize, large, small].map(|permits| Arc::new(Semaphore::new(permits)));
        Self { memory, large, small }
    }

    fn turns(&self, size: usize) -> Arc<Semaphore> {
        Arc::clone(if size > SMALL { &self.large } else { &self.small })
    }
}

/// A share of an address, which is a share of all.
#[derive(Debug)]
struct Share {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
    /// Remembered for as long as anything of it is taken.
    _of_address: Arc<Shares>,
}

/// A body that was read, with the memory and the place that it has.
#[derive(Debug)]
pub(super) struct ReadBody {
    pub(super) bytes: Bytes,
    memory: Option<Share>,
    place: Place,
}

/// A body whose turn it is. It has no place any more, since it waits for nothing.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) bytes: Bytes,
    _memory: Option<Share>,
    _turn: Share,
}

/// The reason why a body was not read.
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
            all: Shares::new(MAX_MEMORY, LARGE_TURNS, SMALL_TURNS),
            by_address: Mutex::default(),
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
        let (bytes, memory) = tokio::select! {
            read = tokio::time::timeout(self.timeout, self.read_within(address, headers, body)) => {
                read.unwrap_or_else(|_| {
                    let why = format!("the body did not come within {:?}", self.timeout);
                    Err((StatusCode::REQUEST_TIMEOUT, why))
                })
            }
            () = place.evicted() => Err(evicted()),
        }?;
        Ok(ReadBody { bytes, memory, place })
    }

    async fn read_within(
        &self,
        address: IpAddr,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<(Bytes, Option<Share>), Unread> {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        // One that does not say how long it is may be as long as any.
        let length: usize = length.unwrap_or(MAX_BODY_SIZE);
        if length > MAX_BODY_SIZE {
            return Err(too_long());
        }
        let size = u32::try_from(length.div_ceil(1 << 10)).unwrap_or(u32::MAX);
        let memory = if length > SMALL {
            Some(self.share(address, size, |shares| Arc::clone(&shares.memory)).await?)
        } else {
            None
        };
        let read = Limited::new(body, length).collect().await.map_err(|error| {
            if error.downcast_ref::<LengthLimitError>().is_some() {
                too_long()
            } else {
                (StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}"))
            }
        })?;
        Ok((read.to_bytes(), memory))
    }

    /// Waits for a share: of the address first, so that one that has too much keeps nothing from others.
    async fn share(
        &self,
        address: IpAddr,
        size: u32,
        which: impl Fn(&Shares) -> Arc<Semaphore>,
    ) -> Result<Share, Unread> {
        let of_address = self.shares_of(address);
        // Closed by nobody.
        let closed = |_| busy("the webhook stops");
        let own = which(&of_address).acquire_many_owned(size).await.map_err(closed)?;
        let all = which(&self.all).acquire_many_owned(size).await.map_err(closed)?;
        Ok(Share { _own: own, _all: all, _of_address: of_address })
    }

    fn shares_of(&self, address: IpAddr) -> Arc<Shares> {
        let address = egress_transport::connections::network(address);
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = by_address.get(&address).and_then(Weak::upgrade) {
            return known;
        }
        if by_address.len() >= MAX_ADDRESSES {
            by_address.retain(|_, shares| shares.strong_count() > 0);
        }
        let new = Arc::new(Shares::new(MAX_MEMORY_OF_ADDRESS, LARGE_TURNS, SMALL_TURNS_OF_ADDRESS));
        by_address.insert(address, Arc::downgrade(&new));
        new
    }

    /// Waits until a body that came from this address may be parsed and judged. While it waits it has its place, and
    /// somebody else may need that.
    pub(super) async fn turn(&self, address: IpAddr, body: ReadBody) -> Result<Turn, Unread> {
        let ReadBody { bytes, memory, place } = body;
        let waiting = self.share(address, 1, |shares| shares.turns(bytes.len()));
        let turn = tokio::select! {
            turn = tokio::time::timeout(self.timeout, waiting) => {
                turn.map_err(|_| busy("too many reviews wait for an answer"))??
            }
            () = place.evicted() => return Err(evicted()),
        };
        Ok(Turn { bytes, _memory: memory, _turn: turn })
    }
}

#[cfg(test)]
impl Bodies {
    /// The memory in kB and the turns, of large and of small ones, that are free.
    pub(super) fn free(&self) -> [usize; 3] {
        let Shares { memory, large, small } = &self.all;
        [memory, large, small].map(|all| all.available_permits())
    }

    /// The number of bodies that are unfinished or wait for their turn.
    pub(super) fn waiting(&self) -> usize {
        self.unfinished.len()
    }
}

fn evicted() -> Unread {
    busy("others needed the place of this request, which waited")
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
        while bodies.all.memory.available_permits() > half {
            tokio::task::yield_now().await;
        }
        let large = vec![b' '; MAX_BODY_SIZE];
        let one = bodies.read(HONEST, &length(large.len()), Body::from(large.clone())).await.expect("read");
        // What does not say how long it is counts as the longest.
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
    async fn what_is_too_long() {
        let bodies = Bodies::default();
        let long = || Body::from(vec![b' '; MAX_BODY_SIZE + 1]);
        for headers in [length(MAX_BODY_SIZE + 1), HeaderMap::new()] {
            let (status, why) = bodies.read(HONEST, &headers, long()).await.expect_err("too long");
            assert_eq!((status.as_u16(), &*why), (413, "the body is longer than 8 MiB"));
        }
    }
}
