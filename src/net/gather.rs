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
//! a full receive buffer cause an event below the mark too (`tcp_poll` and `tcp_epollin_ready` in Linux). A response
//! that never ends, such as a watch, is delayed by one look at a time, until five in a row found little. Tunnels do not
//! gather.

use std::{collections::VecDeque, time::Duration};

use crate::proxy::timestamp::Timestamp;

/// Number of reads after which a response gathers, if each of them emptied the socket.
const SHORT_READS_MIN: u8 = 4;
/// Number of bytes after which a response gathers: a short page would be delayed by more than its reads take.
const RESPONSE_BYTES_MIN: u64 = 24 * 1024;
/// The mark, unless less is left of the response.
const LOW_WATER_BYTES: u64 = 256 * 1024;
/// The mark of a socket by default: any byte.
const ANY: u32 = 1;
/// How often in a row a wait may bring no more than one read did before. Then the pod is slower than the looks.
const IDLE_WAITS_MAX: u8 = 5;
/// If two long responses differ by at most this part of their length, the next one gathers from its beginning.
const STEADY_TOLERANCE: u64 = 8;
/// A response that is shorter than the last one by at most this part of its length ends without a look.
const EXPECTED_TOLERANCE: u64 = 64;
/// A response that is longer than the last one by this many bytes gathers again.
const EXPECTED_SURPLUS: u64 = 32 * 1024;
/// Maximum number of pending looks of a worker, and so of responses that gather at a time.
const LOOKS_MAX: usize = 64;

/// The reads of one response that emptied the socket, before it gathers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShortReads(u8);

impl ShortReads {
    /// Counts one, after which the response has `bytes` bytes and is not complete. Returns how it gathers from now on,
    /// if it does.
    pub fn count(&mut self, bytes: u64) -> Option<Gather> {
        self.0 = self.0.saturating_add(1);
        let gathers = self.0 >= SHORT_READS_MIN && bytes >= RESPONSE_BYTES_MIN;
        gathers.then(|| Gather {
            mark: ANY,
            portion: (bytes / u64::from(self.0)).max(1),
            from: 0,
            expected: 0,
            bytes,
            idle_waits: 0,
            due: Timestamp::MAX,
        })
    }
}

/// How the responses on a connection gather.
#[derive(Debug, PartialEq, Eq)]
pub struct Gather {
    /// The mark that is set on its socket.
    mark: u32,
    /// The average size of the reads before it gathered.
    portion: u64,
    /// From how many bytes of the response on it gathers.
    from: u64,
    /// The length of the last response; zero: unknown.
    expected: u64,
    /// Bytes of the response so far.
    bytes: u64,
    idle_waits: u8,
    /// When the next look is due; [`Timestamp::MAX`]: never.
    due: Timestamp,
}

/// How to wait for more of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wait {
    /// The mark to set.
    pub mark: Option<u32>,
    /// When to look, if a new look is needed.
    pub look: Option<Timestamp>,
    /// How many reads the last wait saved.
    pub saved: u64,
}

