//! Runs one client's session until nothing moves, its turn is over, or the worker has to act.
//!
//! Makes the move that the session waits for, if a socket is ready for it, and passes the result to the session.
//! Touches only its own client and its own upstream. Bytes are read into the worker's scratch buffer and written from
//! there; `request` moves those of a request, `response` those of a response, and `gather` decides how these wait.
//! Only bytes that the other side does not accept now are held with its connection; while any are held, their source is
//! not read.

mod gather;
mod request;
mod response;
mod tunnel;

use std::io;

use log::trace;

use super::{
    client::Client,
    gather::Looks,
    network::Network,
    shared::{Phase, SettingsSnapshot, Shared},
    slots::Key,
    stream::{Received, Stream},
    transfer::{PASS_BYTES_MAX, READ_BYTES_MAX, Transfer},
    transport::Transport,
    upstreams::Upstream,
};
use crate::proxy::{
    access::attempts::Attempts,
    budget::{Budget, REWRITE_BYTES},
    events::{Context, Event, Output, Side, Wants},
    metrics::Counters,
    recycler::Recycler,
    timestamp::Timestamp,
};

/// A client's connection, its pod's connection, and the tools that the worker lends for one run.
pub(super) struct Runner<'w, N: Network> {
    pub(super) client: &'w mut Client<N::Socket>,
    pub(super) upstream: Option<&'w mut Upstream<N::Socket>>,
    /// The client's slot, which identifies it in the budget.
    pub(super) slot: u32,
    pub(super) shared: &'w Shared,
    pub(super) counters: &'w Counters,
    pub(super) tools: &'w mut Tools<N>,
}

/// Tools that each run borrows. Only one run uses them at a time.
pub(super) struct Tools<N: Network> {
    pub(super) network: N,
    /// As of this turn.
    pub(super) settings: SettingsSnapshot,
    /// As of this turn.
    pub(super) now: Timestamp,
    pub(super) transfer: Transfer<N::Pipe>,
    /// The bytes held.
    pub(super) budget: Budget,
    pub(super) attempts: Attempts,
    /// The looks at responses that gather, by their pods' connections.
    pub(super) looks: Looks<Key>,
    pub(super) recycler: Recycler,
    pub(super) out: Output,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing can be done before the next event.
    Wait,
    /// Its turn is over, but it could continue at once.
    Yield,
    /// The worker has to perform the output's actions.
    Act {
        /// Whether the client's connection or its outbox took the output's bytes. If not, the client is gone.
        delivered: bool,
    },
}

/// The result of one move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// Nothing moved.
    Nothing,
    /// Something moved.
    Made,
    /// Something moved, and the worker has to perform the output's actions.
    Act {
        /// As in [`Action::Act`].
        delivered: bool,
    },
}

