//! The figures in the documents. The benchmark writes what it measures into PERF.md and benches/HISTORY.md (`--write`).
//! Everything that is computed from that is a block that these tests generate: with `PSYSTRIKE_WRITE=1` they write it;
//! without, they fail if it is not current.
//!
//! A measured block begins with `<!-- Measured: TITLE -->`. A generated one begins with
//! `<!-- Generated from PERF.md: NAME -->`.

mod support;

use std::collections::BTreeSet;

use psystrike::proxy::budget::ALLOWANCE_BYTES;
use support::{
    generated,
    markdown::{self, Document},
    read,
};

const END: &str = "<!-- End of measured -->\n";
/// The static binary, which containers run.
const OURS: &str = "psystrike musl";
/// Pages in small writes, one scrape at a time.
const TIME: &str = "Processor time: µs/scrape, net/http";
const TIME_256_KIB: &str = "256 KiB, net/http";
const MEMORY: &str = "Memory: Pss in KiB";
/// Its rows are `1000 pods: psystrike`, for ascending numbers.
const PACED: &str = "Paced: 16 KiB, net/http";

// The figures that the sizing is for. The manifests set the limits.
const PODS: [f64; 3] = [100.0, 1_000.0, 10_000.0];
const INTERVAL_SECONDS: f64 = 15.0;
const CLIENTS_MAX: f64 = 1_000.0;
const IDLE_MAX: f64 = 2_000.0;
const MEMORY_MIB: f64 = 32.0;
/// Measured once, as deploy/README.md says.
const KERNEL_KIB_EACH: f64 = 4.1;
// src/limits.rs and src/proxy/budget.rs: the part of the memory that buffers may have, and each client's buffers
// beside.
const BUFFERS_PART: f64 = 4.0;
/// The kernel's memory for responses that gather, as a part of the buffers.
const GATHERED_PART: f64 = 0.125;
const ALLOWANCE_KIB: f64 = ALLOWANCE_BYTES as f64 / 1024.0;

/// The documents that the benchmark writes tables into.
const DOCUMENTS: [&str; 2] = ["PERF.md", "benches/HISTORY.md"];

/// A table that the benchmark wrote.
struct Measured {
    title: String,
    rows: Vec<Vec<String>>,
    /// The line below the table.
    origin: String,
}

impl Measured {
    fn all() -> Vec<Self> {
        let text: String = DOCUMENTS.map(read).concat();
        let blocks = text.split("<!-- Measured: ").skip(1);
        let block = |block: &str| {
            let (title, rest) = block.split_once(" -->\n").expect("a title");
            let (content, _) = rest.split_once(END).unwrap_or_else(|| panic!("{title}: no {END:?}"));
            let origin = content.lines().rfind(|line| !line.is_empty()).unwrap_or_default();
            Self { title: title.to_owned(), rows: markdown::table(content), origin: origin.to_owned() }
        };
        blocks.map(block).collect()
    }

    fn named(title: &str) -> Self {
        let found = Self::all().into_iter().find(|measured| measured.title == title);
        found.unwrap_or_else(|| panic!("no document has a measured table {title:?}"))
    }

    /// The number at the beginning of a cell.
    fn figure(&self, row: &str, column: &str) -> f64 {
        let Self { title, rows, .. } = self;
        let at = rows.first().and_then(|head| head.iter().position(|cell| cell == column));
        let at = at.unwrap_or_else(|| panic!("{title}: no column {column}"));
        let cells = rows.iter().find(|cells| cells[0] == row);
        let cells = cells.unwrap_or_else(|| panic!("{title}: no row {row}"));
        let number = cells[at].split(' ').next().unwrap_or_default();
        number.parse().unwrap_or_else(|_| panic!("{title}: {row}, {column}: {:?}", cells[at]))
    }
}

/// The share of a core for scrapes of this many pods.
fn percent_of_core(pods: f64, scrape_us: f64) -> String {
    two_digits(pods / INTERVAL_SECONDS * scrape_us / 1e6 * 100.0)
}

/// Memory at start, and for each client with its pooled pod connection.
fn start_and_each_kib() -> (f64, f64) {
    let memory = Measured::named(MEMORY);
    (memory.figure(OURS, "start"), memory.figure(OURS, "bytes per client") / 1024.0)
}

