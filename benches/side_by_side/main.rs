//! psystrike beside nginx, HAProxy and the floors of what sockets cost: processor time, latency, memory, start.
//!
//! Starts everything itself, on loopback only, and ends it; every wait and every run has a bound, but for cargo's
//! where it builds. Prints tables and verdicts as Markdown. See `--help`, and the modules:
//!
//! - [`options`]: what can be asked for;
//! - [`cases`]: the bodies that are scraped;
//! - [`pods`]: what is scraped; [`load`]: what scrapes, with [`answer`], which checks every answer;
//! - [`forwarders`]: what stands between, with [`building`], [`nginx`], and [`floors`], which parse nothing;
//! - [`machine`]: cores, and what the kernel says a forwarder used; [`figures`]: medians, spreads, ratios;
//! - the parts: [`processor`], [`memory`], [`start`], [`syscalls`], [`instructions`], [`profile`], [`growth`],
//!   [`workers`], and [`nginx`] again, for what its best is;
//! - [`report`]: tables and verdicts; [`chart`]: the picture.

mod answer;
mod building;
mod cases;
mod chart;
mod figures;
mod floors;
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
mod report;
mod start;
mod syscalls;
mod workers;

use std::{fs, path::PathBuf, process::ExitCode};

use forwarders::{Forwarder, Setup};
use options::{Asked, Options, Part};
use pods::Pods;
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
        Ok(Asked::Run(options)) => Bench::new(*options).and_then(|bench| bench.run()),
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

/// What all parts need.
struct Bench {
    options: Options,
    pods: Pods,
    /// Those that are asked for and installed. The first psystrike is the one that verdicts are about.
    forwarders: Vec<Forwarder>,
    scratch: PathBuf,
}

impl Bench {
    fn new(options: Options) -> Result<Self, String> {
        let open_files = machine::raise_open_files()?;
        let needed = 2 * options.idle as u64 + 1000;
        if options.parts.contains(&Part::Memory) && open_files < needed {
            return Err(format!(
                "--idle {} needs {needed} open files, and there are {open_files}",
                options.idle
            ));
        }
        machine::pin(&[options.load_core])?;
        let pods = Pods::start().map_err(|error| format!("pods: {error}"))?;
        // Not below target/, which a forwarder that gives up root may not be able to enter.
        let scratch = std::env::temp_dir().join(format!("psystrike-side-by-side-{}", std::process::id()));
        fs::create_dir_all(&scratch).map_err(|error| format!("{}: {error}", scratch.display()))?;
        let (forwarders, missing): (Vec<_>, Vec<_>) =
            options.forwarders.iter().cloned().partition(Forwarder::is_installed);
        for forwarder in missing {
            println!("NOT MEASURED: {} is not installed\n", forwarder.name);
        }
        Ok(Self { options, pods, forwarders, scratch })
    }

    /// Runs the parts that were asked for. Says whether nothing passed a limit.
    ///
    /// A part that fails does not keep the others from being run, nor verdicts from being told.
    fn run(&self) -> Result<bool, String> {
        report::machine(&self.options, &self.forwarders);
        let mut within = true;
        let mut verdicts = Vec::new();
        let mut failed = Vec::new();
        for part in &self.options.parts {
            let result = self.part(part, &mut verdicts).map(|kept| within &= kept);
            failed.extend(result.err().inspect(|error| println!("NOT MEASURED: {error}\n")));
        }
        report::verdicts(&verdicts);
        if failed.is_empty() { Ok(within) } else { Err(failed.join("; ")) }
    }

    fn part(&self, part: &Part, verdicts: &mut Vec<Verdict>) -> Result<bool, String> {
        match part {
            Part::Processor => {
                let cases = processor::run(self)?;
                verdicts.extend(report::processor_verdicts(&cases));
                if let Some(path) = &self.options.svg {
                    let picture = chart::draw(&cases);
                    fs::write(path, picture).map_err(|error| format!("{}: {error}", path.display()))?;
                }
            }
            Part::Memory => verdicts.extend(memory::run(self)?),
            Part::Start => verdicts.extend(start::run(self)?),
            Part::Syscalls => syscalls::run(self)?,
            Part::Instructions => return instructions::run(self),
            Part::Profile => profile::run(self)?,
            Part::Growth => growth::run(self)?,
            Part::Workers => workers::run(self)?,
            Part::Nginx => nginx::run(self)?,
        }
        Ok(true)
    }

    /// What forwarders have to serve in most parts.
    fn setup(&self) -> Setup {
        Setup {
            scratch: self.scratch.clone(),
            cores: vec![self.options.forwarder_core],
            pods: self.options.pods,
            pods_port: self.pods.port,
            clients: self.options.clients,
            answer_bytes: 0,
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Left over, it would be a few files in a folder for such.
        let _ = fs::remove_dir_all(&self.scratch);
    }
}
