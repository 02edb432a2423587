//! Processor time of a scrape in absolute form, as Prometheus sends it with `proxy_url`, beside other forward proxies.

use crate::{
    bench::{self, Bench},
    figures::{Sample, Spread},
    forwarders::Forwarder,
    processor::{self, Case},
};

/// Measures the first psystrike in absolute form and with `/pods/`, and the other proxies in absolute form. Prints a
/// table for each body.
pub(crate) fn run(bench: &Bench) -> Result<Vec<Case>, String> {
    println!("Proxy mode: requests in absolute form, as with proxy_url\n");
    let proxies = bench::installed(&bench.options.proxies);
    for proxy in &proxies {
        if let Some(version) = proxy.version() {
            println!("- {}: {version}", proxy.name);
        }
    }
    println!();
    let first = bench.forwarders.iter().find(|forwarder| forwarder.is_ours());
    let ours = first.into_iter().flat_map(|ours| {
        let with_pods = Forwarder { name: format!("{} /pods/", ours.name), ..ours.clone() };
        [ours.clone().in_absolute_form(), with_pods]
    });
    let forwarders: Vec<Forwarder> = ours.chain(proxies).collect();
    let cases = bench.options.proxy_bodies.iter().map(|&body| {
        let case = processor::case(bench, &forwarders, &bench.setup_of(body), body, bench.options.rounds)?;
        processor::print(bench, "Proxy mode", &case)?;
        compare_forms(&case);
        Ok(case)
    });
    cases.collect()
}

/// Prints the cost of the absolute form relative to `/pods/`.
fn compare_forms(case: &Case) {
    let ours: Vec<_> = case.forwarders.iter().filter(|measured| measured.forwarder.is_ours()).collect();
    let [absolute, pods] = ours[..] else { return };
    if let Some(ratio) = Spread::of_ratios(&absolute.samples, &pods.samples, Sample::processor_us) {
        println!(
            "{} in absolute form takes {ratio} × the processor time of /pods/.\n",
            absolute.forwarder.name
        );
    }
}
