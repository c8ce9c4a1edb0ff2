//! A table that the streams of a VM share, and the guard that owns an entry of it.

use std::cell::RefCell;
use std::rc::Rc;

use slab::Slab;

/// A table of entries by key. Each entry lives as long as its [`Guard`].
#[derive(Debug)]
pub(crate) struct Table<T>(Rc<RefCell<Slab<T>>>);

/// The owner of an entry: dropping it removes the entry.
#[derive(Debug)]
pub(crate) struct Guard<T> {
    table: Table<T>,
    key: usize,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(Rc::new(RefCell::new(Slab::new())))
    }
}

impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T> Table<T> {
    /// Adds an entry.
    pub(crate) fn insert(&self, entry: T) -> Guard<T> {
        let key = self.0.borrow_mut().insert(entry);
        Guard { table: self.clone(), key }
    }

    /// The number of entries.
    pub(crate) fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// Calls `f` with the entry of a key, if there is one.
    pub(crate) fn with<R>(&self, key: usize, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.0.borrow_mut().get_mut(key).map(f)
    }

    /// Collects the results of `f` for the entries from a key on, until `found` holds `max_found` or `max_visits` keys
    /// were visited. Returns the key to continue from; `None` at the end.
    pub(crate) fn collect_from<R>(
        &self,
        from: usize,
        max_visits: usize,
        max_found: usize,
        found: &mut Vec<R>,
        mut f: impl FnMut(usize, &T) -> Option<R>,
    ) -> Option<usize> {
        let table = self.0.borrow();
        let end = from.saturating_add(max_visits);
        // Every key is below the capacity.
        for key in from..table.capacity() {
            if key >= end || found.len() >= max_found {
                return Some(key);
            }
            found.extend(table.get(key).and_then(|entry| f(key, entry)));
        }
        None
    }
}

impl<T> Guard<T> {
    /// The key of the entry.
    pub(crate) fn key(&self) -> usize {
        self.key
    }

    /// Calls `f` with the entry.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.table.with(self.key, f)
    }
}

impl<T> Drop for Guard<T> {
    fn drop(&mut self) {
        let Ok(mut table) = self.table.0.try_borrow_mut() else { return };
        let entry = table.try_remove(self.key);
        drop(table);
        // The entry may hold a guard of this table: it is dropped when the table is not borrowed any more.
        drop(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_used_again() {
        let table = Table::default();
        let a = table.insert('a');
        let b = table.insert('b');
        let _c = table.insert('c');
        assert_eq!((a.key(), b.key(), table.len()), (0, 1, 3));
        drop(b);
        assert_eq!((table.len(), table.with(1, |entry| *entry)), (2, None));
        let d = table.insert('d');
        assert_eq!((d.key(), d.with(|entry| *entry)), (1, Some('d')));
    }

    #[test]
    fn a_table_is_visited_in_parts() {
        let table = Table::default();
        let mut guards: Vec<_> = (0..10).map(|n| table.insert(n)).collect();
        guards.remove(4);
        let visit = |from, visits, most| {
            let mut found = Vec::new();
            let next = table.collect_from(from, visits, most, &mut found, |_, n| (n % 2 == 0).then_some(*n));
            (found, next)
        };
        assert_eq!(visit(0, 3, 9), (vec![0, 2], Some(3)));
        assert_eq!(visit(3, 99, 2), (vec![6, 8], Some(9)));
        assert_eq!(visit(9, 99, 2), (vec![], None));
        assert_eq!(visit(99, 99, 2), (vec![], None));
    }

    #[test]
    fn an_entry_may_hold_a_guard_of_the_same_table() {
        struct Node(Option<Guard<Node>>);
        let table = Table::default();
        let inner = table.insert(Node(None));
        let outer = table.insert(Node(Some(inner)));
        assert_eq!(outer.with(|node| node.0.is_some()), Some(true));
        drop(outer);
        assert_eq!(table.len(), 0);
    }
}
