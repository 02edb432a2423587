//! The targets for processor time per scrape and latency.

use crate::{
    baselines::Way,
    cases::{self, Body, PACED, chunked, length, net_http, records},
    figures::{Sample, Spread},
    forwarders::Kind,
    processor::{Case, Measured},
    report::{Limit, Reached, Verdict},
};

/// A forwarder in a ratio.
#[derive(Clone, Copy, Debug)]
enum Of {
    Ours,
    /// psystrike without gathering.
    NotGathering,
    ReadWrite,
    Splice,
    NginxTuned,
    NginxSimple,
    Tinyproxy,
    Squid,
    Haproxy,
    TunnelSplice,
}

impl Of {
    fn in_case(self, case: &Case) -> Option<&Measured> {
        match self {
            Self::Ours => case.ours(),
            Self::NotGathering => case.forwarders.iter().find(|measured| !measured.forwarder.gathers),
            Self::ReadWrite => case.of(&Kind::Baseline(Way::ReadWrite)),
            Self::Splice => case.of(&Kind::Baseline(Way::Splice)),
            Self::NginxTuned => case.of(&Kind::NginxTuned),
            Self::NginxSimple => case.of(&Kind::NginxSimple),
            Self::Tinyproxy => case.of(&Kind::Tinyproxy),
            Self::Squid => case.of(&Kind::Squid),
            Self::Haproxy => case.of(&Kind::Haproxy),
            Self::TunnelSplice => case.of(&Kind::TunnelBaseline(Way::Splice)),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ours => "psystrike",
            Self::NotGathering => "psystrike --gather 0",
            Self::ReadWrite => "read/write baseline",
            Self::Splice => "splice baseline",
            Self::NginxTuned => "nginx tuned",
            Self::NginxSimple => "nginx simple",
            Self::Tinyproxy => "tinyproxy",
            Self::Squid => "Squid",
            Self::Haproxy => "HAProxy",
            Self::TunnelSplice => "splice baseline of tunnels",
        }
    }
}

/// A limit for a ratio of two forwarders' processor time per scrape.
type Target = (Body, Of, Limit, Of);

/// The targets for processor time per scrape, as ratios within one run.
const TARGETS: [Target; 22] = {
    use Limit::{AtLeast, AtMost};
    use Of::{NginxSimple, NginxTuned, Ours, ReadWrite, Splice};
    [
        (length(1), Ours, AtMost(1.10), ReadWrite),
        (length(1), NginxTuned, AtLeast(1.4), Ours),
        (length(1), NginxSimple, AtLeast(3.8), Ours),
        (length(16), Ours, AtMost(1.10), ReadWrite),
        (length(16), NginxTuned, AtLeast(1.4), Ours),
        (length(16), NginxSimple, AtLeast(3.8), Ours),
        (length(64), Splice, AtMost(0.75), ReadWrite), // checks the splice baseline itself
        (length(64), Ours, AtMost(1.12), Splice),
        (length(64), NginxTuned, AtLeast(1.6), Ours),
        (length(256), Splice, AtMost(0.75), ReadWrite),
        (length(256), Ours, AtMost(1.10), Splice),
        (length(256), NginxTuned, AtLeast(1.6), Ours),
        (length(1024), Ours, AtMost(0.60), ReadWrite),
        (length(1024), NginxTuned, AtLeast(1.6), Ours),
        (chunked(16), Ours, AtMost(1.12), ReadWrite),
        (chunked(16), NginxTuned, AtLeast(1.8), Ours),
        (chunked(256), Ours, AtMost(0.85), ReadWrite),
        (chunked(256), NginxTuned, AtLeast(1.6), Ours),
        (net_http(16), Ours, AtMost(1.10), ReadWrite),
        (net_http(256), Ours, AtMost(0.55), ReadWrite),
        (net_http(256), NginxTuned, AtLeast(1.9), Ours),
        (net_http(1024), Ours, AtMost(0.55), ReadWrite),
    ]
};