impl Gather {
    /// Decides how to wait for more of a response that has `bytes` bytes now, of which `left` are on their way at most.
    /// If they take longer than `within`, a look is due; zero: it gathers no more.
    pub fn wait(&mut self, bytes: u64, left: u64, now: Timestamp, within: Duration) -> Wait {
        let mut saved = 0;
        if self.mark > ANY {
            let portions = bytes.saturating_sub(self.bytes) / self.portion;
            if portions == 0 && now < self.due {
                return Wait::default(); // woken for another reason
            }
            saved = portions.saturating_sub(1);
            self.idle_waits = if saved > 0 { 0 } else { self.idle_waits + 1 };
        }
        self.bytes = bytes;
        if self.idle_waits == IDLE_WAITS_MAX || within.is_zero() {
            return Wait { saved, ..self.stop() };
        }
        let mark = self.worthwhile().min(left).max(ANY.into()) as u32;
        let look = (mark > ANY).then(|| now + within);
        self.due = look.unwrap_or(Timestamp::MAX);
        Wait { mark: self.set(mark), look, saved }
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

    /// Notes a mark, and returns it if it has to be set.
    fn set(&mut self, mark: u32) -> Option<u32> {
        let before = std::mem::replace(&mut self.mark, mark);
        (mark != before).then_some(mark)
    }

    /// Stops gathering for the rest of the response.
    pub fn stop(&mut self) -> Wait {
        (self.from, self.due) = (u64::MAX, Timestamp::MAX);
        Wait { mark: self.set(ANY), ..Wait::default() }
    }

    /// Notes that a response of this many bytes is complete. Returns the mark to set.
    pub fn end(&mut self, bytes: u64) -> Option<u32> {
        let differs_by = bytes.abs_diff(self.expected);
        let is_steady = bytes >= RESPONSE_BYTES_MIN && differs_by <= bytes / STEADY_TOLERANCE;
        self.from = if is_steady { 0 } else { RESPONSE_BYTES_MIN };
        (self.expected, self.bytes, self.idle_waits, self.due) = (bytes, 0, 0, Timestamp::MAX);
        self.set(ANY)
    }

    /// Returns whether a look that was due at this time is still needed: bytes have not come first.
    pub fn needs(&self, look: Timestamp) -> bool {
        self.due == look
    }
}

/// Pending looks, in the order in which they fall due, at responses that are each identified by a `K`.
#[derive(Debug)]
pub struct Looks<K> {
    pending: VecDeque<(Timestamp, K)>,
    max: usize,
}

impl<K: Copy> Looks<K> {
    /// Returns none, of as many responses as may gather if the kernel may hold an eighth of `buffers_max` bytes
    /// for them: they are not in the budget, as no read has taken them.
    pub fn new(buffers_max: usize) -> Self {
        let max = buffers_max / 8 / LOW_WATER_BYTES as usize;
        Self { pending: VecDeque::new(), max: max.clamp(1, LOOKS_MAX) }
    }

    /// Adds a look, which is due no earlier than those before. Returns whether there was room.
    pub fn add(&mut self, due: Timestamp, of: K) -> bool {
        let has_room = self.pending.len() < self.max;
        if has_room {
            self.pending.push_back((due, of));
        }
        has_room
    }

    /// Removes the next looks that are no longer needed, as bytes came first.
    pub fn remove_stale(&mut self, is_needed: impl Fn(Timestamp, K) -> bool) {
        while self.pending.front().is_some_and(|&(due, of)| !is_needed(due, of)) {
            self.pending.pop_front();
        }
    }

    /// Takes a look that is due.
    pub fn pop_due(&mut self, now: Timestamp) -> Option<(Timestamp, K)> {
        self.next().filter(|&due| due <= now)?;
        self.pending.pop_front()
    }

    /// Returns when the next look is due.
    pub fn next(&self) -> Option<Timestamp> {
        self.pending.front().map(|&(due, _)| due)
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
    }

    /// Waits at this time after a response has this many bytes.
    fn wait(gather: &mut Gather, bytes: u64, milliseconds: u64) -> Wait {
        gather.wait(bytes, UNKNOWN, at(milliseconds), WITHIN)
    }

    #[test]
    fn the_mark_is_never_above_what_is_left() {
        for (left, mark) in [
            (UNKNOWN, 256 * KIB),
            (300 * KIB, 256 * KIB),
            (256 * KIB, 256 * KIB),
            (1000, 1000),
            (2, 2),
            (1, 1),
            (0, 1),
        ] {
            let waits = gathering().wait(24 * KIB, left, at(0), WITHIN);
            let (mark, look) = if mark > 1 { (Some(mark as u32), Some(at(1))) } else { (None, None) };
            assert_eq!(waits, Wait { mark, look, saved: 0 }, "{left} bytes are left");
        }
    }

    #[test]
    fn the_end_of_a_response_like_the_last_one_needs_no_look() {
        let mut gather = expecting(&[256 * KIB; 2]);
        for (has, mark, looks) in [
            (4, Some(248), true), // to 252 KiB: 1/64 less than the last one
            (132, Some(120), true),
            (252, Some(0), false),
            (256, None, false),
            (287, None, false),
            (288, Some(256), true), // much longer than the last one
        ] {
            let waits = wait(&mut gather, has * KIB, 0);
            let mark = mark.map(|kib: u32| (kib * 1024).max(ANY));
            assert_eq!((waits.mark, waits.look.is_some()), (mark, looks), "{has} KiB");
        }
        assert!(gather.needs(at(1)));
        assert_eq!(gather.end(300 * KIB), Some(ANY), "a mark was set");
        assert!(!gather.needs(at(1)), "the response is complete");
        assert_eq!(expecting(&[256 * KIB]).end(2 * KIB), None, "none was set for a short response");
    }

