//! The counters, and the page that adds them up.

mod certificate_expiry;
mod counters;
mod page;
mod reload_status;

pub use self::{
    certificate_expiry::CertificateExpiry,
    counters::{Counter, Counters, Histogram},
    page::{BuildInfo, CONTENT_TYPE, Process, State, render},
    reload_status::ReloadStatus,
};

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::{counters::STATUSES, *};
    use crate::proxy::{events::Report, outcome::Outcome, peer::Peer, route::RouteName, tls_fault::TlsFault};

    const BUILD_INFO: BuildInfo = BuildInfo {
        version: "1.2.3",
        revision: "abc",
        clients_max: 7,
        upstreams_idle_max: 8,
        buffers_max: 9,
    };

    fn page(workers: &[&Counters], process: &Process) -> String {
        let mut out = Vec::new();
        let reloads = vec![Arc::new(ReloadStatus::new("--file"))];
        let certificates = vec![Arc::new(CertificateExpiry::new("--certificate"))];
        certificates[0].set(1_800_000_000);
        let state = State { is_authenticated: true, is_unrestricted: false, reloads, certificates };
        render(&mut out, workers, BUILD_INFO, process, &state);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn workers_are_added_up() {
        let (one, two) = (Counters::default(), Counters::default());
        let report = |outcome, status, milliseconds| Report {
            route: RouteName::Pods,
            outcome,
            status,
            pod_status: [Outcome::Forwarded, Outcome::MalformedResponseBody]
                .contains(&outcome)
                .then_some(status),
            peer: Some(Peer::new([10, 0, 0, 1].into(), 80)),
            duration: Duration::from_millis(milliseconds),
            first_byte: (outcome == Outcome::Forwarded).then_some(Duration::from_millis(1)),
            detail: None,
            within: Duration::ZERO,
            request: None,
        };
        one.record(&report(Outcome::Forwarded, 200, 1));
        two.record(&report(Outcome::Forwarded, 200, 30));
        two.record(&report(Outcome::Forwarded, 599, 60_000));
        two.record(&report(Outcome::AddressNotAllowed, 403, 0));
        two.record(&Report { status: 502, ..report(Outcome::MalformedResponseBody, 404, 0) });
        two.record(&report(Outcome::ResponseTimeout, 504, 9_500));
        two.record(&report(Outcome::ClientTimeout, 499, 180_000));
        one.tls_failures[TlsFault::NotTls as usize].add(1);
        one.clients.add(3);
        two.clients.add(2);
        two.clients.sub(1);
        let page = page(&[&one, &two], &Process::default());
        for line in [
            "psystrike_requests_total{route=\"/pods\",code=\"200\"} 2",
            "psystrike_requests_total{route=\"/pods\",code=\"other\"} 1",
            "psystrike_requests_total{route=\"/pods\",code=\"403\"} 1",
            "psystrike_requests_total{route=\"/metrics\",code=\"200\"} 0",
            "psystrike_outcomes_total{outcome=\"forwarded\"} 3",
            "psystrike_outcomes_total{outcome=\"response_timeout\"} 1",
            "psystrike_pod_responses_total{class=\"2xx\"} 2",
            "psystrike_pod_responses_total{class=\"3xx\"} 0",
            "psystrike_pod_responses_total{class=\"4xx\"} 1",
            "psystrike_pod_responses_total{class=\"5xx\"} 1",
            "psystrike_refusals_total{reason=\"address_not_allowed\"} 1",
            "psystrike_scrape_duration_seconds_bucket{le=\"0.001\"} 2",
            "psystrike_scrape_duration_seconds_bucket{le=\"0.025\"} 2",
            "psystrike_scrape_duration_seconds_bucket{le=\"0.05\"} 3",
            "psystrike_scrape_duration_seconds_bucket{le=\"10\"} 4",
            "psystrike_scrape_duration_seconds_bucket{le=\"30\"} 4",
            "psystrike_scrape_duration_seconds_bucket{le=\"60\"} 5",
            "psystrike_scrape_duration_seconds_bucket{le=\"120\"} 5",
            "psystrike_scrape_duration_seconds_bucket{le=\"+Inf\"} 6",
            "psystrike_scrape_duration_seconds_count 6",
            "psystrike_scrape_duration_seconds_sum 249.531",
            "psystrike_pod_first_byte_seconds_count 3",
            "psystrike_authentication_enabled 1",
            "psystrike_access_unrestricted 0",
            "psystrike_config_last_reload_successful{option=\"--file\"} 0",
            "psystrike_config_last_reload_success_timestamp_seconds{option=\"--file\"} 0",
            "psystrike_client_connections_refused_total 0",
            "psystrike_tls_handshakes_total 0",
            "psystrike_tls_failures_total{reason=\"not_tls\"} 1",
            "psystrike_tls_failures_total{reason=\"timeout\"} 0",
            "psystrike_client_connections 4",
            "psystrike_client_connections_max 7",
            "psystrike_log_lines_lost_total{reason=\"queue_full\"} 0",
            "psystrike_log_lines_lost_total{reason=\"write_failed\"} 0",
            "psystrike_build_info{version=\"1.2.3\",revision=\"abc\"} 1",
        ] {
            assert!(page.lines().any(|known| known == line), "{line} is missing in\n{page}");
        }
        assert!(!page.contains("response_timeout\"} 1\npsystrike_refusals"), "a failure counts as a refusal");
        assert!(!page.contains("10.0.0.1"), "a label contains a pod's address");
        assert!(!page.contains("process_"), "a value that the kernel did not provide");
        assert!(!page.contains("splice_enabled"), "a value that the kernel did not provide");
    }

    #[test]
    fn the_tables_are_in_order() {
        assert!(STATUSES.is_sorted(), "binary search needs sorted codes");
        for (at, &outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(outcome as usize, at);
            let known = outcome.status() == 0 || STATUSES.contains(&outcome.status());
            assert!(known, "{outcome:?} has a status without a counter");
        }
        for (at, route) in RouteName::ALL.into_iter().enumerate() {
            assert_eq!(route.index(), at);
        }
    }
}
