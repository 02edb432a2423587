//! The gain and cost of several workers: `--workers 1` beside `--workers auto`, on two shared cores.
//!
//! Pods and load have no cores of their own here. Each is a thread and competes with the forwarder for the same two
//! cores, so a second worker takes time from them.

use crate::{
    bench::Bench,
    cases::{Body, length},
    forwarders::{Forwarder, Kind},
    machine, processor,
    setup::Setup,
};

const BODIES: [Body; 3] = [length(1), length(16), length(256)];

/// Measures the first psystrike, and prints a table for each body.
pub(crate) fn run(bench: &Bench) -> Result<(), String> {
    let paths = bench.forwarders.iter().filter_map(|forwarder| match &forwarder.kind {
        Kind::Psystrike { path, .. } => Some(path),
        _ => None,
    });
    let with = |workers, path: &std::path::PathBuf| {
        Forwarder::new(&format!("--workers {workers}"), Kind::Psystrike { path: path.clone(), workers })
    };
    let forwarders: Vec<Forwarder> =
        paths.take(1).flat_map(|path| [with("1", path), with("auto", path)]).collect();
    let cores = vec![bench.options.forwarder_core, bench.options.load_core];
    machine::pin_all(&cores)?;
    println!("Workers: forwarder, pods and load compete for cores {cores:?}\n");
    let setup = Setup { cores, ..bench.setup() };
    for body in BODIES {
        let case = processor::case(bench, &forwarders, &setup, body, bench.options.rounds)?;
        processor::figures(bench, "Workers", &case)?;
    }
    machine::pin_all(&[bench.options.load_core])
}
