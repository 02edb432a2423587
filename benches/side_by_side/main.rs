//! Compares psystrike with nginx, HAProxy, tinyproxy, Squid and two baselines: processor time, latency, memory, start.
//!
//! Starts all programs itself, on loopback only, and stops them. Every wait has a time limit, except for cargo's
//! builds. Prints tables and verdicts as Markdown; `--write` also writes them into PERF.md. See `--help`, and the
//! modules:
//!
//! - [`options`]: the command line; [`bench`]: state that all parts share; [`setup`]: the pods and clients of a
//!   forwarder;
//! - [`cases`]: the bodies that are scraped;
//! - [`pods`]: the pods; [`load`]: the client that scrapes them, with [`answer`], which checks every response, and
//!   [`wire`], the TLS of both;
//! - [`forwarders`]: the programs in between, with [`building`], [`encryption`], [`certificates`], [`nginx`],
//!   [`haproxy`], [`tinyproxy`], [`squid`], and [`baselines`] and [`tunnel_baseline`], which move bytes and parse
//!   nothing;
//! - [`machine`]: cores, and a process's resources as the kernel reports them; [`figures`]: medians, quartiles, ratios;
//! - the parts: [`processor`], [`paced`], [`proxy`], [`tunnels`] with [`tunnel_memory`], [`tls`] with [`tls_memory`],
//!   [`memory`], [`start`], [`real`], [`syscalls`], [`instructions`], [`profile`], [`growth`], [`workers`], and
//!   [`tunings`], which looks for nginx's best settings; [`targets`]: the targets;
//! - [`report`]: tables and verdicts; [`chart`]: the chart.

mod answer;
mod baselines;
mod bench;
mod building;
mod cases;
mod certificates;
mod chart;
mod encryption;
mod figures;
mod forwarders;
mod growth;
mod haproxy;
mod instructions;
mod load;
mod machine;
mod memory;
mod nginx;
mod options;
mod paced;
mod pods;
mod processor;
mod profile;
mod proxy;
mod real;
mod report;
mod setup;
mod squid;
mod start;
mod syscalls;
mod targets;
mod tinyproxy;
mod tls;
mod tls_memory;
mod tunings;
mod tunnel_baseline;
mod tunnel_memory;
mod tunnels;
mod wire;
mod workers;

use std::{fs, process::ExitCode};

use bench::Bench;
use options::{Asked, Options, Part};

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
        Ok(false) => ExitCode::FAILURE, // a limit was exceeded; the table shows which
        Err(error) => {
            eprintln!("side_by_side: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the requested parts. Returns whether everything stayed within its limits.
///
/// If a part fails, the others still run.
fn run(bench: &Bench) -> Result<bool, String> {
    bench.describe();
    let mut within = true;
    let mut failed = Vec::new();
    for part in &bench.options.parts {
        let result = self::part(bench, *part).map(|kept| within &= kept);
        failed.extend(result.err().inspect(|error| println!("NOT MEASURED: {error}\n")));
    }
    if failed.is_empty() { Ok(within) } else { Err(failed.join("; ")) }
}

fn part(bench: &Bench, part: Part) -> Result<bool, String> {
    let mut verdicts = Vec::new();
    match part {
        Part::Processor => {
            let cases = processor::run(bench)?;
            verdicts.extend(targets::verdicts(&cases));
            if let Some(path) = &bench.options.svg {
                let picture = chart::draw(&cases);
                fs::write(path, picture).map_err(|error| format!("{}: {error}", path.display()))?;
            }
        }
        Part::Paced => verdicts.extend(paced::run(bench)?),
        Part::Proxy => verdicts.extend(targets::proxy_verdicts(&proxy::run(bench)?)),
        Part::Tunnels => {
            verdicts.extend(targets::tunnel_verdicts(&tunnels::run(bench)?));
            verdicts.extend(tunnel_memory::run(bench)?);
        }
        Part::Tls => {
            verdicts.extend(tls::run(bench)?);
            verdicts.extend(tls_memory::run(bench)?);
        }
        Part::Memory => verdicts.extend(memory::run(bench)?),
        Part::Start => verdicts.extend(start::run(bench)?),
        Part::Real => real::run(bench)?,
        Part::Syscalls => syscalls::run(bench)?,
        Part::Instructions => return instructions::run(bench),
        Part::Profile => profile::run(bench)?,
        Part::Growth => growth::run(bench)?,
        Part::Workers => workers::run(bench)?,
        Part::Nginx => tunings::run(bench)?,
    }
    bench.report.verdicts(part.name(), &verdicts)?;
    Ok(true)
}
