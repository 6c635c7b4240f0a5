//! Tables that remember which of their entries may have changed: what has changed is written down after each
//! request, at a cost that does not grow with the table.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::Deref;

/// A map that remembers which of its entries may have changed since it was last asked. Reading it is reading
/// a [`BTreeMap`].
#[derive(Clone, Debug)]
pub struct Tracked<K, V> {
    entries: BTreeMap<K, V>,
    touched: BTreeSet<K>,
}

impl<K, V> Default for Tracked<K, V> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), touched: BTreeSet::new() }
    }
}

impl<K, V> Deref for Tracked<K, V> {
    type Target = BTreeMap<K, V>;
    fn deref(&self) -> &BTreeMap<K, V> {
        &self.entries
    }
}

impl<'a, K, V> IntoIterator for &'a Tracked<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = std::collections::btree_map::Iter<'a, K, V>;
    fn into_iter(self) -> Self::IntoIter {
        self.entries.iter()
    }
}

impl<K: Copy + Ord, V> Tracked<K, V> {
    /// An entry, to change.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let entry = self.entries.get_mut(key);
        if entry.is_some() {
            self.touched.insert(*key);
        }
        entry
    }

    /// Puts an entry in, or in the place of another.
    pub fn insert(&mut self, key: K, value: V) {
        self.touched.insert(key);
        self.entries.insert(key, value);
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let removed = self.entries.remove(key);
        if removed.is_some() {
            self.touched.insert(*key);
        }
        removed
    }

    /// Takes out what does not fit.
    pub fn retain(&mut self, mut fits: impl FnMut(&K, &mut V) -> bool) {
        let touched = &mut self.touched;
        self.entries.retain(|key, value| {
            let stays = fits(key, value);
            if !stays {
                touched.insert(*key);
            }
            stays
        });
    }

    /// The keys of what may have changed since the last time, there or not.
    pub fn take_touched(&mut self) -> BTreeSet<K> {
        std::mem::take(&mut self.touched)
    }

    /// Whether something may have changed since the last time.
    #[must_use]
    pub fn is_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    /// The keys of what may have changed, as yet.
    #[must_use]
    pub fn touched(&self) -> &BTreeSet<K> {
        &self.touched
    }

    /// Every entry, to change, unnoticed.
    pub(super) fn values_unnoticed(&mut self) -> impl Iterator<Item = &mut V> {
        self.entries.values_mut()
    }

    /// An entry, to change, unnoticed.
    pub fn get_unnoticed(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key)
    }

    /// Does to the entries what was done to another table's.
    pub fn follow(&mut self, changes: Vec<(K, Option<V>)>) {
        for (key, value) in changes {
            match value {
                Some(value) => drop(self.entries.insert(key, value)),
                None => drop(self.entries.remove(&key)),
            }
        }
    }
}

/// A row of slots that remembers which of them may have changed since it was last asked. It never gets shorter.
#[derive(Clone, Debug)]
pub struct TrackedRow<T> {
    slots: Vec<T>,
    touched: BTreeSet<usize>,
}

impl<T> Default for TrackedRow<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), touched: BTreeSet::new() }
    }
}

impl<T> Deref for TrackedRow<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.slots
    }
}

impl<T> TrackedRow<T> {
    /// A slot, to change.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        let slot = self.slots.get_mut(index);
        if slot.is_some() {
            self.touched.insert(index);
        }
        slot
    }

    /// Adds a slot.
    pub fn push(&mut self, slot: T) {
        self.touched.insert(self.slots.len());
        self.slots.push(slot);
    }

    /// The indexes of what may have changed since the last time.
    pub(super) fn take_touched(&mut self) -> BTreeSet<usize> {
        std::mem::take(&mut self.touched)
    }

    /// Does to the slots what was done to another row's. One that is beyond the end comes next, or there is a gap
    /// and it is left out.
    pub(super) fn follow(&mut self, changes: Vec<(usize, T)>) {
        for (index, value) in changes {
            if index == self.slots.len() {
                self.slots.push(value);
            } else if let Some(slot) = self.slots.get_mut(index) {
                *slot = value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_changed_is_remembered_and_nothing_else() {
        let mut map = Tracked::default();
        (0..5).for_each(|key| map.insert(key, key * 10));
        assert_eq!(map.take_touched().len(), 5);
        assert_eq!(map.get(&1), Some(&10));
        assert!(map.get_mut(&9).is_none());
        assert!(map.take_touched().is_empty());
        *map.get_mut(&2).unwrap() += 1;
        map.remove(&3);
        map.remove(&3);
        map.retain(|&key, _| key != 4);
        assert_eq!(map.take_touched().into_iter().collect::<Vec<_>>(), [2, 3, 4]);
        let mut row = TrackedRow::default();
        row.push('a');
        row.push('b');
        assert_eq!(row.take_touched().len(), 2);
        *row.get_mut(1).unwrap() = 'c';
        assert!(row.get_mut(2).is_none());
        assert_eq!(row.take_touched().into_iter().collect::<Vec<_>>(), [1]);
    }
}
