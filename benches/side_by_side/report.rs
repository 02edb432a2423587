//! Tables and verdicts, as Markdown.

use std::{fmt::Write as _, fs, time::Duration};

use crate::{
    cases::{self, Body, chunked, length},
    figures::{Sample, Spread},
    floors::Way,
    forwarders::{Forwarder, Kind},
    options::Options,
    processor::{Case, Measured},
};

/// What a target of the measure came to.
pub(crate) struct Verdict {
    pub(crate) case: String,
    pub(crate) target: String,
    pub(crate) measured: String,
    pub(crate) reached: Reached,
}

/// Whether a target was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    Yes,
    No,
    /// The median is on one side of the limit, and a quarter of the rounds or more on the other.
    YesWithinNoise,
    NoWithinNoise,
    /// A program is missing, or was left out.
    NotMeasured,
}

impl Reached {
    pub(crate) fn of(limit: Limit, measured: Option<Spread>) -> Self {
        let Some(Spread { median, lower, upper }) = measured else { return Self::NotMeasured };
        let clear = limit.holds(lower) == limit.holds(upper);
        match (limit.holds(median), clear) {
            (true, true) => Self::Yes,
            (true, false) => Self::YesWithinNoise,
            (false, false) => Self::NoWithinNoise,
            (false, true) => Self::No,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Yes => "reached",
            Self::No => "MISSED",
            Self::YesWithinNoise => "reached, within the noise",
            Self::NoWithinNoise => "MISSED, within the noise",
            Self::NotMeasured => "NOT MEASURED",
        }
    }
}

/// A limit that a figure has to keep.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl Limit {
    fn holds(self, figure: f64) -> bool {
        match self {
            Self::AtMost(most) => figure <= most,
            Self::AtLeast(least) => figure >= least,
        }
    }
}

/// Whose figures a ratio is of.
#[derive(Clone, Copy, Debug)]
enum Of {
    Ours,
    ReadWrite,
    Splice,
    NginxBest,
    NginxUsual,
}

impl Of {
    fn in_case(self, case: &Case) -> Option<&Measured> {
        match self {
            Self::Ours => case.ours(),
            Self::ReadWrite => case.of(&Kind::Floor(Way::ReadWrite)),
            Self::Splice => case.of(&Kind::Floor(Way::Splice)),
            Self::NginxBest => case.of(&Kind::NginxBest),
            Self::NginxUsual => case.of(&Kind::NginxUsual),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ours => "psystrike",
            Self::ReadWrite => "read/write floor",
            Self::Splice => "splice floor",
            Self::NginxBest => "nginx at its best",
            Self::NginxUsual => "nginx as usual",
        }
    }
}

/// What processor time per scrape has to reach, as a ratio within one run.
const TARGETS: [(Body, Of, Limit, Of); 18] = {
    use Limit::{AtLeast, AtMost};
    use Of::{NginxBest, NginxUsual, Ours, ReadWrite, Splice};
    [
        (length(1), Ours, AtMost(1.10), ReadWrite),
        (length(1), NginxBest, AtLeast(1.4), Ours),
        (length(1), NginxUsual, AtLeast(3.8), Ours),
        (length(16), Ours, AtMost(1.10), ReadWrite),
        (length(16), NginxBest, AtLeast(1.4), Ours),
        (length(16), NginxUsual, AtLeast(3.8), Ours),
        (length(64), Splice, AtMost(0.75), ReadWrite), // or it is no floor
        (length(64), Ours, AtMost(1.10), Splice),
        (length(64), NginxBest, AtLeast(1.6), Ours),
        (length(256), Splice, AtMost(0.75), ReadWrite),
        (length(256), Ours, AtMost(1.10), Splice),
        (length(256), NginxBest, AtLeast(1.6), Ours),
        (length(1024), Ours, AtMost(0.60), ReadWrite),
        (length(1024), NginxBest, AtLeast(1.6), Ours),
        (chunked(16), Ours, AtMost(1.10), ReadWrite),
        (chunked(16), NginxBest, AtLeast(1.8), Ours),
        (chunked(256), Ours, AtMost(1.10), ReadWrite),
        (chunked(256), NginxBest, AtLeast(1.6), Ours),
    ]
};

/// Says what is measured, and on what.
pub(crate) fn machine(options: &Options, forwarders: &[Forwarder]) {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    println!("- machine: {cores} cores, {}", model.map_or("unknown", |(_, model)| model));
    println!("- kernel: {}", read("/proc/sys/kernel/osrelease").trim());
    for forwarder in forwarders {
        if let Some(version) = forwarder.version() {
            println!("- {}: {version}", forwarder.name);
        }
    }
    println!(
        "- {} rounds of {:?} each; {} clients, {} pods; forwarder on core {}, pods and load on core {}{}\n",
        options.rounds,
        options.turn,
        options.clients,
        options.pods,
        options.forwarder_core,
        options.load_core,
        if options.awake { ", always awake" } else { "" }
    );
}