/// The process and the kernel with as many connections as the manifests allow, all idle.
fn idle_at_limits_kib() -> f64 {
    let (start, each) = start_and_each_kib();
    start + IDLE_MAX * each + (IDLE_MAX + CLIENTS_MAX) * KERNEL_KIB_EACH
}

/// The same if every client scrapes, each through a pod connection that is not from the pool, buffers are full, and as
/// many responses as possible gather in the kernel.
fn busy_at_limits_kib() -> f64 {
    idle_at_limits_kib()
        + CLIENTS_MAX * (KERNEL_KIB_EACH + ALLOWANCE_KIB)
        + MEMORY_MIB * 1024.0 / BUFFERS_PART * (1.0 + GATHERED_PART)
}

/// The generated block of this name.
fn block(name: &str) -> String {
    match name {
        "cost" => cost(COST_HEADER),
        "cost, in Japanese" => cost(COST_HEADER_JAPANESE),
        "sizing" => sizing(),
        "limits" => limits(),
        _ => panic!("no test generates {name:?}"),
    }
}

const COST_HEADER: &str = "| pods | CPU: psystrike | nginx tuned | nginx simple | HAProxy | memory: psystrike | nginx \
     tuned | nginx simple | HAProxy |\n";
const COST_HEADER_JAPANESE: &str = "| Pod数 | CPU: psystrike | nginx(調整した設定) | nginx(一般的な設定) | HAProxy | メモリ: \
     psystrike | nginx(調整した設定) | nginx(一般的な設定) | HAProxy |\n";

/// A column of the paced load: the number of pods, ascending, and the figure.
fn paced(column: &str, forwarder: &str) -> Vec<(f64, f64)> {
    let table = Measured::named(PACED);
    let row = |cells: &Vec<String>| {
        let pods = cells[0].strip_suffix(&format!(" pods: {forwarder}"))?.parse().ok()?;
        Some((pods, table.figure(&cells[0], column)))
    };
    table.rows.iter().filter_map(row).collect()
}

/// Processor time for one scrape if so many pods are scraped at a steady pace, or the most that were measured.
fn paced_scrape_us(pods: f64, forwarder: &str) -> f64 {
    let measured = paced("processor µs/scrape", forwarder);
    let (_, us) = measured.iter().rfind(|(number, _)| *number <= pods).expect("so few pods");
    *us
}

/// The memory of a process with this many pods. Beyond what is measured, it continues the line through the last two
/// measurements.
fn paced_memory_kib(pods: f64, forwarder: &str) -> f64 {
    let measured = paced("Pss KiB", forwarder);
    let [.., few, many] = measured[..] else { panic!("{PACED}: {measured:?} of {forwarder}") };
    let exactly = measured.iter().find(|(number, _)| *number == pods);
    exactly.map_or(many.1 + (many.1 - few.1) / (many.0 - few.0) * (pods - many.0), |(_, kib)| *kib)
}

/// PERF.md and the READMEs: psystrike beside others, by the number of pods.
fn cost(header: &str) -> String {
    let forwarders = [OURS, "nginx tuned", "nginx simple", "haproxy"];
    let mut table = header.to_owned();
    table += &format!("{}|\n", "| ---: ".repeat(9));
    for pods in PODS {
        let processor = forwarders.map(|name| percent_of_core(pods, paced_scrape_us(pods, name)) + " %");
        let memory =
            forwarders.map(|name| format!("{} MiB", two_digits(paced_memory_kib(pods, name) / 1024.0)));
        let cells = [&[thousands(&pods.to_string())], &processor[..], &memory[..]].concat();
        table += &format!("| {} |\n", cells.join(" | "));
    }
    table
}

/// deploy/README.md: resources by the number of pods.
fn sizing() -> String {
    let large = Measured::named(TIME).figure(OURS, TIME_256_KIB);
    let mut table =
        "| pods | scrapes/s | CPU: pages of 16 KiB | pages of 256 KiB | traffic, each way: pages of 16 \
                     KiB | pages of 256 KiB | memory of the process | and of the kernel |\n"
            .to_owned();
    table += &format!("{}|\n", "| ---: ".repeat(8));
    for pods in PODS {
        let scrapes = pods / INTERVAL_SECONDS;
        let megabits = |kib: f64| two_digits(scrapes * kib * 1024.0 * 8.0 / 1e6);
        table += &format!(
            "| {} | {} | {} % of a core | {} % of a core | {} Mbit/s | {} Mbit/s | {:.1} MiB | {:.1} MiB |\n",
            thousands(&pods.to_string()),
            two_digits(scrapes),
            percent_of_core(pods, paced_scrape_us(pods, OURS)),
            percent_of_core(pods, large),
            megabits(16.0),
            megabits(256.0),
            paced_memory_kib(pods, OURS) / 1024.0,
            (pods + pods.min(CLIENTS_MAX)) * KERNEL_KIB_EACH / 1024.0,
        );
    }
    table
}

