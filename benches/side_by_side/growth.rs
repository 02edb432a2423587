//! How processor time per scrape grows with pods, with clients and with the size of bodies.

use std::fmt::Display;

use crate::{
    bench::Bench,
    cases::{Body, length},
    figures::{Sample, Spread},
    forwarders::{Forwarder, Kind},
    processor,
    setup::Setup,
};

/// The largest number is about what a forwarder can pool with 20,000 open files.
const PODS: [usize; 4] = [10, 200, 2000, 9000];
const CLIENTS: [usize; 5] = [1, 8, 64, 512, 2000];
const KIB: [u64; 6] = [1, 4, 16, 64, 256, 1024];
/// The body where only pods or clients grow.
const BODY: Body = length(16);

/// Measures the first psystrike, nginx tuned and the baselines, and prints a table for each of the three.
pub(crate) fn run(bench: &Bench) -> Result<(), String> {
    let first = bench.forwarders.iter().find(|forwarder| forwarder.is_ours());
    let beside =
        bench.forwarders.iter().filter(|other| other.is_baseline() || other.kind == Kind::NginxTuned);
    let forwarders: Vec<Forwarder> = first.into_iter().chain(beside).cloned().collect();
    let setup = bench.setup();
    let Setup { pods, clients, .. } = setup;
    let with_pods = PODS.map(|pods| (pods, Setup { pods, ..setup.clone() }, BODY));
    grow(bench, &forwarders, "pods", &format!("{BODY}, {clients} clients"), &with_pods)?;
    let with_clients = CLIENTS.map(|clients| (clients, Setup { clients, ..setup.clone() }, BODY));
    grow(bench, &forwarders, "clients", &format!("{BODY}, {pods} pods"), &with_clients)?;
    let with_body = KIB.map(|kib| (length(kib), setup.clone(), length(kib)));
    grow(bench, &forwarders, "body", &format!("{clients} clients, {pods} pods"), &with_body)
}

fn grow<T: Display>(
    bench: &Bench,
    forwarders: &[Forwarder],
    what: &str,
    constant: &str,
    steps: &[(T, Setup, Body)],
) -> Result<(), String> {
    let mut rows = Vec::new();
    for (step, setup, body) in steps {
        let case = processor::case(bench, forwarders, setup, *body, bench.options.rounds)
            .map_err(|error| format!("{step} {what}: {error}"))?;
        let cells = case.forwarders.iter().map(|measured| {
            let spread = Spread::of(measured.samples.iter().map(Sample::processor_us));
            spread.map_or("-".to_owned(), |spread| format!("{spread:.1}"))
        });
        rows.push([step.to_string()].into_iter().chain(cells).collect());
    }
    let names = forwarders.iter().map(|forwarder| forwarder.name.as_str());
    let head: Vec<_> = [what].into_iter().chain(names).collect();
    bench.report.table(&format!("Growth with {what}: processor µs/scrape, {constant}"), &head, &rows)
}
