//! Decides which names are looked up, shares lookups among their waiters, and caches the answers.
//!
//! Owns the order of lookups and the expiry of answers. Resolves nothing: [`crate::net::offload`] does.

use std::{collections::VecDeque, net::IpAddr, sync::Arc, time::Duration};

use super::{outcome::LookupError, timestamp::Timestamp};

/// Maximum number of cached answers. Each takes less than 1 KiB.
const ANSWERS_MAX: usize = 1024;
/// Maximum number of lookups that wait for a thread.
const QUEUE_MAX: usize = 256;
/// Maximum number of addresses of a name. Further ones are ignored.
const ADDRESSES_MAX: usize = 16;
/// Maximum time that a failure is cached. A shorter `ttl` applies to failures too.
const FAILURE_TTL_MAX: Duration = Duration::from_secs(1);
/// The duration from which a lookup is slow: names whose DNS servers do not respond must not hold up the others.
const SLOW: Duration = Duration::from_secs(1);
/// Maximum number of lookups in progress. Each takes a thread.
pub const RUNNING_MAX: usize = 4;
/// Maximum number of lookups in progress, by class: of this class and later ones together. Slow names thus leave
/// threads to others.
const RUNNING_MAX_OF: [usize; 3] = [RUNNING_MAX, RUNNING_MAX - 1, RUNNING_MAX - 2];

/// The class of a name, by its last lookup: how likely the next one is to be fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// The last lookup found addresses, and was fast.
    Proven,
    /// There was no lookup before, or it failed fast.
    Unproven,
    /// The last lookup was slow.
    Slow,
}

/// The result of a lookup: at least one address, or the reason why there is none.
pub type Answer = Result<Arc<[IpAddr]>, LookupError>;

/// The result of requesting the addresses of a name.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// The answer is known.
    Known(Answer),
    /// A lookup for this name is queued or in progress.
    Shared,
    /// A lookup was queued: a thread is needed for it.
    Queued,
}

/// Lookups with their waiters, each identified by a `W`, and cached answers. In sorted vectors: maps would be faster
/// only with many more names, and take 30 KiB of code.
#[derive(Debug)]
pub struct Resolver<W> {
    /// In the order of their names.
    names: Vec<(Arc<str>, Lookup<W>)>,
    /// Names whose lookup has not begun, in their order.
    queue: VecDeque<(Class, Arc<str>)>,
    /// The number of lookups in progress, for each class.
    running: [usize; RUNNING_MAX_OF.len()],
    /// The number of answers among `names`.
    answers: usize,
}

#[derive(Debug)]
enum Lookup<W> {
    /// The lookup is queued or in progress.
    Pending {
        /// In their order.
        waiters: Vec<W>,
        /// The class of the lookup that is in progress.
        begun: Option<Class>,
    },
    Known {
        answer: Answer,
        at: Timestamp,
        class: Class,
    },
}

impl<W> Default for Resolver<W> {
    fn default() -> Self {
        Self { names: Vec::new(), queue: VecDeque::new(), running: Default::default(), answers: 0 }
    }
}

impl<W: Ord> Resolver<W> {
    /// Requests the addresses of a name, for a waiter. A cached answer is used if it is younger than `ttl`, a cached
    /// failure if it is also younger than a second.
    pub fn ask(&mut self, name: &str, waiter: W, now: Timestamp, ttl: Duration) -> Asked {
        let name: Arc<str> = name.to_ascii_lowercase().into(); // RFC 4343: case does not matter
        match self.get_mut(&name) {
            Some(Lookup::Known { answer, at, .. }) if is_fresh(answer, *at, now, ttl) => {
                return Asked::Known(answer.clone());
            }
            Some(Lookup::Pending { waiters, .. }) => {
                if let Err(at) = waiters.binary_search(&waiter) {
                    waiters.insert(at, waiter);
                }
                return Asked::Shared;
            }
            _ => {}
        }
        if self.queue.len() >= QUEUE_MAX {
            return Asked::Known(Err(LookupError::QueueFull));
        }
        let pending = Lookup::Pending { waiters: vec![waiter], begun: None };
        let class = match self.replace(&name, pending) {
            Some(Lookup::Known { class, .. }) => {
                self.answers -= 1;
                class
            }
            _ => Class::Unproven,
        };
        self.queue.push_back((class, name));
        Asked::Queued
    }

