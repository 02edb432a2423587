//! Orders slots by the time at which they were added, in a list threaded through their numbers.
//!
//! Every operation takes constant time, and a slot eight bytes.

/// No slot.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    older: u32,
    newer: u32,
}

/// Returns the link of a slot that is not in the list: to itself, which no slot in it has.
const fn absent(slot: u32) -> Link {
    Link { older: slot, newer: slot }
}

/// A set of slots, in the order in which they were added.
#[derive(Debug)]
pub struct LruList {
    links: Vec<Link>,
    oldest: u32,
    newest: u32,
}

impl Default for LruList {
    fn default() -> Self {
        Self { links: Vec::new(), oldest: NONE, newest: NONE }
    }
}

impl LruList {
    /// Adds a slot as the newest, or moves it there.
    pub fn push(&mut self, slot: u32) {
        self.remove(slot);
        let at = slot as usize;
        if at >= self.links.len() {
            self.links.extend((self.links.len() as u32..=slot).map(absent));
        }
        self.links[at] = Link { older: self.newest, newer: NONE };
        match self.newest {
            NONE => self.oldest = slot,
            newest => self.links[newest as usize].newer = slot,
        }
        self.newest = slot;
    }

    /// Removes a slot, if it is in the list.
    pub fn remove(&mut self, slot: u32) {
        let Some(&link) = self.links.get(slot as usize).filter(|&&link| link != absent(slot)) else { return };
        match link.older {
            NONE => self.oldest = link.newer,
            older => self.links[older as usize].newer = link.newer,
        }
        match link.newer {
            NONE => self.newest = link.older,
            newer => self.links[newer as usize].older = link.older,
        }
        self.links[slot as usize] = absent(slot);
    }

    /// Returns whether a slot is in the list.
    pub fn contains(&self, slot: u32) -> bool {
        self.links.get(slot as usize).is_some_and(|&link| link != absent(slot))
    }

    /// Returns the slots in the list, beginning with the one that was added longest ago.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let newer = |slot: &u32| Some(self.links[*slot as usize].newer).filter(|&newer| newer != NONE);
        std::iter::successors(self.oldest(), newer)
    }

    /// Returns the slot that was added longest ago.
    pub fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(list: &mut LruList) -> Vec<u32> {
        std::iter::from_fn(|| {
            let oldest = list.oldest()?;
            list.remove(oldest);
            Some(oldest)
        })
        .collect()
    }

    #[test]
    fn the_oldest_comes_first_after_any_removals() {
        for (removed, expected) in [
            (&[][..], &[3, 0, 7, 5][..]),
            (&[3], &[0, 7, 5]),
            (&[5], &[3, 0, 7]),
            (&[0, 7], &[3, 5]),
            (&[9, 1], &[3, 0, 7, 5]),
            (&[3, 0, 7, 5, 5], &[]),
        ] {
            let mut list = LruList::default();
            [3, 0, 7, 5].into_iter().for_each(|slot| list.push(slot));
            removed.iter().for_each(|&slot| list.remove(slot));
            assert_eq!(drain(&mut list), expected, "without {removed:?}");
        }
    }

    #[test]
    fn pushing_again_makes_a_slot_the_newest() {
        let mut list = LruList::default();
        [1, 2, 3, 1].into_iter().for_each(|slot| list.push(slot));
        assert_eq!([1, 2, 0, 9].map(|slot| list.contains(slot)), [true, true, false, false]);
        assert_eq!(drain(&mut list), [2, 3, 1]);
        assert!(!list.contains(1));
        list.push(2);
        assert_eq!(drain(&mut list), [2]);
    }
}
