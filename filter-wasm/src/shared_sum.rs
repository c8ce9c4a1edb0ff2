//! A sum over the streams of a VM, and the share that each of them has in it.

use std::cell::Cell;
use std::rc::Rc;

/// A sum of the amounts of all its shares.
#[derive(Debug, Default, Clone)]
pub(crate) struct SharedSum(Rc<Cell<usize>>);

/// An amount that is part of a sum. Dropping it takes the amount back.
#[derive(Debug)]
pub(crate) struct Share {
    amount: usize,
    sum: SharedSum,
}

impl SharedSum {
    /// The sum.
    pub(crate) fn get(&self) -> usize {
        self.0.get()
    }

    /// Adds a share of this amount.
    pub(crate) fn share(&self, amount: usize) -> Share {
        let mut share = Share { amount: 0, sum: self.clone() };
        share.set(amount);
        share
    }
}

impl Share {
    /// The amount of this share.
    pub(crate) fn get(&self) -> usize {
        self.amount
    }

    /// Changes the amount of this share.
    pub(crate) fn set(&mut self, amount: usize) {
        let others = self.sum.get().saturating_sub(self.amount);
        self.amount = amount;
        self.sum.0.set(others.saturating_add(amount));
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_follows_its_shares() {
        let sum = SharedSum::default();
        let mut one = sum.share(3);
        let other = sum.share(4);
        assert_eq!(sum.get(), 7);
        one.set(1);
        assert_eq!((one.get(), sum.get()), (1, 5));
        drop(other);
        assert_eq!(sum.get(), 1);
        drop(one);
        assert_eq!(sum.get(), 0);
    }
}
