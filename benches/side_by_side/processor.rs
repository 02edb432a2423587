//! Processor time per scrape, throughput and latency. In each round, every forwarder is measured in turn.

use std::{mem, time::Duration};

use crate::{
    bench::Bench,
    cases::{Body, Framing},
    figures::{Noise, Sample, Spread, percentile},
    forwarders::{Forwarder, Kind, Running},
    load::{self, Run, Scrape, Until},
    machine, pods,
    setup::Setup,
};

/// All figures of one body.
pub(crate) struct Case {
    pub(crate) body: Body,
    pub(crate) forwarders: Vec<Measured>,
}

/// All figures of one forwarder, round by round.
pub(crate) struct Measured {
    pub(crate) forwarder: Forwarder,
    pub(crate) samples: Vec<Sample>,
}

impl Case {
    /// The first psystrike.
    pub(crate) fn ours(&self) -> Option<&Measured> {
        ours(&self.forwarders)
    }

    pub(crate) fn of(&self, kind: &Kind) -> Option<&Measured> {
        self.forwarders.iter().find(|measured| measured.forwarder.kind == *kind)
    }
}

/// The first psystrike.
pub(crate) fn ours(forwarders: &[Measured]) -> Option<&Measured> {
    forwarders.iter().find(|measured| measured.forwarder.is_ours())
}

/// Measures all bodies, and prints each table as soon as it is complete.
pub(crate) fn run(bench: &Bench) -> Result<Vec<Case>, String> {
    let what = if bench.options.awake { "Processor time, awake" } else { "Processor time" };
    let cases = bench.options.bodies.iter().map(|&body| {
        let forwarders = forwarders(bench, body);
        let case = case(bench, &forwarders, &bench.setup_of(body), body, bench.options.rounds)?;
        print(bench, what, &case)?;
        Ok(case)
    });
    let cases = cases.collect::<Result<Vec<_>, String>>()?;
    let is_net_http = |case: &&Case| case.body.framing == Framing::NetHttp;
    let (alone, many): (Vec<&Case>, Vec<&Case>) = cases.iter().partition(is_net_http);
    for (of, cases) in [("all bodies", many), ("net/http", alone)] {
        if !cases.is_empty() {
            summary(bench, &format!("{what}: µs/scrape, {of}"), &cases)?;
        }
    }
    Ok(cases)
}

/// For pages in small writes, the first psystrike is also measured without gathering.
fn forwarders(bench: &Bench, body: Body) -> Vec<Forwarder> {
    let is_gathered = body.framing == Framing::NetHttp;
    let not_gathering = if is_gathered { bench.without_gathering() } else { None };
    bench.forwarders.iter().cloned().chain(not_gathering).collect()
}

/// Measures one body. The forwarder is started anew every time, so that the placement of its memory, or the thousands
/// of connections of another forwarder, do not affect all rounds.
pub(crate) fn case(
    bench: &Bench,
    forwarders: &[Forwarder],
    setup: &Setup,
    body: Body,
    rounds: usize,
) -> Result<Case, String> {
    let setup = Setup { answer_bytes: answer_bytes(bench, body)?, ..setup.clone() };
    let turn = |forwarder: &Forwarder, round| {
        let running = forwarder.start(&setup)?;
        turn(bench, &setup, body, &running, round == 0)
    };
    let forwarders = self::rounds(forwarders, rounds, turn).map_err(|error| format!("{body}: {error}"))?;
    Ok(Case { body, forwarders })
}

/// Measures every forwarder once in each round.
pub(crate) fn rounds(
    forwarders: &[Forwarder],
    rounds: usize,
    turn: impl Fn(&Forwarder, usize) -> Result<Sample, String>,
) -> Result<Vec<Measured>, String> {
    let measured = |forwarder: &Forwarder| Measured { forwarder: forwarder.clone(), samples: Vec::new() };
    let mut forwarders: Vec<Measured> = forwarders.iter().map(measured).collect();
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..forwarders.len()).collect();
        if round % 2 == 1 {
            order.reverse(); // so that a drift of the machine favours no forwarder
        }
        for index in order {
            let Measured { forwarder, samples } = &mut forwarders[index];
            let sample = turn(forwarder, round).map_err(|error| format!("{}: {error}", forwarder.name))?;
            samples.push(sample);
        }
    }
    Ok(forwarders)
}

