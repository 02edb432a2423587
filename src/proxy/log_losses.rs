//! How many lines of the log were lost, by reason.
//!
//! A process has one log (the `log` crate's), and so these counters are the process's too. They change seldom: a
//! line that is written costs nothing here.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why a line is not in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLoss {
    /// Standard error took lines more slowly than they came, and those that waited left no room.
    QueueFull,
    /// Writing it failed, on a full disk or a pipe without a reader.
    WriteFailed,
}

static LOST: [AtomicU64; LogLoss::ALL.len()] = [const { AtomicU64::new(0) }; LogLoss::ALL.len()];

impl LogLoss {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 2] = [Self::QueueFull, Self::WriteFailed];

    /// The word for it on `/metrics` and in the log.
    pub const fn label(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::WriteFailed => "write_failed",
        }
    }

    /// Counts a line. Any thread may.
    pub fn count(self) {
        LOST[self as usize].fetch_add(1, Relaxed);
    }

    /// The lines lost for this reason since the process began.
    pub fn counted(self) -> u64 {
        LOST[self as usize].load(Relaxed)
    }
}
