//! Decides what to do with requests, responses, failures and timeouts.
//!
//! Time arrives as an argument, and nothing here uses a file descriptor: all of it runs on a synthetic clock in the
//! tests. Each file owns one concept:
//!
//! - [`route`]: the page or pod of a request target, and the rewriting of `Location`;
//! - [`peer`]: the address of a pod, and its TLS profile;
//! - [`pods`]: whether pods are connected to by HTTP or HTTPS;
//! - [`pages`]: psystrike's own pages;
//! - [`name`]: the syntax of DNS names;
//! - [`resolver`]: name lookups, and the cache of their answers;
//! - [`policy`]: the pods that may be reached;
//! - [`access`]: the clients that are served, by address and by secret;
//! - `special`: addresses that wide ranges do not open;
//! - [`exchange`]: the state machine of one request, its pod and its response;
//! - [`tunnel`]: the state machine of a tunnel: two directions, and an idle timeout;
//! - [`session`]: the protocol on a client's connection: HTTP exchanges, or a tunnel;
//! - [`events`]: the events and outputs of exchanges and tunnels;
//! - [`settings`]: the operator's settings;
//! - [`tls_fault`]: the reasons why TLS fails;
//! - [`outcome`]: every way an exchange can end, with its status, reason and label;
//! - [`admission`]: which clients give up their places to others;
//! - [`pool`]: which pooled connection is reused, and which is closed first;
//! - [`budget`]: how many bytes are buffered, and which session ends when there are too many;
//! - [`recycler`]: memory that exchanges reuse;
//! - [`timers`]: deadlines in their order;
//! - [`timestamp`]: points in time in eight bytes;
//! - [`lru`]: slots in the order in which they became idle;
//! - [`journal`]: the log lines of exchanges;
//! - [`log_rate`]: how often failures are logged;
//! - [`logged`]: how much of a request is logged;
//! - [`log_losses`]: how many log lines were lost;
//! - [`metrics`]: the counters, and the page that shows them;
//! - [`duration`], [`size`]: durations and sizes in the format of options.

pub mod access;
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
pub mod name;
pub mod outcome;
pub mod pages;
pub mod peer;
pub mod pods;
pub mod policy;
pub mod pool;
pub mod recycler;
pub mod resolver;
pub mod route;
pub mod session;
pub mod settings;
pub mod size;
mod special;
pub mod timers;
pub mod timestamp;
pub mod tls_fault;
pub mod tunnel;
