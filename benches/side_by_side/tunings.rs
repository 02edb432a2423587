//! Measures nginx with other settings.

use crate::{
    bench::Bench,
    figures::{Sample, Spread},
    forwarders::{Forwarder, Kind},
    nginx::{TRIED, TUNED},
    processor,
};

/// Measures the other settings beside the tuned ones, each body in its own rounds, and prints the ratios.
pub(crate) fn run(bench: &Bench) -> Result<(), String> {
    let best = Forwarder::new(TUNED.name, Kind::NginxTuned);
    if !best.is_installed() {
        println!("NOT MEASURED: settings of nginx, which is not installed\n");
        return Ok(());
    }
    let tried = TRIED.map(|tuning| Forwarder::new(tuning.name, Kind::Nginx(tuning)));
    let forwarders = [&[best], &tried[..]].concat();
    let mut rows: Vec<_> = tried.iter().map(|forwarder| vec![forwarder.name.clone()]).collect();
    for &body in &bench.options.bodies {
        let case = processor::case(bench, &forwarders, &bench.setup_of(body), body, bench.options.rounds)?;
        let Some((best, tried)) = case.forwarders.split_first() else { continue };
        for (row, tried) in rows.iter_mut().zip(tried) {
            let ratio = Spread::of_ratios(&tried.samples, &best.samples, Sample::processor_us);
            row.push(ratio.map_or("-".to_owned(), |ratio| ratio.to_string()));
        }
    }
    let bodies: Vec<String> = bench.options.bodies.iter().map(ToString::to_string).collect();
    let head: Vec<&str> = ["setting"].into_iter().chain(bodies.iter().map(String::as_str)).collect();
    bench.report.table("Settings of nginx: processor time per scrape, × nginx tuned", &head, &rows)
}
