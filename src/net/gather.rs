//! When to read again from a pod whose response arrives in small portions.
//!
//! Go's net/http, which most exporters use, writes a compressed page in portions of 4 KiB. Reading each of them costs a
//! wake-up, a read and a write. So the rest of such a response gathers in the kernel: a low-water mark (`SO_RCVLOWAT`,
//! socket(7)) delays the event until there is much to read, and a look reads what there is when a short time is over.
//! The next response on the connection is expected to be about as long, so that its end needs no look. If the last two
//! were, it gathers from its beginning.
//!
//! Pure: owns no socket and no clock. `super::runner` sets the mark, and `super::worker` looks.
//!
//! The mark only delays the event: a read, and splice(2), return what there is. An end of the connection, a failure and
//! a full receive buffer cause an event below the mark too (`tcp_poll` and `tcp_epollin_ready` in Linux).

use std::{collections::VecDeque, time::Duration};

use crate::proxy::timestamp::Timestamp;

/// Number of reads after which a response gathers, if each of them emptied the socket.
const SHORT_READS_MIN: u8 = 4;
/// Number of bytes after which a response gathers: a short page would be delayed by more than its reads take.
const RESPONSE_BYTES_MIN: u64 = 24 * 1024;
/// The mark, unless less is left of the response.
const LOW_WATER_BYTES: u64 = 256 * 1024;
/// The mark of a socket by default: any byte.
pub const ANY: u32 = 1;
/// How often in a row a wait may bring no more than one read did before. Then the pod is slower than the looks.
const IDLE_WAITS_MAX: u8 = 5;
/// By what part of their length two responses may differ so that the next one gathers from its beginning.
const STEADY_TOLERANCE: u64 = 8;
/// By what part of its length a response may be shorter than the last one without a look at its end.
const EXPECTED_TOLERANCE: u64 = 64;
/// By how much it may be longer before it gathers again.
const EXPECTED_SURPLUS: u64 = 32 * 1024;
/// Maximum number of looks that are due, and so of responses that gather: 16 MiB of the kernel's memory.
const LOOKS_MAX: usize = 64;

/// The reads of one response that emptied the socket, before it gathers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShortReads(u8);

impl ShortReads {
    /// The response does not gather any more.
    const OVER: Self = Self(u8::MAX);

    /// Counts one, after which the response has `bytes` bytes and is not complete. Returns how it gathers from now on,
    /// if it does.
    pub fn count(&mut self, bytes: u64) -> Option<Gather> {
        if *self == Self::OVER {
            return None;
        }
        self.0 = self.0.saturating_add(1).min(Self::OVER.0 - 1);
        let gathers = self.0 >= SHORT_READS_MIN && bytes >= RESPONSE_BYTES_MIN;
        gathers.then(|| Gather {
            low_water: ANY,
            portion: (bytes / u64::from(self.0)).max(1),
            from: 0,
            expected: 0,
            bytes,
            idle_waits: 0,
            due: Timestamp::MAX,
        })
    }

    /// Stops gathering for the rest of the response.
    pub fn stop(&mut self) {
        *self = Self::OVER;
    }
}

/// How the responses on a connection gather.
#[derive(Debug, PartialEq, Eq)]
pub struct Gather {
    /// The mark that is set on its socket.
    low_water: u32,
    /// The average size of the reads before it gathered.
    portion: u64,
    /// From how many bytes of the response on it gathers.
    from: u64,
    /// The length of the last response; zero: unknown.
    expected: u64,
    /// Bytes of the response so far.
    bytes: u64,
    idle_waits: u8,
    /// When the next look is due.
    due: Timestamp,
}

impl Gather {
    /// Returns the mark that is set on the socket.
    pub fn low_water(&self) -> u32 {
        self.low_water
    }

    /// Returns when a look is due, if no event comes first; [`Timestamp::MAX`]: never.
    pub fn due(&self) -> Timestamp {
        self.due
    }

    /// Waits for more of a response that has `bytes` bytes now, of which `left` are on their way at most. If that takes
    /// longer than `within`, a look is due. Returns the mark to set, or `None` if it is not worth it any more; and how
    /// many reads the last wait has saved.
    pub fn wait(&mut self, bytes: u64, left: u64, now: Timestamp, within: Duration) -> (Option<u32>, u64) {
        let mut saved = 0;
        if self.low_water > ANY {
            let portions = bytes.saturating_sub(self.bytes) / self.portion;
            if portions == 0 && now < self.due {
                return (Some(self.low_water), 0); // woken for another reason
            }
            saved = portions.saturating_sub(1);
            self.idle_waits = if saved > 0 { 0 } else { self.idle_waits + 1 };
        }
        self.bytes = bytes;
        if self.idle_waits == IDLE_WAITS_MAX {
            return (None, saved);
        }
        self.low_water = self.worthwhile().min(left).max(ANY.into()) as u32;
        self.due = if self.low_water > ANY { now + within } else { Timestamp::MAX };
        (Some(self.low_water), saved)
    }

