//! The picture of the processor part: an SVG of bars, one group for each body, readable on light and dark.

use std::fmt::Write as _;

use crate::{
    figures::{Sample, Spread},
    floors::Way,
    forwarders::Kind,
    processor::{Case, Measured},
};

const WIDTH: f64 = 860.0;
const LABELS: f64 = 150.0;
const VALUES: f64 = 150.0;
const BAR: f64 = 16.0;
const GAP: f64 = 4.0;
const HEADING: f64 = 34.0;
const TOP: f64 = 64.0;

/// Draws processor time per scrape, for each body relative to the first psystrike's.
pub(crate) fn draw(cases: &[Case]) -> String {
    let bars = |case: &Case| case.forwarders.len() as f64 * (BAR + GAP);
    let height = TOP + cases.iter().map(|case| HEADING + bars(case)).sum::<f64>() + 20.0;
    let longest = cases.iter().flat_map(relative).map(|(_, spread)| spread.max).fold(1.0, f64::max);
    let scale = (WIDTH - LABELS - VALUES) / longest;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"16\" y=\"26\" font-size=\"16\" font-weight=\"bold\">Processor time per scrape</text>\n\
         <text x=\"16\" y=\"46\" fill=\"#555\">psystrike = 1; bars are medians of ratios taken round by round, \
         lines their spread; µs are medians</text>\n"
    );
    let mut y = TOP;
    for case in cases {
        let _ = writeln!(svg, "<text x=\"16\" y=\"{}\" font-weight=\"bold\">{}</text>", y + 22.0, case.body);
        y += HEADING;
        for (measured, ratio) in relative(case) {
            bar(&mut svg, y, scale, measured, ratio);
            y += BAR + GAP;
        }
    }
    svg + "</svg>\n"
}

fn relative(case: &Case) -> impl Iterator<Item = (&Measured, Spread)> {
    let ours = case.ours();
    case.forwarders.iter().filter_map(move |measured| {
        let ratio = Spread::of_ratios(&measured.samples, &ours?.samples, Sample::processor_us)?;
        Some((measured, ratio))
    })
}

fn bar(svg: &mut String, y: f64, scale: f64, measured: &Measured, ratio: Spread) {
    let Spread { median, min, max } = ratio;
    let length = |value: f64| value * scale;
    let (middle, base) = (y + BAR / 2.0, y + BAR - 4.0);
    let time = Spread::of(measured.samples.iter().map(Sample::processor_us)).map_or(0.0, |time| time.median);
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{base}\" text-anchor=\"end\">{}</text>\n\
         <rect x=\"{LABELS}\" y=\"{y}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{}\"/>\n\
         <path d=\"M{:.1} {middle}H{:.1}\" stroke=\"#000\"/>\n\
         <text x=\"{:.1}\" y=\"{base}\" fill=\"#555\">{median:.2} · {time:.1} µs</text>",
        LABELS - 8.0,
        measured.name,
        length(median),
        colour(&measured.kind),
        LABELS + length(min),
        LABELS + length(max),
        LABELS + length(median.max(max)) + 8.0,
    );
}

fn colour(kind: &Kind) -> &'static str {
    match kind {
        Kind::Psystrike(_) => "#e6522c",
        Kind::Floor(Way::ReadWrite | Way::Splice) => "#9aa0a6",
        Kind::NginxBest => "#2e8b57",
        Kind::NginxUsual => "#8fc7a6",
        Kind::Haproxy => "#5b8fd6",
    }
}
