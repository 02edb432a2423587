//! Processor time of a scrape with TLS between clients and forwarder, of one with TLS between forwarder and pods, and
//! of a new TLS connection.
//!
//! The other side is Go's choice ([`crate::wire`]): TLS 1.3 with AES-128-GCM. Nothing is resumed, as Prometheus resumes
//! nothing.

use crate::{
    bench::Bench,
    cases::{Body, Framing, length},
    certificates::Key,
    encryption::Tls,
    figures::{Sample, Spread},
    forwarders::{Forwarder, Kind},
    processor::{self, Case, Measured},
    report::{Limit, Reached, Verdict},
    setup::Setup,
};

/// The bodies up to this size have to be cheaper than those of others.
const SHORT_BYTES_MAX: u64 = 64 * 1024;
/// The most processor time of longer bodies, as a multiple of others.
const LONG_MAX: f64 = 1.25;
/// The body whose cost without TLS is compared.
const PLAIN_BODY: Body = length(16);
/// The most processor time of this body with TLS, as a multiple of the same without it.
const PLAIN_MAX: f64 = 1.6;
/// The body of new connections.
const NEW_BODY: Body = length(1);

/// Measures every psystrike with TLS, the first one without, and nginx and HAProxy with TLS. Prints a table for each
/// body, and one of all.
pub(crate) fn run(bench: &Bench) -> Result<Vec<Verdict>, String> {
    let bodies = bench.options.bodies.iter().filter(|body| body.framing == Framing::Length);
    let (mut verdicts, mut rows) = (Vec::new(), Vec::new());
    for (tls, what) in [(Tls::Clients(Key::P256), "TLS with clients"), (Tls::Pods, "TLS with pods")] {
        let (forwarders, setup) = (forwarders(bench, tls), setup(bench, tls));
        for &body in bodies.clone() {
            let case = processor::case(bench, &forwarders, &setup, body, bench.options.rounds)?;
            processor::print(bench, what, &case)?;
            rows.push(row(&case, &format!("{what}: {body}")));
            verdicts.extend(self::verdicts(&case, what));
        }
    }
    for key in [Key::P256, Key::Rsa2048] {
        let forwarders = forwarders(bench, Tls::Clients(key)).into_iter();
        let forwarders: Vec<Forwarder> = forwarders.map(Forwarder::with_new_connections).collect();
        let setup = setup(bench, Tls::Clients(key));
        let case = processor::case(bench, &forwarders, &setup, NEW_BODY, bench.options.rounds)?;
        processor::print(bench, &format!("New TLS connections, {}", key.name()), &case)?;
        rows.push(row(&case, &format!("new connection, {}: {NEW_BODY}", key.name())));
    }
    let head =
        ["case", "psystrike µs/scrape", "× without TLS", "nginx tuned × psystrike", "HAProxy × psystrike"];
    bench.report.table("TLS: processor time", &head, &rows)?;
    Ok(verdicts)
}

/// The median of the first psystrike, and the ratios.
fn row(case: &Case, name: &str) -> Vec<String> {
    let ours = case.ours();
    let time = ours.and_then(|ours| Spread::of(ours.samples.iter().map(Sample::processor_us)));
    let ratio = |of: Option<&Measured>, over: Option<&Measured>| {
        let ratio = of
            .zip(over)
            .and_then(|(of, over)| Spread::of_ratios(&of.samples, &over.samples, Sample::processor_us));
        ratio.map_or("-".to_owned(), |ratio| ratio.to_string())
    };
    vec![
        name.to_owned(),
        time.map_or("-".to_owned(), |time| format!("{:.1}", time.median)),
        ratio(ours, plain(case)),
        ratio(case.of(&Kind::NginxTuned), ours),
        ratio(case.of(&Kind::Haproxy), ours),
    ]
}

/// The psystrike without TLS.
fn plain(case: &Case) -> Option<&Measured> {
    case.forwarders.iter().find(|other| other.forwarder.is_ours() && other.forwarder.tls == Tls::Nowhere)
}

fn setup(bench: &Bench, tls: Tls) -> Setup {
    let pods_port = if tls == Tls::Pods { bench.pods.tls_port } else { bench.pods.port };
    Setup { pods_port, ..bench.setup() }
}

/// The forwarders with TLS, and the first psystrike without.
fn forwarders(bench: &Bench, tls: Tls) -> Vec<Forwarder> {
    let ours = bench.forwarders.iter().filter(|forwarder| forwarder.is_ours());
    let others =
        bench.forwarders.iter().filter(|other| matches!(other.kind, Kind::NginxTuned | Kind::Haproxy));
    let plain = (tls != Tls::Pods).then(|| ours.clone().next()).flatten();
    let plain = plain.map(|ours| Forwarder { name: format!("{} without TLS", ours.name), ..ours.clone() });
    ours.chain(others).cloned().map(|forwarder| forwarder.with_tls(tls)).chain(plain).collect()
}

fn verdicts(case: &Case, what: &str) -> Vec<Verdict> {
    let Some(ours) = case.ours() else { return Vec::new() };
    let most = if case.body.bytes <= SHORT_BYTES_MAX { 1.0 } else { LONG_MAX };
    let verdict = |other: &Measured, most: f64| {
        let ratio = Spread::of_ratios(&ours.samples, &other.samples, Sample::processor_us);
        Verdict {
            case: format!("{}: processor, {what}", case.body),
            target: format!("psystrike ≤ {most:.2} × {}", other.forwarder.name),
            measured: ratio.map_or("-".to_owned(), |ratio| ratio.to_string()),
            reached: Reached::of(Limit::AtMost(most), ratio),
        }
    };
    let others = case.forwarders.iter().filter(|other| !other.forwarder.is_ours());
    let mut verdicts: Vec<Verdict> = others.map(|other| verdict(other, most)).collect();
    verdicts.extend(plain(case).filter(|_| case.body == PLAIN_BODY).map(|plain| verdict(plain, PLAIN_MAX)));
    verdicts
}