    /// Returns how many bytes may gather before the next read.
    fn worthwhile(&self) -> u64 {
        if self.bytes < self.from {
            return ANY.into();
        }
        let certain = self.expected - self.expected / EXPECTED_TOLERANCE;
        match certain.saturating_sub(self.bytes) {
            0 if self.bytes < self.expected + EXPECTED_SURPLUS && self.expected > 0 => ANY.into(),
            0 => LOW_WATER_BYTES,
            left => left.min(LOW_WATER_BYTES),
        }
    }

    /// Notes that a response of this many bytes is complete. Returns whether the mark has to be set to [`ANY`].
    pub fn end(&mut self, bytes: u64) -> bool {
        let was_set = self.low_water > ANY;
        let is_steady = bytes.abs_diff(self.expected) <= bytes / STEADY_TOLERANCE;
        let from = if is_steady { 0 } else { RESPONSE_BYTES_MIN };
        (self.low_water, self.idle_waits, self.due) = (ANY, 0, Timestamp::MAX);
        (self.from, self.expected, self.bytes) = (from, bytes, 0);
        was_set
    }
}

/// The looks that are due, of responses that are each identified by a `K`.
#[derive(Debug)]
pub struct Looks<K>(VecDeque<(Timestamp, K)>);

impl<K> Default for Looks<K> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<K: Copy> Looks<K> {
    /// Adds a look, which is due no earlier than those before. Returns whether there was room.
    pub fn add(&mut self, due: Timestamp, of: K) -> bool {
        let has_room = self.0.len() < LOOKS_MAX;
        if has_room {
            self.0.push_back((due, of));
        }
        has_room
    }

    /// Removes the next looks that are no longer needed, as bytes came first.
    pub fn remove_stale(&mut self, is_needed: impl Fn(Timestamp, K) -> bool) {
        while self.0.front().is_some_and(|&(due, of)| !is_needed(due, of)) {
            self.0.pop_front();
        }
    }

    /// Takes a look that is due.
    pub fn pop_due(&mut self, now: Timestamp) -> Option<(Timestamp, K)> {
        self.next().filter(|&due| due <= now)?;
        self.0.pop_front()
    }

