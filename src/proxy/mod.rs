//! Decisions. What to do with a request, with an answer, with a failure, with time that has passed.
//!
//! Time arrives as an argument, and nothing here knows a file descriptor: all of it runs on a synthetic clock
//! in the tests. Each file owns one decision:
//!
//! - [`route`]: which page or pod a request target means, and the way back for a `Location`;
//! - [`peer`]: which server to connect to;
//! - [`pages`]: the pages of our own;
//! - [`policy`]: which pods may be reached;
//! - `special`: addresses that no wide range opens;
//! - [`exchange`]: the state machine of one request, its pod and its answer;
//! - [`session`]: what a client's connection is doing: an exchange, or a tunnel to come;
//! - [`events`]: what an exchange is told, and what it says;
//! - [`settings`]: what the operator set;
//! - [`outcome`]: every way an exchange can end, with its status, reason and label;
//! - [`admission`]: which clients give their place to others;
//! - [`pool`]: which kept pod connection is used again, and which goes first;
//! - [`budget`]: how many bytes are held for others, and who gives way;
//! - [`recycler`]: memory that exchanges use one after the other;
//! - [`timers`]: what is due, and when the next thing will be;
//! - [`timestamp`]: points in time in eight bytes;
//! - [`lru`]: which of many idle things idled longest;
//! - [`journal`]: what the log says of exchanges;
//! - [`log_rate`]: how often trouble is logged;
//! - [`logged`]: how much of a request is logged;
//! - [`log_losses`]: how many lines of the log were lost;
//! - [`metrics`]: the counters, and the page that shows them;
//! - [`duration`], [`size`]: durations and sizes as operators write and read them.

pub mod admission;
pub mod budget;
pub mod duration;
pub mod events;
pub mod exchange;
pub mod journal;
pub mod log_losses;
pub mod log_rate;
pub mod logged;
pub mod lru;
pub mod metrics;
pub mod outcome;
pub mod pages;
pub mod peer;
pub mod policy;
pub mod pool;
pub mod recycler;
pub mod route;
pub mod session;
pub mod settings;
pub mod size;
mod special;
pub mod timers;
pub mod timestamp;