/// One measurement of one forwarder.
fn turn(
    bench: &Bench,
    setup: &Setup,
    body: Body,
    forwarder: &Running,
    compare: bool,
) -> Result<Sample, String> {
    let options = &bench.options;
    let mut load = forwarder.load(setup, body)?;
    load.keep_awake(options.awake);
    bench.pods.keep_awake(options.awake);
    // Connects to every pod and grows buffers. In the first round, compares every byte.
    let warm_up = (setup.pods + setup.clients) as u64;
    load.run(Until::Count(warm_up), compare.then(pods::period).as_deref())?;
    let sample = sample(bench, forwarder, || load.run(Until::Passed(options.turn), None));
    bench.pods.keep_awake(false);
    sample
}

/// What a forwarder uses while the load runs.
pub(crate) fn sample(
    bench: &Bench,
    forwarder: &Running,
    run: impl FnOnce() -> Result<Run, String>,
) -> Result<Sample, String> {
    let number = bench.options.forwarder_core;
    let core_before = machine::core(number)?;
    let before = machine::processor(forwarder.pid())?;
    let mut run = run()?;
    let used = machine::processor(forwarder.pid())?.since(before);
    let core = machine::core(number)?;
    let latencies = mem::take(&mut run.latencies);
    Ok(Sample {
        scrapes: run.scrapes,
        body_bytes: run.body_bytes,
        wall: run.wall,
        processor: used.time,
        user_share: used.user_share(),
        p50: Duration::from_nanos(percentile(&latencies, 50)),
        p99: Duration::from_nanos(percentile(&latencies, 99)),
        pss_bytes: machine::pss_bytes(forwarder.pid())?,
        open_files: machine::open_files(forwarder.pid())?,
        noise: Noise {
            others: core.busy.saturating_sub(core_before.busy).saturating_sub(used.time),
            stolen: core.stolen.saturating_sub(core_before.stolen),
        },
    })
}

/// The length of a response, header and body, which is the same for all pods.
pub(crate) fn answer_bytes(bench: &Bench, body: Body) -> Result<u64, String> {
    let pod = (pods::address(0), bench.pods.port).into();
    let scrape = Scrape::of_target(pod, &body.path(), 200, Some(body.bytes));
    load::scrape(&mut load::connect(pod)?, &scrape)
}

/// Prints the median processor time per scrape for each of these bodies.
fn summary(bench: &Bench, title: &str, cases: &[&Case]) -> Result<(), String> {
    let cell = |case: &Case, index: usize| {
        let samples = &case.forwarders[index].samples;
        let time = Spread::of(samples.iter().map(Sample::processor_us));
        time.map_or("-".to_owned(), |time| format!("{:.1}", time.median))
    };
    let row = |(index, forwarder): (usize, &Forwarder)| {
        let cells = cases.iter().map(|case| cell(case, index));
        [forwarder.name.clone()].into_iter().chain(cells).collect()
    };
    let rows: Vec<_> = bench.forwarders.iter().enumerate().map(row).collect();
    let bodies: Vec<String> = cases.iter().map(|case| case.body.to_string()).collect();
    let head: Vec<&str> = ["forwarder"].into_iter().chain(bodies.iter().map(String::as_str)).collect();
    bench.report.table(title, &head, &rows)
}

/// Prints the figures of one body, and what disturbed them.
pub(crate) fn print(bench: &Bench, what: &str, case: &Case) -> Result<(), String> {
    figures(bench, what, case)?;
    print_noise(&case.forwarders);
    Ok(())
}

/// Prints how much of the forwarder's core others used.
pub(crate) fn print_noise(forwarders: &[Measured]) {
    let samples = || forwarders.iter().flat_map(|measured| &measured.samples);
    let wall: Duration = samples().map(|sample| sample.wall).sum();
    let share = |of: fn(&Sample) -> Duration| {
        100.0 * samples().map(of).sum::<Duration>().as_secs_f64() / wall.as_secs_f64()
    };
    println!(
        "Noise: of the forwarder's core, other processes had {:.1} % and the hypervisor {:.1} %.\n",
        share(|sample| sample.noise.others),
        share(|sample| sample.noise.stolen)
    );
}

/// Prints the figures of one body.
pub(crate) fn figures(bench: &Bench, what: &str, case: &Case) -> Result<(), String> {
    table(bench, &format!("{what}: {}", case.body), &case.forwarders)
}

/// Prints figures under this title.
pub(crate) fn table(bench: &Bench, title: &str, forwarders: &[Measured]) -> Result<(), String> {
    let ours = ours(forwarders);
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
    let rows: Vec<_> = forwarders.iter().map(row).collect();
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
    bench.report.table(title, &head, &rows)
}
