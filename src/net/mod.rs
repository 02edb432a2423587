//! Sockets. Where readiness comes from, where bytes move, and where connections live.
//!
//! Nothing here knows a rule of HTTP: what to do with bytes, failures and time is the exchange's to say.
//!
//! - [`event_loop`]: mio, the listeners and the waker; turns readiness into turns of a worker;
//! - [`turn`]: the order of what happens in one turn;
//! - [`worker`]: the connections of one event loop: their slots, their timers, and what sessions ask for; its
//!   `admission` has clients come, wait for a place, and give it to others, its `buffers` has sessions wait or end where
//!   as much is kept for them as may be;
//! - [`run_queue`]: which client goes on next;
//! - `runner`: runs one session until nothing moves, its turn is over, or the worker has to act; its `response` is how
//!   an answer gets from a pod's connection to a client's;
//! - [`client`]: a client's connection, and what is kept for it;
//! - [`upstreams`]: pod connections: opened, pooled, closed;
//! - [`network`]: where sockets and pipes come from;
//! - [`transfer`]: moves bytes to one side of a session, copied or through a pipe;
//! - `outbox`: what that side has yet to take;
//! - [`stream`]: a socket and what is known of its readiness;
//! - [`transport`]: what carries bytes: TCP, and a pipe through which they go on unseen;
//! - [`slots`]: where connections live, and the tokens that outlive them;
//! - [`listener`]: SO_REUSEPORT listeners, and what each error of accept means;
//! - [`places`]: places for clients, and which wait for one;
//! - [`shared`]: what the workers of a process have in common;
//! - [`signals`]: SIGTERM and SIGINT, and the end of a worker, as events;
//! - [`cgroup`]: how much memory the kernel grants this process;
//! - [`process`]: what the kernel says of this process, and the open-files limit.

pub mod cgroup;
pub mod client;
pub mod event_loop;
pub mod listener;
pub mod network;
mod outbox;
pub mod places;
pub mod process;
pub mod run_queue;
mod runner;
pub mod shared;
pub mod signals;
pub mod slots;
pub mod stream;
pub mod transfer;
pub mod transport;
pub mod turn;
pub mod upstreams;
pub mod worker;