    #[test]
    fn only_after_two_long_responses_one_gathers_from_its_beginning() {
        for (lengths, from) in [
            (&[256][..], 24),
            (&[256, 256], 0),
            (&[256, 228], 0),
            (&[256, 227, 256], 0),
            (&[256, 2], 34), // much longer than the last one
            (&[256, 2, 2], 34),
            (&[23, 23], 55),
            (&[256, 2, 256], 24),
            (&[256, 2, 256, 2], 34),
            (&[256, 200], 24),
        ] {
            let lengths: Vec<u64> = lengths.iter().map(|kib| kib * KIB).collect();
            let gathers = |bytes: &u64| wait(&mut expecting(&lengths), bytes * KIB, 0).look.is_some();
            assert_eq!((0..100).find(gathers), Some(from), "{lengths:?}");
        }
    }

    #[test]
    fn other_events_do_not_delay_a_look() {
        let mut gather = gathering();
        wait(&mut gather, 24 * KIB, 0);
        for _ in 0..100 {
            let waits = gather.wait(24 * KIB, UNKNOWN, at(0) + WITHIN / 2, WITHIN);
            assert_eq!((waits, gather.needs(at(1))), (Wait::default(), true));
        }
    }

    #[test]
    fn a_pod_that_is_slower_than_the_looks_is_read_at_once() {
        // How many portions of 4 KiB each wait brings, the reads saved, and whether it stops.
        let cases: [(&[u64], u64, bool); 5] = [
            (&[0, 0, 0, 0, 0], 0, true),
            (&[1, 0, 1, 1, 0], 0, true),
            (&[0, 0, 0, 0], 0, false),
            (&[0, 0, 0, 0, 2, 0, 0, 0, 1], 1, false),
            (&[31, 1, 1, 1, 1, 1], 30, true),
        ];
        let mut gather = gathering();
        for (portions, saves, stops) in cases {
            let mut bytes = 24 * KIB;
            assert!(wait(&mut gather, bytes, 0).look.is_some(), "in each response");
            let (mut sum, mut stopped) = (0, false);
            for (look, portions) in (1..).zip(portions) {
                assert!(!stopped, "{portions:?}");
                bytes += portions * 4 * KIB;
                let waits = wait(&mut gather, bytes, look);
                (sum, stopped) = (sum + waits.saved, waits.look.is_none());
                assert_eq!(waits.mark, stopped.then_some(ANY), "{portions:?}");
            }
            assert_eq!((sum, stopped), (saves, stops), "{portions:?}");
            if stopped {
                assert_eq!(wait(&mut gather, bytes + 100 * KIB, 9), Wait::default(), "no more in this one");
            }
            gather.end(600 * KIB);
        }
    }

    #[test]
    fn without_time_to_wait_it_gathers_no_more() {
        let mut gather = gathering();
        wait(&mut gather, 24 * KIB, 0);
        let waits = gather.wait(30 * KIB, UNKNOWN, at(1), Duration::ZERO);
        assert_eq!(waits, Wait { mark: Some(ANY), look: None, saved: 0 });
    }

    #[test]
    fn looks_are_taken_when_they_are_due_unless_they_are_stale() {
        let mut looks = Looks::new(1 << 30);
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
    }

    #[test]
    fn responses_that_gather_have_an_eighth_of_the_buffers_memory() {
        for (buffers_max, expected) in [(0, 1), (1 << 20, 1), (8 << 20, 4), (64 << 20, 32), (1 << 30, 64)] {
            let mut looks = Looks::new(buffers_max);
            assert_eq!((0..1000).filter(|_| looks.add(at(0), ())).count(), expected, "{buffers_max} bytes");
        }
    }
}
