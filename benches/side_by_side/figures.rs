//! The figures of rounds, and their medians, quartiles and ratios.

use std::{fmt, time::Duration};

/// The measurement of one forwarder in one round.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) scrapes: u64,
    pub(crate) body_bytes: u64,
    pub(crate) wall: Duration,
    /// Processor time of the forwarder.
    pub(crate) processor: Duration,
    /// The share of user code in it, from 0 to 1.
    pub(crate) user_share: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) pss_bytes: u64,
    /// Its open files, most of which are connections.
    pub(crate) open_files: usize,
    /// How much of the forwarder's core other processes and the hypervisor used.
    pub(crate) noise: Noise,
}

/// The disturbance of a measurement.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Noise {
    pub(crate) others: Duration,
    pub(crate) stolen: Duration,
}

impl Sample {
    /// Processor time per scrape, in microseconds.
    pub(crate) fn processor_us(&self) -> f64 {
        self.processor.as_secs_f64() * 1e6 / self.scrapes.max(1) as f64
    }

    /// The share of a core, in percent.
    pub(crate) fn percent_of_core(&self) -> f64 {
        self.processor.as_secs_f64() / self.wall.as_secs_f64() * 100.0
    }

    pub(crate) fn scrapes_per_second(&self) -> f64 {
        self.scrapes as f64 / self.wall.as_secs_f64()
    }

    pub(crate) fn megabytes_per_second(&self) -> f64 {
        self.body_bytes as f64 / 1e6 / self.wall.as_secs_f64()
    }

    pub(crate) fn p50_us(&self) -> f64 {
        self.p50.as_secs_f64() * 1e6
    }

    pub(crate) fn p99_us(&self) -> f64 {
        self.p99.as_secs_f64() * 1e6
    }

    pub(crate) fn pss_kib(&self) -> f64 {
        self.pss_bytes as f64 / 1024.0
    }
}

/// The median of some figures, and their quartiles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) lower: f64,
    pub(crate) upper: f64,
}

impl Spread {
    /// `None` if there are no figures.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let last = figures.len().checked_sub(1)?;
        let quartile = |number: usize| {
            let at = (last * number) as f64 / 4.0;
            let (below, above) = (figures[at.floor() as usize], figures[at.ceil() as usize]);
            below + (above - below) * at.fract()
        };
        Some(Self { median: quartile(2), lower: quartile(1), upper: quartile(3) })
    }

    /// The ratio of `ours` to `theirs` in each round.
    pub(crate) fn of_ratios(
        ours: &[Sample],
        theirs: &[Sample],
        figure: impl Fn(&Sample) -> f64,
    ) -> Option<Self> {
        Self::of(ours.iter().zip(theirs).map(|(ours, theirs)| figure(ours) / figure(theirs)))
    }
}

impl fmt::Display for Spread {
    /// `1.23 (1.20..1.31)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let precision = f.precision().unwrap_or(2);
        let Self { median, lower, upper } = self;
        write!(f, "{median:.precision$} ({lower:.precision$}..{upper:.precision$})")
    }
}

/// A percentile of values that are sorted.
pub(crate) fn percentile(sorted: &[u64], hundredths: usize) -> u64 {
    let rank = (sorted.len() * hundredths).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}
