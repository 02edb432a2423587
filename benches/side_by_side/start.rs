//! Time from exec to the first forwarded scrape.

use std::{process::Command, time::Instant};

use crate::{
    bench::Bench,
    cases::length,
    figures::Spread,
    forwarders::{Forwarder, free_address},
    load::{self, Scrape},
    machine, pods,
    report::{Limit, Reached, Verdict},
};

const LIMIT_MS: f64 = 10.0;

/// Starts every forwarder except the baselines many times, in turn, and prints how long it took.
pub(crate) fn run(bench: &Bench) -> Result<Vec<Verdict>, String> {
    let forwarders: Vec<&Forwarder> =
        bench.forwarders.iter().filter(|forwarder| !forwarder.is_baseline()).collect();
    let mut times = vec![Vec::new(); forwarders.len()];
    for _ in 0..bench.options.starts {
        for (forwarder, times) in forwarders.iter().zip(&mut times) {
            times.push(start(bench, forwarder).map_err(|error| format!("{}: {error}", forwarder.name))?);
        }
    }
    let spreads: Vec<Option<Spread>> = times.into_iter().map(Spread::of).collect();
    let row = |(forwarder, spread): (&&Forwarder, &Option<Spread>)| {
        vec![forwarder.name.clone(), spread.map_or("-".to_owned(), |spread| spread.to_string())]
    };
    let rows: Vec<_> = forwarders.iter().zip(&spreads).map(row).collect();
    let title = "Start: from exec to the first forwarded scrape";
    bench.report.table(title, &["forwarder", "ms: median (quartiles)"], &rows)?;
    let ours = forwarders.iter().position(|forwarder| forwarder.is_ours());
    let verdict = ours.and_then(|ours| spreads[ours]).map(|spread| Verdict {
        case: "first scrape after exec".to_owned(),
        target: format!("≤ {LIMIT_MS} ms"),
        measured: format!("{spread} ms"),
        reached: Reached::of(Limit::AtMost(LIMIT_MS), Some(spread)),
    });
    Ok(verdict.into_iter().collect())
}

/// One start, in milliseconds.
fn start(bench: &Bench, forwarder: &Forwarder) -> Result<f64, String> {
    let setup = bench.setup();
    let address = free_address()?;
    let words = forwarder.command(address, &setup)?;
    let (program, arguments) = words.split_first().ok_or("no program to start")?;
    let mut command = Command::new(program);
    command.args(arguments);
    // A child inherits its parent's core, so it starts on the right one.
    machine::pin(&[bench.options.forwarder_core])?;
    let began = Instant::now();
    let running = forwarder.spawn(&mut command, address, &setup.scratch.join("start.log"));
    let running = running.and_then(|running| machine::pin(&[bench.options.load_core]).map(|()| running))?;
    let scrape = Scrape::new(address, pods::address(0), bench.pods.port, length(1));
    load::scrape(&mut load::connect(address)?, &scrape)?;
    let took = began.elapsed();
    drop(running);
    Ok(took.as_secs_f64() * 1e3)
}
