//! Pss of psystrike with many idle tunnels, and after many tunnels have been closed.

use std::{net::TcpStream, thread, time::Duration};

use crate::{
    bench::Bench,
    cases::{Body, records},
    figures::Spread,
    forwarders::{Forwarder, Running},
    load::{self, Scrape},
    machine,
    report::{Limit, Reached, Verdict},
    setup::Setup,
};

/// How long to wait before Pss is read.
const REST: Duration = Duration::from_secs(1);
/// The body that is scraped once through each tunnel.
const BODY: Body = records(16);
/// The number of tunnels that are opened and closed, one after the other.
const CHURN: usize = 10_000;
/// After this many, all memory that is reused has been allocated.
const CHURN_FIRST: usize = 2000;

const IDLE_LIMIT_KIB: f64 = 5.0 * 1024.0;
/// Less than nine bytes for each of these tunnels.
const CHURN_LIMIT_KIB: f64 = 64.0;

/// Pss in KiB, and open files.
#[derive(Clone, Copy)]
struct Held {
    kib: f64,
    files: usize,
}

struct Figures {
    start: Held,
    idle: Held,
    /// At start, after the first tunnels of the churn, and after all.
    churn: [Held; 3],
}

/// Measures every psystrike.
pub(crate) fn run(bench: &Bench) -> Result<Vec<Verdict>, String> {
    let (mut rows, mut ours) = (Vec::new(), None);
    for forwarder in bench.forwarders.iter().filter(|forwarder| forwarder.is_ours()) {
        let forwarder = forwarder.clone().in_tunnels();
        let figures = measure(bench, &forwarder).map_err(|error| format!("{}: {error}", forwarder.name))?;
        rows.push(row(bench, &forwarder, &figures));
        // The limits apply to the static binary, which containers run.
        if forwarder.name.contains("musl") {
            ours = Some(figures);
        }
    }
    let head = [
        "forwarder",
        "start",
        &format!("{} idle tunnels", bench.options.idle_max()),
        "bytes per tunnel",
        &format!("after {CHURN_FIRST}"),
        &format!("after {CHURN}"),
    ];
    bench.report.table("Tunnels: Pss in KiB (open files)", &head, &rows)?;
    Ok(verdicts(bench, ours.as_ref()))
}

fn row(bench: &Bench, forwarder: &Forwarder, figures: &Figures) -> Vec<String> {
    let &Figures { start, idle, churn: [_, first, last] } = figures;
    let held = |held: Held| format!("{:.0} ({})", held.kib, held.files);
    let per_tunnel = (idle.kib - start.kib) * 1024.0 / bench.options.idle_max() as f64;
    vec![forwarder.name.clone(), held(start), held(idle), format!("{per_tunnel:.0}"), held(first), held(last)]
}

fn verdicts(bench: &Bench, ours: Option<&Figures>) -> Vec<Verdict> {
    let verdict = |what: String, unit: &str, limit: f64, figure: fn(&Figures) -> f64| {
        let figure = ours.map(figure);
        Verdict {
            case: format!("static binary: {what}"),
            target: format!("≤ {limit} {unit}"),
            measured: figure.map_or("-".to_owned(), |figure| format!("{figure:.0} {unit}")),
            reached: Reached::of(Limit::AtMost(limit), Spread::of(figure)),
        }
    };
    let churned = format!("{CHURN} tunnels opened and closed, increase since {CHURN_FIRST}");
    vec![
        verdict(format!("{} idle tunnels", bench.options.idle_max()), "KiB", IDLE_LIMIT_KIB, |figures| {
            figures.idle.kib
        }),
        verdict(churned.clone(), "KiB", CHURN_LIMIT_KIB, |figures| {
            figures.churn[2].kib - figures.churn[1].kib
        }),
        verdict(churned, "open files", 0.0, |figures| {
            figures.churn[2].files as f64 - figures.churn[1].files as f64
        }),
    ]
}

fn measure(bench: &Bench, forwarder: &Forwarder) -> Result<Figures, String> {
    let setup = Setup { pods: bench.options.idle_max(), ..bench.setup() };
    let running = forwarder.start(&setup)?;
    let start = held(&running)?;
    let tunnels: Vec<TcpStream> =
        (0..setup.pods).map(|number| tunnel(&setup, &running, number)).collect::<Result<_, _>>()?;
    let idle = held(&running)?;
    drop((tunnels, running));

    let running = forwarder.start(&setup)?;
    let mut churn = [held(&running)?; 3];
    for number in 0..CHURN {
        if number == CHURN_FIRST {
            churn[1] = held(&running)?;
        }
        drop(tunnel(&setup, &running, number % setup.pods)?);
    }
    churn[2] = held(&running)?;
    Ok(Figures { start, idle, churn })
}

/// Opens a tunnel and scrapes through it once.
fn tunnel(setup: &Setup, running: &Running, number: usize) -> Result<TcpStream, String> {
    let pod = setup.pod(number);
    let failed = |error| format!("tunnel {number}: {error}");
    let mut stream = load::tunnel(running.address, pod).map_err(failed)?;
    let scrape = Scrape::of_target(pod, &BODY.path(), 200, Some(BODY.bytes));
    load::scrape(&mut stream, &scrape).map_err(failed)?;
    Ok(stream)
}

fn held(running: &Running) -> Result<Held, String> {
    thread::sleep(REST);
    let pid = running.pid();
    Ok(Held { kib: machine::pss_bytes(pid)? as f64 / 1024.0, files: machine::open_files(pid)? })
}
