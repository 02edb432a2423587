//! The queue of lines between the workers and the thread that writes them.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Limit of the queue in bytes. With lines of 150 bytes it holds the access log of 1700 scrapes.
const BYTES_MAX: usize = 256 * 1024;
/// How long [`Queue::flush`] waits for a slow reader.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// A bounded queue of whole lines. Once full, it accepts no line until all queued lines are written: the lost lines
/// then form one gap in the log, and their number is logged at its place.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// Signals to the thread that a line can be taken.
    filled: Condvar,
    /// Signals to [`Queue::flush`] that a line was written.
    written: Condvar,
}

struct Waiting {
    /// Lines, each with its end. The memory is reserved at the start, but the kernel allocates only the pages in use.
    lines: VecDeque<u8>,
    /// Lines rejected since the queue was full.
    lost: u64,
    /// The number of lines and gaps taken.
    taken: u64,
    /// Whether the last line or gap taken is still being written.
    one_is_written: bool,
    thread_sleeps: bool,
    is_flushing: bool,
}

/// An entry taken from the queue.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// A line.
    Line,
    /// A gap of this many lost lines.
    Gap(u64),
}

impl Default for Queue {
    fn default() -> Self {
        let waiting = Waiting {
            lines: VecDeque::with_capacity(BYTES_MAX),
            lost: 0,
            taken: 0,
            one_is_written: false,
            thread_sleeps: false,
            is_flushing: false,
        };
        Self { waiting: Mutex::new(waiting), filled: Condvar::new(), written: Condvar::new() }
    }
}

impl Waiting {
    fn is_done(&self) -> bool {
        self.lines.is_empty() && self.lost == 0 && !self.one_is_written
    }
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a line, which ends with a newline. Returns whether it fit. Neither waits nor allocates.
    pub(super) fn put(&self, line: &[u8]) -> bool {
        let mut waiting = self.waiting();
        if waiting.lost > 0 || waiting.lines.len() + line.len() > BYTES_MAX {
            waiting.lost += 1;
            return false;
        }
        waiting.lines.extend(line);
        if waiting.thread_sleeps {
            self.filled.notify_one();
        }
        true
    }

    /// Waits for a line and writes it into `line`, replacing the previous one. A call means that the previous
    /// one was written.
    pub(super) fn take(&self, line: &mut Vec<u8>) -> Taken {
        let mut waiting = self.waiting();
        loop {
            waiting.one_is_written = false;
            if waiting.is_flushing {
                self.written.notify_all();
            }
            let end = waiting.lines.iter().position(|byte| *byte == b'\n');
            if end.is_some() || waiting.lost > 0 {
                waiting.taken += 1;
                waiting.one_is_written = true;
                let Some(end) = end else { return Taken::Gap(std::mem::take(&mut waiting.lost)) };
                line.clear();
                line.extend(waiting.lines.drain(..=end));
                return Taken::Line;
            }
            waiting.thread_sleeps = true;
            waiting = self.filled.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            waiting.thread_sleeps = false;
        }
    }

    /// Waits until all lines are written, unless writing one takes longer than `each`.
    pub(super) fn flush(&self, each: Duration) {
        let until = Instant::now() + FLUSH_MAX;
        let mut waiting = self.waiting();
        waiting.is_flushing = true;
        while !waiting.is_done() && Instant::now() < until {
            let before = waiting.taken;
            let goes_on = |waiting: &mut Waiting| waiting.taken == before && !waiting.is_done();
            let waited = self.written.wait_timeout_while(waiting, each, goes_on);
            let (after, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            waiting = after;
            if timeout.timed_out() {
                break;
            }
        }
        waiting.is_flushing = false;
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    fn taken(queue: &Queue) -> (Taken, String) {
        let mut line = Vec::new();
        (queue.take(&mut line), String::from_utf8(line).expect("text"))
    }

    #[test]
    fn lines_are_taken_as_they_were_put() {
        let queue = Queue::default();
        for line in ["one\n", "\n", "three\n"] {
            assert!(queue.put(line.as_bytes()));
        }
        for line in ["one\n", "\n", "three\n"] {
            assert_eq!(taken(&queue), (Taken::Line, line.into()));
        }
    }

    #[test]
    fn a_full_queue_accepts_nothing_until_all_lines_and_the_gap_are_taken() {
        let queue = Queue::default();
        let long = [&[b'x'; 4095][..], b"\n"].concat();
        let fit = BYTES_MAX / long.len();
        assert!((0..fit).all(|_| queue.put(&long)));
        assert!(!queue.put(&long) && !queue.put(b"\n"));
        assert_eq!(taken(&queue).0, Taken::Line);
        assert!(!queue.put(b"there would be room\n"));
        assert!((1..fit).all(|_| taken(&queue).0 == Taken::Line));
        assert!(!queue.put(b"the gap is not taken yet\n"));
        assert_eq!(taken(&queue), (Taken::Gap(4), String::new()));
        assert!((0..fit).all(|_| queue.put(&long)));
        assert!(!queue.put(b"\n"));
    }

    #[test]
    fn the_queue_never_allocates_after_its_start() {
        let queue = Queue::default();
        let capacity = queue.waiting().lines.capacity();
        assert_eq!(capacity, BYTES_MAX);
        for turn in 0..10_000 {
            queue.put(&[b'\n'; 100]);
            if turn % 3 == 0 {
                taken(&queue);
            }
        }
        assert_eq!(queue.waiting().lines.capacity(), capacity);
    }

    #[test]
    fn a_flush_waits_for_the_last_line_but_not_for_a_blocked_one() {
        const HOUR: Duration = Duration::from_secs(3600);
        let queue = Arc::new(Queue::default());
        queue.flush(HOUR);
        (0..100).for_each(|_| assert!(queue.put(b"line\n")));
        let of_thread = Arc::clone(&queue);
        let thread = thread::spawn(move || {
            (0..100).for_each(|_| drop(taken(&of_thread)));
            while !of_thread.waiting().is_flushing {
                thread::yield_now();
            }
            (taken(&of_thread), taken(&of_thread)) // of the next two, the second hangs
        });
        queue.flush(HOUR);
        assert!(queue.waiting().is_done(), "flush returned before the last line was written");
        assert!(queue.put(b"two\n") && queue.put(b"three\n"));
        thread.join().expect("the thread takes both lines");
        queue.flush(Duration::from_millis(1));
        assert!(!queue.waiting().is_done());
    }
}
