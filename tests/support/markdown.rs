//! Parses Markdown as far as this repository's documents use it: headings, fenced blocks, tables, links, code spans.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{read, repository};

/// One document.
#[derive(Debug)]
pub struct Document {
    /// Relative to the repository's root, with `/`.
    pub path: String,
    pub text: String,
}

/// A fenced block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    pub language: String,
    pub text: String,
}

/// A section: a heading and the text up to the next heading.
#[derive(Debug)]
pub struct Section {
    /// The level of the heading; 0 before the first heading.
    pub level: usize,
    pub title: String,
    /// Without fenced blocks.
    pub prose: String,
}

impl Document {
    pub fn read(path: &str) -> Self {
        Self { path: path.to_owned(), text: read(path) }
    }

    /// Every document of the repository.
    pub fn all() -> Vec<Self> {
        let mut paths = Vec::new();
        collect(repository(), &mut paths);
        paths.sort();
        let below = |path: &PathBuf| path.strip_prefix(repository()).ok()?.to_str().map(str::to_owned);
        paths.iter().filter_map(below).map(|path| Self::read(&path)).collect()
    }

    /// Returns its lines, each with whether it belongs to a fenced block (including the fences).
    fn lines(&self) -> impl Iterator<Item = (bool, &str)> {
        let mut inside = false;
        self.text.lines().map(move |line| {
            let fence = line.trim_start().starts_with("```");
            let of_block = inside || fence;
            inside ^= fence;
            (of_block, line)
        })
    }

    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<Block> = None;
        for line in self.text.lines() {
            match (line.trim_start().strip_prefix("```"), &mut open) {
                (Some(language), None) => {
                    open = Some(Block { language: language.to_owned(), text: String::new() });
                }
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (None, Some(block)) => block.text += &format!("{line}\n"),
                (None, None) => {}
            }
        }
        assert_eq!(open, None, "{}: a fenced block does not end", self.path);
        blocks
    }

    pub fn sections(&self) -> Vec<Section> {
        let mut sections = vec![Section { level: 0, title: String::new(), prose: String::new() }];
        for (_, line) in self.lines().filter(|(of_block, _)| !of_block) {
            let level = line.bytes().take_while(|byte| *byte == b'#').count();
            match line[level..].strip_prefix(' ') {
                Some(title) if level > 0 => {
                    sections.push(Section { level, title: title.to_owned(), prose: String::new() });
                }
                _ => {}
            }
            let Some(section) = sections.last_mut() else { continue };
            section.prose += &format!("{line}\n");
        }
        sections
    }

    pub fn section(&self, title: &str) -> Section {
        let found = self.sections().into_iter().find(|section| section.title == title);
        found.unwrap_or_else(|| panic!("{}: no section {title:?}", self.path))
    }

    /// Returns the anchors of its headings, in order, as GitHub generates them.
    pub fn anchors(&self) -> Vec<String> {
        let sections = self.sections();
        let titles = sections.iter().filter(|section| section.level > 0).map(|section| &section.title);
        let mut anchors: Vec<String> = Vec::new();
        for title in titles {
            let kept = title.to_lowercase();
            let kept = kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
            let same = anchors.iter().filter(|other| **other == anchor).count();
            anchors.push(if same == 0 { anchor } else { format!("{anchor}-{same}") });
        }
        anchors
    }
}

impl Section {
    /// The targets of its links and pictures, in order.
    pub fn links(&self) -> Vec<String> {
        let text: String = self.prose.split('`').step_by(2).collect(); // without code spans
        text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).map(str::to_owned).collect()
    }

    /// Returns the texts in `` `backticks` ``, in order.
    pub fn code_spans(&self) -> Vec<String> {
        let spans = self.prose.lines().flat_map(code_spans);
        spans.map(str::to_owned).collect()
    }

    /// The rows of its first table, without their header.
    pub fn table(&self) -> Vec<Vec<String>> {
        table(&self.prose).into_iter().skip(1).collect()
    }

    /// The first code span of each cell in one column of its first table.
    pub fn column(&self, index: usize) -> Vec<String> {
        let rows = self.table();
        let cells = rows.iter().filter_map(|row| row.get(index));
        cells.filter_map(|cell| code_spans(cell).next().map(str::to_owned)).collect()
    }
}

/// The first table in a text: its header, and its rows.
pub fn table(text: &str) -> Vec<Vec<String>> {
    let lines = text.lines().skip_while(|line| !line.starts_with('|'));
    let rows = lines.take_while(|line| line.starts_with('|'));
    // A `\|` is part of a cell and does not separate cells.
    let cells = |row: &str| {
        let row = row.replace("\\|", "\u{1}");
        row.trim_matches('|').split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect()
    };
    let is_rule =
        |row: &Vec<String>| row.iter().all(|cell: &String| cell.trim_matches([':', '-']).is_empty());
    rows.map(cells).filter(|row| !is_rule(row)).collect()
}

pub fn code_spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

fn collect(dir: &Path, paths: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    for path in entries.map(|entry| entry.expect("an entry of a folder").path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match path.extension() {
            _ if name.starts_with('.') || name == "target" => {}
            _ if path.is_dir() => collect(&path, paths),
            Some(extension) if extension == "md" => paths.push(path),
            _ => {}
        }
    }
}
