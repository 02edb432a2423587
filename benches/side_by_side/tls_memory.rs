//! Pss of psystrike with a certificate, and with many idle TLS connections of clients, or to pods.

use std::{thread, time::Duration};

use crate::{
    bench::Bench,
    cases::{Body, length},
    certificates::Key,
    encryption::Tls,
    figures::Spread,
    forwarders::{Forwarder, Running},
    load::{self, Scrape},
    machine, pods,
    report::{Limit, Reached, Verdict},
    setup::Setup,
};

/// How long to wait before Pss is read.
const REST: Duration = Duration::from_secs(1);
/// The number of idle connections.
const IDLE: usize = 4000;
/// The body that is scraped once by each.
const BODY: Body = length(16);

/// The most bytes of an idle TLS connection, beyond those of one without TLS.
const CLIENT_BYTES_MAX: f64 = 4.5 * 1024.0;
const POD_BYTES_MAX: f64 = 6.0 * 1024.0;

/// Pss in KiB at start, and with the idle connections.
#[derive(Clone, Copy)]
struct Held {
    start: f64,
    idle: f64,
}

impl Held {
    fn bytes_each(self) -> f64 {
        (self.idle - self.start) * 1024.0 / IDLE as f64
    }
}

/// Measures every psystrike.
pub(crate) fn run(bench: &Bench) -> Result<Vec<Verdict>, String> {
    let (mut rows, mut verdicts) = (Vec::new(), Vec::new());
    for forwarder in bench.forwarders.iter().filter(|forwarder| forwarder.is_ours()) {
        let measure = |tls| {
            let forwarder = forwarder.clone().with_tls(tls);
            measure(bench, &forwarder).map_err(|error| format!("{}: {error}", forwarder.name))
        };
        let (plain, clients, pods) =
            (measure(Tls::Nowhere)?, measure(Tls::Clients(Key::P256))?, measure(Tls::Pods)?);
        let with = |held: Held| format!("{:.0} ({:.0})", held.idle, held.bytes_each());
        let (start, loaded) = (format!("{:.0}", plain.start), format!("{:.0}", clients.start));
        rows.push(vec![forwarder.name.clone(), start, loaded, with(plain), with(clients), with(pods)]);
        // The limits apply to the static binary, which containers run.
        if forwarder.name.contains("musl") {
            let more = |held: Held| held.bytes_each() - plain.bytes_each();
            verdicts = vec![
                verdict("of a client", more(clients), CLIENT_BYTES_MAX),
                verdict("to a pod", more(pods), POD_BYTES_MAX),
            ];
        }
    }
    let head = [
        "forwarder",
        "start",
        "with a certificate",
        &format!("{IDLE} idle clients without TLS (bytes each)"),
        "with TLS",
        "with TLS to pods",
    ];
    bench.report.table("TLS: Pss in KiB", &head, &rows)?;
    Ok(verdicts)
}

fn verdict(what: &str, bytes: f64, most: f64) -> Verdict {
    Verdict {
        case: format!("static binary: idle TLS connection {what}"),
        target: format!("≤ {most:.0} bytes more than without TLS"),
        measured: format!("{bytes:.0} bytes"),
        reached: Reached::of(Limit::AtMost(most), Spread::of([bytes])),
    }
}

fn measure(bench: &Bench, forwarder: &Forwarder) -> Result<Held, String> {
    let pods_port = if forwarder.tls == Tls::Pods { bench.pods.tls_port } else { bench.pods.port };
    let setup = Setup { pods: IDLE, clients: IDLE, pods_port, ..bench.setup() };
    let running = forwarder.start(&setup)?;
    let start = pss_kib(&running)?;
    let clients = (0..IDLE).map(|number| {
        let scrape = Scrape::new(running.address, pods::address(number), pods_port, BODY);
        let mut client = load::client(running.address, running.is_tls)?;
        load::scrape(&mut client, &scrape).map_err(|error| format!("client {number}: {error}"))?;
        Ok(client)
    });
    let clients = clients.collect::<Result<Vec<_>, String>>()?;
    let idle = pss_kib(&running)?;
    drop(clients);
    Ok(Held { start, idle })
}

fn pss_kib(running: &Running) -> Result<f64, String> {
    thread::sleep(REST);
    Ok(machine::pss_bytes(running.pid())? as f64 / 1024.0)
}
