//! The chart of the processor part: an SVG with one group of bars for each body, for light and dark backgrounds.

use std::fmt::Write as _;

use crate::{
    baselines::Way,
    cases::{Body, length},
    figures::{Sample, Spread},
    forwarders::Kind,
    processor::{Case, Measured},
};

/// A selection: a table has all of them.
const BODIES: [Body; 3] = [length(16), length(64), length(256)];
const WIDTH: f64 = 860.0;
const LABELS: f64 = 140.0;
const VALUES: f64 = 130.0;
const BAR: f64 = 14.0;
const GAP: f64 = 4.0;
const HEADING: f64 = 30.0;
const TOP: f64 = 84.0;
const BOTTOM: f64 = 44.0;
/// Programs without support for `prefers-color-scheme` show the light colours.
const STYLE: &str = "\
.back{fill:#fff}.text{fill:#1f2328}.faint{fill:#59636e}.grid{stroke:#d1d9e0}.spread{stroke:#1f2328}
.value{fill:#59636e;stroke:#fff;stroke-width:4;paint-order:stroke}
@media(prefers-color-scheme:dark){.back{fill:#0d1117}.text{fill:#f0f6fc}.faint{fill:#9198a1}\
.grid{stroke:#3d444d}.spread{stroke:#f0f6fc}.value{fill:#9198a1;stroke:#0d1117}}";

/// Draws processor time per scrape, for each body relative to the first psystrike's.
pub(crate) fn draw(cases: &[Case]) -> String {
    let cases: Vec<&Case> = cases.iter().filter(|case| BODIES.contains(&case.body)).collect();
    let bars = |case: &Case| case.forwarders.len() as f64 * (BAR + GAP);
    let bottom = TOP + cases.iter().map(|case| HEADING + bars(case)).sum::<f64>();
    let height = bottom + BOTTOM;
    let longest =
        cases.iter().flat_map(|case| relative(case)).map(|(_, spread)| spread.upper).fold(1.0, f64::max);
    let scale = (WIDTH - LABELS - VALUES) / longest;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<style>{STYLE}</style>\n\
         <rect class=\"back\" width=\"100%\" height=\"100%\"/>\n\
         <text class=\"text\" x=\"16\" y=\"26\" font-size=\"16\" font-weight=\"bold\">Processor time per scrape, \
         as multiples of psystrike's</text>\n\
         <text class=\"faint\" x=\"16\" y=\"46\">Bars: medians of the ratios within each round; thin lines: \
         quartiles; µs: medians</text>\n"
    );
    axis(&mut svg, scale, longest, bottom);
    let mut y = TOP;
    for case in cases {
        let base = y + 20.0;
        let _ = writeln!(
            svg,
            "<text class=\"text\" x=\"16\" y=\"{base}\" font-weight=\"bold\">{}</text>",
            case.body
        );
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

/// A line at each whole multiple, with its number above and below.
fn axis(svg: &mut String, scale: f64, longest: f64, bottom: f64) {
    for multiple in 0..=longest as usize {
        let x = LABELS + multiple as f64 * scale;
        let _ = writeln!(
            svg,
            "<path class=\"grid\" d=\"M{x:.1} {TOP}V{bottom}\"/>\n\
             <text class=\"faint\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{multiple}</text>\n\
             <text class=\"faint\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{multiple}</text>",
            TOP - 8.0,
            bottom + 16.0,
        );
    }
    let _ = writeln!(
        svg,
        "<text class=\"faint\" x=\"{LABELS}\" y=\"{}\">processor time per scrape, × psystrike (shorter is \
         better)</text>",
        bottom + 34.0
    );
}

fn bar(svg: &mut String, y: f64, scale: f64, measured: &Measured, ratio: Spread) {
    let Spread { median, lower, upper } = ratio;
    let at = |ratio: f64| LABELS + ratio * scale;
    let (middle, base) = (y + BAR / 2.0, y + BAR - 3.0);
    let time = Spread::of(measured.samples.iter().map(Sample::processor_us)).map_or(0.0, |time| time.median);
    let _ = writeln!(
        svg,
        "<text class=\"text\" x=\"{}\" y=\"{base}\" text-anchor=\"end\">{}</text>\n\
         <rect x=\"{LABELS}\" y=\"{y}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{}\"/>\n\
         <path class=\"spread\" d=\"M{:.1} {middle}H{:.1}\"/>\n\
         <text class=\"value\" x=\"{:.1}\" y=\"{base}\">{median:.2} · {time:.1} µs</text>",
        LABELS - 8.0,
        measured.forwarder.name,
        median * scale,
        colour(&measured.forwarder.kind),
        at(lower),
        at(upper),
        at(upper) + 8.0,
    );
}

fn colour(kind: &Kind) -> &'static str {
    match kind {
        Kind::Psystrike { .. } => "#e6522c",
        Kind::Baseline(Way::ReadWrite | Way::Splice) | Kind::TunnelBaseline(_) => "#8c959f",
        Kind::NginxTuned | Kind::Nginx(_) => "#2e8b57",
        Kind::NginxSimple => "#7fbf9b",
        Kind::Haproxy => "#5b8fd6",
        Kind::Tinyproxy | Kind::Squid => "#b07cc6",
    }
}
