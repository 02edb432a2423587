//! The connections of one event loop: their slots, their deadlines, and which of them can run.
//!
//! Owns every connection of its worker, and performs the actions that sessions request: `admission` handles clients
//! that arrive, wait for a place and leave, `handshakes` their TLS handshakes, `passwords` the checks of their
//! passwords, `buffers` the bytes held for them, `upstream` their pods' connections, `gather` the reads of responses
//! that have waited for long enough, `names` the addresses that they wait for, `timers` their deadlines.
//! `super::runner` moves bytes; readiness and time come from [`super::event_loop`], or a simulation.

mod admission;
mod buffers;
mod gather;
mod handshakes;
mod names;
mod passwords;
mod timers;
mod upstream;

pub use timers::SOON;

use std::{mem, net::SocketAddr, sync::Arc, time::Duration};

use super::{
    client::Client,
    gather::Looks,
    handshakes::Handshakes,
    network::{Network, Token},
    pending_names::PendingNames,
    run_queue::RunQueue,
    runner::{Action, Move, Runner, Tools},
    shared::Shared,
    slots::{Key, Slots},
    stream::Ready,
    transfer::{PASS_BYTES_MAX, Transfer},
    transport::Transport,
    upstreams::Upstreams,
};
use crate::proxy::{
    access::{attempts::Attempts, users::LoginId},
    admission::Admission,
    budget::Budget,
    events::{ClientAction, Event, Output, Report},
    journal::{Delivery, Journal},
    metrics::Counters,
    outcome::{Class, Outcome},
    pool::Pool,
    recycler::Recycler,
    timers::{Timer, Timers},
    timestamp::Timestamp,
};

/// Maximum number of bytes of long responses sent in one turn: copying them takes about a quarter of a millisecond, so
/// that new events wait no longer. While other clients can run, each long response sends one portion, as much as a pipe
/// holds, and continues in its next turn.
const TURN_BYTES_MAX: usize = 1024 * 1024;
/// With at most this many runs, a turn takes less than a millisecond, even if each run moves as much as it may.
const SHORT_TURN_RUNS: usize = 3;
/// Reads, writes and transitions in one run, so that one exchange does not starve the others.
const MOVES_MAX: usize = 16;
/// How long the kernel may take to deliver the last bytes of a tunnel, without progress.
const DELIVERED_WITHIN: Duration = Duration::from_secs(10);

/// The connections of one event loop.
pub struct Worker<N: Network> {
    shared: Arc<Shared>,
    index: usize,
    /// Whether there is no other worker.
    is_alone: bool,
    clients: Slots<Client<N::Socket>>,
    upstreams: Upstreams<N::Socket>,
    admission: Admission,
    timers: Timers<Key>,
    runnable: RunQueue,
    took_long: bool,
    journal: Journal,
    names: PendingNames,
    handshakes: Handshakes,
    /// The clients that wait for the check of a password.
    password_checks: Vec<(Key, LoginId)>,
    /// Buffer of every read: one for all connections, so that none needs its own.
    scratch: Box<[u8]>,
    tools: Tools<N>,
}

impl<N: Network> Worker<N> {
    /// Creates a worker without connections.
    pub fn new(network: N, shared: Arc<Shared>, index: usize) -> Self {
        let idle_max = shared.upstreams_idle_max_of_worker(index);
        let settings = shared.settings();
        Self {
            index,
            is_alone: shared.places().workers() == 1,
            clients: Slots::default(),
            upstreams: Upstreams::new(Pool::new(idle_max, settings.timeouts.upstream_idle)),
            admission: Admission::default(),
            timers: Timers::default(),
            runnable: RunQueue::default(),
            took_long: false,
            journal: Journal::default(),
            names: PendingNames::default(),
            handshakes: Handshakes::default(),
            password_checks: Vec::new(),
            scratch: vec![0; PASS_BYTES_MAX].into(),
            tools: Tools {
                network,
                settings,
                now: Timestamp::default(),
                transfer: Transfer::new(TURN_BYTES_MAX),
                budget: Budget::new(shared.buffers_max_of_worker()),
                attempts: Attempts::default(),
                looks: Looks::new(shared.buffers_max_of_worker()),
                recycler: Recycler::default(),
                out: Output::default(),
            },
            shared,
        }
    }

