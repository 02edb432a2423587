//! Pss of forwarders: at start, with idle clients, with clients that stop reading, after churn.
//!
//! Every phase begins with a forwarder that has just started. Pss does not include socket buffers, which the kernel
//! holds. Churn runs through all forwarders at the same time, because it takes minutes and no time is measured. Two
//! nginx share pages meanwhile, so only the increase is printed.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use crate::{
    bench::Bench,
    cases::{Body, chunked, length},
    figures::Spread,
    forwarders::{Forwarder, Running},
    load::{self, Scrape},
    machine, pods,
    report::{Limit, Reached, Verdict},
    setup::Setup,
};

/// How long to wait before Pss is read.
const REST: Duration = Duration::from_secs(1);
const STALLED_CLIENTS: usize = 64;
const STALLED_BODY: Body = length(64 * 1024);
/// A client reads this much of such a body, and then stops.
const STALLED_READ_BYTES: usize = 1024 * 1024;
/// Clients that are connected at a time during churn.
const CHURN_CLIENTS: usize = 64;

const START_LIMIT_KIB: f64 = 600.0;
const IDLE_LIMIT_KIB: f64 = 4.0 * 1024.0;
const STALLED_LIMIT_KIB: f64 = 8.0 * 1024.0;
/// Room for a read buffer and for pages of code that had not run before.
const CHURN_LIMIT_KIB: f64 = 256.0;

/// Pss in KiB.
struct Figures {
    start: f64,
    /// For each number of idle clients: at start, configured for as many pods, and with the clients.
    idle: Vec<(f64, f64)>,
    /// Pod connections that are open with the most idle clients.
    pooled: usize,
    stalled: (f64, f64),
}

/// Measures every forwarder except the baselines.
pub(crate) fn run(bench: &Bench) -> Result<Vec<Verdict>, String> {
    let forwarders: Vec<&Forwarder> =
        bench.forwarders.iter().filter(|forwarder| !forwarder.is_baseline()).collect();
    let (churned, churn_scrapes) = churned(bench, &forwarders)?;
    let mut rows = Vec::new();
    let mut ours = None;
    for (forwarder, churned) in forwarders.into_iter().zip(churned) {
        let figures = measure(bench, forwarder).map_err(|error| format!("{}: {error}", forwarder.name))?;
        rows.push(row(bench, forwarder, &figures, churned));
        // The limits apply to the static binary, which containers run.
        if forwarder.is_ours() && forwarder.name.contains("musl") {
            ours = Some((figures, churned));
        }
    }
    println!("Churn: {churn_scrapes} scrapes per forwarder in {:?}\n", bench.options.churn);
    let idle: Vec<String> =
        bench.options.idle.iter().map(|number| format!("{number} idle clients")).collect();
    let more = ["bytes per client", "pooled pod connections", "64 stalled", "after churn"];
    let head = ["forwarder", "start"].into_iter().chain(idle.iter().map(String::as_str)).chain(more);
    bench.report.table("Memory: Pss in KiB", &head.collect::<Vec<_>>(), &rows)?;
    Ok(verdicts(bench, ours.as_ref()))
}

fn row(bench: &Bench, forwarder: &Forwarder, figures: &Figures, churned: (f64, f64)) -> Vec<String> {
    let Figures { start, idle, pooled, stalled } = figures;
    let more = |(before, after): (f64, f64)| format!("{after:.0} (+{:.0})", after - before);
    let most = idle.last().map_or(0.0, |(before, after)| after - before);
    let per_client = most * 1024.0 / bench.options.idle_max() as f64;
    let first = [forwarder.name.clone(), format!("{start:.0}")].into_iter();
    let last = [format!("{per_client:.0}"), pooled.to_string(), more(*stalled)];
    let churned = format!("+{:.0}", churned.1 - churned.0);
    first.chain(idle.iter().map(|idle| more(*idle))).chain(last).chain([churned]).collect()
}

fn verdicts(bench: &Bench, ours: Option<&(Figures, (f64, f64))>) -> Vec<Verdict> {
    let verdict = |what: String, limit: f64, kib: &dyn Fn(&Figures, (f64, f64)) -> f64| {
        let kib = ours.map(|(figures, churned)| kib(figures, *churned));
        Verdict {
            case: format!("static binary: {what}"),
            target: format!("≤ {limit} KiB"),
            measured: kib.map_or("-".to_owned(), |kib| format!("{kib:.0} KiB")),
            reached: Reached::of(Limit::AtMost(limit), Spread::of(kib)),
        }
    };
    let idle = bench.options.idle_max();
    vec![
        verdict("start".to_owned(), START_LIMIT_KIB, &|figures, _| figures.start),
        verdict(
            format!("{idle} idle clients, as many pooled pod connections"),
            IDLE_LIMIT_KIB,
            &|figures, _| {
                // A forwarder that closes pod connections misses the target.
                let with_all = figures.idle.last().filter(|_| figures.pooled >= idle);
                with_all.map_or(f64::INFINITY, |(_, after)| *after)
            },
        ),
        verdict(format!("{STALLED_CLIENTS} stalled readers, increase"), STALLED_LIMIT_KIB, &|figures, _| {
            figures.stalled.1 - figures.stalled.0
        }),
        verdict("churn, increase".to_owned(), CHURN_LIMIT_KIB, &|_, churned| churned.1 - churned.0),
    ]
}

