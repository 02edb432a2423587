//! psystrike beside nginx, HAProxy, tinyproxy, Squid and the baselines of what sockets cost: processor time, latency,
//! memory, start.
//!
//! Starts everything itself, on loopback only, and ends it; every wait and every run has a bound, but for cargo's
//! where it builds. Prints tables and verdicts as Markdown. See `--help`, and the modules:
//!
//! - [`options`]: what can be asked for; [`bench`]: what all parts need; [`setup`]: what forwarders have to serve;
//! - [`cases`]: the bodies that are scraped;
//! - [`pods`]: what is scraped; [`load`]: what scrapes, with [`answer`], which checks every answer;
//! - [`forwarders`]: what stands between, with [`building`], [`nginx`], [`tinyproxy`], [`squid`], and
//!   [`baselines`] and [`tunnel_baseline`], which parse nothing;
//! - [`machine`]: cores, and what the kernel says a forwarder used; [`figures`]: medians, spreads, ratios;
//! - the parts: [`processor`], [`proxy`], [`tunnels`] with [`tunnel_memory`], [`memory`], [`start`], [`syscalls`],
//!   [`instructions`], [`profile`], [`growth`], [`workers`], and [`tunings`] for what nginx's best is;
//!   [`targets`]: what has to be reached;
//! - [`report`]: tables and verdicts; [`chart`]: the picture.

mod answer;
mod baselines;
mod bench;
mod building;
mod cases;
mod chart;
mod figures;
mod forwarders;
mod growth;
mod instructions;
mod load;
mod machine;
mod memory;
mod nginx;
mod options;
mod pods;
mod processor;
mod profile;
mod proxy;
mod report;
mod setup;
mod squid;
mod start;
mod syscalls;
mod targets;
mod tinyproxy;
mod tunings;
mod tunnel_baseline;
mod tunnel_memory;
mod tunnels;
mod workers;

use std::{fs, process::ExitCode};

use bench::Bench;
use options::{Asked, Options, Part};
use report::Verdict;

fn main() -> ExitCode {
    if let Some(failed) = forwarders::become_child() {
        eprintln!("{failed}");
        return ExitCode::FAILURE;
    }
    let ended = match Options::from_process() {
        Ok(Asked::Help) => {
            print!("{}", options::HELP);
            Ok(true)
        }
        Ok(Asked::Run(options)) => Bench::new(*options).and_then(|bench| run(&bench)),
        Err(error) => Err(error),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE, // what failed is printed
        Err(error) => {
            eprintln!("side_by_side: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the parts that were asked for. Says whether nothing passed a limit.
///
/// A part that fails does not keep the others from being run, nor verdicts from being told.
fn run(bench: &Bench) -> Result<bool, String> {
    bench.describe();
    let mut within = true;
    let mut verdicts = Vec::new();
    let mut failed = Vec::new();
    for part in &bench.options.parts {
        let result = self::part(bench, part, &mut verdicts).map(|kept| within &= kept);
        failed.extend(result.err().inspect(|error| println!("NOT MEASURED: {error}\n")));
    }
    report::verdicts(&verdicts);
    if failed.is_empty() { Ok(within) } else { Err(failed.join("; ")) }
}

fn part(bench: &Bench, part: &Part, verdicts: &mut Vec<Verdict>) -> Result<bool, String> {
    match part {
        Part::Processor => {
            let cases = processor::run(bench)?;
            verdicts.extend(targets::verdicts(&cases));
            if let Some(path) = &bench.options.svg {
                let picture = chart::draw(&cases);
                fs::write(path, picture).map_err(|error| format!("{}: {error}", path.display()))?;
            }
        }
        Part::Proxy => verdicts.extend(targets::proxy_verdicts(&proxy::run(bench)?)),
        Part::Tunnels => {
            verdicts.extend(targets::tunnel_verdicts(&tunnels::run(bench)?));
            verdicts.extend(tunnel_memory::run(bench)?);
        }
        Part::Memory => verdicts.extend(memory::run(bench)?),
        Part::Start => verdicts.extend(start::run(bench)?),
        Part::Syscalls => syscalls::run(bench)?,
        Part::Instructions => return instructions::run(bench),
        Part::Profile => profile::run(bench)?,
        Part::Growth => growth::run(bench)?,
        Part::Workers => workers::run(bench)?,
        Part::Nginx => tunings::run(bench)?,
    }
    Ok(true)
}
