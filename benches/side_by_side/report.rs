//! Tables and verdicts, as Markdown.

use std::fmt::Write as _;

use crate::figures::Spread;

/// What a target of the measure came to.
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

/// A limit that a figure has to keep.
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

/// Prints rows as a Markdown table, with the columns aligned: the first to the left, the others to the right.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].chars().count(), 3]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let mut line = String::new();
        for (index, (cell, &width)) in cells.iter().zip(&widths).enumerate() {
            let _ = match index {
                0 => write!(line, "| {cell:<width$} "),
                _ => write!(line, "| {cell:>width$} "),
            };
        }
        println!("{line}|");
    };
    line(head.to_vec());
    let rules: Vec<String> = widths
        .iter()
        .enumerate()
        .map(|(index, width)| if index == 0 { "-".repeat(*width) } else { "-".repeat(width - 1) + ":" })
        .collect();
    line(rules.iter().map(String::as_str).collect());
    rows.iter().for_each(|row| line(row.iter().map(String::as_str).collect()));
    println!();
}

/// Prints what the targets came to.
pub(crate) fn verdicts(verdicts: &[Verdict]) {
    if verdicts.is_empty() {
        return;
    }
    println!("### Targets\n");
    let row = |verdict: &Verdict| {
        let Verdict { case, target, measured, reached } = verdict;
        vec![case.clone(), target.clone(), measured.clone(), reached.name().to_owned()]
    };
    let rows: Vec<_> = verdicts.iter().map(row).collect();
    table(&["case", "target", "measured: median (quartiles)", "verdict"], &rows);
}
