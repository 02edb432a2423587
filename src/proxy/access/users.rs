//! The users of a web configuration file, and which passwords were already checked.
//!
//! Owns what is remembered of a check, as it takes a tenth of a second and more. Of each user, the last right password
//! is remembered, and of all wrong ones only the newest: no number of wrong passwords makes a right one forgotten. Only
//! keyed hashes are remembered. Other users mean another value of [`Users`], so nothing is remembered when a user or a
//! hash changes.

use std::{
    collections::VecDeque,
    fmt,
    hash::Hasher as _,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use siphasher::sip128::{Hasher128 as _, SipHasher24};

use super::bcrypt::PasswordHash;
use crate::proxy::timestamp::Timestamp;

/// Maximum number of users.
pub const USERS_MAX: usize = 256;
/// How long a right password is remembered after its last use. Prometheus uses it every minute.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// How many wrong passwords are remembered. A client with a wrong configuration sends the same one over and over.
const WRONG_MAX: usize = 64;
/// A check uses no more of a password.
const PASSWORD_BYTES_MAX: usize = 72;

/// The users. `Debug` shows none of them.
pub struct Users {
    /// Random, so that the hashes of passwords are unknown.
    key: [u8; 16],
    /// In the order of their names.
    users: Box<[User]>,
    /// Checked for unknown users, so that these take as long as a known one.
    unmatched: PasswordHash,
    memory: Mutex<Memory>,
}

#[derive(PartialEq)]
struct User {
    name: Box<str>,
    hash: PasswordHash,
}

#[derive(Default)]
struct Memory {
    /// The right password of each user, by its index, and until when it is remembered.
    right: Vec<(usize, LoginId, Timestamp)>,
    wrong: VecDeque<LoginId>,
}

/// Identifies a user name with a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LoginId(u128);

/// What is known about a user name with a password.
#[derive(Debug)]
pub enum Verdict {
    /// It is right.
    Right,
    /// It is wrong.
    Wrong,
    /// It has to be checked.
    Unchecked(Login),
}

/// A user name and a password that are not checked yet. `Debug` shows neither.
pub struct Login(Box<Parts>);

struct Parts {
    users: Arc<Users>,
    id: LoginId,
    user: Option<usize>,
    password: Box<[u8]>,
    from: Option<IpAddr>,
}

impl Users {
    /// Returns these users. The random `key` keeps the hashes of passwords unknown; it is never used again.
    pub fn new(given: Vec<(String, PasswordHash)>, key: [u8; 16]) -> Self {
        let cost = given.iter().map(|(_, hash)| hash.cost()).max().unwrap_or(10);
        // Sorted without std's sort, which has 8 KiB of code.
        let mut users: Vec<User> = Vec::with_capacity(given.len());
        for (name, hash) in given {
            let at = users.partition_point(|known| *known.name < *name);
            users.insert(at, User { name: name.into(), hash });
        }
        let unmatched = PasswordHash::unmatched(cost);
        Self { key, users: users.into(), unmatched, memory: Mutex::default() }
    }

    /// Returns whether these are the same users with the same hashes.
    pub fn is_same(&self, other: &Self) -> bool {
        self.users == other.users
    }

    /// Returns the lowest and the highest cost of their hashes.
    pub fn costs(&self) -> (u32, u32) {
        let costs = || self.users.iter().map(|user| user.hash.cost());
        let highest = self.unmatched.cost();
        (costs().min().unwrap_or(highest), highest)
    }

    /// Returns the number of users.
    pub fn count(&self) -> usize {
        self.users.len()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what is known about a user name with a password, which came `from` this address.
    pub fn judge(
        self: &Arc<Self>,
        name: &[u8],
        password: &[u8],
        from: Option<IpAddr>,
        now: Timestamp,
    ) -> Verdict {
        let id = self.id(name, password);
        let mut memory = self.memory();
        if let Some((.., until)) =
            memory.right.iter_mut().find(|(_, known, until)| *known == id && now < *until)
        {
            *until = now + REMEMBERED;
            return Verdict::Right;
        }
        if memory.wrong.contains(&id) {
            return Verdict::Wrong;
        }
        drop(memory);
        let user = self.users.binary_search_by(|user| user.name.as_bytes().cmp(name)).ok();
        let password = &password[..password.len().min(PASSWORD_BYTES_MAX)];
        let users = Arc::clone(self);
        Verdict::Unchecked(Login(Box::new(Parts { users, id, user, password: password.into(), from })))
    }

    /// Returns the identity of a user name with a password.
    pub fn id(&self, name: &[u8], password: &[u8]) -> LoginId {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write_usize(name.len());
        hasher.write(name);
        hasher.write(password);
        LoginId(hasher.finish128().as_u128())
    }
}

impl Memory {
    fn add(&mut self, login: &Parts, is_right: bool, now: Timestamp) {
        self.right.retain(|&(user, _, until)| now < until && !(is_right && Some(user) == login.user));
        if !is_right {
            self.wrong.truncate(WRONG_MAX - 1);
            self.wrong.push_front(login.id);
        } else if let Some(user) = login.user {
            self.right.push((user, login.id, now + REMEMBERED));
        }
    }
}

impl Login {
    /// Returns its identity.
    pub fn id(&self) -> LoginId {
        self.0.id
    }

    /// Returns the address that it came from.
    pub fn address(&self) -> Option<IpAddr> {
        self.0.from
    }

    /// Checks the password, which takes a tenth of a second and more, for an unknown user as well.
    pub fn check(&self) -> bool {
        let Parts { users, user, password, .. } = &*self.0;
        let hash = user.map_or(&users.unmatched, |user| &users.users[user].hash);
        hash.verify(password) && user.is_some()
    }

    /// Remembers the result of [`Self::check`].
    pub fn remember(&self, is_right: bool, now: Timestamp) {
        self.0.users.memory().add(&self.0, is_right, now);
    }

    /// Returns a copy for the thread that checks it.
    pub fn copy(&self) -> Self {
        let Parts { users, id, user, password, from } = &*self.0;
        Self(Box::new(Parts {
            users: Arc::clone(users),
            id: *id,
            user: *user,
            password: password.clone(),
            from: *from,
        }))
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Users({})", self.users.len())
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Users with the password `pass!`.
    fn users(names: &[&str]) -> Arc<Users> {
        let hash = PasswordHash::parse("$2b$04$If6bvum7DFjUnE9p2uDeDuB9FHBtjxsfYVbvpSXewPCBc7bgqUl16");
        let hash = hash.unwrap_or_else(|fault| panic!("{fault}"));
        Arc::new(Users::new(names.iter().map(|name| ((*name).to_owned(), hash)).collect(), [7; 16]))
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::default() + Duration::from_secs(seconds)
    }

    /// What is known about a login, with the check if it needs one: `R`ight, `W`rong, checked (`r`, `w`).
    fn judge(users: &Arc<Users>, name: &str, password: &str, now: Timestamp) -> char {
        match users.judge(name.as_bytes(), password.as_bytes(), None, now) {
            Verdict::Right => 'R',
            Verdict::Wrong => 'W',
            Verdict::Unchecked(login) => {
                let is_right = login.check();
                login.copy().remember(is_right, now);
                if is_right { 'r' } else { 'w' }
            }
        }
    }

    #[test]
    fn unknown_users_cost_as_much_as_the_most_expensive_one() {
        let users = |costs: &[u32]| {
            let user = |&cost: &u32| (cost.to_string(), PasswordHash::unmatched(cost));
            Users::new(costs.iter().map(user).collect(), [7; 16])
        };
        for (costs, expected) in [(&[5][..], (5, 5)), (&[6, 6], (6, 6)), (&[6, 4, 8, 5], (4, 8))] {
            assert_eq!(users(costs).costs(), expected, "{costs:?}");
        }
    }

    #[test]
    fn each_login_is_checked_once() {
        let users = users(&["bob", "alice"]);
        for (name, password, expected) in [
            ("alice", "pass!", 'r'),
            ("alice", "pass!", 'R'),
            ("bob", "pass!", 'r'),
            ("alice", "pass!", 'R'),
            ("alice", "wrong", 'w'),
            ("alice", "wrong", 'W'),
            ("alice", "pass!", 'R'),
            ("Alice", "pass!", 'w'),
            ("mallory", "pass!", 'w'),
            ("mallory", "pass!", 'W'),
            ("", "", 'w'),
            // The same bytes, divided in another way.
            ("alicepass", "!", 'w'),
            ("alice", "", 'w'),
        ] {
            assert_eq!(judge(&users, name, password, at(0)), expected, "{name}:{password}");
        }
    }

    #[test]
    fn no_number_of_wrong_passwords_makes_a_right_one_forgotten() {
        let users = users(&["alice"]);
        judge(&users, "alice", "pass!", at(0));
        for number in 0..3 * WRONG_MAX {
            assert_eq!(judge(&users, "alice", &number.to_string(), at(0)), 'w');
        }
        assert_eq!(judge(&users, "alice", "pass!", at(0)), 'R');
        assert_eq!(judge(&users, "alice", &(3 * WRONG_MAX - WRONG_MAX).to_string(), at(0)), 'W');
        assert_eq!(judge(&users, "alice", "0", at(0)), 'w', "only the newest wrong ones are remembered");
        let memory = users.memory();
        assert_eq!((memory.right.len(), memory.wrong.len()), (1, WRONG_MAX));
    }

    #[test]
    fn a_password_is_forgotten_an_hour_after_its_last_use() {
        let users = users(&["alice", "bob"]);
        judge(&users, "bob", "pass!", at(0));
        for (seconds, expected) in [(0, 'r'), (3000, 'R'), (6599, 'R'), (10_198, 'R'), (13_798, 'r')] {
            assert_eq!(judge(&users, "alice", "pass!", at(seconds)), expected, "after {seconds} s");
        }
        assert_eq!(users.memory().right.len(), 1, "bob's is forgotten");
    }

    #[test]
    fn nothing_of_them_is_shown() {
        let users = users(&["wombat"]);
        assert_eq!(format!("{users:?}"), "Users(1)");
        let verdict = users.judge(b"wombat", b"wombat", None, at(0));
        assert_eq!(format!("{verdict:?}"), "Unchecked(Login(..))");
    }
}
