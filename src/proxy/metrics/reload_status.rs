//! Whether the files of an option are in effect as they are now.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::SystemTime,
};

/// The state of the files of one option. One thread writes it, and any thread reads it.
#[derive(Debug)]
pub struct ReloadStatus {
    option: &'static str,
    is_successful: AtomicBool,
    /// When they were last read with success, in seconds since 1970.
    succeeded_at: AtomicU64,
}

impl ReloadStatus {
    /// Returns the state before the files are read.
    pub fn new(option: &'static str) -> Self {
        Self { option, is_successful: AtomicBool::new(false), succeeded_at: AtomicU64::new(0) }
    }

    /// Returns the option, which is the label on `/metrics`.
    pub fn option(&self) -> &'static str {
        self.option
    }

    /// Notes that the files were read at this time, and are in effect.
    pub fn succeeded(&self, at: SystemTime) {
        let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        self.succeeded_at.store(seconds, Relaxed);
        self.is_successful.store(true, Relaxed);
    }

    /// Notes that the files could not be read or used.
    pub fn failed(&self) {
        self.is_successful.store(false, Relaxed);
    }

    /// Returns whether the last attempt succeeded.
    pub fn is_successful(&self) -> bool {
        self.is_successful.load(Relaxed)
    }

    /// Returns when the last success was, in seconds since 1970.
    pub fn succeeded_at(&self) -> u64 {
        self.succeeded_at.load(Relaxed)
    }
}