    /// Notes an event's readiness, and queues the client that can now run.
    pub fn event(&mut self, token: Token, ready: Ready) {
        let client = match token {
            Token::Client(key) => key,
            Token::Upstream(key) => {
                let counters = self.shared.counters(self.index);
                if let Some(client) = self.upstreams.on_ready(key, ready, counters) {
                    self.enqueue(client);
                }
                return;
            }
        };
        if let Some(known) = self.clients.get_mut(client) {
            known.stream.add_ready(ready);
            self.enqueue(client);
        }
    }

    fn enqueue(&mut self, key: Key) {
        if let Some(client) = self.clients.get_mut(key).filter(|client| !client.queued) {
            client.queued = true;
            client.stream.channel_mut().detect_plain();
            self.runnable.push(key, client.is_bulk());
        }
    }

    /// Runs one turn: every client that can run does so within its limits, and expired timers fire.
    pub fn run_once(&mut self, now: Timestamp) {
        self.tools.now = now;
        self.shared.refresh(&mut self.tools.settings);
        let mut scratch = std::mem::take(&mut self.scratch);
        self.look();
        self.run_queued(&mut scratch);
        self.deliver_answers(&mut scratch);
        self.deliver_password_checks(&mut scratch);
        self.fire_timers(now, &mut scratch);
        self.make_room_in_buffers(&mut scratch);
        self.forget_stale_looks();
        self.scratch = scratch;
        self.upstreams.close_expired(now, self.shared.counters(self.index));
        if !self.is_alone || self.shared.places().is_stirred() {
            self.make_room_for_wishes();
        }
        if self.journal.next_due().is_some_and(|at| at <= now) {
            self.journal.log_suppressed(now);
        }
        let clients = &self.clients;
        self.timers.sweep(clients.len(), |key| clients.get(key).map(|client| client.timers));
    }

    /// Runs all clients that have little to do, and then those that have much, up to the limit of a turn. The rest of
    /// these run in the next turn, after new events are fetched.
    fn run_queued(&mut self, scratch: &mut [u8]) {
        let (short, bulk) = self.runnable.len();
        self.took_long = short + bulk > SHORT_TURN_RUNS;
        let is_alone = short + bulk <= 1;
        self.tools.transfer.run_bytes_max = if is_alone { TURN_BYTES_MAX } else { PASS_BYTES_MAX };
        for _ in 0..short {
            let Some(key) = self.runnable.pop_short() else { break };
            self.run_next(key, scratch);
        }
        let mut left = TURN_BYTES_MAX;
        for _ in 0..bulk {
            if left == 0 {
                break;
            }
            let Some(key) = self.runnable.pop_bulk() else { break };
            let before = self.handshake_of(key);
            self.run_next(key, scratch);
            let handshake = self.handshake_bytes(key, before);
            left = left.saturating_sub(self.tools.transfer.run_bytes + handshake);
        }
    }

    /// Returns whether the last turn may have taken longer than the millisecond of a poll's resolution.
    pub fn took_long(&self) -> bool {
        self.took_long
    }

    fn run_next(&mut self, key: Key, scratch: &mut [u8]) {
        if let Some(client) = self.clients.get_mut(key) {
            client.queued = false;
            self.run(key, scratch);
        }
    }

    fn run(&mut self, key: Key, scratch: &mut [u8]) {
        let waits = self.admission.has_without_place() && self.waits_for_place(key);
        if waits && !self.wait_is_over(key) {
            return;
        }
        if self.run_session(key, scratch) {
            self.enqueue(key);
        }
        if waits {
            self.turn_away_if_silent(key);
        }
        let Some(mut client) = self.clients.get_mut(key) else { return };
        if client.stream.channel().may_be_handshaking() || self.handshakes.is_any() {
            self.note_handshake(key);
            let Some(noted) = self.clients.get_mut(key) else { return };
            client = noted;
        }
        if client.unsettled {
            self.settle(key, scratch);
            let Some(settled) = self.clients.get_mut(key) else { return };
            client = settled;
        }
        if let Some(at) = client.session.deadline() {
            self.timers.arm(key, Timer::Exchange, &mut client.timers, at);
        }
        // A tunnel in which bytes just moved becomes the newest of all idle clients.
        if client.session.tunnel().is_some_and(|tunnel| tunnel.active() == self.tools.now) {
            self.admission.note(key.slot(), false, false);
        }
        // A client that is turned away has no place to give; a queued one is not idle.
        let idles = client.session.rests() && client.has_place && !client.queued;
        if self.admission.note(key.slot(), idles, client.silent_since.is_some()) {
            client.idle_since = self.tools.now;
        }
    }

