//! Jobs of a real Prometheus with one target each, and what its targets page shows after some scrapes.

use std::{fmt::Write as _, time::Duration};

use super::{
    Scratch,
    prometheus::{Prometheus, Release, Target},
};

/// A job, and what comes of it.
#[derive(Clone)]
pub struct Job {
    pub name: &'static str,
    /// Its lines, apart from those for the target.
    pub lines: String,
    pub target: String,
    /// The end of the error that is shown. Empty: the target is up.
    pub error: &'static str,
}

pub fn job(name: &'static str, lines: String, target: String, error: &'static str) -> Job {
    Job { name, lines, target, error }
}

/// Starts a Prometheus with these jobs, and checks what it shows for each after three scrapes.
pub fn assert_jobs(release: Release, scratch: &Scratch, jobs: &[Job]) -> Prometheus {
    let mut configuration =
        "global: { scrape_interval: 1s, scrape_timeout: 1s }\nscrape_configs:\n".to_owned();
    for Job { name, lines, target, .. } in jobs {
        let lines = lines.replace('\n', "\n  ");
        let targets = format!("static_configs: [{{ targets: ['{target}'] }}]");
        let _ = writeln!(configuration, "- job_name: {name}\n  {lines}\n  {targets}");
    }
    scratch.write("prometheus.yml", &configuration);
    let prometheus = Prometheus::start(release, scratch);
    let settled = "count_over_time(up[5m]) >= 3";
    let in_time = prometheus.wait_until(Duration::from_secs(25), |it| it.query(settled).len() == jobs.len());
    let targets = prometheus.targets();
    assert!(in_time, "{targets:#?}");
    let mut wrong = String::new();
    for Job { name, error, .. } in jobs {
        let is_it = |target: &&Target| target.labels["job"] == *name;
        let target = targets.iter().find(is_it).unwrap_or_else(|| panic!("no {name}: {targets:#?}"));
        let health = if error.is_empty() { "up" } else { "down" };
        if !target.last_error.ends_with(error) || target.health != health {
            let _ = writeln!(wrong, "{name}: {}: {:?}, not {error:?}", target.health, target.last_error);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    prometheus
}
