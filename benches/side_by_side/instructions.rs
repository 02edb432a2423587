//! User-space instructions per scrape, counted by callgrind. The count hardly varies, so it has limits.
//!
//! One client scrapes one pod, one scrape after the other. A short and a long run are subtracted, so that start and end
//! cancel out and only the additional scrapes remain.

use std::{fs, net::SocketAddr, process::Command, time::Duration};

use crate::{
    bench::Bench,
    cases::{Body, chunked, length},
    certificates::Key,
    encryption::Tls,
    forwarders::{Forwarder, free_address},
    load::{self, Scrape},
    pods,
    wire::Wire,
};

/// The number of scrapes in the two runs.
pub(crate) const SCRAPES: [u64; 2] = [100, 1100];
/// How far a case may exceed its limit, because compilers differ a little.
const TOLERANCE: f64 = 1.05;
const END_MAX: Duration = Duration::from_secs(20);

/// The cases and their limits: the count when it was last updated. CI fails if one is exceeded by 5 %. If the code
/// becomes cheaper, run the `instructions` part and lower the limit to its count, rounded up to the next hundred. A
/// commit that raises a limit has to give the reason.
const LIMITS: [(Asked, u64); 8] = [
    (Asked::Pod(length(16)), 11_000),
    (Asked::Absolute(length(16)), 11_100),
    (Asked::Pod(chunked(16)), 11_700),
    (Asked::Tunnel(length(16)), 3_600),
    (Asked::Tls(length(16)), 90_300),
    (Asked::PodTls(length(16)), 91_700),
    (Asked::Refusal, 10_500),
    (Asked::Metrics, 181_800),
];

/// The most instructions of a scrape in absolute form, as a multiple of the same scrape by `/pods/`: both are one plan.
const ABSOLUTE_MAX: f64 = 1.03;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked {
    Pod(Body),
    /// A scrape in absolute form, as with `proxy_url`.
    Absolute(Body),
    /// A scrape in a tunnel, as with `proxy_url` and `https`.
    Tunnel(Body),
    /// A scrape with TLS of the client.
    Tls(Body),
    /// A scrape with TLS of the pod.
    PodTls(Body),
    /// A scrape of a pod that is not allowed.
    Refusal,
    /// psystrike's own metrics.
    Metrics,
}

impl Asked {
    fn name(self) -> String {
        match self {
            Self::Pod(body) => body.to_string(),
            Self::Absolute(body) => format!("{body}, absolute form"),
            Self::Tunnel(body) => format!("{body}, in a tunnel"),
            Self::Tls(body) => format!("{body}, TLS with the client"),
            Self::PodTls(body) => format!("{body}, TLS with the pod"),
            Self::Refusal => "refusal".to_owned(),
            Self::Metrics => "/metrics".to_owned(),
        }
    }

    fn scrape(self, bench: &Bench, address: SocketAddr) -> Scrape {
        match self {
            Self::Pod(body) | Self::Tls(body) => {
                Scrape::new(address, pods::address(0), bench.pods.port, body)
            }
            Self::PodTls(body) => Scrape::new(address, pods::address(0), bench.pods.tls_port, body),
            Self::Absolute(body) => Scrape::absolute(pods::address(0), bench.pods.port, body),
            Self::Tunnel(body) => Scrape::of_target(pod(bench), &body.path(), 200, Some(body.bytes)),
            Self::Refusal => Scrape::of_target(address, "/pods/10.0.0.1/9100/metrics", 403, None),
            Self::Metrics => Scrape::of_target(address, "/metrics", 200, None),
        }
    }
}

fn pod(bench: &Bench) -> SocketAddr {
    (pods::address(0), bench.pods.port).into()
}

/// Counts for every psystrike binary. Returns whether the first one stays within the limits.
pub(crate) fn run(bench: &Bench) -> Result<bool, String> {
    let mut within = true;
    let ours = bench.forwarders.iter().filter(|forwarder| forwarder.is_ours());
    for (index, forwarder) in ours.enumerate() {
        let mut rows = Vec::new();
        let mut by_path = f64::INFINITY;
        for (asked, limit) in LIMITS {
            let name = asked.name();
            let instructions = count(bench, forwarder, asked).map_err(|error| format!("{name}: {error}"))?;
            let count = format!("{instructions:.0}");
            if index > 0 {
                rows.push(vec![name, count, "-".to_owned(), "-".to_owned()]); // limits are for the first binary
                continue;
            }
            let is_within = instructions <= limit as f64 * TOLERANCE;
            let is_one_plan = !matches!(asked, Asked::Absolute(_)) || instructions <= by_path * ABSOLUTE_MAX;
            if matches!(asked, Asked::Pod(_)) {
                by_path = by_path.min(instructions);
            }
            within &= is_within && is_one_plan;
            let verdict = match (is_within, is_one_plan) {
                (true, true) => "within 5 %",
                (false, _) => "EXCEEDED",
                (true, false) => "OVER 1.03 × /pods/",
            };
            rows.push(vec![name, count, limit.to_string(), verdict.to_owned()]);
        }
        let title = format!("Instructions: {}", forwarder.name);
        bench.report.table(&title, &["case", "instructions", "limit", "verdict"], &rows)?;
    }
    Ok(within)
}

fn count(bench: &Bench, forwarder: &Forwarder, asked: Asked) -> Result<f64, String> {
    let mut totals = [0_u64; 2];
    for (scrapes, total) in SCRAPES.into_iter().zip(&mut totals) {
        let written = callgrind(bench, forwarder, asked, scrapes)?;
        let line = written.lines().find_map(|line| line.strip_prefix("totals:"));
        *total = line.and_then(|total| total.trim().parse().ok()).ok_or("callgrind counted nothing")?;
    }
    Ok((totals[1] as f64 - totals[0] as f64) / (SCRAPES[1] - SCRAPES[0]) as f64)
}

/// Callgrind's output for a process that serves this many scrapes.
pub(crate) fn callgrind(
    bench: &Bench,
    forwarder: &Forwarder,
    asked: Asked,
    scrapes: u64,
) -> Result<String, String> {
    let setup = bench.setup();
    let address = free_address()?;
    let folder = bench.options.profiles.as_ref().unwrap_or(&setup.scratch);
    let file = folder
        .join(format!("{}-{}-{scrapes}.callgrind", forwarder.name, asked.name()).replace(['/', ' '], "-"));
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--compress-strings=no", "--compress-pos=no"]);
    command.arg(format!("--callgrind-out-file={}", file.display()));
    let forwarder = match asked {
        Asked::Tunnel(_) => &forwarder.clone().in_tunnels(),
        Asked::Tls(_) => &forwarder.clone().with_tls(Tls::Clients(Key::P256)),
        Asked::PodTls(_) => &forwarder.clone().with_tls(Tls::Pods),
        _ => forwarder,
    };
    command.args(forwarder.command(address, &setup)?);
    let mut running = forwarder.spawn(&mut command, address, &setup.scratch.join("callgrind.log"))?;
    let scrape = asked.scrape(bench, address);
    let mut client = match asked {
        Asked::Tunnel(_) => Wire::plain(load::tunnel(address, pod(bench))?),
        _ => load::client(address, matches!(asked, Asked::Tls(_)))?,
    };
    for _ in 0..scrapes {
        load::scrape(&mut client, &scrape)?;
    }
    drop(client);
    running.end(END_MAX).ok_or("valgrind does not exit")?;
    fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))
}
