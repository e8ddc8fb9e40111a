//! A map of bounded size: one more ends the oldest, so that who waits longest makes room for who
//! comes.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// A map that holds at most a number of entries, in the order of their insertion.
#[derive(Debug)]
pub struct Bounded<K, V> {
    most: usize,
    by_key: HashMap<K, (u64, V)>,
    order: BTreeMap<u64, K>,
    inserted: u64,
}

impl<K: Copy + Eq + Hash, V> Bounded<K, V> {
    /// An empty one for `most` entries, at least one.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, by_key: HashMap::new(), order: BTreeMap::new(), inserted: 0 }
    }

    /// Puts an entry in, as the newest. What had to go for it comes back: the one of the same key, or
    /// the oldest.
    pub fn insert(&mut self, key: K, value: V) -> Option<(K, V)> {
        let same = self.remove(&key).map(|value| (key, value));
        let gone = same.or_else(|| if self.is_full() { self.pop_oldest() } else { None });
        self.inserted += 1;
        self.order.insert(self.inserted, key);
        self.by_key.insert(key, (self.inserted, value));
        gone
    }

    /// The entry of a key.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.by_key.get(key).map(|(_, value)| value)
    }

    /// The entry of a key, to be changed; it gets no younger.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.by_key.get_mut(key).map(|(_, value)| value)
    }

    /// Takes the entry of a key out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let (inserted, value) = self.by_key.remove(key)?;
        self.order.remove(&inserted);
        Some(value)
    }

    /// Takes out the entries for which `goes` says so.
    pub fn take_if(&mut self, mut goes: impl FnMut(&V) -> bool) -> Vec<V> {
        let keys: Vec<K> =
            self.by_key.iter().filter(|(_, (_, value))| goes(value)).map(|(key, _)| *key).collect();
        keys.iter().filter_map(|key| self.remove(key)).collect()
    }

    /// Whether one more ends the oldest.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.by_key.len() >= self.most
    }

    fn pop_oldest(&mut self) -> Option<(K, V)> {
        let (_, key) = self.order.pop_first()?;
        let (_, value) = self.by_key.remove(&key)?;
        Some((key, value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_more_ends_the_oldest_and_the_same_key_itself() {
        let mut map = Bounded::new(2);
        assert_eq!(map.insert('a', 1), None);
        assert_eq!(map.insert('b', 2), None);
        assert_eq!(map.insert('a', 3), Some(('a', 1)));
        assert_eq!(map.insert('c', 4), Some(('b', 2)));
        assert_eq!((map.get(&'a'), map.get(&'b'), map.get(&'c')), (Some(&3), None, Some(&4)));
        assert_eq!(map.take_if(|value| *value == 3), [3]);
        assert!(!map.is_full());
    }

    proptest! {
        #[test]
        fn it_is_a_list_cut_at_its_bound(steps in proptest::collection::vec((0u8..12, any::<bool>()), 0..100)) {
            let (mut map, mut list) = (Bounded::new(5), Vec::new());
            for (number, (key, inserts)) in steps.into_iter().enumerate() {
                list.retain(|(other, _)| *other != key);
                if inserts {
                    map.insert(key, number);
                    list.push((key, number));
                } else {
                    map.remove(&key);
                }
                if list.len() > 5 {
                    list.remove(0);
                }
                for key in 0..12 {
                    let expected = list.iter().find(|(other, _)| *other == key).map(|(_, n)| n);
                    prop_assert_eq!(map.get(&key), expected);
                }
                prop_assert_eq!(map.order.len(), list.len());
            }
        }
    }
}
