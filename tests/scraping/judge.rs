//! Compares the samples that Prometheus stored of a pod with the pod's page.

use flate2::read::GzDecoder;

use super::{
    pods::{Expected, ScrapedPod},
    report::Report,
};
use crate::support::{
    exposition::{self, Samples},
    http::Response,
    prometheus::{Prometheus, Target},
};

/// Prometheus's own view of the target.
pub fn check_target(pod: &ScrapedPod, targets: &[Target], report: &mut Report) {
    let named =
        |target: &&Target| target.labels.get("kubernetes_pod_name").is_some_and(|name| name == pod.name);
    let Some(target) = targets.iter().find(named) else {
        return report.check(false, || format!("{}: no such target", pod.name));
    };
    let expected = pod.target_labels();
    report.check(target.labels == expected, || format!("{}: labels {:?}", pod.name, target.labels));
    let (health, error) = match pod.expected {
        Expected::Samples(_) | Expected::Series(_) => ("up", ""),
        Expected::Down(error) => ("down", error),
    };
    let (shown_health, shown_error) = (&target.health, &target.last_error);
    let as_expected =
        shown_health == health && shown_error.contains(error) && (error.is_empty() == shown_error.is_empty());
    report.check(as_expected, || {
        format!("{}: {shown_health}, {shown_error:?}; not {health}, {error:?}", pod.name)
    });
}

/// Compares the samples that Prometheus stored of the pod with the pod's page.
pub fn check_samples(
    pod: &ScrapedPod,
    before: Option<Response>,
    prometheus: &Prometheus,
    report: &mut Report,
) {
    let name = pod.name;
    let up = if pod.is_up() { "1" } else { "0" };
    for bound in ["min", "max"] {
        let ups = prometheus.query(&format!("{bound}_over_time(up{{kubernetes_pod_name='{name}'}}[5m])"));
        report.check(ups.values().eq([up]), || format!("{name}: {bound} of up is {ups:?}"));
    }
    let scraped = prometheus.query(&format!("{{kubernetes_pod_name='{name}'}}"));
    let Some(scraped) = without_target(pod, scraped, report) else { return };
    match pod.expected {
        Expected::Down(_) => {
            report.check(scraped.is_empty(), || format!("{name}: a failed scrape stored {scraped:?}"));
        }
        Expected::Samples(path) => {
            let direct = prometheus.stored(samples(&pod.scrape_directly(path)));
            report
                .check(scraped == direct, || format!("{name}:\n  scraped {scraped:?}\n  direct  {direct:?}"));
        }
        Expected::Series(path) => {
            let before = prometheus.stored(samples(&before.expect("it was scraped at first")));
            let after = prometheus.stored(samples(&pod.scrape_directly(path)));
            check_series(name, &scraped, &before, &after, report);
        }
    }
}

/// Removes the target's labels from its samples, and the samples that Prometheus adds.
fn without_target(pod: &ScrapedPod, scraped: Samples, report: &mut Report) -> Option<Samples> {
    let target_labels = pod.target_labels();
    let mut samples = Samples::new();
    for (mut labels, value) in scraped {
        for (name, value) in &target_labels {
            if labels.remove(name).as_ref() != Some(value) {
                report.check(false, || format!("{}: not {name}={value:?} with {labels:?}", pod.name));
                return None;
            }
        }
        let name = &labels["__name__"];
        if name != "up" && !name.starts_with("scrape_") {
            samples.insert(labels, value);
        }
    }
    Some(samples)
}

/// A series may appear or disappear during the test: it is then in only one of the direct scrapes.
fn check_series(name: &str, scraped: &Samples, before: &Samples, after: &Samples, report: &mut Report) {
    let lost = before.keys().filter(|series| after.contains_key(*series) && !scraped.contains_key(*series));
    let lost: Vec<_> = lost.collect();
    report.check(lost.is_empty(), || format!("{name}: lost on the way: {lost:?}"));
    let made_up =
        scraped.keys().filter(|series| !before.contains_key(*series) && !after.contains_key(*series));
    let made_up: Vec<_> = made_up.collect();
    report.check(made_up.is_empty(), || format!("{name}: made up on the way: {made_up:?}"));
    let infos = |samples: &Samples| -> Samples {
        let infos = samples.iter().filter(|(series, _)| series["__name__"].ends_with("_info"));
        infos.map(|(series, value)| (series.clone(), value.clone())).collect()
    };
    let (scraped, after) = (infos(scraped), infos(after));
    report.check(!after.is_empty() && scraped == after, || {
        format!("{name}:\n  scraped infos {scraped:?}\n  direct infos  {after:?}")
    });
}

/// The samples of a directly scraped page.
fn samples(page: &Response) -> Samples {
    assert_eq!(page.status(), 200, "the direct scrape's answer: {page:?}");
    if page.head.field("Content-Encoding").is_none() {
        return exposition::parse(&page.text());
    }
    let text = std::io::read_to_string(GzDecoder::new(page.body.as_slice()));
    exposition::parse(&text.expect("the body is gzip"))
}
