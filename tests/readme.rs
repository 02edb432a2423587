//! The documents say what the program does: every metric, every outcome. (Every option: tests/options.rs.) And the
//! Japanese README says what the English one does.

mod support;

use std::collections::BTreeSet;

use psystrike::proxy::{
    metrics::{self, BuildInfo, Counters, Process},
    outcome::Outcome,
};
use support::{
    assert_same,
    markdown::{self, Document},
    shipped,
};

#[test]
fn every_metric_is_there() {
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
    metrics::render(&mut page, &[&Counters::default()], fixed, &process);
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
fn every_outcome_is_there_with_what_prometheus_shows() {
    let section = Document::read("deploy/troubleshooting.md").section("What an error means");
    let all = Outcome::ALL.iter().map(|outcome| outcome.label().to_owned());
    assert_same(section.column(1), all, "outcomes in deploy/troubleshooting.md, and in src/proxy/outcome.rs");

    for row in section.table() {
        let [shown, label, cure] = row.as_slice() else { panic!("three columns: {row:?}") };
        let outcome = Outcome::ALL.iter().find(|outcome| *label == format!("`{}`", outcome.label()));
        let outcome = outcome.unwrap_or_else(|| panic!("one outcome a row: {row:?}"));
        assert!(!cure.is_empty(), "{row:?}");
        // Otherwise it breaks off, or is the client's own doing.
        if shown.starts_with('`') {
            let phrase = format!("{} {}", outcome.status(), outcome.reason());
            let part = phrase.split(": ").next().unwrap_or(&phrase);
            assert!(shown.contains(part), "{row:?} lacks {part:?}");
        }
    }
}

#[test]
fn relabelling_is_that_of_the_file_to_deploy() {
    for (document, file) in
        [("README.md", shipped::PROMETHEUS), ("deploy/relabelling.md", shipped::RELABELLING)]
    {
        let blocks = Document::read(document).blocks();
        let rules = blocks.iter().find(|block| block.text.contains("relabel_configs:")).expect("rules");
        assert!(shipped::shipped(file).contains(&rules.text), "{document} against {file}:\n{}", rules.text);
    }
}

#[test]
fn the_japanese_one_says_the_same() {
    let [english, japanese] = ["README.md", "README.ja.md"].map(Document::read);
    assert_eq!(english.blocks(), japanese.blocks());

    let levels = |document: &Document| -> Vec<usize> {
        document.sections().iter().map(|section| section.level).collect()
    };
    assert_eq!(levels(&english), levels(&japanese), "headings");
    for (english_section, japanese_section) in english.sections().iter().zip(japanese.sections()) {
        let title = &english_section.title;
        // Options, defaults, routes, names: in another order where the sentence asks for one.
        let spans = [english_section, &japanese_section].map(|section| {
            let mut spans = section.code_spans();
            spans.sort();
            spans
        });
        assert_eq!(spans[0], spans[1], "code spans of {title:?}");
        let links = [english_section.links(), japanese_section.links()].map(|links| {
            let mut links: Vec<String> = links
                .into_iter()
                .map(|link| match link.as_str() {
                    "README.md" | "README.ja.md" => "the other one".to_owned(),
                    _ => link,
                })
                .collect();
            links.sort();
            links
        });
        assert_eq!(links[0], links[1], "links of {title:?}");
        let of_tables = [english_section.table(), japanese_section.table()].map(|table| {
            let spans = |cell: &String| markdown::code_spans(cell).map(str::to_owned).collect::<Vec<_>>();
            table.iter().map(|row| (row.len(), spans(&row[0]))).collect::<Vec<_>>()
        });
        assert_eq!(of_tables[0], of_tables[1], "rows of {title:?}");
    }
}
