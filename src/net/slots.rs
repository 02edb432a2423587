//! Where connections live: a slab whose keys carry a generation.
//!
//! An event that was fetched before its connection went must not reach the one that has the slot now.

use std::num::NonZeroU32;

use slab::Slab;

/// Where something lives, and which of those that ever lived there it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    slot: u32,
    /// Never 0: what an event carries for a connection is never below 2^32.
    generation: NonZeroU32,
}

impl Key {
    /// The number of the slot.
    pub fn slot(self) -> u32 {
        self.slot
    }

    /// The key as 63 bits, for an event to carry.
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation.get()) << 32 | u64::from(self.slot)
    }

    /// The key out of what [`Self::to_bits`] gave.
    pub fn from_bits(bits: u64) -> Self {
        Self { slot: bits as u32, generation: generation((bits >> 32) as u32) }
    }
}

/// A generation out of a number that may be too large: one bit of the 64 is left to whoever carries the key.
fn generation(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number & (u32::MAX >> 1)).unwrap_or(NonZeroU32::MIN)
}

/// A slab with generations.
#[derive(Debug)]
pub struct Slots<T> {
    slab: Slab<(NonZeroU32, T)>,
    newest: NonZeroU32,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { slab: Slab::new(), newest: NonZeroU32::MIN }
    }
}

impl<T> Slots<T> {
    /// Puts in what `make` makes with its key.
    ///
    /// # Errors
    /// That of `make`; then nothing is put in.
    pub fn try_insert<E>(&mut self, make: impl FnOnce(Key) -> Result<T, E>) -> Result<Key, E> {
        self.newest = generation(self.newest.get() + 1);
        let entry = self.slab.vacant_entry();
        let slot = u32::try_from(entry.key()).expect("there are fewer file descriptors than that");
        let key = Key { slot, generation: self.newest };
        entry.insert((key.generation, make(key)?));
        Ok(key)
    }

    /// What lives there, unless it is gone.
    pub fn get(&self, key: Key) -> Option<&T> {
        self.slab.get(key.slot as usize).filter(|(known, _)| *known == key.generation).map(|(_, value)| value)
    }

    /// What lives there, unless it is gone.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let found = self.slab.get_mut(key.slot as usize);
        found.filter(|(known, _)| *known == key.generation).map(|(_, value)| value)
    }

    /// Takes out what lives there, unless it is gone.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        Some(self.slab.remove(key.slot as usize).1)
    }

    /// The key of whoever lives in a slot now.
    pub fn key_at(&self, slot: u32) -> Option<Key> {
        self.slab.get(slot as usize).map(|&(generation, _)| Key { slot, generation })
    }

    /// All keys, in the order of the slots.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.slab.iter().map(|(slot, &(generation, _))| Key { slot: slot as u32, generation })
    }

    /// How many live here.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Whether none lives here.
    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_does_not_reach_whoever_has_its_slot_now() {
        let mut slots = Slots::default();
        let insert = |slots: &mut Slots<&'static str>, name| slots.try_insert(|_| Ok::<_, ()>(name)).unwrap();
        let first = insert(&mut slots, "first");
        assert_eq!(slots.remove(first), Some("first"));
        let second = insert(&mut slots, "second");
        assert_eq!(first.slot(), second.slot());
        assert_eq!((slots.get(first), slots.get(second)), (None, Some(&"second")));
        assert_eq!(slots.get_mut(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.key_at(first.slot()), Some(second));
        assert_eq!(Key::from_bits(second.to_bits()), second);
        assert_eq!(second.to_bits() >> 63, 0, "one bit is left over");
    }

    #[test]
    fn what_could_not_be_made_takes_no_slot() {
        let mut slots = Slots::<()>::default();
        assert_eq!(slots.try_insert(|_| Err("no")), Err("no"));
        assert!(slots.is_empty());
    }
}