impl<N: Network> Runner<'_, N> {
    /// Makes as many `moves` (reads, writes and transitions) as possible.
    pub(super) fn run(&mut self, scratch: &mut [u8], moves: &mut usize) -> Action {
        while *moves > 0 {
            *moves -= 1;
            if self.tools.transfer.run_bytes >= self.tools.transfer.run_bytes_max {
                return Action::Yield;
            }
            let moved =
                if !self.client.is_stalled() || self.client.session.is_tunnel() || self.flush().is_ok() {
                    self.make_move(scratch)
                } else {
                    self.step(Event::ClientGone)
                };
            match moved {
                Move::Nothing => {
                    self.wait_for_rest();
                    return Action::Wait;
                }
                Move::Made => {}
                Move::Act { delivered } => return Action::Act { delivered },
            }
        }
        Action::Yield
    }

    /// Returns the stream of a side.
    fn stream_of(&self, side: Side) -> Option<&Stream<N::Socket>> {
        match side {
            Side::Client => Some(&self.client.stream),
            Side::Pod => self.upstream.as_deref().map(|upstream| &upstream.stream),
        }
    }

    /// Writes the bytes in the client's outbox.
    fn flush(&mut self) -> io::Result<()> {
        let Client { stream, outbox, .. } = &mut *self.client;
        self.tools.transfer.flush(stream, outbox, &self.counters.client_sent_bytes)
    }

    fn make_move(&mut self, scratch: &mut [u8]) -> Move {
        match self.client.session.wants() {
            _ if self.client.is_gone() => self.step(Event::ClientGone),
            Wants::Request => self.read_request(scratch),
            Wants::Connection => self.await_connection(),
            Wants::Send => self.send(scratch),
            Wants::Response if self.client.is_stalled() => Move::Nothing,
            Wants::Response => self.read_response(scratch),
            Wants::Flush if self.client.is_stalled() => Move::Nothing,
            Wants::Flush => self.step(Event::Flushed),
            Wants::Discard => self.discard(scratch),
            Wants::Tunnel => self.tunnel(scratch),
            Wants::PasswordCheck | Wants::Delivery | Wants::Nothing => Move::Nothing,
        }
    }

    /// Passes an event to the exchange, and writes its output to the client.
    pub(super) fn step(&mut self, event: Event<'_>) -> Move {
        self.advance(event);
        self.deliver(&[])
    }

    /// Passes an event to the exchange, which fills the output.
    fn advance(&mut self, event: Event<'_>) {
        let Client { session, facts, .. } = &mut *self.client;
        let mut ctx = Context {
            now: self.tools.now,
            draining: self.shared.phase() != Phase::Serving,
            settings: &self.tools.settings,
            pages: self.shared,
            client: facts,
            attempts: &mut self.tools.attempts,
            recycler: &mut self.tools.recycler,
        };
        trace!("client {}: {:?}", self.slot, session.wants());
        session.on_event(event, &mut ctx, &mut self.tools.out);
    }

    /// Writes the output's bytes to the client. `bytes` are those of the event, if it had any.
    fn deliver(&mut self, bytes: &[u8]) -> Move {
        let Output { head, pass, .. } = &self.tools.out;
        let has_none = head.is_empty() && pass.is_empty();
        let bytes = &bytes[pass.clone()];
        if has_none {
            return self.after(true);
        }
        let Client { stream, outbox, .. } = &mut *self.client;
        let delivered =
            self.tools.transfer.write(stream, outbox, head, bytes, &self.counters.client_sent_bytes);
        self.client.unsettled |= self.client.is_stalled();
        self.after(delivered)
    }

    /// Returns the move's result, with the output's bytes `delivered` or not.
    fn after(&self, delivered: bool) -> Move {
        if delivered && !self.tools.out.has_action() { Move::Made } else { Move::Act { delivered } }
    }

    /// Returns how many of `most` bytes may be read for the client or its pod: as many as the budget allows to hold.
    #[inline]
    fn room_to_read(&self, most: usize) -> usize {
        if self.tools.budget.has_room_for(ROOM_FOR_ANY) {
            return most; // almost always
        }
        self.scarce_room().min(most)
    }

    fn scarce_room(&self) -> usize {
        let holds = held_bytes(self.client, self.upstream.as_deref());
        self.tools.budget.room(self.slot, self.client.counted, holds)
    }

    /// Pauses reading, for lack of room, if there is something to read.
    fn pause(&mut self, is_readable: bool) -> Move {
        self.client.lacks_room = is_readable;
        self.client.unsettled |= is_readable;
        Move::Nothing
    }

    fn discard(&mut self, scratch: &mut [u8]) -> Move {
        let event = match self.client.stream.discard(&mut scratch[..READ_BYTES_MAX]) {
            Ok(Received::Bytes(bytes)) => Event::Discarded(bytes),
            Ok(Received::NotReady) => return Move::Nothing,
            Ok(Received::Eof { .. }) if self.client.stream.channel().has_undelivered() => Event::ClientEnded,
            Ok(Received::Eof { .. }) | Err(_) => Event::ClientGone,
        };
        self.step(event)
    }
}

/// More than one read can add to the bytes a session holds: with this much room, no lookup is needed.
const ROOM_FOR_ANY: usize = PASS_BYTES_MAX + REWRITE_BYTES;

