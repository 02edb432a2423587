//! Threads for calls that block: name lookups by the system's resolver, and checks of passwords, as bcrypt takes a
//! tenth of a second and more.
//!
//! The first thread starts with the first name, so without names there are no threads. There are few, and they never
//! end. [`super::lookups`] owns the queue and the answers; for passwords, [`super::passwords`] does. These have one
//! thread, as in Prometheus's exporters: more would let clients with wrong passwords use more of the machine.

use std::{
    io,
    net::{IpAddr, ToSocketAddrs},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use log::{debug, warn};

use super::shared::Shared;
use crate::proxy::{
    access::{checks::Checked, users::Login},
    outcome::LookupError,
};

/// Stack of a thread. getaddrinfo(3) of glibc needs more of it than that of musl.
const STACK_BYTES: usize = 256 * 1024;

/// Stack of the thread for passwords. bcrypt needs 4 KiB of it.
const PASSWORDS_STACK_BYTES: usize = 64 * 1024;
/// That thread yields to those that serve scrapes.
const NICE: i32 = 5;

/// The texts of the errors `EAI_NONAME` and `EAI_NODATA` in std, which are those of gai_strerror(3) of glibc and musl.
const NO_SUCH_NAME: [&str; 4] = [
    "Name or service not known",
    "No address associated with hostname",
    "Name does not resolve",
    "Name has no usable address",
];

/// Starts a thread for a queued lookup, if one is needed.
pub fn start(shared: &Arc<Shared>) {
    if !shared.lookups().add_thread() {
        return;
    }
    let run = {
        let shared = Arc::clone(shared);
        move || resolve_names(&shared)
    };
    let thread = thread::Builder::new().name("resolver".to_owned()).stack_size(STACK_BYTES);
    if let Err(error) = thread.spawn(run) {
        warn!("cannot start a thread to resolve names: {error}");
        if shared.lookups().remove_thread() {
            while let Some(name) = shared.lookups().begin_next() {
                finish(shared, &name, Err(LookupError::Failed), Duration::ZERO);
            }
        }
    }
}

fn resolve_names(shared: &Shared) {
    loop {
        let name = shared.lookups().wait_for_next();
        debug!(name:%; "looking up a name");
        let begun = Instant::now();
        let found = look_up(&name);
        finish(shared, &name, found, begun.elapsed());
    }
}

fn finish(shared: &Shared, name: &Arc<str>, found: Result<Vec<IpAddr>, LookupError>, took: Duration) {
    let workers = shared.lookups().finish(name, found, took, shared.now());
    workers.into_iter().for_each(|worker| shared.wake(worker));
}

fn look_up(name: &str) -> Result<Vec<IpAddr>, LookupError> {
    match (name, 0).to_socket_addrs() {
        Ok(addresses) => Ok(addresses.map(|address| address.ip()).collect()),
        Err(error) => Err(lookup_error(&error)),
    }
}

fn lookup_error(error: &io::Error) -> LookupError {
    let text = error.to_string();
    let is_known = NO_SUCH_NAME.iter().any(|known| text.ends_with(known));
    if is_known { LookupError::NoSuchName } else { LookupError::Failed }
}

/// Starts the thread for a queued check of a password, unless it runs.
pub fn start_checking(shared: &Arc<Shared>) {
    if shared.passwords().set_thread(true) {
        return;
    }
    let run = {
        let shared = Arc::clone(shared);
        move || check_passwords(&shared)
    };
    let thread = thread::Builder::new().name("passwords".to_owned()).stack_size(PASSWORDS_STACK_BYTES);
    if let Err(error) = thread.spawn(run) {
        warn!("cannot start a thread to check passwords: {error}");
        shared.passwords().set_thread(false);
        while let Some(login) = shared.passwords().begin_next() {
            finish_check(shared, &login, Checked::Not);
        }
    }
}

fn check_passwords(shared: &Shared) {
    // In Linux this applies to the thread. If it fails, a check may delay scrapes on a machine with one core.
    let _ = rustix::process::nice(NICE);
    loop {
        let login = shared.passwords().wait_for_next();
        let is_right = login.check();
        login.remember(is_right, shared.now());
        finish_check(shared, &login, if is_right { Checked::Right } else { Checked::Wrong });
    }
}

fn finish_check(shared: &Shared, login: &Login, checked: Checked) {
    let workers = shared.passwords().finish(login.id(), checked);
    workers.into_iter().for_each(|worker| shared.wake(worker));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolver_errors_are_classified_by_their_text() {
        let prefix = "failed to lookup address information: ";
        for (text, expected) in [
            ("Name or service not known", LookupError::NoSuchName),
            ("No address associated with hostname", LookupError::NoSuchName),
            ("Name does not resolve", LookupError::NoSuchName),
            ("Name has no usable address", LookupError::NoSuchName),
            ("Temporary failure in name resolution", LookupError::Failed),
            ("Try again", LookupError::Failed),
            ("Non-recoverable failure in name resolution", LookupError::Failed),
            ("System error", LookupError::Failed),
        ] {
            assert_eq!(lookup_error(&io::Error::other(format!("{prefix}{text}"))), expected, "{text}");
        }
        assert_eq!(lookup_error(&io::Error::from_raw_os_error(24)), LookupError::Failed);
    }

    #[test]
    fn localhost_resolves_and_an_invalid_name_does_not() {
        let found = look_up("localhost").expect("its addresses");
        assert!(!found.is_empty() && found.iter().all(IpAddr::is_loopback), "{found:?}");
    }
}
