//! The simulated checks of passwords: slow, one at a time, and repeated when the users change.
//!
//! Replaces the thread of `net/offload`. Has its own random numbers, so that the other sequences of a seed stay the
//! same.

use std::{sync::Arc, time::Duration};

use psystrike::{
    net::shared::Shared,
    proxy::{
        access::{
            checks::Checked,
            users::{Login, Users},
        },
        outcome::Outcome,
        timestamp::Timestamp,
    },
};

use super::{bytes::Random, clients::Kind, net::Net};

const USER: &[u8] = b"alice";
const PASSWORD: &[u8] = b"pass!";
/// `alice:pass!` and `alice:wrong`.
const RIGHT: &str = "Basic YWxpY2U6cGFzcyE=";
const WRONG: &str = "Basic YWxpY2U6d3Jvbmc=";

/// The least time limit of a scrape.
pub(crate) const PATIENCE_MIN: Duration = Duration::from_millis(270);

pub(crate) struct Checker {
    random: Random,
    /// The check in progress, and when it ends.
    running: Option<(Login, Timestamp)>,
    /// All users so far: the file changes from time to time.
    users: Vec<Arc<Users>>,
}

impl Checker {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: Random::new(seed ^ 0xbc17), running: None, users: Vec::new() }
    }

    /// Returns whether a check is in progress.
    pub(crate) fn is_busy(&self) -> bool {
        self.running.is_some()
    }

    /// Returns whether clients need a password.
    pub(crate) fn is_needed(&self) -> bool {
        !self.users.is_empty()
    }
}

/// Users with another key each time.
#[cfg(feature = "web-config")]
fn users(random: &mut Random) -> Option<Arc<Users>> {
    use psystrike::proxy::access::bcrypt::PasswordHash;
    let key = std::array::from_fn(|_| random.byte());
    let users = vec![("alice".to_owned(), PasswordHash::unmatched(4))];
    Some(Arc::new(Users::new(users, key)))
}

#[cfg(not(feature = "web-config"))]
fn users(_: &mut Random) -> Option<Arc<Users>> {
    None
}

/// Adds credentials to a request. Some are wrong, or missing.
pub(crate) fn with_credentials(seed: u64, kind: Kind, target: &str, fields: &mut String) -> Kind {
    let random = &mut Random::new(seed);
    let is_to_proxy = target.starts_with("http:");
    let name = random.pick(&["Authorization", "Proxy-Authorization"]);
    let is_scrape = matches!(kind, Kind::Scrape(_));
    match random.below(12) {
        0 if is_scrape => {
            let required = [Outcome::AuthenticationRequired, Outcome::ProxyAuthenticationRequired];
            return Kind::Refused(required[usize::from(is_to_proxy)]);
        }
        1 | 2 if is_scrape => {
            *fields += &format!("{name}: {WRONG}\r\n");
            let failed = [Outcome::AuthenticationFailed, Outcome::ProxyAuthenticationFailed];
            return Kind::Refused(failed[usize::from(is_to_proxy)]);
        }
        _ => *fields += &format!("{name}: {RIGHT}\r\n"),
    }
    kind
}

impl Net {
    /// Requires passwords from now on, in builds that can.
    pub(crate) fn change_users(&mut self, shared: &Shared) {
        let Some(users) = users(&mut self.passwords.random) else { return };
        self.passwords.users.push(Arc::clone(&users));
        shared.swap_tls(|_, settings| settings.access.users = Some(users));
    }

    /// Begins a check that is queued, unless one is in progress.
    pub(crate) fn begin_checks(&mut self, shared: &Shared) {
        const MILLISECONDS: [u64; 7] = [0, 1, 20, 90, 300, 900, 4000];
        while self.passwords.running.is_none() {
            let Some(login) = shared.passwords().begin_next() else { return };
            let due = self.now + Duration::from_millis(self.passwords.random.pick(&MILLISECONDS));
            self.trace(|| format!("a password is checked until {due:?}"));
            self.passwords.running = Some((login, due));
            self.end_checks(shared);
        }
    }

    /// Ends the check whose time has come. Sometimes the users change at that moment.
    pub(crate) fn end_checks(&mut self, shared: &Shared) {
        let now = self.now;
        let Some((login, _)) = self.passwords.running.take_if(|(_, due)| *due <= now) else { return };
        let is_it = |users: &Arc<Users>| users.id(USER, PASSWORD) == login.id();
        let is_right = self.passwords.users.iter().any(is_it);
        self.trace(|| format!("a password was checked: {is_right}"));
        login.remember(is_right, now);
        if self.passwords.random.one_in(4) {
            self.change_users(shared);
        }
        let checked = if is_right { Checked::Right } else { Checked::Wrong };
        let workers = shared.passwords().finish(login.id(), checked);
        workers.into_iter().for_each(|worker| shared.wake(worker));
        self.progress = true;
    }

    /// Ends the lookups and checks whose time has come, and begins others.
    pub(crate) fn run_offloaded(&mut self, shared: &Shared) {
        self.end_lookups(shared);
        self.begin_lookups(shared);
        self.end_checks(shared);
        self.begin_checks(shared);
    }

    /// When the next lookup or check ends.
    pub(crate) fn next_offloaded_end(&self) -> Option<Timestamp> {
        let check = self.passwords.running.as_ref().map(|(_, due)| *due);
        self.next_lookup_end().into_iter().chain(check).min()
    }
}
