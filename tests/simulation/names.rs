//! The simulated resolver: slow, failing, with several addresses of which some are forbidden and some refuse
//! connections.
//!
//! Replaces the threads of `net/offload`. Has its own random numbers, so that the other sequences of a seed stay the
//! same.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use psystrike::{
    net::shared::Shared,
    proxy::{
        outcome::{LookupError, Outcome},
        timestamp::Timestamp,
    },
};

use super::{bytes::Random, clients::SLACK, net::Net, sim::RESOLVE_TTL};

/// Lookups in progress at once.
const RUNNING_MAX: usize = 2;
/// How long a name may take to resolve.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);

/// An address that refuses every connection.
const REFUSES: [u8; 4] = [10, 0, 0, 201];
/// Addresses that the policy forbids.
const FORBIDDEN: [[u8; 4]; 2] = [[127, 0, 0, 1], [192, 0, 2, 1]];

type Found = Result<Vec<IpAddr>, LookupError>;

pub(crate) struct Resolver {
    random: Random,
    /// The lookups in progress, and when they end.
    running: Vec<(Arc<str>, Duration, Timestamp, Found)>,
    /// The lookups that failed, and when.
    failed: Vec<(Arc<str>, Outcome, Timestamp)>,
}

impl Resolver {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: Random::new(seed ^ 0x7e50), running: Vec::new(), failed: Vec::new() }
    }

    /// What a lookup finds: the pod whose number is in the name (`web2.sim`) is always the last address.
    fn find(&mut self, name: &str) -> Found {
        let random = &mut self.random;
        match random.below(12) {
            0 => return Err(LookupError::NoSuchName),
            1 => return Err(LookupError::Failed),
            2 => return Ok(FORBIDDEN.map(IpAddr::from).to_vec()),
            _ => {}
        }
        let last: u8 = name["web".len()..].split('.').next().expect("a label").parse().expect("a number");
        let forbidden = random.one_in(3).then(|| IpAddr::from(random.pick(&FORBIDDEN)));
        let refuses = random.one_in(3).then(|| IpAddr::from(REFUSES));
        Ok(forbidden.into_iter().chain(refuses).chain([[10, 0, 0, last].into()]).collect())
    }
}

/// The name of a pod.
pub(crate) fn name_of(pod: usize) -> String {
    format!("Web{pod}.sim")
}

pub(crate) fn refuses(to: SocketAddr) -> bool {
    to.ip() == IpAddr::from(REFUSES)
}

impl Net {
    /// Begins lookups that are queued. Some end at once.
    pub(crate) fn begin_lookups(&mut self, shared: &Shared) {
        const MILLISECONDS: [u64; 9] = [0, 0, 0, 1, 1, 20, 300, 1500, 4000];
        while self.resolver.running.len() < RUNNING_MAX {
            let Some(name) = shared.lookups().begin_next() else { return };
            let found = self.resolver.find(&name);
            let takes = Duration::from_millis(self.resolver.random.pick(&MILLISECONDS));
            let due = self.now + takes;
            self.trace(|| format!("{name} is looked up until {due:?}: {found:?}"));
            self.resolver.running.push((name, takes, due, found));
            self.end_lookups(shared);
        }
    }

    /// Ends the lookups whose time has come, and begins others.
    pub(crate) fn end_lookups(&mut self, shared: &Shared) {
        let now = self.now;
        let ended: Vec<_> = self.resolver.running.extract_if(.., |(_, _, due, _)| *due <= now).collect();
        for (name, took, _, found) in ended {
            self.trace(|| format!("{name} was looked up"));
            let failure = match &found {
                Err(LookupError::NoSuchName) => Some(Outcome::NoSuchName),
                Err(_) => Some(Outcome::LookupFailed),
                Ok(found) if found.len() == FORBIDDEN.len() && found[1] == IpAddr::from(FORBIDDEN[1]) => {
                    Some(Outcome::ResolvedNotAllowed)
                }
                Ok(_) => None,
            };
            self.resolver.failed.extend(failure.map(|failure| (Arc::clone(&name), failure, now)));
            let workers = shared.lookups().finish(&name, found, took, now);
            workers.into_iter().for_each(|worker| shared.wake(worker));
            self.progress = true;
        }
    }

    /// When the next lookup ends.
    pub(crate) fn next_lookup_end(&self) -> Option<Timestamp> {
        self.resolver.running.iter().map(|(_, _, due, _)| *due).min()
    }

    /// Returns whether a scrape of a named pod, whose request was read at `since`, may end with this outcome before any
    /// pod is contacted.
    pub(crate) fn justifies_lookup_failure(
        &self,
        pod: usize,
        outcome: Outcome,
        since: Timestamp,
        patience: Duration,
    ) -> bool {
        if outcome == Outcome::LookupTimeout {
            return self.now >= since + patience.min(RESOLVE_TIMEOUT);
        }
        let name = name_of(pod).to_ascii_lowercase();
        let is_fresh = |at: Timestamp| at + RESOLVE_TTL + SLACK >= since;
        self.resolver
            .failed
            .iter()
            .any(|(known, failure, at)| **known == *name && *failure == outcome && is_fresh(*at))
    }
}