    /// Returns when the next look is due.
    pub fn next(&self) -> Option<Timestamp> {
        self.0.front().map(|&(due, _)| due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_millis(1);
    const KIB: u64 = 1024;
    const UNKNOWN: u64 = u64::MAX;

    fn at(milliseconds: u64) -> Timestamp {
        Timestamp::default() + Duration::from_millis(milliseconds)
    }

    /// A response that gathers after six reads of 4 KiB.
    fn gathering() -> Gather {
        let mut reads = ShortReads::default();
        (1..=6).find_map(|read| reads.count(read * 4 * KIB)).expect("it gathers")
    }

    /// A connection whose last responses had these numbers of bytes.
    fn expecting(lengths: &[u64]) -> Gather {
        let mut gather = gathering();
        for &bytes in lengths {
            gather.end(bytes);
        }
        gather
    }

    #[test]
    fn a_response_gathers_after_enough_bytes_in_enough_short_reads() {
        for (portion, reads) in
            [(4 * KIB, 6), (KIB, 24), (6 * KIB, 4), (8 * KIB, 4), (64 * KIB, 4), (1, 24 * KIB)]
        {
            let mut short_reads = ShortReads::default();
            let gathers = (1..).find(|read| short_reads.count(read * portion).is_some());
            assert_eq!(gathers, Some(reads), "portions of {portion} bytes");
        }
        let mut short_reads = ShortReads::default();
        short_reads.stop();
        assert!((1..1000).all(|read| short_reads.count(read * 4 * KIB).is_none()), "it was stopped");
    }

    #[test]
    fn the_mark_is_never_above_what_is_left() {
        for (left, mark) in [
            (UNKNOWN, 256 * KIB),
            (300 * KIB, 256 * KIB),
            (256 * KIB, 256 * KIB),
            (1000, 1000),
            (1, 1),
            (0, 1),
        ] {
            let mut gather = gathering();
            let (waits, saved) = gather.wait(24 * KIB, left, at(0), WITHIN);
            assert_eq!((waits, saved), (Some(mark as u32), 0), "{left} bytes are left");
            let due = if mark > 1 { at(1) } else { Timestamp::MAX };
            assert_eq!(gather.due(), due, "{left} bytes are left");
        }
    }

    #[test]
    fn the_end_of_a_response_like_the_last_one_needs_no_look() {
        let mut gather = expecting(&[256 * KIB; 2]);
        let looks = |due| due != Timestamp::MAX;
        for (has, mark, is_late) in [
            (4, 248 * KIB, true), // to 252 KiB: 1/64 less than the last one
            (132, 120 * KIB, true),
            (252, 1, false),
            (256, 1, false),
            (287, 1, false),
            (288, 256 * KIB, true), // much longer than the last one
        ] {
            let (waits, _) = gather.wait(has * KIB, UNKNOWN, at(0), WITHIN);
            assert_eq!((waits, looks(gather.due())), (Some(mark as u32), is_late), "{has} KiB");
        }
        assert!(gather.end(300 * KIB), "a mark was set");
        assert_eq!((gather.low_water(), gather.due()), (ANY, Timestamp::MAX));
        assert!(!expecting(&[256 * KIB]).end(2 * KIB), "none was set for a short response");
    }

    #[test]
    fn only_after_two_long_responses_one_gathers_from_its_beginning() {
        for (lengths, from) in [
            (&[256][..], 24),
            (&[256, 256], 0),
            (&[256, 228], 0),
            (&[256, 227, 256], 0),
            (&[256, 2], 34), // much longer than the last one
            (&[256, 2, 256], 24),
            (&[256, 2, 256, 2], 34),
            (&[256, 200], 24),
        ] {
            let lengths: Vec<u64> = lengths.iter().map(|kib| kib * KIB).collect();
            let gathers =
                |bytes: &u64| expecting(&lengths).wait(bytes * KIB, UNKNOWN, at(0), WITHIN).0 != Some(ANY);
            assert_eq!((0..100).find(gathers), Some(from), "{lengths:?}");
        }
    }

    #[test]
    fn other_events_do_not_delay_a_look() {
        let mut gather = gathering();
        gather.wait(24 * KIB, UNKNOWN, at(0), WITHIN);
        for _ in 0..100 {
            let waits = gather.wait(24 * KIB, UNKNOWN, at(0) + WITHIN / 2, WITHIN);
            assert_eq!((waits, gather.due()), ((Some(256 * 1024), 0), at(1)));
        }
    }

    #[test]
    fn a_pod_that_is_slower_than_the_looks_is_read_at_once() {
        // How many portions of 4 KiB each wait brings, and the reads saved, until it stops.
        let cases: [(&[u64], u64, bool); 5] = [
            (&[0, 0, 0, 0, 0], 0, true),
            (&[1, 0, 1, 1, 0], 0, true),
            (&[0, 0, 0, 0], 0, false),
            (&[0, 0, 0, 0, 2, 0, 0, 0, 1], 1, false),
            (&[31, 1, 1, 1, 1, 1], 30, true),
        ];
        for (portions, saves, stops) in cases {
            let mut gather = gathering();
            let mut bytes = 24 * KIB;
            gather.wait(bytes, UNKNOWN, at(0), WITHIN);
            let (mut sum, mut stopped) = (0, false);
            for (look, portions) in (1..).zip(portions) {
                assert!(!stopped, "{portions:?}");
                bytes += portions * 4 * KIB;
                let (mark, saved) = gather.wait(bytes, UNKNOWN, at(look), WITHIN);
                (sum, stopped) = (sum + saved, mark.is_none());
            }
            assert_eq!((sum, stopped), (saves, stops), "{portions:?}");
        }
    }

    #[test]
    fn looks_are_taken_when_they_are_due_unless_they_are_stale() {
        let mut looks = Looks::default();
        for (due, of) in [(1, 'a'), (1, 'b'), (2, 'a'), (3, 'c')] {
            assert!(looks.add(at(due), of));
        }
        assert_eq!((looks.next(), looks.pop_due(at(0))), (Some(at(1)), None));
        looks.remove_stale(|due, of| due > at(1) || of != 'a');
        assert_eq!(looks.next(), Some(at(1)), "the other one is needed");
        assert_eq!([1, 1].map(|now| looks.pop_due(at(now))), [Some((at(1), 'b')), None]);
        assert_eq!(
            [3, 3, 3].map(|now| looks.pop_due(at(now))),
            [Some((at(2), 'a')), Some((at(3), 'c')), None]
        );
        assert_eq!(looks.next(), None);
        let added = (0..=LOOKS_MAX).filter(|_| looks.add(at(4), 'd')).count();
        assert_eq!(added, LOOKS_MAX);
    }
}
