//! The order of token reviews.
//!
//! Any client that reaches the port can send made-up tokens. Their reviews never use the permits that are reserved for
//! tokens that were confirmed before, and those of one address never use all the others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use egress_transport::connections::client_network;

/// The most reviews at a time of tokens that were never confirmed.
const UNCONFIRMED: usize = 24;
/// The most of these for one address. A fleet behind one address waits its turn: at 5 ms a review, 3,000 proxies
/// are known within a second.
const UNCONFIRMED_OF_ADDRESS: usize = 16;
/// The reviews that are reserved for tokens that were confirmed before.
const CONFIRMED: usize = 8;
/// The number of addresses from which those without a waiting review are removed.
const MAX_ADDRESSES: usize = 1024;

/// The reviews that may run at a time.
#[derive(Debug)]
pub(super) struct ReviewPermits {
    unconfirmed: Semaphore,
    confirmed: Semaphore,
    by_address: Mutex<HashMap<IpAddr, Weak<Semaphore>>>,
}

/// A review that may run.
#[derive(Debug)]
pub(super) struct ReviewPermit<'s> {
    _one: SemaphorePermit<'s>,
    _of_address: Option<OwnedSemaphorePermit>,
}

impl Default for ReviewPermits {
    fn default() -> Self {
        Self {
            unconfirmed: Semaphore::new(UNCONFIRMED),
            confirmed: Semaphore::new(CONFIRMED),
            by_address: Mutex::default(),
        }
    }
}

impl ReviewPermits {
    /// Waits until a token may be reviewed.
    pub(super) async fn acquire(
        &self,
        address: Option<IpAddr>,
        was_confirmed: bool,
    ) -> Result<ReviewPermit<'_>, AcquireError> {
        if was_confirmed {
            let one = tokio::select! {
                biased;
                one = self.confirmed.acquire() => one?,
                one = self.unconfirmed.acquire() => one?,
            };
            return Ok(ReviewPermit { _one: one, _of_address: None });
        }
        let of_address = match address {
            Some(address) => Some(self.of(client_network(address)).acquire_owned().await?),
            None => None,
        };
        Ok(ReviewPermit { _one: self.unconfirmed.acquire().await?, _of_address: of_address })
    }

    fn of(&self, address: IpAddr) -> Arc<Semaphore> {
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = by_address.get(&address).and_then(Weak::upgrade) {
            return known;
        }
        if by_address.len() >= MAX_ADDRESSES {
            by_address.retain(|_, review_permits| review_permits.strong_count() > 0);
        }
        let new = Arc::new(Semaphore::new(UNCONFIRMED_OF_ADDRESS));
        by_address.insert(address, Arc::downgrade(&new));
        new
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    /// Made-up tokens of one address take neither the slots of others nor those of tokens that are known.
    #[test]
    fn made_up_tokens_delay_no_other_token() {
        let review_permits = ReviewPermits::default();
        let (flood, honest) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let at_once =
            |address, was_confirmed| review_permits.acquire(Some(address), was_confirmed).now_or_never();
        let taken: Vec<_> = (0..1000).filter_map(|_| at_once(flood, false)).collect();
        assert_eq!(taken.len(), UNCONFIRMED_OF_ADDRESS);
        let others: Vec<_> = (0..1000).filter_map(|_| at_once(honest, false)).collect();
        assert_eq!(others.len(), UNCONFIRMED - UNCONFIRMED_OF_ADDRESS);
        let known: Vec<_> = (0..1000).filter_map(|_| at_once(flood, true)).collect();
        assert_eq!(known.len(), CONFIRMED);
        drop(taken);
        assert!(at_once(flood, true).is_some() && at_once(flood, false).is_some());
    }
}
