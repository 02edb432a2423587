//! The documents match the program: every metric, every outcome. (Every option: tests/options.rs.) The Japanese README
//! has the same facts as the English one.

mod support;

use std::{collections::BTreeSet, sync::Arc};

use psystrike::proxy::{
    metrics::{self, BuildInfo, Counters, Process},
    outcome::Outcome,
};
use support::{
    assert_same,
    markdown::{self, Document, Section},
    shipped,
};

#[test]
fn every_metric_is_documented() {
    let mut page = Vec::new();
    let fixed =
        BuildInfo { version: "", revision: "", clients_max: 0, upstreams_idle_max: 0, buffers_max: 0 };
    let process = Process {
        cpu_seconds: Some(0.0),
        resident_bytes: Some(0),
        virtual_bytes: Some(0),
        virtual_bytes_max: Some(0),
        open_fds: Some(0),
        max_fds: Some(0),
        start_time_seconds: Some(0.0),
        splices: Some(true),
    };
    let reloads = vec![Arc::new(metrics::ReloadStatus::new("--auth-token-file"))];
    let certificates = vec![Arc::new(metrics::CertificateExpiry::new("--tls-cert"))];
    certificates[0].set(1_800_000_000);
    let state = metrics::State { is_authenticated: false, is_unrestricted: true, reloads, certificates };
    metrics::render(&mut page, &[&Counters::default()], fixed, &process, &state);
    let page = String::from_utf8(page).expect("the page is text");
    let names = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let (own, standard): (BTreeSet<&str>, BTreeSet<&str>) =
        names.partition(|name| name.starts_with("psystrike_"));
    let section = Document::read("deploy/README.md").section("Metrics");
    let documented = section.column(0);
    assert_same(own, documented.iter().map(String::as_str), "metrics on the page, and in deploy/README.md");
    let spans = section.code_spans();
    for name in standard {
        assert!(spans.iter().any(|span| span == name), "{name}");
    }
}

#[test]
fn every_outcome_is_documented_with_the_displayed_error() {
    let section = Document::read("deploy/troubleshooting.md").section("What an error means");
    let all = Outcome::ALL.iter().map(|outcome| outcome.label().to_owned());
    assert_same(section.column(1), all, "outcomes in deploy/troubleshooting.md, and in src/proxy/outcome.rs");

    for row in section.table() {
        let [shown, label, cure] = row.as_slice() else { panic!("three columns: {row:?}") };
        let outcome = Outcome::ALL.iter().find(|outcome| *label == format!("`{}`", outcome.label()));
        let outcome = outcome.unwrap_or_else(|| panic!("one outcome a row: {row:?}"));
        assert!(!cure.is_empty(), "{row:?}");
        // Otherwise the response is aborted, or the client caused the outcome.
        if shown.starts_with('`') {
            let phrase = format!("{} {}", outcome.status(), outcome.reason());
            let part = phrase.split(": ").next().unwrap_or(&phrase);
            assert!(shown.contains(part), "{row:?} lacks {part:?}");
        }
    }
}

#[test]
fn jobs_in_the_readme_are_those_of_the_shipped_files() {
    for (document, part, file) in [
        ("README.md", "proxy_url:", shipped::PROMETHEUS),
        ("deploy/relabelling.md", "relabel_configs:", shipped::RELABELLING),
    ] {
        let blocks = Document::read(document).blocks();
        let job = blocks.iter().find(|block| block.text.contains(part));
        let job = job.unwrap_or_else(|| panic!("{document}: no {part}"));
        assert!(shipped::shipped(file).contains(&job.text), "{document} against {file}:\n{}", job.text);
    }
}

/// Returns the links of a section, in a form that is the same in both languages.
fn links(document: &Document, section: &Section) -> BTreeSet<String> {
    let links = section.links().into_iter().map(|link| match link.strip_prefix('#') {
        // Headings are translated, and so are their anchors.
        Some(anchor) => {
            format!("heading {:?}", document.anchors().iter().position(|other| other == anchor))
        }
        None if link == "README.md" || link == "README.ja.md" => "the other one".to_owned(),
        None => link,
    });
    links.collect()
}

#[test]
fn the_japanese_readme_has_the_same_facts() {
    let [english, japanese] = ["README.md", "README.ja.md"].map(Document::read);
    assert_eq!(english.blocks(), japanese.blocks());

    let levels = |document: &Document| -> Vec<usize> {
        document.sections().iter().map(|section| section.level).collect()
    };
    assert_eq!(levels(&english), levels(&japanese), "headings");
    for (english_section, japanese_section) in english.sections().iter().zip(&japanese.sections()) {
        let title = &english_section.title;
        // Options, defaults, routes and names, in any order and any number.
        let spans = [english_section, japanese_section]
            .map(|section| section.code_spans().into_iter().collect::<BTreeSet<_>>());
        assert_eq!(spans[0], spans[1], "code spans of {title:?}");
        let links = [links(&english, english_section), links(&japanese, japanese_section)];
        assert_eq!(links[0], links[1], "links of {title:?}");
        let of_tables = [english_section.table(), japanese_section.table()].map(|table| {
            let spans = |cell: &String| markdown::code_spans(cell).map(str::to_owned).collect::<Vec<_>>();
            table.iter().map(|row| (row.len(), spans(&row[0]))).collect::<Vec<_>>()
        });
        assert_eq!(of_tables[0], of_tables[1], "rows of {title:?}");
    }
}