    /// Removes a waiter. A queued lookup without waiters is removed too; a lookup in progress continues.
    pub fn cancel(&mut self, name: &str, waiter: &W) {
        let name = name.to_ascii_lowercase();
        let Some(Lookup::Pending { waiters, begun }) = self.get_mut(&name) else { return };
        if let Ok(at) = waiters.binary_search(waiter) {
            waiters.remove(at);
        }
        if waiters.is_empty() && begun.is_none() {
            self.names.retain(|(known, _)| **known != *name);
            self.queue.retain(|(_, queued)| **queued != *name);
        }
    }

    fn position(&self, name: &str) -> Result<usize, usize> {
        self.names.binary_search_by(|(known, _)| (**known).cmp(name))
    }

    fn get_mut(&mut self, name: &str) -> Option<&mut Lookup<W>> {
        let at = self.position(name).ok()?;
        Some(&mut self.names[at].1)
    }

    /// Stores the state of a name, and returns the previous one.
    fn replace(&mut self, name: &Arc<str>, lookup: Lookup<W>) -> Option<Lookup<W>> {
        match self.position(name) {
            Ok(at) => Some(std::mem::replace(&mut self.names[at].1, lookup)),
            Err(at) => {
                self.names.insert(at, (Arc::clone(name), lookup));
                None
            }
        }
    }

    /// Takes the next name to look up: the first whose class does not have too many lookups in progress.
    /// [`finish`](Self::finish) has to follow.
    pub fn begin_next(&mut self) -> Option<Arc<str>> {
        let at = self.queue.iter().position(|(class, _)| self.may_begin(*class))?;
        let (class, name) = self.queue.remove(at)?;
        self.running[class as usize] += 1;
        if let Some(Lookup::Pending { begun, .. }) = self.get_mut(&name) {
            *begun = Some(class);
        }
        Some(name)
    }

    /// Returns whether no class up to this one would have too many lookups in progress.
    fn may_begin(&self, class: Class) -> bool {
        let under_way = |from: usize| self.running[from..].iter().sum::<usize>();
        (0..=class as usize).all(|from| under_way(from) < RUNNING_MAX_OF[from])
    }

    /// Returns how many lookups have not begun.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Stores the answer of a lookup, which `took` this long, and returns it with its waiters.
    pub fn finish(
        &mut self,
        name: &Arc<str>,
        found: Result<Vec<IpAddr>, LookupError>,
        took: Duration,
        now: Timestamp,
    ) -> (Answer, Vec<W>) {
        let answer = found.and_then(addresses);
        let class = match &answer {
            _ if took >= SLOW => Class::Slow,
            Ok(_) => Class::Proven,
            Err(_) => Class::Unproven,
        };
        if self.answers >= ANSWERS_MAX {
            self.forget_oldest();
        }
        let known = Lookup::Known { answer: answer.clone(), at: now, class };
        match self.replace(name, known) {
            Some(Lookup::Pending { waiters, begun }) => {
                self.answers += 1;
                if let Some(begun) = begun {
                    self.running[begun as usize] -= 1;
                }
                (answer, waiters)
            }
            _ => (answer, Vec::new()),
        }
    }

    /// Removes the older half of the answers, so that this search is rare.
    fn forget_oldest(&mut self) {
        let mut times: Vec<Timestamp> = self.names.iter().filter_map(|(_, lookup)| lookup.at()).collect();
        let half = times.len() / 2;
        let (_, &mut newest, _) = times.select_nth_unstable(half);
        self.names.retain(|(_, lookup)| lookup.at().is_none_or(|at| at > newest));
        self.answers = self.names.iter().filter_map(|(_, lookup)| lookup.at()).count();
    }
}

impl<W> Lookup<W> {
    fn at(&self) -> Option<Timestamp> {
        match self {
            Self::Known { at, .. } => Some(*at),
            Self::Pending { .. } => None,
        }
    }
}

fn is_fresh(answer: &Answer, at: Timestamp, now: Timestamp, ttl: Duration) -> bool {
    let ttl = if answer.is_ok() { ttl } else { ttl.min(FAILURE_TTL_MAX) };
    now.since(at) < ttl
}