/// Returns the bytes held for a client and its pod.
pub(super) fn held_bytes<S: Transport>(client: &Client<S>, upstream: Option<&Upstream<S>>) -> usize {
    let to_pod = client.to_pod.as_ref().map_or(0, |outbox| outbox.held_bytes());
    let in_tls = |stream: &Stream<S>| stream.channel().held_bytes();
    let of_pod = upstream.map_or(0, |upstream| upstream.input.len() + in_tls(&upstream.stream));
    let of_client = client.input.len() + in_tls(&client.stream) + client.outbox.held_bytes();
    client.session.held_bytes() + of_client + to_pod + of_pod
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        net::{
            shared::tests::shared,
            slots::{KEYS_FROM, Key},
            stream::{Ready, Stream},
            transport::fake::{Fake, FakeNetwork},
            upstreams::{ReadMode, Upstreams},
        },
        proxy::{
            events::{ClientAction, ClientFacts, UpstreamAction},
            outcome::Outcome,
            peer::Peer,
            pool::Pool,
            session::Session,
        },
    };

    const REQUEST: &[u8] = b"GET /pods/127.0.0.1/80/m HTTP/1.1\r\nHost: p\r\n\r\n";
    const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 3\r\n\r\nup\n";

    /// The tools of a worker, and one client with its upstream.
    struct Bench {
        client: Client<Fake>,
        fake: Fake,
        upstreams: Upstreams<Fake>,
        shared: Shared,
        tools: Tools<FakeNetwork>,
        scratch: Vec<u8>,
    }

    impl Bench {
        fn new(sent: &[u8]) -> Self {
            let shared = shared(1, 1, 1);
            let fake = Fake::sent(sent);
            let mut stream = Stream::new(fake.clone());
            stream.add_ready(Ready::READ.with(Ready::WRITE));
            let now = Timestamp::default();
            let session = Session::new(now, &shared.settings(), false);
            let client = Client::new(stream, ClientFacts::default(), session, true, now);
            Self {
                client,
                fake,
                upstreams: Upstreams::new(Pool::new(1, std::time::Duration::from_secs(1))),
                tools: Tools {
                    network: FakeNetwork::default(),
                    settings: shared.settings(),
                    now,
                    transfer: Transfer::new(1 << 20),
                    budget: Budget::new(1 << 20),
                    looks: Looks::new(1 << 20),
                    attempts: Attempts::default(),
                    recycler: Recycler::default(),
                    out: Output::default(),
                },
                shared,
                scratch: vec![0; crate::net::transfer::PASS_BYTES_MAX],
            }
        }

        fn with<T>(&mut self, act: impl FnOnce(&mut Runner<'_, FakeNetwork>, &mut [u8]) -> T) -> T {
            let upstream = self.client.upstream.and_then(|key| self.upstreams.get_mut(key));
            let mut runner = Runner {
                client: &mut self.client,
                upstream,
                slot: 0,
                shared: &self.shared,
                counters: self.shared.counters(0),
                tools: &mut self.tools,
            };
            act(&mut runner, &mut self.scratch)
        }

        fn run(&mut self, mut moves: usize) -> Action {
            self.with(|runner, scratch| runner.run(scratch, &mut moves))
        }

        /// Opens the connection that the output requests, to a pod that sends this response.
        fn connect(&mut self, response: &[u8]) -> Fake {
            let UpstreamAction::Connect(peer) = self.tools.out.upstream else {
                panic!("{:?}", self.tools.out)
            };
            assert_eq!(peer, Peer::new([127, 0, 0, 1].into(), 80));
            let client = Key::from_bits(KEYS_FROM);
            let key = self.upstreams.open(&mut self.tools.network, peer, client, self.shared.counters(0));
            let key = key.expect("opened");
            self.client.upstream = Some(key);
            let upstream = self.upstreams.get_mut(key).expect("the upstream exists");
            upstream.stream.add_ready(Ready::READ.with(Ready::WRITE));
            let pod = self.tools.network.opened[0].1.clone();
            pod.0.borrow_mut().incoming.extend(response);
            pod
        }
    }

    const ACT: Action = Action::Act { delivered: true };

    #[test]
    fn a_run_ends_when_the_worker_has_to_act() {
        let mut bench = Bench::new(REQUEST);
        assert_eq!(bench.run(16), ACT);
        let pod = bench.connect(RESPONSE);
        assert_eq!(bench.run(16), ACT, "connected, sent, and received in one run");
        assert!(pod.0.borrow().written.starts_with(b"GET /m HTTP/1.1\r\nHost: 127.0.0.1:80\r\n"));
        assert_eq!(
            (bench.tools.out.upstream, bench.tools.out.client),
            (UpstreamAction::Keep, ClientAction::None)
        );
        assert_eq!(bench.fake.0.borrow().written, RESPONSE);
        assert_eq!(bench.run(16), ACT);
        let report = bench.tools.out.report.take().expect("the exchange is over");
        assert_eq!((report.outcome, report.status), (Outcome::Forwarded, 200));
        assert_eq!(bench.run(16), Action::Wait, "for the next request");
    }

    #[test]
    fn a_run_is_limited_in_moves_and_bytes() {
        let mut bench = Bench::new(REQUEST);
        assert_eq!(bench.run(0), Action::Yield);
        assert_eq!(bench.run(1), ACT);
        bench.connect(RESPONSE);
        assert_eq!(bench.run(1), Action::Yield, "connected");
        assert_eq!(bench.run(1), Action::Yield, "sent");
        bench.tools.transfer.run_bytes = bench.tools.transfer.run_bytes_max;
        assert_eq!(bench.run(16), Action::Yield, "enough bytes moved");
        bench.tools.transfer.run_bytes = 0;
        assert_eq!(bench.run(1), ACT, "received");
    }

    #[test]
    fn a_pod_is_not_read_while_its_client_stalls() {
        let mut bench = Bench::new(REQUEST);
        assert_eq!(bench.run(16), ACT);
        let pod = bench.connect(&RESPONSE[..RESPONSE.len() - 1]);
        bench.fake.0.borrow_mut().takes = 5;
        assert_eq!(bench.run(16), Action::Wait);
        assert!(bench.client.is_stalled());
        pod.0.borrow_mut().incoming.push_back(b'\n');
        assert_eq!(bench.run(16), Action::Wait);
        assert_eq!(pod.0.borrow().incoming.len(), 1, "the pod was read while the client stalled");
        bench.fake.0.borrow_mut().takes = usize::MAX;
        bench.client.stream.add_ready(Ready::WRITE);
        let upstream = bench.client.upstream.and_then(|key| bench.upstreams.get_mut(key));
        upstream.expect("the upstream exists").stream.add_ready(Ready::READ);
        assert_eq!(bench.run(16), ACT);
        assert_eq!(bench.fake.0.borrow().written, RESPONSE);
    }

    #[test]
    fn a_failed_write_to_a_client_ends_its_exchange() {
        let mut bench = Bench::new(REQUEST);
        assert_eq!(bench.run(16), ACT);
        bench.connect(&RESPONSE[..RESPONSE.len() - 1]);
        bench.fake.0.borrow_mut().takes = 5;
        assert_eq!(bench.run(16), Action::Wait);
        bench.fake.0.borrow_mut().is_broken = true;
        bench.client.stream.add_ready(Ready::WRITE);
        assert_eq!(bench.run(16), ACT);
        assert_eq!(bench.tools.out.client, ClientAction::Close);
        assert_eq!(
            bench.tools.out.report.take().expect("the exchange is over").outcome,
            Outcome::ClientClosedRequest
        );
    }

    /// Returns a response with that many `bytes` of content.
    fn long_response(bytes: usize) -> Vec<u8> {
        let head = format!("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: {bytes}\r\n\r\n");
        [head.as_bytes(), &vec![b'x'; bytes]].concat()
    }

    #[test]
    fn long_bodies_are_spliced_if_both_sides_can() {
        for (client_can, pod_can) in [(true, true), (true, false), (false, true)] {
            let mut bench = Bench::new(REQUEST);
            assert_eq!(bench.run(16), ACT);
            let response = long_response(4 * READ_BYTES_MAX);
            let pod = bench.connect(&response);
            bench.fake.0.borrow_mut().is_opaque = !client_can;
            pod.0.borrow_mut().is_opaque = !pod_can;
            assert_eq!(bench.run(16), ACT);
            assert!(bench.fake.0.borrow().written == response, "{client_can}, {pod_can}");
            let pipes = usize::from(client_can && pod_can);
            assert_eq!(bench.tools.network.pipes_made, pipes, "{client_can}, {pod_can}");
        }
    }

    #[test]
    fn bytes_after_a_response_prevent_reuse_of_its_connection() {
        for surplus in [&b""[..], b"x"] {
            let mut bench = Bench::new(REQUEST);
            assert_eq!(bench.run(16), ACT);
            let response = long_response(4 * READ_BYTES_MAX);
            let pod = bench.connect(&[&response, surplus].concat());
            let key = bench.client.upstream.expect("the upstream exists");
            let upstream = bench.upstreams.get_mut(key).expect("the upstream exists");
            upstream.read_mode = ReadMode::Head; // all of it enters the pipe at once
            assert_eq!(bench.run(1), Action::Yield, "connected");
            let upstream = bench.upstreams.get_mut(key).expect("the upstream exists");
            assert!(upstream.has_surplus, "the pod responds before it is asked");
            upstream.has_surplus = false;
            assert_eq!(bench.run(16), ACT);
            assert!(bench.fake.0.borrow().written == response);
            assert!(pod.0.borrow().incoming.is_empty());
            let upstream = bench.upstreams.get(key).expect("the upstream exists");
            assert_eq!(upstream.has_surplus, !surplus.is_empty());
        }
    }
}