/// Prints rows as a Markdown table, with the columns aligned: the first to the left, the others to the right.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].chars().count(), 3]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let mut line = String::new();
        for (index, (cell, &width)) in cells.iter().zip(&widths).enumerate() {
            let _ = match index {
                0 => write!(line, "| {cell:<width$} "),
                _ => write!(line, "| {cell:>width$} "),
            };
        }
        println!("{line}|");
    };
    line(head.to_vec());
    let rules: Vec<String> = widths
        .iter()
        .enumerate()
        .map(|(index, width)| if index == 0 { "-".repeat(*width) } else { "-".repeat(width - 1) + ":" })
        .collect();
    line(rules.iter().map(String::as_str).collect());
    rows.iter().for_each(|row| line(row.iter().map(String::as_str).collect()));
    println!();
}

/// Prints the figures of one body, and what disturbed them.
pub(crate) fn processor(case: &Case) {
    figures(case);
    let samples = || case.forwarders.iter().flat_map(|measured| &measured.samples);
    let wall: Duration = samples().map(|sample| sample.wall).sum();
    let share = |of: fn(&Sample) -> Duration| {
        100.0 * samples().map(of).sum::<Duration>().as_secs_f64() / wall.as_secs_f64()
    };
    println!(
        "Noise: of the forwarders' core, others had {:.1} % and the hypervisor {:.1} %.\n",
        share(|sample| sample.noise.others),
        share(|sample| sample.noise.stolen)
    );
}

/// Prints the figures of one body.
pub(crate) fn figures(case: &Case) {
    println!("### {}\n", case.body);
    let ours = case.ours();
    let row = |measured: &Measured| {
        let samples = &measured.samples;
        let median = |figure: fn(&Sample) -> f64, precision: usize| {
            let spread = Spread::of(samples.iter().map(figure));
            spread.map_or("-".to_owned(), |spread| format!("{:.precision$}", spread.median))
        };
        let processor = Spread::of(samples.iter().map(Sample::processor_us));
        let ratio = ours.and_then(|ours| Spread::of_ratios(samples, &ours.samples, Sample::processor_us));
        vec![
            measured.forwarder.name.clone(),
            processor.map_or("-".to_owned(), |spread| format!("{spread:.1}")),
            ratio.map_or("-".to_owned(), |ratio| ratio.to_string()),
            median(|sample| sample.user_share * 100.0, 0),
            median(Sample::scrapes_per_second, 0),
            median(Sample::megabytes_per_second, 0),
            median(Sample::p50_us, 0),
            median(Sample::p99_us, 0),
            median(Sample::pss_kib, 0),
        ]
    };
    let rows: Vec<_> = case.forwarders.iter().map(row).collect();
    let ratio = format!("× {}", ours.map_or("-", |ours| ours.forwarder.name.as_str()));
    let head = [
        "forwarder",
        "processor µs/scrape",
        &ratio,
        "user %",
        "scrapes/s",
        "MB/s",
        "p50 µs",
        "p99 µs",
        "Pss KiB",
    ];
    table(&head, &rows);
}

/// What the targets for processor time and latency came to.
pub(crate) fn processor_verdicts(cases: &[Case]) -> Vec<Verdict> {
    let of_body = |body: Body| cases.iter().find(move |case| case.body == body);
    let processor = TARGETS.iter().filter_map(|&(body, of, limit, over)| {
        let ratio = ratio(of_body(body)?, of, over, Sample::processor_us);
        let (sign, bound) = match limit {
            Limit::AtMost(most) => ("≤", most),
            Limit::AtLeast(least) => ("≥", least),
        };
        Some(Verdict {
            case: format!("{body}: processor"),
            target: format!("{} {sign} {bound:.2} × {}", of.name(), over.name()),
            measured: ratio.map_or("-".to_owned(), |ratio| ratio.to_string()),
            reached: Reached::of(limit, ratio),
        })
    });
    let latency = cases::ALL.iter().filter_map(|&body| {
        let ratio = ratio(of_body(body)?, Of::Ours, Of::NginxBest, Sample::p99_us);
        Some(Verdict {
            case: format!("{body}: p99 latency"),
            target: "psystrike < nginx at its best".to_owned(),
            measured: ratio.map_or("-".to_owned(), |ratio| ratio.to_string()),
            reached: Reached::of(Limit::AtMost(1.0), ratio),
        })
    });
    processor.chain(latency).collect()
}

fn ratio(case: &Case, of: Of, over: Of, figure: fn(&Sample) -> f64) -> Option<Spread> {
    Spread::of_ratios(&of.in_case(case)?.samples, &over.in_case(case)?.samples, figure)
}

/// Prints what the targets came to.
pub(crate) fn verdicts(verdicts: &[Verdict]) {
    if verdicts.is_empty() {
        return;
    }
    println!("### Targets\n");
    let row = |verdict: &Verdict| {
        let Verdict { case, target, measured, reached } = verdict;
        vec![case.clone(), target.clone(), measured.clone(), reached.name().to_owned()]
    };
    let rows: Vec<_> = verdicts.iter().map(row).collect();
    table(&["case", "target", "measured: median (quartiles)", "verdict"], &rows);
}
