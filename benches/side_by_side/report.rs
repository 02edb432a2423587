//! Tables and verdicts in Markdown: printed, and with `--write` also written into PERF.md and benches/HISTORY.md.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use crate::figures::Spread;

/// Prints tables, and rewrites the blocks of documents that have their titles.
///
/// A block starts with `<!-- Measured: TITLE -->` and ends with `<!-- End of measured -->`. Only tables with a block
/// are written.
#[derive(Debug)]
pub(crate) struct Report {
    documents: Vec<PathBuf>,
    /// The revision and the command that the figures are from.
    origin: String,
}

impl Report {
    /// Without documents, only prints.
    pub(crate) fn new(documents: Vec<PathBuf>, origin: String) -> Self {
        Self { documents, origin }
    }

    /// Prints a table, and writes it into the documents that have a block for it.
    pub(crate) fn table(&self, title: &str, head: &[&str], rows: &[Vec<String>]) -> Result<(), String> {
        let table = markdown(head, rows);
        println!("### {title}\n\n{table}");
        self.documents.iter().try_for_each(|path| self.write(path, title, &table))
    }

    fn write(&self, path: &Path, title: &str, table: &str) -> Result<(), String> {
        let failed = |error| format!("{}: {error}", path.display());
        let text = fs::read_to_string(path).map_err(failed)?;
        let begin = format!("<!-- Measured: {title} -->\n");
        let Some((before, rest)) = text.split_once(&begin) else { return Ok(()) };
        let end = "<!-- End of measured -->\n";
        let (_, after) =
            rest.split_once(end).ok_or_else(|| format!("{}: {title}: no {end:?}", path.display()))?;
        let text = format!("{before}{begin}\n{table}\n{}\n\n{end}{after}", self.origin);
        fs::write(path, text).map_err(failed)
    }

    /// Prints and writes the verdicts of one part.
    pub(crate) fn verdicts(&self, part: &str, verdicts: &[Verdict]) -> Result<(), String> {
        if verdicts.is_empty() {
            return Ok(());
        }
        let row = |verdict: &Verdict| {
            let Verdict { case, target, measured, reached } = verdict;
            vec![case.clone(), target.clone(), measured.clone(), reached.name().to_owned()]
        };
        let rows: Vec<_> = verdicts.iter().map(row).collect();
        let head = ["case", "target", "measured: median (quartiles)", "verdict"];
        self.table(&format!("Targets: {part}"), &head, &rows)
    }
}

/// The result for one target.
pub(crate) struct Verdict {
    pub(crate) case: String,
    pub(crate) target: String,
    pub(crate) measured: String,
    pub(crate) reached: Reached,
}

/// Whether a target was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    Yes,
    No,
    /// The median is on one side of the limit, and a quarter of the rounds or more on the other.
    YesWithinNoise,
    NoWithinNoise,
    /// A program is missing, or was left out.
    NotMeasured,
}

impl Reached {
    pub(crate) fn of(limit: Limit, measured: Option<Spread>) -> Self {
        let Some(Spread { median, lower, upper }) = measured else { return Self::NotMeasured };
        let clear = limit.holds(lower) == limit.holds(upper);
        match (limit.holds(median), clear) {
            (true, true) => Self::Yes,
            (true, false) => Self::YesWithinNoise,
            (false, false) => Self::NoWithinNoise,
            (false, true) => Self::No,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Yes => "reached",
            Self::No => "MISSED",
            Self::YesWithinNoise => "reached, within the noise",
            Self::NoWithinNoise => "MISSED, within the noise",
            Self::NotMeasured => "NOT MEASURED",
        }
    }
}

/// The limit of a target.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl Limit {
    fn holds(self, figure: f64) -> bool {
        match self {
            Self::AtMost(most) => figure <= most,
            Self::AtLeast(least) => figure >= least,
        }
    }
}

/// A Markdown table: the first column aligned to the left, the others to the right.
fn markdown(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].chars().count(), 3]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut table = String::new();
    let mut line = |cells: Vec<&str>| {
        for (index, (cell, &width)) in cells.iter().zip(&widths).enumerate() {
            let _ = match index {
                0 => write!(table, "| {cell:<width$} "),
                _ => write!(table, "| {cell:>width$} "),
            };
        }
        table += "|\n";
    };
    line(head.to_vec());
    let rules: Vec<String> = widths
        .iter()
        .enumerate()
        .map(|(index, width)| if index == 0 { "-".repeat(*width) } else { "-".repeat(width - 1) + ":" })
        .collect();
    line(rules.iter().map(String::as_str).collect());
    rows.iter().for_each(|row| line(row.iter().map(String::as_str).collect()));
    table
}
