//! User-space instructions of a scrape by function and by source file, counted by callgrind.
//!
//! Inlined code counts for the function that it was inlined into, but for the file in which it was written.

use std::collections::BTreeMap;

use crate::{
    bench::Bench,
    building,
    cases::{Body, length},
    forwarders::Forwarder,
    instructions::{self, Asked},
};

const BODY: Body = length(16);
/// The number of rows.
const ROWS: usize = 15;

/// Builds psystrike with symbols, and prints its profile.
pub(crate) fn run(bench: &Bench) -> Result<(), String> {
    let forwarder = Forwarder::ours("psystrike with symbols", building::with_symbols()?);
    let [short, long] = instructions::SCRAPES;
    let begun = costs(&instructions::callgrind(bench, &forwarder, Asked::Pod(BODY), short)?);
    let all = costs(&instructions::callgrind(bench, &forwarder, Asked::Pod(BODY), long)?);
    let per_scrape: BTreeMap<Place, f64> = all
        .into_iter()
        .map(|(place, cost)| {
            let more = cost as f64 - begun.get(&place).copied().unwrap_or_default() as f64;
            (place, more / (long - short) as f64)
        })
        .collect();
    print(bench, "function", &per_scrape, |place| place.function.clone())?;
    print(bench, "file", &per_scrape, |place| place.file.clone())
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    file: String,
    function: String,
}

/// The instructions at each place, read from callgrind's output without compression.
fn costs(text: &str) -> BTreeMap<Place, u64> {
    let mut costs = BTreeMap::new();
    let mut place = Place::default();
    let mut called = false;
    for line in text.lines() {
        match line.split_once('=') {
            Some(("fl" | "fi" | "fe", file)) => place.file = short(file),
            Some(("fn", function)) => place.function = function.to_owned(),
            Some(("calls", _)) => called = true, // the next line has the callee's cost
            Some(_) => {}
            None => {
                let cost =
                    line.split_once(' ').and_then(|(at, cost)| at.parse::<u64>().ok().and(cost.parse().ok()));
                if let Some(cost) = cost.filter(|_: &u64| !std::mem::take(&mut called)) {
                    *costs.entry(place.clone()).or_default() += cost;
                }
            }
        }
    }
    costs
}

/// The part of a path that is the same on every machine: within this crate, or from a crate's name on.
fn short(path: &str) -> String {
    if let Some(ours) = path.strip_prefix(concat!(env!("CARGO_MANIFEST_DIR"), "/")) {
        return ours.to_owned();
    }
    let parts: Vec<&str> = path.split('/').collect();
    let krate = parts.iter().rposition(|part| *part == "src").unwrap_or(parts.len().saturating_sub(2));
    parts[krate.saturating_sub(1)..].join("/")
}

fn print(
    bench: &Bench,
    what: &str,
    per_scrape: &BTreeMap<Place, f64>,
    name: fn(&Place) -> String,
) -> Result<(), String> {
    let mut sums: BTreeMap<String, f64> = BTreeMap::new();
    for (place, instructions) in per_scrape {
        *sums.entry(name(place)).or_default() += instructions;
    }
    let all: f64 = sums.values().sum();
    let mut sums: Vec<(String, f64)> = sums.into_iter().collect();
    sums.sort_by(|a, b| b.1.total_cmp(&a.1));
    let row = |(name, instructions): (String, f64)| {
        vec![format!("`{name}`"), format!("{instructions:.0}"), format!("{:.0}", instructions / all * 100.0)]
    };
    let rows: Vec<_> = sums.into_iter().take(ROWS).map(row).collect();
    let title = format!("Profile: user-space instructions by {what}, {BODY}");
    bench.report.table(&title, &[what, "instructions per scrape", "%"], &rows)
}
