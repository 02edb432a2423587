//! psystrike forwards Prometheus scrapes to pods that Prometheus cannot reach.
//!
//! `GET /pods/{host}/{port}/{path}` fetches `http://{host}:{port}/{path}` and streams it back. This page describes
//! the source: its layers, and the path of one scrape through the files.
//!
//! # Layers
//!
//! A file uses only its own layer and the layers below it, never those above.
//!
//! | layer | knows | never knows |
//! | --- | --- | --- |
//! | `main.rs`, [`config`], [`limits`], [`logging`], [`healthcheck`] | the process: arguments, log, end | a client |
//! | [`net`] | sockets: readiness, slots of connections, moving bytes | a rule of HTTP |
//! | [`proxy`] | decisions: routes, policy, the exchange, the pool, deadlines, counters | a descriptor, a clock |
//! | [`http1`] | bytes: heads, framing, bodies, rewriting, local responses | a clock, a socket, a pod |
//!
//! # The life of one scrape
//!
//! 1. Prometheus connects. [`net::listener`] accepts the connection, [`net::worker`] finds a place for the client (its
//!    `admission`, by [`proxy::admission`] and [`net::places`]) and stores the connection ([`net::client`]) in a slot
//!    ([`net::slots`]) with a [`Session`](proxy::session::Session): an [`Exchange`](proxy::exchange::Exchange) in the
//!    state `Reading`.
//! 2. The request arrives. mio reports it to [`net::event_loop`], which notes the readiness ([`net::stream`]) and runs
//!    the worker once, in the order of [`net::turn`]. The worker takes the client from [`net::run_queue`] and runs its
//!    session (`net::runner`), which reads into the worker's one buffer and passes the bytes to [`proxy::exchange`] as
//!    an [`Event`](proxy::events::Event).
//! 3. [`http1::head`] parses the head, [`http1::framing`] finds that no body follows, [`proxy::access`] checks the
//!    client's credentials if it needs some, [`proxy::route`] finds the pod in the path, [`proxy::policy`] authorizes
//!    the connection, and [`http1::rewrite`] writes the head for the pod, without these credentials. A
//!    [`Transaction`](proxy::exchange::Transaction) holds the request's data from here on. The exchange is
//!    `Connecting`, and its [`Output`](proxy::events::Output) requests a connection, which ends the run.
//!    If the client has a user name and a password that are not known yet, the exchange is `Authenticating` first,
//!    until [`net::offload`] has a thread check them.
//!    If the target has a name, the exchange is `Resolving` first: the worker's `names` takes the addresses from
//!    [`proxy::resolver`], or [`net::offload`] has a thread look them up, and [`proxy::policy`] checks each of them.
//! 4. The worker takes a pooled connection from [`net::upstreams`], in the order of [`proxy::pool`], or opens one; the
//!    exchange is `Sending`, and once the request is sent, `Awaiting`.
//! 5. The pod responds. The runner's `response` reads into the same buffer: [`http1::head`] parses the head,
//!    [`http1::framing`] determines how the body ends, and [`http1::rewrite`] changes the head where necessary, which
//!    is rare. [`net::transfer`] then writes the bytes to Prometheus as they came. The exchange is `Relaying`, and
//!    [`http1::body`] looks for the end of the body. Of long responses, bodies with a length and large chunks go
//!    through [`net::transport::splice`] instead, unread. [`net::gather`] decides whether the rest of a response that
//!    arrives in small portions waits in the kernel, to be read at once.
//! 6. The body ends: the pod's connection returns to the pool, and the exchange is `Replying` until Prometheus has
//!    received the last byte, and then `Reading` again. [`proxy::metrics`] counted it.
//!
//! With a `proxy_url`, Prometheus sends the absolute form instead of a path, and all of this is the same.
//!
//! # The life of a tunnel
//!
//! 1. For a target with `https` and a `proxy_url`, Prometheus sends CONNECT. The exchange's `connect` refuses it, or
//!    requests a connection of its own, which never comes from the pool and never returns to it.
//! 2. Once the connection is established, the exchange writes `200` and reports its end, and the
//!    [`Session`](proxy::session::Session) becomes a [`Tunnel`](proxy::tunnel::Tunnel) for the rest of the connection.
//!    Bytes that followed the request go to the pod.
//! 3. The runner's `tunnel` moves bytes in both directions by [`net::transfer`], and reports events to the tunnel:
//!    bytes, an end, a failure. Bytes that a side does not accept stay in its `Outbox`; until they are written, the
//!    other side is not read.
//! 4. [`proxy::tunnel`] decides how the end or the failure of one side is passed to the other, and when a silent tunnel
//!    is closed. Its [`TunnelReport`](proxy::tunnel::TunnelReport) is counted by [`proxy::metrics`].
//!
//! Every failure is an [`Outcome`](proxy::outcome::Outcome): one enum holds the status and the reason phrase that
//! Prometheus shows, the word in the log and the label on `/metrics`. Expired deadlines come from [`proxy::timers`];
//! [`proxy::budget`] ends sessions when the bytes held reach the limit. The system calls of a scrape are in steps 2, 4
//! and 5: two waits, two reads, two writes, if the response is short.
//!
//! # Files that change while the process runs
//!
//! The main thread waits for signals, and checks the files of [`config::files`] every few seconds. Their meaning is in
//! modules of their own, such as [`config::access`], which replaces the [`Settings`](proxy::settings::Settings) in
//! [`net::shared`] as a whole. Workers use them from their next turn on.
//!
//! # Ownership and borrowing during one step
//!
//! ```text
//! EventLoop             owns  poll, listeners, Worker
//! └─ Worker             owns  Clients (slots; each owns its Stream, Outbox, SessionTimers and Session),
//!    │                        Upstreams (slots, pool), Admission, Timers, RunQueue, Journal, scratch buffer, and
//!    │                        Tools: network, time and settings as of this turn, Transfer (pipe), Budget,
//!    │                        Recycler (spare memory), Attempts (wrong secrets), Looks (at responses that
//!    │                        gather), Output
//!    │  lends for one run:
//!    └─ Runner          &mut  one Client, its Upstream, Tools, and the scratch buffer as an argument
//!       │               &     Shared (phase, pages), Counters
//!       │  lends for one step:
//!       └─ Session      owns  its Exchange: the state and its Transaction (moved in, moved out); or its Tunnel
//!                       &mut  Event (bytes of scratch), Output, Context (Recycler)
//!                       &     Context (time, settings, pages)
//! ```
//!
//! A step touches one client and its own upstream. Actions that concern others (connect, retry, pool, close, count) are
//! in the output when the run ends with `Action::Act`; the worker performs them once nothing is lent.

pub mod config;
pub mod healthcheck;
pub mod http1;
pub mod limits;
pub mod logging;
pub mod net;
pub mod proxy;
