//! A table that the streams of a VM share, with places that are used again.

use std::cell::RefCell;
use std::rc::Rc;

/// Things by place. Each belongs to the stream that holds its [`Guard`].
#[derive(Debug)]
pub(crate) struct Table<T>(Rc<RefCell<Places<T>>>);

#[derive(Debug)]
struct Places<T> {
    places: Vec<Option<T>>,
    free: Vec<usize>,
}

/// A place in a table; the thing there goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Guard<T> {
    table: Table<T>,
    place: usize,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(Rc::new(RefCell::new(Places { places: Vec::new(), free: Vec::new() })))
    }
}

impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T> Table<T> {
    /// Adds a thing.
    pub(crate) fn insert(&self, thing: T) -> Guard<T> {
        let mut table = self.0.borrow_mut();
        let Places { places, free } = &mut *table;
        let place = free.pop().unwrap_or(places.len());
        match places.get_mut(place) {
            Some(empty) => *empty = Some(thing),
            None => places.push(Some(thing)),
        }
        drop(table);
        Guard { table: self.clone(), place }
    }

    /// How many things there are.
    pub(crate) fn len(&self) -> usize {
        let table = self.0.borrow();
        table.places.len().saturating_sub(table.free.len())
    }

    /// Does something with the thing at a place, if there is one.
    pub(crate) fn with<R>(&self, place: usize, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.0.borrow_mut().places.get_mut(place)?.as_mut().map(f)
    }

    /// Collects what `f` makes of the things from a place on, until `found` holds `most` or `visits` places
    /// were looked at. Returns the place to go on from; `None` at the end.
    pub(crate) fn collect_from<R>(
        &self,
        from: usize,
        visits: usize,
        most: usize,
        found: &mut Vec<R>,
        mut f: impl FnMut(usize, &T) -> Option<R>,
    ) -> Option<usize> {
        let table = self.0.borrow();
        let end = from.saturating_add(visits);
        for (place, thing) in table.places.iter().enumerate().skip(from) {
            if place >= end || found.len() >= most {
                return Some(place);
            }
            found.extend(thing.as_ref().and_then(|thing| f(place, thing)));
        }
        None
    }
}

impl<T> Guard<T> {
    /// The place.
    pub(crate) fn place(&self) -> usize {
        self.place
    }

    /// Does something with the thing.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.table.with(self.place, f)
    }
}

impl<T> Drop for Guard<T> {
    fn drop(&mut self) {
        let Ok(mut table) = self.table.0.try_borrow_mut() else { return };
        let thing = table.places.get_mut(self.place).and_then(Option::take);
        if thing.is_some() {
            table.free.push(self.place);
        }
        drop(table);
        // It may hold a guard of its own: dropped when the table is free again.
        drop(thing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again() {
        let table = Table::default();
        let a = table.insert('a');
        let b = table.insert('b');
        let _c = table.insert('c');
        assert_eq!((a.place(), b.place(), table.len()), (0, 1, 3));
        drop(b);
        assert_eq!((table.len(), table.with(1, |thing| *thing)), (2, None));
        let d = table.insert('d');
        assert_eq!((d.place(), d.with(|thing| *thing)), (1, Some('d')));
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
    fn a_thing_may_hold_a_place_of_the_same_table() {
        struct Node(Option<Guard<Node>>);
        let table = Table::default();
        let inner = table.insert(Node(None));
        let outer = table.insert(Node(Some(inner)));
        assert_eq!(outer.with(|node| node.0.is_some()), Some(true));
        drop(outer);
        assert_eq!(table.len(), 0);
    }
}
