//! A slab of connections whose keys carry a generation.
//!
//! An event fetched before its connection was removed must not reach the connection that has the slot now.

use std::num::NonZeroU32;

use slab::Slab;

/// A slot, and the generation of its occupant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    slot: u32,
    /// Never 0, so that a connection's bits in an event are never below [`KEYS_FROM`].
    generation: NonZeroU32,
}

impl Key {
    /// Returns the number of the slot.
    pub fn slot(self) -> u32 {
        self.slot
    }

    /// Returns the key as bits for an event: one bit fewer than a `usize` has, and at least [`KEYS_FROM`].
    pub fn to_bits(self) -> usize {
        LAYOUT.pack(self)
    }

    /// Returns the key from the bits of [`Self::to_bits`].
    pub fn from_bits(bits: usize) -> Self {
        LAYOUT.unpack(bits)
    }
}

/// Lower bound of all keys' bits, and the number of slots.
pub const KEYS_FROM: usize = LAYOUT.slots();

const LAYOUT: Layout = Layout::of(usize::BITS);

/// The layout of a key in the token of an event, which is a `usize` in mio: the slot in the lower bits, the generation
/// above. The uppermost bit is left to the caller.
///
/// In 32 bits there are slots for a million connections, and generations repeat after 2047 connections. That is enough:
/// an event outlives its connection only until the next wait, as closing a socket removes its events (epoll(7)).
#[derive(Clone, Copy)]
struct Layout {
    slot_bits: u32,
    generation_bits: u32,
}

impl Layout {
    const fn of(width: u32) -> Self {
        assert!(width >= 32, "a token has to hold a slot and a generation");
        let slot_bits = if width >= 64 { 32 } else { 20 };
        Self { slot_bits, generation_bits: width - 1 - slot_bits }
    }

    const fn slots(self) -> usize {
        1 << self.slot_bits
    }

    fn pack(self, key: Key) -> usize {
        (key.generation.get() as usize) << self.slot_bits | key.slot as usize
    }

    fn unpack(self, bits: usize) -> Key {
        let slot = (bits & (self.slots() - 1)) as u32;
        Key { slot, generation: self.generation((bits >> self.slot_bits) as u32) }
    }

    /// Reduces a number to a valid generation.
    fn generation(self, number: u32) -> NonZeroU32 {
        NonZeroU32::new(number & (u32::MAX >> (32 - self.generation_bits))).unwrap_or(NonZeroU32::MIN)
    }
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
    /// Inserts the value that `make` creates for the new key.
    ///
    /// # Errors
    /// The error of `make`; nothing is inserted then.
    pub fn try_insert<E>(&mut self, make: impl FnOnce(Key) -> Result<T, E>) -> Result<Key, E> {
        self.newest = LAYOUT.generation(self.newest.get() + 1);
        let entry = self.slab.vacant_entry();
        assert!(entry.key() < KEYS_FROM, "there are fewer file descriptors than that");
        let slot = entry.key() as u32;
        let key = Key { slot, generation: self.newest };
        entry.insert((key.generation, make(key)?));
        Ok(key)
    }

    /// Returns the value of a key, unless it is gone.
    pub fn get(&self, key: Key) -> Option<&T> {
        self.slab.get(key.slot as usize).filter(|(known, _)| *known == key.generation).map(|(_, value)| value)
    }

    /// Returns the value of a key, unless it is gone.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let found = self.slab.get_mut(key.slot as usize);
        found.filter(|(known, _)| *known == key.generation).map(|(_, value)| value)
    }

    /// Removes and returns the value of a key, unless it is gone.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        Some(self.slab.remove(key.slot as usize).1)
    }

    /// Returns the key of a slot's present occupant.
    pub fn key_at(&self, slot: u32) -> Option<Key> {
        self.slab.get(slot as usize).map(|&(generation, _)| Key { slot, generation })
    }

    /// Returns all keys, in the order of the slots.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.slab.iter().map(|(slot, &(generation, _))| Key { slot: slot as u32, generation })
    }

    /// Returns the number of occupied slots.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Returns whether no slot is occupied.
    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_does_not_reach_a_later_occupant_of_its_slot() {
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
    }

    #[test]
    fn a_key_leaves_one_bit_of_an_events_token() {
        for width in [32, usize::BITS] {
            let layout = Layout::of(width);
            let (slots, newest) = (layout.slots(), layout.generation(u32::MAX).get());
            for slot in [0, 1, (slots - 1) as u32] {
                for generation in [1, 2, newest] {
                    let key = Key { slot, generation: NonZeroU32::new(generation).unwrap() };
                    let bits = layout.pack(key);
                    assert_eq!(layout.unpack(bits), key, "{width}");
                    assert!(bits >= slots, "{width}: a key below the reserved numbers");
                    assert_eq!(bits >> (width - 1), 0, "{width}: the uppermost bit is not free");
                }
            }
            assert!(slots >= 1 << 20 && newest >= (1 << 11) - 1, "{width}");
            assert_eq!(layout.generation(newest + 1).get(), 1, "{width}: generations do not start again");
        }
    }

    #[test]
    fn a_failed_insertion_takes_no_slot() {
        let mut slots = Slots::<()>::default();
        assert_eq!(slots.try_insert(|_| Err("no")), Err("no"));
        assert!(slots.is_empty());
    }
}
