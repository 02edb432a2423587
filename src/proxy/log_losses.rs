//! Counts lost log lines, by reason.
//!
//! A process has one log (that of the `log` crate), so these counters belong to the process too. Only lost lines are
//! counted: a line that is written costs nothing here.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The reason why a line is missing from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLoss {
    /// Standard error accepted lines more slowly than they were logged, and the queue was full.
    QueueFull,
    /// Writing the line failed, on a full disk or a pipe without a reader.
    WriteFailed,
}

static LOST: [AtomicU64; LogLoss::ALL.len()] = [const { AtomicU64::new(0) }; LogLoss::ALL.len()];

impl LogLoss {
    /// All reasons, in the order of their declaration.
    pub const ALL: [Self; 2] = [Self::QueueFull, Self::WriteFailed];

    /// Returns the reason's label on `/metrics` and in the log.
    pub const fn label(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::WriteFailed => "write_failed",
        }
    }

    /// Counts a line, on any thread.
    pub fn count(self) {
        LOST[self as usize].fetch_add(1, Relaxed);
    }

    /// Returns the number of lines lost for this reason since the process started.
    pub fn counted(self) -> u64 {
        LOST[self as usize].load(Relaxed)
    }
}
