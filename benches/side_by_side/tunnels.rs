//! Processor time of a scrape through an open tunnel, as Prometheus scrapes `https` targets with `proxy_url`.
//!
//! The bytes are not encrypted, so that all of them can be compared; forwarders do not look at them. They arrive in
//! writes as large as TLS records ([`crate::pods::RECORD_BYTES`]), as from an exporter in Go.

use crate::{
    baselines::Way,
    bench::Bench,
    forwarders::{Forwarder, Kind},
    processor::{self, Case},
    setup::Setup,
};

/// Measures every psystrike and the baselines, with as many scrapes at a time as in other parts, and then with one.
/// Prints a table for each body. Returns the cases with many.
pub(crate) fn run(bench: &Bench) -> Result<Vec<Case>, String> {
    let forwarders = forwarders(bench);
    let measure = |clients| {
        let what = format!("Tunnels, {clients} scrape{} at a time", if clients == 1 { "" } else { "s" });
        let setup = Setup { clients, ..bench.setup() };
        let cases = bench.options.tunnel_bodies.iter().map(|&body| {
            let case = processor::case(bench, &forwarders, &setup, body, bench.options.rounds)?;
            processor::print(bench, &what, &case)?;
            Ok(case)
        });
        cases.collect()
    };
    let cases = measure(bench.options.clients);
    let alone: Result<Vec<Case>, String> = measure(1);
    alone.and(cases)
}

/// Every psystrike, and the baselines.
pub(crate) fn forwarders(bench: &Bench) -> Vec<Forwarder> {
    let ours = bench.forwarders.iter().filter(|forwarder| forwarder.is_ours()).cloned();
    let baselines = [("tunnel baseline splice", Way::Splice), ("tunnel baseline read/write", Way::ReadWrite)];
    let baselines = baselines.map(|(name, way)| Forwarder::new(name, Kind::TunnelBaseline(way)));
    ours.chain(baselines).map(Forwarder::in_tunnels).collect()
}