/// Returns the addresses in the resolver's order, each once: some resolvers repeat them.
fn addresses(found: Vec<IpAddr>) -> Answer {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for ip in found.into_iter().map(|ip| ip.to_canonical()) {
        if addresses.len() < ADDRESSES_MAX && !addresses.contains(&ip) {
            addresses.push(ip);
        }
    }
    if addresses.is_empty() { Err(LookupError::NoSuchName) } else { Ok(addresses.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(5);

    fn at(milliseconds: u64) -> Timestamp {
        Timestamp::default() + Duration::from_millis(milliseconds)
    }

    fn ip(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn found(last: u8) -> Answer {
        Ok([ip(last)].into())
    }

    /// Looks up the next name, and returns it with its waiters.
    fn look_up(
        resolver: &mut Resolver<u32>,
        found: Result<Vec<IpAddr>, LookupError>,
        now: Timestamp,
    ) -> (String, Vec<u32>) {
        let name = resolver.begin_next().expect("a lookup is queued");
        let (_, waiters) = resolver.finish(&name, found, Duration::ZERO, now);
        (name.to_string(), waiters)
    }

    #[test]
    fn lookups_are_shared_and_their_answers_cached() {
        let mut resolver = Resolver::default();
        assert_eq!(resolver.ask("a.example", 1, at(0), TTL), Asked::Queued);
        assert_eq!(resolver.ask("A.Example", 2, at(1), TTL), Asked::Shared);
        assert_eq!(
            resolver.ask("a.example.", 3, at(1), TTL),
            Asked::Queued,
            "a trailing dot makes it another name"
        );
        let name = resolver.begin_next().expect("a lookup is queued");
        assert_eq!(resolver.ask("a.example", 4, at(2), TTL), Asked::Shared, "the lookup is in progress");
        let (answer, waiters) = resolver.finish(&name, Ok(vec![ip(1)]), Duration::ZERO, at(10));
        assert_eq!((answer, waiters), (found(1), vec![1, 2, 4]));
        for (milliseconds, expected) in [(5, Asked::Known(found(1))), (5009, Asked::Known(found(1)))] {
            assert_eq!(resolver.ask("a.EXAMPLE", 5, at(milliseconds), TTL), expected);
        }
        assert_eq!(resolver.ask("a.example", 5, at(5010), TTL), Asked::Queued, "the answer has expired");
        assert_eq!(look_up(&mut resolver, Ok(vec![ip(3)]), at(5010)), ("a.example.".to_owned(), vec![3]));
        assert_eq!(look_up(&mut resolver, Ok(vec![ip(2)]), at(5010)), ("a.example".to_owned(), vec![5]));
        assert_eq!(resolver.ask("a.example", 5, at(5011), TTL), Asked::Known(found(2)));
        assert_eq!(resolver.begin_next(), None);
        assert_eq!(resolver.answers, 2);
    }

    #[test]
    fn failures_are_cached_for_a_shorter_time() {
        for (ttl, kept) in [(5000, 999), (300, 299), (0, 0)] {
            let ttl = Duration::from_millis(ttl);
            let mut resolver = Resolver::default();
            resolver.ask("a", 1, at(0), ttl);
            look_up(&mut resolver, Err(LookupError::Failed), at(100));
            if kept > 0 {
                let known = Asked::Known(Err(LookupError::Failed));
                assert_eq!(resolver.ask("a", 1, at(100 + kept), ttl), known, "{ttl:?}");
            }
            assert_eq!(resolver.ask("a", 1, at(101 + kept), ttl), Asked::Queued, "{ttl:?}");
        }
    }

    #[test]
    fn a_cancelled_waiter_leaves_the_lookup_to_others() {
        let mut resolver = Resolver::default();
        resolver.ask("a", 1, at(0), TTL);
        resolver.ask("a", 2, at(0), TTL);
        resolver.ask("b", 1, at(0), TTL);
        resolver.cancel("A", &1);
        resolver.cancel("b", &1);
        resolver.cancel("c", &1);
        assert_eq!(look_up(&mut resolver, Ok(vec![ip(1)]), at(1)), ("a".to_owned(), vec![2]));
        assert_eq!(resolver.begin_next(), None, "no client waits for b");
        assert_eq!(resolver.ask("b", 3, at(2), TTL), Asked::Queued);
        let name = resolver.begin_next().expect("a lookup is queued");
        resolver.cancel("b", &3);
        assert_eq!(
            resolver.ask("b", 4, at(3), TTL),
            Asked::Shared,
            "a lookup in progress continues without waiters"
        );
        assert_eq!(resolver.finish(&name, Ok(vec![ip(2)]), Duration::ZERO, at(4)), (found(2), vec![4]));
        resolver.cancel("b", &4);
        assert_eq!(resolver.ask("b", 5, at(5), TTL), Asked::Known(found(2)));
    }

    #[test]
    fn slow_names_leave_threads_to_others() {
        let mut resolver = Resolver::default();
        let begin = |resolver: &mut Resolver<u32>, names: &[&str]| -> Vec<String> {
            for name in names {
                resolver.ask(name, 1, at(0), Duration::ZERO);
            }
            std::iter::from_fn(|| resolver.begin_next()).map(|name| name.to_string()).collect()
        };
        let finish = |resolver: &mut Resolver<u32>, names: &[&str], found: &Result<Vec<IpAddr>, _>, took| {
            for name in names {
                let _ = resolver.finish(&(*name).into(), found.clone(), Duration::from_millis(took), at(0));
            }
        };
        let (found, failed) = (Ok(vec![ip(1)]), Err(LookupError::Failed));
        // Unknown names leave one thread free, for a name that resolved before.
        assert_eq!(begin(&mut resolver, &["good", "s1", "s2", "s3", "s4"]), ["good", "s1", "s2"]);
        finish(&mut resolver, &["good"], &found, 20);
        assert_eq!(begin(&mut resolver, &["good"]), ["s3", "good"]);
        finish(&mut resolver, &["good"], &found, 20);
        // Slow names leave another one free.
        finish(&mut resolver, &["s1", "s2", "s3"], &failed, 10_000);
        assert_eq!(begin(&mut resolver, &["s1", "s2", "s3"]), ["s4", "s1", "s2"]);
        finish(&mut resolver, &["s4", "s1"], &failed, 10_000);
        assert_eq!(begin(&mut resolver, &["s4", "new", "good"]), ["s3", "new", "good"]);
        assert_eq!(resolver.queued(), 1);
        finish(&mut resolver, &["good", "new", "s2", "s3"], &found, 20);
        assert_eq!(begin(&mut resolver, &[]), ["s4"]);
        finish(&mut resolver, &["s4"], &found, 20);
        assert_eq!(resolver.running, [0; 3]);
        assert_eq!(begin(&mut resolver, &["s1", "s2", "s3", "s4", "good"]), ["s1", "s2", "s3", "s4"]);
    }

    #[test]
    fn queue_and_cache_are_limited() {
        let mut resolver = Resolver::default();
        let ask = |resolver: &mut Resolver<u32>, number: usize, now| {
            resolver.ask(&format!("n{number}"), 1, now, TTL)
        };
        for number in 0..QUEUE_MAX {
            assert_eq!(ask(&mut resolver, number, at(0)), Asked::Queued);
        }
        let full = Asked::Known(Err(LookupError::QueueFull));
        assert_eq!(ask(&mut resolver, QUEUE_MAX, at(0)), full);
        assert_eq!(ask(&mut resolver, 0, at(0)), Asked::Shared);
        look_up(&mut resolver, Ok(vec![ip(1)]), at(1));
        assert_eq!(ask(&mut resolver, QUEUE_MAX, at(1)), Asked::Queued);
        for number in 0..3 * ANSWERS_MAX {
            let now = at(1000 + number as u64);
            while resolver.queue.len() > 1 {
                look_up(&mut resolver, Ok(vec![ip(1)]), now);
            }
            ask(&mut resolver, 10_000 + number, now);
            let known = resolver.names.iter().filter(|(_, lookup)| lookup.at().is_some()).count();
            assert!(known == resolver.answers && known <= ANSWERS_MAX, "{known} after {number}");
            assert!(resolver.names.len() <= ANSWERS_MAX + QUEUE_MAX);
        }
        let newest = 10_000 + 3 * ANSWERS_MAX - 3;
        assert_eq!(
            ask(&mut resolver, newest, at(5000)),
            Asked::Known(found(1)),
            "the newest answers are kept"
        );
    }

    #[test]
    fn addresses_are_canonical_limited_and_unique() {
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(addresses(vec![ip(2), mapped, ip(1), ip(2)]), Ok([ip(2), ip(1)].into()));
        assert_eq!(addresses(Vec::new()), Err(LookupError::NoSuchName));
        let many = addresses((0..=255).map(ip).collect()).unwrap();
        assert_eq!((many.len(), many[0]), (ADDRESSES_MAX, ip(0)));
    }
}