/// Gathering must not delay short pages.
const LATENCY_TARGETS: [Target; 1] = [(net_http(16), Of::Ours, Limit::AtMost(1.02), Of::NotGathering)];

/// The targets for requests in absolute form.
const PROXY_TARGETS: [Target; 2] = [
    (length(16), Of::Tinyproxy, Limit::AtLeast(3.0), Of::Ours),
    (length(16), Of::Squid, Limit::AtLeast(3.0), Of::Ours),
];

/// The targets for tunnels.
const TUNNEL_TARGETS: [Target; 1] = [(records(16), Of::Ours, Limit::AtMost(1.15), Of::TunnelSplice)];

/// The targets for a paced load, with the most pods.
const PACED_TARGETS: [Target; 4] = [
    (PACED, Of::Ours, Limit::AtMost(1.10), Of::ReadWrite),
    (PACED, Of::NginxTuned, Limit::AtLeast(1.2), Of::Ours),
    (PACED, Of::NginxSimple, Limit::AtLeast(1.2), Of::Ours),
    (PACED, Of::Haproxy, Limit::AtLeast(1.2), Of::Ours),
];

/// The verdicts for processor time and latency.
pub(crate) fn verdicts(cases: &[Case]) -> Vec<Verdict> {
    let latency = cases::ALL.iter().filter_map(|&body| {
        let ratio = ratio(of_body(cases, body)?, Of::Ours, Of::NginxTuned, Sample::p99_us);
        Some(Verdict {
            case: format!("{body}: p99 latency"),
            target: "psystrike < nginx tuned".to_owned(),
            measured: ratio.map_or("-".to_owned(), |ratio| ratio.to_string()),
            reached: Reached::of(Limit::AtMost(1.0), ratio),
        })
    });
    let gathering = ratios(cases, &LATENCY_TARGETS, "p50 latency", Sample::p50_us);
    processor(cases, &TARGETS, "processor").chain(gathering).chain(latency).collect()
}

/// The verdicts of the proxy part.
pub(crate) fn proxy_verdicts(cases: &[Case]) -> Vec<Verdict> {
    processor(cases, &PROXY_TARGETS, "processor, absolute form").collect()
}

/// The verdicts of the paced part, for this number of pods.
pub(crate) fn paced_verdicts(case: &Case, pods: usize) -> Vec<Verdict> {
    let what = format!("{pods} pods, paced: processor");
    processor(std::slice::from_ref(case), &PACED_TARGETS, &what).collect()
}

/// The verdicts of the tunnels part.
pub(crate) fn tunnel_verdicts(cases: &[Case]) -> Vec<Verdict> {
    processor(cases, &TUNNEL_TARGETS, "processor, in a tunnel").collect()
}

fn processor<'a>(
    cases: &'a [Case],
    targets: &'a [Target],
    what: &'a str,
) -> impl Iterator<Item = Verdict> + use<'a> {
    ratios(cases, targets, what, Sample::processor_us)
}

fn ratios<'a>(
    cases: &'a [Case],
    targets: &'a [Target],
    what: &'a str,
    figure: fn(&Sample) -> f64,
) -> impl Iterator<Item = Verdict> + use<'a> {
    targets.iter().filter_map(move |&(body, of, limit, over)| {
        let ratio = ratio(of_body(cases, body)?, of, over, figure);
        let (sign, bound) = match limit {
            Limit::AtMost(most) => ("≤", most),
            Limit::AtLeast(least) => ("≥", least),
        };
        Some(Verdict {
            case: format!("{body}: {what}"),
            target: format!("{} {sign} {bound:.2} × {}", of.name(), over.name()),
            measured: ratio.map_or("-".to_owned(), |ratio| ratio.to_string()),
            reached: Reached::of(limit, ratio),
        })
    })
}

fn of_body(cases: &[Case], body: Body) -> Option<&Case> {
    cases.iter().find(|case| case.body == body)
}

fn ratio(case: &Case, of: Of, over: Of, figure: fn(&Sample) -> f64) -> Option<Spread> {
    Spread::of_ratios(&of.in_case(case)?.samples, &over.in_case(case)?.samples, figure)
}
