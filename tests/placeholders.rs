//! The address where this project is published is that of `repository` in Cargo.toml, a placeholder until publication.
//! To publish, change it there; `PSYSTRIKE_WRITE=1 cargo test --test placeholders` then writes it into the other files.

mod support;

use std::{env, fs, path::Path};

use support::{assert_same, markdown::Document, read, repository};

const PLACEHOLDER: &str = "https://git.example/psystrike";
const PUBLISHED_AT: &str = env!("CARGO_PKG_REPOSITORY");

/// Every file that contains the address.
const FILES: &[&str] = &[
    ".github/ISSUE_TEMPLATE/config.yml",
    "Cargo.toml",
    "SECURITY.md",
    "deploy/README.md",
    "deploy/helm/README.md",
    "deploy/helm/files/psystrike.rules.yml",
    "deploy/helm/templates/prometheusrule.yaml",
    "deploy/helm/values.yaml",
    "deploy/prometheus/operator/prometheusrule.yaml",
    "deploy/prometheus/psystrike.rules.test.yml",
    "deploy/prometheus/psystrike.rules.yml",
];

#[test]
fn the_projects_address_is_the_same_everywhere() {
    assert_eq!(env!("CARGO_PKG_HOMEPAGE"), PUBLISHED_AT, "homepage in Cargo.toml");
    let documentation = format!("documentation = \"{PUBLISHED_AT}/blob/main/deploy/README.md\"\n");
    assert!(read("Cargo.toml").contains(&documentation), "Cargo.toml has no {documentation}");

    if env::var_os("PSYSTRIKE_WRITE").is_some() {
        for file in FILES {
            let text = read(file).replace(PLACEHOLDER, PUBLISHED_AT);
            fs::write(repository().join(file), text).expect("the file is writable");
        }
    }
    let mut found = Vec::new();
    find(repository(), PUBLISHED_AT, &mut found);
    let what = "files with the address of Cargo.toml, and those of this test's list; \
                PSYSTRIKE_WRITE=1 cargo test --test placeholders replaces the placeholder in them";
    assert_same(found, FILES.iter().map(|file| (*file).to_owned()), what);
    if PUBLISHED_AT != PLACEHOLDER {
        let mut left = Vec::new();
        find(repository(), PLACEHOLDER, &mut left);
        assert!(left.is_empty(), "{PLACEHOLDER} is left in {left:?}");
    }
}

/// GitHub shows a file of the main branch below `blob/main/`, and answers 404 to a file's path alone.
#[test]
fn links_into_the_repository_have_the_form_of_github() {
    const PAGES: &[&str] = &["security/advisories/new"];
    let mut wrong = Vec::new();
    for file in FILES {
        for link in read(file).split(PUBLISHED_AT).skip(1).filter_map(|rest| rest.strip_prefix('/')) {
            let link =
                link.split(|c: char| c.is_whitespace() || "\"'<>()`".contains(c)).next().unwrap_or(link);
            if !PAGES.contains(&link) && !leads_to_a_file(link) {
                wrong.push(format!("{file}: {PUBLISHED_AT}/{link}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "not a page, and not a file or heading below blob/main/:\n{}",
        wrong.join("\n")
    );
}

fn leads_to_a_file(link: &str) -> bool {
    let Some(link) = link.strip_prefix("blob/main/") else { return false };
    let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
    repository().join(path).is_file()
        && anchor.is_none_or(|anchor| Document::read(path).anchors().iter().any(|known| known == anchor))
}

/// Collects the files that contain a text, except for this one and what Git and Cargo keep.
fn find(folder: &Path, text: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name =
            path.strip_prefix(repository()).expect("below the repository").to_string_lossy().into_owned();
        if [".git", "target", file!()].contains(&&*name) {
            continue;
        }
        if path.is_dir() {
            find(&path, text, found);
        } else if fs::read(&path).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text)) {
            found.push(name);
        }
    }
}
