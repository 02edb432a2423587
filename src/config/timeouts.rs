//! Reads the options for time limits.
//!
//! Owns which of them contradict each other. `--connect-timeout` may be longer than `--timeout`, as a request may set
//! a longer limit, but not longer than `--timeout-max`. The times of a shutdown have no such order: an operator may
//! prefer a fast exit to long scrapes.

use std::{ffi::OsString, time::Duration};

use super::{
    options::Opt,
    source::{Source, UsageError, default},
};
use crate::{
    http1::field::digits,
    proxy::{
        duration::{self, HumanDuration},
        settings::Timeouts,
    },
};

/// How long Prometheus keeps an idle connection (`IdleConnTimeout` of `prometheus/common`), through a tunnel as well.
const PROMETHEUS_IDLE: Duration = Duration::from_secs(5 * 60);
/// The highest value of `--gather`, in milliseconds: with a longer one, scrapes would fail whose page became shorter.
const GATHER_MAX: u64 = 100;
/// The end of a warning about an idle timeout.
pub(super) const TOO_SHORT: &str = "Prometheus keeps idle connections for 5 minutes, so a scrape may fail with EOF if \
                                    psystrike closes its connection first; set more than 5m";

/// Reads all of them.
pub(super) fn timeouts<V: Fn(&str) -> Option<OsString>>(
    source: &mut Source<V>,
) -> Result<Timeouts, UsageError> {
    let scrape = source.optional(Opt::Timeout, positive)?;
    let scrape_max = source.one(Opt::TimeoutMax, positive)?;
    let connect = source.optional(Opt::ConnectTimeout, positive)?;
    Ok(Timeouts {
        scrape: at_most(scrape_max, scrape, Opt::Timeout, source)?,
        scrape_max,
        connect: at_most(scrape_max, connect, Opt::ConnectTimeout, source)?,
        header: source.one(Opt::HeaderTimeout, positive)?,
        client_idle: source.one(Opt::ClientIdleTimeout, positive)?,
        upstream_idle: source.one(Opt::UpstreamIdleTimeout, positive)?,
        gather: source.one(Opt::Gather, gather)?,
        tunnel_idle: source.one(Opt::TunnelIdleTimeout, positive)?,
        resolve_ttl: source.one(Opt::ResolveTtl, duration::parse)?,
    })
}

/// Returns the given value of an option, which must not be above `--timeout-max`, or else its default, cut to that.
fn at_most<V: Fn(&str) -> Option<OsString>>(
    most: Duration,
    given: Option<Duration>,
    option: Opt,
    source: &Source<V>,
) -> Result<Duration, UsageError> {
    match given {
        None => Ok(default(option, positive)?.min(most)),
        Some(given) if given <= most => Ok(given),
        Some(given) => {
            let (name, max) = (source.name(option), source.name(Opt::TimeoutMax));
            let (given, most) = (HumanDuration(given), HumanDuration(most));
            Err(UsageError(format!("{name} {given} is longer than {max} {most}")))
        }
    }
}

/// Returns a warning for each idle timeout after which psystrike may close a connection that Prometheus is about to
/// use.
pub(super) fn warnings<V: Fn(&str) -> Option<OsString>>(
    source: &Source<V>,
    timeouts: &Timeouts,
    has_tunnels: bool,
) -> Vec<String> {
    let of_tunnels = has_tunnels.then_some((Opt::TunnelIdleTimeout, timeouts.tunnel_idle));
    let all = [(Opt::ClientIdleTimeout, timeouts.client_idle)].into_iter().chain(of_tunnels);
    let short = all.filter(|&(_, timeout)| timeout <= PROMETHEUS_IDLE);
    short
        .map(|(option, timeout)| format!("{} {}: {TOO_SHORT}", source.name(option), HumanDuration(timeout)))
        .collect()
}

fn gather(text: &str) -> Result<Duration, &'static str> {
    let number = if ["0", "0s"].contains(&text) { Some("0") } else { text.strip_suffix("ms") };
    let milliseconds = number.and_then(|number| digits(number.as_bytes()));
    let milliseconds = milliseconds.filter(|&milliseconds| milliseconds <= GATHER_MAX);
    milliseconds.map(Duration::from_millis).ok_or("expected 0, or milliseconds up to 100ms: 1ms, 20ms")
}

fn positive(text: &str) -> Result<Duration, &'static str> {
    match duration::parse(text) {
        Ok(Duration::ZERO) => Err("expected a duration above zero: 500ms, 3s, 1m30s"),
        duration => duration,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_gather_for_at_most_a_tenth_of_a_second() {
        for (text, expected) in [("0", Some(0)), ("0s", Some(0)), ("1ms", Some(1)), ("100ms", Some(100))] {
            assert_eq!(gather(text).ok(), expected.map(Duration::from_millis), "{text}");
        }
        for text in ["101ms", "10s", "", "1", "-1ms", "ms", "1ms1ms", "99999999999999999999ms"] {
            assert_eq!(gather(text), Err("expected 0, or milliseconds up to 100ms: 1ms, 20ms"), "{text}");
        }
    }
}
