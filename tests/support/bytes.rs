//! Shared helpers of the tables of wire bytes: how bytes are shown when a case fails, where they are cut, and seeded
//! random numbers.
//!
//! Independent of HTTP. Every seed that fails is printed, and `PSYSTRIKE_SEED` runs it alone; `PSYSTRIKE_FIRST_SEED`
//! runs the usual number of seeds, starting with another one.

#![allow(dead_code)] // each test file uses its own part

use std::{env, fmt, thread};

/// Displays bytes in the message of a failure; of very long ones, both ends.
pub(crate) struct Shown<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const WHOLE_MAX: usize = 4 * 1024;
        const END: usize = 256;
        let bytes = self.0;
        if bytes.len() <= WHOLE_MAX {
            return write!(f, "\"{}\"", bytes.escape_ascii());
        }
        let (first, last) = (&bytes[..END], &bytes[bytes.len() - END..]);
        let between = bytes.len() - 2 * END;
        write!(f, "\"{}\" .. {between} bytes .. \"{}\"", first.escape_ascii(), last.escape_ascii())
    }
}

/// Returns the points at which `len` bytes are cut: all of them, or for a large number those near the ends and some
/// others.
pub(crate) fn cuts(len: usize) -> impl Iterator<Item = usize> {
    const EVERY_MAX: usize = 1024;
    const END: usize = 20;
    let step = len / 16 + 1;
    (0..=len).filter(move |&at| len <= EVERY_MAX || at < END || at > len - END || at % step == 0)
}

/// A small generator of random numbers (SplitMix64): the same seed gives the same run on every machine.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `end`, which is not 0. (The slight bias of the modulo does not matter in tests.)
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(crate) fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    /// `bytes` in parts of random length; some parts are one byte long, some are long.
    pub(crate) fn parts<'b>(&mut self, mut bytes: &'b [u8]) -> Vec<&'b [u8]> {
        let mut parts = Vec::new();
        while !bytes.is_empty() {
            let most = self.pick(&[1, 3, 17, 400]);
            let (part, rest) = bytes.split_at((1 + self.below(most)).min(bytes.len()));
            parts.push(part);
            bytes = rest;
        }
        parts
    }
}

/// Runs `test` with `count` seeds from `PSYSTRIKE_FIRST_SEED` (1 by default) on, or with the one in
/// `PSYSTRIKE_SEED`. The seed of a panic is printed, wherever the panic comes from.
pub(crate) fn with_seeds(count: u64, test: impl Fn(u64, &mut Random)) {
    struct Announce(u64);
    impl Drop for Announce {
        fn drop(&mut self) {
            if thread::panicking() {
                eprintln!("failing seed: run again with PSYSTRIKE_SEED={}", self.0);
            }
        }
    }
    let chosen = |name| {
        env::var(name).ok().map(|seed| seed.parse::<u64>().unwrap_or_else(|_| panic!("{name}: a number")))
    };
    let (first, count) = match chosen("PSYSTRIKE_SEED") {
        Some(seed) => (seed, 1),
        None => (chosen("PSYSTRIKE_FIRST_SEED").unwrap_or(1), count),
    };
    for seed in first..first + count {
        let announce = Announce(seed);
        test(seed, &mut Random::new(seed));
        drop(announce);
    }
}
