//! The result of a tunnel.
//!
//! Owns the reasons for its end, and their labels.

use std::time::Duration;

/// The result of a tunnel, for counters and log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelReport {
    /// The reason for its end.
    pub end: TunnelEnd,
    /// The time from its opening to its end.
    pub duration: Duration,
}

/// The reason for the end of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelEnd {
    /// Both sides closed their sending directions.
    Closed,
    /// The client's connection failed.
    ClientFailed,
    /// The pod's connection failed.
    PodFailed,
    /// No byte moved for too long.
    Idle,
    /// The process shut down, and no byte was moving.
    Drained,
    /// The buffers were full.
    BuffersFull,
    /// Another client needed its place, and no byte was moving.
    Evicted,
}

impl TunnelEnd {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 7] = [
        Self::Closed,
        Self::ClientFailed,
        Self::PodFailed,
        Self::Idle,
        Self::Drained,
        Self::BuffersFull,
        Self::Evicted,
    ];

    /// Returns the label's value.
    pub fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::ClientFailed => "client_failed",
            Self::PodFailed => "pod_failed",
            Self::Idle => "idle",
            Self::Drained => "drained",
            Self::BuffersFull => "buffers_full",
            Self::Evicted => "evicted",
        }
    }
}
