//! Processor time of a scrape of real exporters: node_exporter, and one in Go with a page as long as
//! kube-state-metrics's.
//!
//! One scrape runs at a time. The exporters share a core with the load. The baselines are left out: they have to know
//! the length of a response, which changes from scrape to scrape.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    bench::Bench,
    building,
    figures::Sample,
    forwarders::{self, Forwarder},
    load::{Scrape, Until},
    pods, processor,
    setup::Setup,
};

/// Scrapes of one measurement. An exporter takes up to 40 ms for each.
const SCRAPES: u64 = 100;
/// Addresses of the exporter, which a forwarder takes for as many pods.
const PODS: usize = 10;
/// Time limit for a start.
const START_MAX: Duration = Duration::from_secs(5);

/// A running exporter.
struct Exporter {
    child: Child,
    port: u16,
}

/// Measures every forwarder except the baselines with both exporters, and prints a table for each.
pub(crate) fn run(bench: &Bench) -> Result<(), String> {
    let others = bench.forwarders.iter().filter(|forwarder| !forwarder.is_baseline());
    let forwarders: Vec<Forwarder> = others.cloned().chain(bench.without_gathering()).collect();
    let node_exporter = forwarders::find("prometheus-node-exporter")
        .ok_or_else(|| "not installed (Debian package prometheus-node-exporter)".to_owned());
    let page = building::exporter(&bench.scratch);
    for (name, program, option) in
        [("node_exporter", node_exporter, "--web.listen-address="), ("page of 240 KiB", page, "")]
    {
        match program {
            Ok(program) => table(bench, &forwarders, name, &Exporter::start(bench, program, option)?)?,
            Err(error) => println!("NOT MEASURED: {name}: {error}\n"),
        }
    }
    Ok(())
}

fn table(bench: &Bench, forwarders: &[Forwarder], name: &str, exporter: &Exporter) -> Result<(), String> {
    let setup = Setup { pods: PODS, pods_port: exporter.port, clients: 1, ..bench.setup() };
    let turn = |forwarder: &Forwarder, _| turn(bench, &setup, forwarder);
    let measured = processor::rounds(forwarders, bench.options.rounds, turn)
        .map_err(|error| format!("{name}: {error}"))?;
    processor::table(bench, &format!("Real exporters: {name}"), &measured)?;
    processor::print_noise(&measured);
    Ok(())
}

/// One measurement of one forwarder.
fn turn(bench: &Bench, setup: &Setup, forwarder: &Forwarder) -> Result<Sample, String> {
    let running = forwarder.start(setup)?;
    let scrapes = (0..setup.pods).map(|number| Scrape::metrics(running.address, setup.pod(number)));
    let mut load = running.scrapes(setup, scrapes.collect())?;
    load.run(Until::Count(setup.pods as u64), None)?;
    processor::sample(bench, &running, || load.run(Until::Count(SCRAPES), None))
}

impl Exporter {
    /// Starts it on all loopback addresses. `option` precedes the address.
    fn start(bench: &Bench, program: PathBuf, option: &str) -> Result<Self, String> {
        let port = forwarders::free_address()?.port();
        let listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let mut command = forwarders::child(&[bench.options.load_core])?;
        command.arg(&program).arg(format!("{option}{listen}"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let failed = |error| format!("{}: {error}", program.display());
        let exporter = Self { child: command.spawn().map_err(failed)?, port };
        let until = Instant::now() + START_MAX;
        while TcpStream::connect((pods::address(0), port)).is_err() {
            if Instant::now() > until {
                return Err(format!("{} does not accept connections", program.display()));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(exporter)
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
