//! psystrike forwards Prometheus's scrapes to pods that it cannot reach.
//!
//! `GET /pods/{ip}/{port}/{path}` fetches `http://{ip}:{port}/{path}` and streams it back. This page is the map:
//! the rooms of the house, and the life of one scrape, told in file names.
//!
//! # The rooms
//!
//! A file uses what is in its own room or in one further down, never what is further up.
//!
//! | room | knows | never knows |
//! | --- | --- | --- |
//! | `main.rs`, [`config`], [`limits`], [`logging`], [`healthcheck`] | the process: its arguments, its log, its end | a client |
//! | [`net`] | sockets: readiness, where connections live, moving bytes | a rule of HTTP |
//! | [`proxy`] | decisions: routes, policy, the exchange, the pool, deadlines, counters | a descriptor, a clock |
//! | [`http1`] | bytes: heads, framing, bodies, rewriting, local responses | a clock, a socket, a pod |
//!
//! # The life of one scrape
//!
//! 1. Prometheus connects. [`net::listener`] accepts, [`net::worker`] finds a place for the client (its `admission`, by
//!    [`proxy::admission`] and [`net::places`]) and keeps the connection ([`net::client`]) in a slot ([`net::slots`])
//!    with a [`Session`](proxy::session::Session): an [`Exchange`](proxy::exchange::Exchange), which is `Reading`.
//! 2. Its request comes. mio reports it to [`net::event_loop`], which notes the readiness ([`net::stream`]) and lets the
//!    worker run once, in the order of [`net::turn`]. The worker takes the client from [`net::run_queue`] and runs its
//!    session (`net::runner`), which reads into the worker's one buffer and passes the bytes to [`proxy::exchange`] as
//!    an [`Event`](proxy::events::Event).
//! 3. [`http1::head`] cuts the head, [`http1::framing`] sees that no body follows, [`proxy::route`] finds the pod
//!    in the path, [`proxy::policy`] authorizes the connection, and [`http1::rewrite`] writes the head for the pod. What
//!    the request needs from here on is a [`Transaction`](proxy::exchange::Transaction). The exchange is `Connecting`,
//!    and its [`Output`](proxy::events::Output) asks for a connection, which ends the run.
//! 4. The worker takes a pooled connection from [`net::upstreams`], in the order of [`proxy::pool`], or opens one; the
//!    exchange is `Sending`, and when the pod has the request, `Awaiting`.
//! 5. The pod responds. The runner's `response` reads into the same buffer: [`http1::head`] cuts, [`http1::framing`]
//!    says how the body ends, [`http1::rewrite`] changes what must change, which is nothing for most responses; then
//!    [`net::transfer`] writes the bytes to Prometheus as they came. The exchange is `Relaying`, and [`http1::body`]
//!    looks for the end as they pass. Where they are many, they go through [`net::transport::splice`] instead, and are
//!    at most looked at.
//! 6. The end is there: the pod's connection goes back to the pool, the exchange is `Replying` until Prometheus
//!    has taken the last byte, and then `Reading` again. [`proxy::metrics`] counted it.
//!
//! What goes wrong on the way is an [`Outcome`](proxy::outcome::Outcome): one enum is the status and the reason
//! phrase that Prometheus shows, the word in the log and the label on `/metrics`. What takes too long comes up in
//! [`proxy::timers`]; what is held beyond the limit is ended by [`proxy::budget`]. What a scrape costs in system calls is
//! in steps 2, 4 and 5: two waits, two reads, two writes, where the response is short.
//!
//! # Who owns and who borrows what during one step
//!
//! ```text
//! EventLoop             owns  poll, listeners, Worker
//! └─ Worker             owns  Clients (slots; each owns its Stream, Outbox, SessionTimers and Session), Upstreams (slots,
//!    │                        pool), Admission, Timers, RunQueue, Journal, scratch buffer, and Tools: network, time and
//!    │                        settings as of this turn, Transfer (pipe), Budget, Recycler (spare memory), Output
//!    │  lends for one run:
//!    └─ Runner          &mut  one Client, its Upstream, Tools, and the scratch buffer as an argument
//!       │               &     Shared (phase, pages), Counters
//!       │  lends for one step:
//!       └─ Session      owns  its Exchange: the state and its Transaction (moved in, moved out)
//!                       &mut  Event (bytes of scratch), Output, Context (Recycler)
//!                       &     Context (time, settings, pages)
//! ```
//!
//! A step touches one client and its own upstream. What concerns the others (connect, retry, pool, close, count) stands
//! in the output when the run ends with `Action::Act`, and the worker does it when nothing is lent any more.
//!
//! Functions that a process runs once at its start, or not at all, are `#[cold]`: the linker then puts them beside each
//! other, out of the way of what runs on, and what they need of the stack is not in the frame of `main` (PERF.md).

pub mod config;
pub mod healthcheck;
pub mod http1;
pub mod limits;
pub mod logging;
pub mod net;
pub mod proxy;
