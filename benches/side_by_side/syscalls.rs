//! System calls per scrape, counted by strace, which is too slow to measure their time.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    bench::Bench, cases::Body, forwarders::Forwarder, load::Until, machine, processor, setup::Setup, tunnels,
};

const SCRAPES: u64 = 4000;
/// Time limit for strace to attach, and to exit.
const STRACE_MAX: Duration = Duration::from_secs(5);
/// Calls that are rarer than this per scrape are left out.
const RATE_MIN: f64 = 0.005;

/// Counts for every body and forwarder.
pub(crate) fn run(bench: &Bench) -> Result<(), String> {
    for &body in &bench.options.bodies {
        table(bench, &bench.forwarders, body, "")?;
    }
    for &body in &bench.options.tunnel_bodies {
        table(bench, &tunnels::forwarders(bench), body, ", in a tunnel")?;
    }
    Ok(())
}

fn table(bench: &Bench, forwarders: &[Forwarder], body: Body, how: &str) -> Result<(), String> {
    let row = |forwarder: &Forwarder| {
        let counts = count(bench, forwarder, body).map_err(|error| format!("{}: {error}", forwarder.name))?;
        let rate = |count: u64| count as f64 / SCRAPES as f64;
        let all = rate(counts.values().sum());
        let mut calls: Vec<_> = counts.into_iter().map(|(call, count)| (rate(count), call)).collect();
        calls.retain(|(rate, _)| *rate >= RATE_MIN);
        calls.sort_by(|a, b| b.0.total_cmp(&a.0));
        let calls: Vec<_> = calls.iter().map(|(rate, call)| format!("{call} {rate:.2}")).collect();
        Ok(vec![forwarder.name.clone(), format!("{all:.2}"), calls.join(", ")])
    };
    let rows = forwarders.iter().map(row).collect::<Result<Vec<_>, String>>()?;
    bench.report.table(
        &format!("System calls per scrape: {body}{how}"),
        &["forwarder", "all", "calls"],
        &rows,
    )
}

fn count(bench: &Bench, forwarder: &Forwarder, body: Body) -> Result<BTreeMap<String, u64>, String> {
    let setup = Setup { answer_bytes: processor::answer_bytes(bench, body)?, ..bench.setup_of(body) };
    let running = forwarder.start(&setup)?;
    let mut load = running.load(&setup, body)?;
    load.run(Until::Count((setup.pods + setup.clients) as u64), None)?;
    let file = bench.scratch.join("strace.txt");
    let mut strace = Strace::attach(&machine::processes(running.pid())?, &file)?;
    load.run(Until::Count(SCRAPES), None)?;
    strace.detach()?;
    let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(parse(&text))
}

/// An attached strace, which is killed on drop.
struct Strace(Child);

impl Strace {
    fn attach(processes: &[i32], file: &Path) -> Result<Self, String> {
        let mut command = Command::new("strace");
        command.args(["-c", "-f", "-o"]).arg(file);
        processes.iter().for_each(|process| {
            command.arg("-p").arg(process.to_string());
        });
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        let strace = Self(child.map_err(|error| format!("strace: {error}"))?);
        let until = Instant::now() + STRACE_MAX;
        for &process in processes {
            while !machine::is_traced(process)? {
                if Instant::now() > until {
                    return Err("strace does not attach".to_owned());
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
        thread::sleep(Duration::from_millis(100)); // the other threads
        Ok(strace)
    }

    fn detach(&mut self) -> Result<(), String> {
        let pid = Pid::from_child(&self.0);
        kill_process(pid, Signal::INT).map_err(|error| format!("strace: {error}"))?;
        let until = Instant::now() + STRACE_MAX;
        while Instant::now() < until {
            if self.0.try_wait().map_err(|error| format!("strace: {error}"))?.is_some() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err("strace does not exit".to_owned())
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // Fails if it has exited already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The calls and counts of strace's summary: `% time, seconds, usecs/call, calls[, errors], syscall`.
fn parse(text: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let calls = words.get(3)?.parse().ok()?;
        let call = words.last().filter(|call| **call != "total")?;
        Some(((*call).to_owned(), calls))
    };
    text.lines().filter_map(line).collect()
}