/// deploy/README.md: memory at the limits that the manifests set.
fn limits() -> String {
    let mib = |kib: f64| format!("{:.0} MiB", kib / 1024.0);
    let (clients, idle) = (thousands(&CLIENTS_MAX.to_string()), thousands(&IDLE_MAX.to_string()));
    format!(
        "| process and kernel together, with the limits of the manifests | memory |\n| --- | ---: |\n\
         | {idle} pooled pod connections and {clients} idle clients | {} |\n\
         | the same, but every client scrapes, and buffers are full | {} |\n\
         | memory limit | {MEMORY_MIB:.0} MiB |\n",
        mib(idle_at_limits_kib()),
        mib(busy_at_limits_kib()),
    )
}

#[test]
fn generated_blocks_are_current() {
    let mut names = BTreeSet::new();
    for document in Document::all() {
        for (at, _) in document.text.match_indices("<!-- Generated from PERF.md: ") {
            let (begin, _) = document.text[at..].split_once('\n').expect("a line");
            let name = begin.trim_start_matches("<!-- Generated from PERF.md: ").trim_end_matches(" -->");
            let lines = (&*format!("{begin}\n\n"), "\n<!-- End of what is generated -->\n");
            generated::part_between(&document.path, lines, &block(name), "the benchmark");
            names.insert(name.to_owned());
        }
    }
    let expected = ["cost", "cost, in Japanese", "limits", "sizing"].map(str::to_owned);
    assert_eq!(names, BTreeSet::from(expected), "the blocks in all documents");
}

#[test]
fn measured_tables_name_their_revision_and_command() {
    let mut titles = BTreeSet::new();
    for Measured { title, rows, origin } in Measured::all() {
        assert!(rows.len() > 1, "{title}: no rows");
        let revision =
            origin.strip_prefix("Measured at revision ").and_then(|rest| rest.split_once(": `-- "));
        let (revision, command) = revision.unwrap_or_else(|| panic!("{title}: {origin:?}"));
        let is_hash = revision.len() >= 7 && revision.chars().all(|c| c.is_ascii_hexdigit());
        assert!(is_hash && command.ends_with("`."), "{title}: {origin}");
        assert!(titles.insert(title.clone()), "{title:?} is there twice");
    }
    assert!(titles.len() > 10, "{titles:?}");
}

#[test]
fn manifests_set_the_limits_of_the_sizing() {
    let busy = busy_at_limits_kib() / 1024.0;
    assert!(busy < MEMORY_MIB, "{busy} MiB do not fit into the limit of the manifests");
    let base = "deploy/kubernetes/base";
    let variables = [format!("CLIENTS_MAX={CLIENTS_MAX}"), format!("UPSTREAMS_IDLE_MAX={IDLE_MAX}")];
    let values = [format!("clients-max: {CLIENTS_MAX}"), format!("upstreams-idle-max: {IDLE_MAX}")];
    for (file, expected) in [
        (format!("{base}/deployment.yaml"), &[format!("memory: {MEMORY_MIB:.0}Mi")][..]),
        (format!("{base}/kustomization.yaml"), &variables),
        ("deploy/systemd/psystrike.service".to_owned(), &variables),
        ("deploy/helm/values.yaml".to_owned(), &values),
    ] {
        let text = read(&file);
        for part in expected {
            assert!(text.contains(part), "{file} does not set {part}, for which the sizing is computed");
        }
    }
}

fn two_digits(number: f64) -> String {
    let scale = 10f64.powi(number.log10().floor() as i32 - 1);
    let decimals = (-scale.log10()).round().max(0.0) as usize;
    thousands(&format!("{:.decimals$}", (number / scale).round() * scale))
}

fn thousands(number: &str) -> String {
    let whole = number.split('.').next().unwrap_or(number).len();
    if whole > 3 { format!("{},{}", &number[..whole - 3], &number[whole - 3..]) } else { number.to_owned() }
}
