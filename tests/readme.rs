//! The README says what the program does: every option with its default, every metric, every outcome.

use std::{collections::BTreeSet, fs};

use psystrike::{
    config::HELP,
    proxy::{
        metrics::{self, Counters, Fixed, Process},
        outcome::Outcome,
    },
};

fn readme() -> String {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("README.md is there")
}

/// What stands in `` `backticks` `` in one column of the table under a heading.
fn column(readme: &str, heading: &str, column: usize) -> Vec<String> {
    let section = readme.split(&format!("\n## {heading}\n")).nth(1).unwrap_or_else(|| panic!("no {heading}"));
    let section = section.split("\n## ").next().unwrap_or(section);
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    // A `\|` within a cell is none that separates cells.
    let cells = rows.filter_map(|row| row.replace("\\|", "/").split('|').nth(column + 1).map(str::to_owned));
    cells.filter_map(|cell| cell.split('`').nth(1).map(str::to_owned)).collect()
}

#[test]
fn every_option_is_there_with_its_default() {
    let readme = readme();
    let words = HELP.split_whitespace().filter(|word| word.starts_with("--"));
    let in_help: BTreeSet<&str> = words.map(|word| word.trim_end_matches([';', ':', ','])).collect();
    let in_help = &in_help - &BTreeSet::from(["--healthcheck", "--help", "--version"]);
    let options = column(&readme, "Options", 0);
    let in_readme = options.iter().map(|option| option.split(' ').next().unwrap_or_default()).collect();
    assert_eq!(in_help, in_readme);

    let help = HELP.split_whitespace().collect::<Vec<_>>().join(" ");
    for (option, default) in options.iter().zip(column(&readme, "Options", 1)) {
        let name = option.split(' ').next().unwrap_or_default();
        let from = help.split(&format!(" {name} ")).nth(1).unwrap_or_else(|| panic!("{name} in {help}"));
        let first = default.split(' ').next().unwrap_or_default();
        assert!(from.contains(&format!("[default: {first}")), "{name}: {default} is not in {from}");
    }
}

#[test]
fn every_metric_is_there() {
    let mut page = Vec::new();
    let fixed = Fixed { version: "", revision: "", clients_max: 0, upstreams_idle_max: 0 };
    let process = Process {
        cpu_seconds: Some(0.0),
        resident_bytes: Some(0),
        virtual_bytes: Some(0),
        virtual_bytes_max: Some(0),
        open_fds: Some(0),
        max_fds: Some(0),
        start_time_seconds: Some(0.0),
    };
    metrics::render(&mut page, &[&Counters::default()], fixed, &process);
    let page = String::from_utf8(page).expect("the page is text");
    let names = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let (own, standard): (BTreeSet<&str>, BTreeSet<&str>) =
        names.partition(|name| name.starts_with("psystrike_"));
    let readme = readme();
    let in_readme = column(&readme, "Metrics", 0);
    assert_eq!(own, in_readme.iter().map(String::as_str).collect());
    for name in standard {
        assert!(readme.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn every_outcome_is_there_with_what_prometheus_shows() {
    let readme = readme();
    let known: BTreeSet<String> = column(&readme, "What an error means", 1).into_iter().collect();
    let all: BTreeSet<String> = Outcome::ALL.iter().map(|outcome| outcome.label().to_owned()).collect();
    assert_eq!(known, all);

    let rows: Vec<&str> = readme.lines().filter(|line| line.starts_with("| `")).collect();
    for outcome in Outcome::ALL.iter().filter(|outcome| outcome.status() >= 400) {
        let row = rows.iter().find(|row| row.contains(&format!("| `{}` |", outcome.label())));
        let Some(row) = row else { continue }; // it breaks off, or is the client's own doing
        let shown = format!("{} {}", outcome.status(), outcome.reason());
        let part = shown.split(": ").next().unwrap_or(&shown);
        assert!(row.contains(part), "{row}\nlacks {part:?}");
    }
}

#[test]
fn what_it_links_to_is_there() {
    let readme = readme();
    let links = readme.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let files: Vec<&str> = links.filter(|link| !link.contains("://")).collect();
    assert!(files.contains(&"PERF.md"), "{files:?}");
    for file in files {
        let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
        assert!(fs::metadata(&path).is_ok(), "{file}");
    }
}

#[test]
fn its_relabelling_is_that_of_the_file_to_deploy() {
    let readme = readme();
    let rules = readme.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("rules");
    let file = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus/prometheus.yml"));
    assert!(file.is_ok_and(|file| file.contains(rules)), "{rules}");
}
