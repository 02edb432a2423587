//! Processor time, latency and memory when each pod is scraped once in 15 s, evenly spread, as a Prometheus does it.
//!
//! Every pod has its own client connection, which stays open. The load is an open loop: scrapes are sent when they are
//! due, and latency counts from then. A scrape costs several times more than in the processor part, because the
//! forwarder sleeps between two scrapes: it has to be woken up, often several times for a page, with cold caches.

use std::time::Duration;

use crate::{
    baselines::Way,
    bench::Bench,
    cases::PACED,
    figures::{Sample, Spread},
    forwarders::{Forwarder, Kind},
    load::Until,
    machine, pods,
    processor::{self, Case, Measured},
    report::Verdict,
    setup::Setup,
    targets,
};

const INTERVAL: Duration = Duration::from_secs(15);
/// The number of scrapes at a time before the measurement.
const WARM_UP_CLIENTS: usize = 64;

/// Measures every forwarder with each number of pods, and prints one table.
pub(crate) fn run(bench: &Bench) -> Result<Vec<Verdict>, String> {
    // Splice gains nothing for a page of 16 KiB.
    let others = bench.forwarders.iter().filter(|other| other.kind != Kind::Baseline(Way::Splice));
    let forwarders: Vec<Forwarder> = others.cloned().collect();
    let (mut rows, mut verdicts) = (Vec::new(), Vec::new());
    for &pods in &bench.options.paced {
        let case = case(bench, &forwarders, pods).map_err(|error| format!("{pods} pods: {error}"))?;
        println!("{pods} pods:");
        processor::print_noise(&case.forwarders);
        rows.extend(case.forwarders.iter().map(|measured| row(pods, &case, measured)));
        verdicts = targets::paced_verdicts(&case, pods); // the targets are for the most pods
    }
    let head = [
        "forwarder",
        "processor µs/scrape",
        "× psystrike",
        "% of a core",
        "p50 µs",
        "p99 µs",
        "Pss KiB",
        "kernel KiB",
    ];
    bench.report.table(&format!("Paced: {PACED}"), &head, &rows)?;
    Ok(verdicts)
}

fn case(bench: &Bench, forwarders: &[Forwarder], pods: usize) -> Result<Case, String> {
    let answer_bytes = processor::answer_bytes(bench, PACED)?;
    let setup = Setup { pods, clients: pods, answer_bytes, ..bench.setup() };
    let turn = |forwarder: &Forwarder, round| turn(bench, &setup, forwarder, round == 0);
    let forwarders = processor::rounds(forwarders, bench.options.paced_rounds, turn)?;
    Ok(Case { body: PACED, forwarders })
}

/// One measurement of one forwarder.
fn turn(bench: &Bench, setup: &Setup, forwarder: &Forwarder, compare: bool) -> Result<Sample, String> {
    let running = forwarder.start(setup)?;
    let mut load = running.load(setup, PACED)?;
    // Each connection scrapes its pod once. In the first round, every byte is compared.
    load.limit(WARM_UP_CLIENTS);
    load.run(Until::Count(setup.pods as u64), compare.then(pods::period).as_deref())?;
    processor::sample(bench, &running, || load.pace(INTERVAL, bench.options.paced_turn))
}

fn row(pods: usize, case: &Case, measured: &Measured) -> Vec<String> {
    let samples = &measured.samples;
    let shown = |spread: Option<Spread>, precision: usize| {
        spread.map_or("-".to_owned(), |spread| format!("{spread:.precision$}"))
    };
    let median = |figure: fn(&Sample) -> f64, precision: usize| {
        let spread = Spread::of(samples.iter().map(figure));
        spread.map_or("-".to_owned(), |spread| format!("{:.precision$}", spread.median))
    };
    let ratio = case.ours().and_then(|ours| Spread::of_ratios(samples, &ours.samples, Sample::processor_us));
    let files = Spread::of(samples.iter().map(|sample| sample.open_files as f64));
    let kernel = files.zip(machine::connection_bytes()).map(|(files, each)| files.median * each / 1024.0);
    vec![
        format!("{pods} pods: {}", measured.forwarder.name),
        shown(Spread::of(samples.iter().map(Sample::processor_us)), 1),
        shown(ratio, 2),
        median(Sample::percent_of_core, 2),
        median(Sample::p50_us, 0),
        median(Sample::p99_us, 0),
        median(Sample::pss_kib, 0),
        kernel.map_or("-".to_owned(), |kernel| format!("{kernel:.0}")),
    ]
}
