//! Sockets: their readiness, the bytes they carry, and the connections of a worker.
//!
//! Contains no rules of HTTP: exchanges decide what to do with bytes, failures and expired deadlines.
//!
//! - [`event_loop`]: mio, the listeners and the waker; turns readiness into turns of a worker;
//! - `alarm`: wakes an event loop for its next deadline;
//! - [`turn`]: the order of the steps of one turn;
//! - [`worker`]: the connections of one event loop: their slots, their timers, and the actions that sessions request;
//!   its `admission` accepts clients, queues those without a place, and frees places; its `buffers` pauses or ends
//!   sessions when the bytes held reach the limit; its `upstream` opens, pools and closes pod connections; its `names`
//!   gets addresses for clients that give a pod's name, its `passwords` the checks of their passwords, and its `gather`
//!   reads responses that have waited for long enough;
//! - [`run_queue`]: which client runs next;
//! - `runner`: runs one session until nothing moves, its turn is over, or the worker has to act; its `response` moves a
//!   response from a pod's connection to a client's, its `tunnel` bytes in both directions;
//! - [`client`]: a client's connection and its state;
//! - `handshakes`: the clients in a TLS handshake;
//! - [`upstreams`]: pod connections: opened, pooled, closed;
//! - [`network`]: the interface that creates sockets and pipes;
//! - [`gather`]: when to read again from a pod whose response arrives in small portions;
//! - [`transfer`]: moves bytes to one side of a session, copied or through a pipe;
//! - `outbox`: the bytes that one side has yet to accept;
//! - [`stream`]: a socket and its known readiness;
//! - [`transport`]: transports of bytes: TCP, and a pipe that moves them without copying;
//! - [`slots`]: the slab of connections, with keys that never reach a later connection in the same slot;
//! - [`listener`]: SO_REUSEPORT listeners, and the meaning of each accept error;
//! - [`places`]: places for clients, and the clients that wait for one;
//! - [`lookups`]: the name lookups that all workers share;
//! - `pending_names`: the clients of a worker that wait for addresses;
//! - [`passwords`]: the checks of passwords that all workers share;
//! - [`offload`]: threads for calls that block: the resolver's, and that which checks passwords;
//! - [`shared`]: state that the workers of a process share;
//! - [`signals`]: SIGTERM and SIGINT, and the end of a worker, as events;
//! - [`cgroup`]: the memory limit of this process's cgroup;
//! - [`process`]: this process's metrics from the kernel, and the open-files limit.

mod alarm;
pub mod cgroup;
pub mod client;
pub mod event_loop;
pub mod gather;
mod handshakes;
pub mod listener;
pub mod lookups;
pub mod network;
pub mod offload;
mod outbox;
pub mod passwords;
mod pending_names;
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