fn measure(bench: &Bench, forwarder: &Forwarder) -> Result<Figures, String> {
    let setup = bench.setup();
    let started = |setup: &Setup| -> Result<(Running, f64), String> {
        let running = forwarder.start(setup)?;
        let pss = pss_kib(&running)?;
        Ok((running, pss))
    };
    let (running, start) = started(&setup)?;
    drop(running);

    let mut idle = Vec::new();
    let mut pooled = 0;
    for &clients in &bench.options.idle {
        let many = Setup { pods: clients, clients, ..setup.clone() };
        let (running, before) = started(&many)?;
        let clients = idle_clients(bench, &running, clients)?;
        idle.push((before, pss_kib(&running)?));
        pooled = bench.pods.connections();
        drop((clients, running));
    }

    let (running, before) = started(&setup)?;
    let clients = stalled(bench, &running)?;
    let after = pss_kib(&running)?;
    drop((clients, running));
    let stalled = (before, after);
    Ok(Figures { start, idle, pooled, stalled })
}

fn pss_kib(running: &Running) -> Result<f64, String> {
    thread::sleep(REST);
    Ok(machine::pss_bytes(running.pid())? as f64 / 1024.0)
}

/// Clients that each scraped their own pod once, and are still connected.
fn idle_clients(bench: &Bench, running: &Running, clients: usize) -> Result<Vec<TcpStream>, String> {
    let client = |number| {
        let mut stream = load::connect(running.address)?;
        let scrape = Scrape::new(running.address, pods::address(number), bench.pods.port, length(16));
        load::scrape(&mut stream, &scrape).map_err(|error| format!("client {number}: {error}"))?;
        Ok(stream)
    };
    (0..clients).map(client).collect()
}

/// Clients that read the beginning of a long response and then stop.
fn stalled(bench: &Bench, running: &Running) -> Result<Vec<TcpStream>, String> {
    let failed = |error| format!("a stalling client: {error}");
    let client = |number| {
        let mut stream = load::connect(running.address)?;
        let scrape = Scrape::new(running.address, pods::address(number), bench.pods.port, STALLED_BODY);
        stream.write_all(&scrape.request).map_err(failed)?;
        let mut part = vec![0; STALLED_READ_BYTES];
        stream.read_exact(&mut part).map_err(failed)?;
        Ok(stream)
    };
    (0..STALLED_CLIENTS).map(client).collect()
}

/// Pss of every forwarder before and after churn, and the number of scrapes of each.
fn churned(bench: &Bench, forwarders: &[&Forwarder]) -> Result<(Vec<(f64, f64)>, usize), String> {
    let setup = bench.setup();
    let running: Vec<Running> =
        forwarders.iter().map(|forwarder| forwarder.start(&setup)).collect::<Result<_, _>>()?;
    let pss = || running.iter().map(pss_kib).collect::<Result<Vec<_>, _>>();
    let before = pss()?;
    let mut clients: Vec<VecDeque<TcpStream>> = running.iter().map(|_| VecDeque::new()).collect();
    let until = Instant::now() + bench.options.churn;
    let mut scrapes = 0;
    while Instant::now() < until {
        for ((forwarder, running), clients) in forwarders.iter().zip(&running).zip(&mut clients) {
            clients.extend(
                churn(bench, running, scrapes).map_err(|error| format!("{}: {error}", forwarder.name))?,
            );
            if clients.len() > CHURN_CLIENTS {
                clients.pop_front();
            }
        }
        scrapes += 1;
    }
    drop(clients);
    Ok((before.into_iter().zip(pss()?).collect(), scrapes))
}

/// Opens a connection. Most clients scrape and stay for a while; some disconnect in the middle of a response.
fn churn(bench: &Bench, running: &Running, number: usize) -> Result<Option<TcpStream>, String> {
    const BODIES: [Body; 5] = [length(1), length(16), chunked(16), length(256), length(1024)];
    let pod = pods::address(number % bench.options.pods);
    let scrape = Scrape::new(running.address, pod, bench.pods.port, BODIES[number % BODIES.len()]);
    let mut stream = load::connect(running.address)?;
    if number % 7 == 6 {
        let failed = |error| format!("a disconnecting client: {error}");
        stream.write_all(&scrape.request).map_err(failed)?;
        stream.read_exact(&mut [0; 512]).map_err(failed)?;
        return Ok(None);
    }
    load::scrape(&mut stream, &scrape).map(|_| Some(stream))
}
