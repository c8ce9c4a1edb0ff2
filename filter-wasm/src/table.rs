//! A table with places that are used again, so that what goes costs no search.

/// Things by place.
#[derive(Debug)]
pub(crate) struct Table<T> {
    places: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Table<T> {
    pub(crate) const fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }

    /// Adds a thing and says at which place.
    pub(crate) fn insert(&mut self, thing: T) -> usize {
        let at = self.free.pop().unwrap_or(self.places.len());
        match self.places.get_mut(at) {
            Some(place) => *place = Some(thing),
            None => self.places.push(Some(thing)),
        }
        at
    }

    pub(crate) fn get(&self, at: usize) -> Option<&T> {
        self.places.get(at)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        self.places.get_mut(at)?.as_mut()
    }

    pub(crate) fn remove(&mut self, at: usize) -> Option<T> {
        let thing = self.places.get_mut(at)?.take();
        if thing.is_some() {
            self.free.push(at);
        }
        thing
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.places.iter().flatten()
    }

    /// Everything with its place.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut T)> {
        self.places.iter_mut().enumerate().filter_map(|(at, place)| Some((at, place.as_mut()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again() {
        let mut table = Table::new();
        let places = [table.insert('a'), table.insert('b'), table.insert('c')];
        assert_eq!(places, [0, 1, 2]);
        assert_eq!(table.remove(1), Some('b'));
        assert_eq!(table.remove(1), None);
        assert_eq!(table.insert('d'), 1);
        assert_eq!(table.iter().collect::<String>(), "adc");
    }
}