    /// Lends a session what it needs for one run; `None` if the client is gone.
    fn runner(&mut self, key: Key) -> Option<Runner<'_, N>> {
        let client = self.clients.get_mut(key)?;
        let upstream = client.upstream.and_then(|upstream| self.upstreams.get_mut(upstream));
        let counters = self.shared.counters(self.index);
        Some(Runner {
            client,
            upstream,
            slot: key.slot(),
            shared: &self.shared,
            counters,
            tools: &mut self.tools,
        })
    }

    /// Runs a client's session, and performs its actions. Returns whether it could continue at once.
    fn run_session(&mut self, key: Key, scratch: &mut [u8]) -> bool {
        self.tools.transfer.run_bytes = 0;
        let mut moves = MOVES_MAX;
        while let Some(mut runner) = self.runner(key) {
            match runner.run(scratch, &mut moves) {
                Action::Wait => return false,
                Action::Yield => return true,
                Action::Act { delivered } => self.act(key, delivered),
            }
        }
        false
    }

    /// Passes an event to a client's exchange, and performs its actions.
    fn step(&mut self, key: Key, event: Event<'_>) {
        let moved = self.runner(key).map(|mut runner| runner.step(event));
        if let Some(Move::Act { delivered }) = moved {
            self.act(key, delivered);
        }
    }

    /// Performs the output's actions, and those that result from them. If bytes could not be `delivered`, the client is
    /// gone.
    fn act(&mut self, key: Key, mut delivered: bool) {
        loop {
            let next = self.act_on_output(key);
            let event = match next {
                Some(event) => event,
                None if !mem::replace(&mut delivered, true) => Event::ClientGone,
                None => return,
            };
            let Some(mut runner) = self.runner(key) else { return };
            match runner.step(event) {
                Move::Act { delivered: now } => delivered &= now,
                Move::Made | Move::Nothing if delivered => return,
                Move::Made | Move::Nothing => {}
            }
        }
    }

    /// Handles the report first, then the pod's connection, then the client's. Returns the event that resulted.
    fn act_on_output(&mut self, key: Key) -> Option<Event<'static>> {
        let (upstream, action) =
            (mem::take(&mut self.tools.out.upstream), mem::take(&mut self.tools.out.client));
        if let Some(report) = self.tools.out.report.take() {
            self.end_exchange(key, &report);
        }
        if matches!(action, ClientAction::Close | ClientAction::CloseDelivering | ClientAction::Reset) {
            self.end_tunnel(key); // before the pod's connection, whose address is logged
        }
        let event = self.act_on_upstream(key, upstream);
        self.act_on_client(key, action);
        event
    }

    fn end_exchange(&mut self, key: Key, report: &Report) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let sent_bytes = mem::take(&mut client.outbox.sent_bytes);
        client.outbox.is_slow = false;
        if client.counted > 0 {
            self.tools.budget.renew(key.slot());
        }
        // If it idles, it does so from now on.
        let was_silent = client.silent_since.take().is_some();
        self.admission.note(key.slot(), false, was_silent);
        let is_named = report.request.is_some() || report.outcome.class() != Class::Answered;
        let client = is_named.then(|| client.stream.channel().peer()).flatten();
        self.record(report, client, sent_bytes);
    }

    /// Counts and logs a tunnel that is over, if the session is one.
    fn end_tunnel(&mut self, key: Key) {
        let Some(client) = self.clients.get(key) else { return };
        let Some(report) = client.session.tunnel().and_then(|tunnel| tunnel.report(self.tools.now)) else {
            return;
        };
        self.counters().record_tunnel(&report);
        if self.tools.settings.access_log {
            let upstream = client.upstream.and_then(|upstream| self.upstreams.get(upstream));
            let (client, pod) = (client.stream.channel().peer(), upstream.map(|upstream| upstream.peer));
            self.journal.tunnel(&report, client, pod);
        }
    }

    fn act_on_client(&mut self, key: Key, action: ClientAction) {
        match action {
            ClientAction::None => {}
            ClientAction::Shutdown => {
                if let Some(client) = self.clients.get_mut(key) {
                    client.stream.channel_mut().shutdown();
                    client.input = Box::default();
                    self.tools.transfer.forget(&mut client.outbox);
                    client.unsettled = true;
                }
            }
            ClientAction::Close => self.remove_client(key),
            ClientAction::CloseDelivering => {
                if let Some(client) = self.take_client(key) {
                    client.stream.close_delivering(DELIVERED_WITHIN);
                }
            }
            ClientAction::Reset => {
                if let Some(client) = self.clients.get_mut(key) {
                    client.stream.channel_mut().reset_on_close();
                }
                self.remove_client(key);
            }
        }
    }

    /// Returns when the next turn is due, if nothing happens before.
    pub fn next_wake(&self) -> Option<Timestamp> {
        if !self.runnable.is_empty() || self.names.is_due() {
            return Some(self.tools.now);
        }
        let next = [
            self.timers.next(),
            self.upstreams.next_expiry(),
            self.journal.next_due(),
            self.tools.looks.next(),
        ];
        let mut next = next.into_iter().flatten().min();
        if self.tools.budget.is_tight() {
            next = next.into_iter().chain(self.tools.budget.next_wake()).min();
        }
        if self.shared.places().is_stirred() {
            next = next.into_iter().chain(self.next_room()).min();
        }
        next
    }

    /// Closes the pod connection that has been pooled longest. Returns whether there was one.
    fn close_oldest_upstream(&mut self) -> bool {
        self.upstreams.close_oldest(self.shared.counters(self.index))
    }

    /// Logs, at a limited rate, that no descriptor is left to accept a connection.
    pub fn report_no_descriptors(&mut self) {
        let about = "no file descriptor left; new clients must wait";
        self.journal.trouble(Outcome::NoFileDescriptors, self.tools.now, about);
    }

    /// Logs how many lines were suppressed that no later line will report, as the worker ends.
    pub fn log_suppressed(&mut self) {
        self.journal.log_suppressed(Timestamp::MAX);
    }

    /// Returns whether no client is left.
    pub fn is_idle(&self) -> bool {
        self.clients.is_empty()
    }

    /// Removes a client and closes its connection.
    fn remove_client(&mut self, key: Key) {
        if let Some(client) = self.take_client(key) {
            client.stream.close();
        }
    }

    /// Removes and returns a client, whose connection the caller closes.
    fn take_client(&mut self, key: Key) -> Option<Client<N::Socket>> {
        let mut client = self.clients.remove(key)?;
        self.stop_waiting(key);
        self.tools.transfer.forget(&mut client.outbox);
        if let Some(outbox) = &mut client.to_pod {
            self.tools.transfer.forget(outbox);
        }
        if client.session.is_tunnel() {
            self.counters().tunnels.sub(1);
        }
        self.forget_held(key.slot(), &client);
        self.leave_handshake(key.slot(), &client);
        self.counters().clients.sub(1);
        self.leave(key, &client);
        Some(client)
    }

    /// Stops the lookup and the check that a client waits for.
    fn stop_waiting(&mut self, key: Key) {
        self.stop_resolving(key);
        self.stop_checking(key);
    }

    fn counters(&self) -> &Counters {
        self.shared.counters(self.index)
    }

    /// Counts and logs an exchange that is over.
    fn record(&mut self, report: &Report, client: Option<SocketAddr>, sent_bytes: u64) {
        self.counters().record(report);
        let access_log = self.tools.settings.access_log;
        self.journal.record(report, access_log, &Delivery { client, sent_bytes, at: self.tools.now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        net::{shared::tests::shared, transport::fake::FakeNetwork},
        proxy::settings::Settings,
    };

    #[test]
    fn a_worker_wakes_to_log_how_many_lines_were_suppressed() {
        let mut worker = Worker::new(FakeNetwork::default(), Arc::new(shared(1, 1, 1)), 0);
        worker.report_no_descriptors();
        assert_eq!(worker.next_wake(), None, "that was logged");
        worker.report_no_descriptors();
        let due = worker.next_wake().expect("a line was suppressed");
        worker.run_once(due);
        assert_eq!(worker.next_wake(), None, "it was reported");
    }

    #[test]
    fn a_turn_uses_the_settings_in_effect_when_it_begins() {
        let shared = Arc::new(shared(1, 1, 1));
        let mut worker = Worker::new(FakeNetwork::default(), Arc::clone(&shared), 0);
        worker.run_once(Timestamp::default());
        let before = worker.tools.settings.access_log;
        shared.swap_settings(Settings { access_log: !before, ..(*shared.settings()).clone() });
        assert_eq!(worker.tools.settings.access_log, before, "the settings changed within a turn");
        worker.run_once(Timestamp::default());
        assert_eq!(worker.tools.settings.access_log, !before);
    }
}
