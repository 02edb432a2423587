//! Invariants: after a turn, when all workers sleep, and at the end of a run.

use psystrike::{
    net::shared::Phase,
    proxy::{
        metrics::{self, Counter, Counters},
        outcome::Outcome,
    },
};

use super::{clients::HOLDS_SURELY, kernel::ConnId, sim::Sim};

/// Limit of turns in a row that move nothing, although the worker requested them at once.
const IDLE_TURNS_MAX: usize = 3;
/// Limit of turns until no deadline is left.
const LAST_TURNS_MAX: usize = 10_000;

impl Sim {
    /// Checks the invariants after a worker's turn.
    pub(crate) fn check_turn(&mut self, worker: usize) {
        let waits = self.shared.places().is_wanted();
        let all_heard =
            self.workers() == 1 || !self.event_loops().any(|other| other.is_woken() || other.is_due());
        let wants_more = self.event_loop(worker).is_some_and(|event_loop| event_loop.is_due());
        let mut net = self.net();
        net.check_room(waits, all_heard);
        let spins = wants_more && !net.progress;
        for client in 0..net.clients.len() {
            net.check_client(client);
        }
        for pod in 0..net.pods.len() {
            net.check_pod(pod);
        }
        drop(net);
        if !self.net().clients.is_empty() {
            if self.event_loop(worker).is_some() {
                self.check_levels(worker, wants_more);
            }
            self.check_totals();
        }
        let buffered = self.shared.counters(worker).buffered_bytes.get() as usize;
        self.net().buffered[worker] = buffered;
        self.net().note_what_clients_hold();
        if let Some(event_loop) = self.event_loop(worker) {
            event_loop.idle_turns = if spins { event_loop.idle_turns + 1 } else { 0 };
            assert!(event_loop.idle_turns <= IDLE_TURNS_MAX, "the worker spins");
        }
    }

    /// Checks a worker's gauges.
    fn check_levels(&self, worker: usize, wants_more: bool) {
        let net = self.net();
        let counters = self.shared.counters(worker);
        let (held_pods, idle) = (net.held_pods(worker), net.idle_pods(worker));
        let clients = net.kernel.held_by(worker).count() - held_pods;
        let gauges = levels(counters);
        assert_eq!(gauges[0] + gauges[1] + gauges[2], clients + held_pods, "open connections");
        assert_eq!(gauges[0], clients, "open client connections");
        if !wants_more {
            assert_eq!(gauges[1..], [held_pods - idle, idle], "active and idle pod connections");
        }
        assert!(
            gauges[2] <= self.shared.upstreams_idle_max_of_worker(worker),
            "{} idle pod connections",
            gauges[2]
        );
        let here = net
            .clients
            .iter()
            .filter(|client| client.conn.is_some_and(|conn| net.kernel.conns[conn].worker == Some(worker)));
        let held = counters.buffered_bytes.get() as usize;
        let least: usize = here.clone().map(|client| net.client_holds(client, HOLDS_SURELY)).sum();
        let most = self.shared.buffers_max_of_worker();
        assert!((least..=most).contains(&held), "{held} bytes are held: at least {least}, at most {most}");
        let waits = here.filter(|client| {
            client.conn.is_some_and(|conn| {
                let conn = &net.kernel.conns[conn];
                client.admitted && conn.is_held() && !conn.end_reported
            })
        });
        assert!(gauges[1] <= waits.count(), "more active pod connections than waiting clients");
    }

    /// Checks the gauges of all workers together.
    fn check_totals(&self) {
        let net = self.net();
        let (taken, most) = (net.places_taken(), self.build_info.clients_max);
        assert!(taken <= most, "{taken} clients have a place, of {most}");
        let idle: usize = (0..self.workers()).map(|worker| net.idle_pods(worker)).sum();
        assert!(idle <= self.build_info.upstreams_idle_max, "{idle} idle pod connections");
        assert_eq!(self.sum(|counters| &counters.clients_accepted), net.accepted);
        assert_eq!(self.sum(|counters| &counters.upstreams_opened), net.opened);
        assert_eq!(self.sum(|counters| &counters.client_sent_bytes), net.bytes_to_clients);
    }

    /// Checks the invariants when all event loops sleep and no peer has an action left.
    pub(crate) fn check_sleep(&mut self) {
        let waits = self.shared.places().is_wanted();
        let mut net = self.net();
        net.check_room(waits, true);
        for client in 0..net.clients.len() {
            net.check_client_sleeps_well(client);
        }
        for pod in 0..net.pods.len() {
            net.check_pod_sleeps_well(pod);
        }
    }

    /// After the last client: waits until nothing is left, shuts down, and checks the counters and that nothing
    /// remains.
    pub(crate) fn finish(&mut self) -> Vec<u64> {
        for _ in 0..LAST_TURNS_MAX {
            if self.turn_of_any() {
                continue;
            }
            let Some(at) = self.next_wake() else { break };
            let now = self.net().now;
            self.sleep_until(at.max(now));
        }
        assert_eq!(self.next_wake(), None, "a deadline is left");
        for worker in 0..self.workers() {
            if self.event_loop(worker).is_some() {
                assert_eq!(levels(self.shared.counters(worker)), [0; 3], "worker {worker} has connections");
            }
        }
        self.enter(Phase::Closing);
        while self.turn_of_any() {}
        assert_eq!(self.event_loops().count(), 0, "an event loop has not ended");
        assert_eq!(self.net().kernel.held, Vec::<ConnId>::new());
        self.check_places();
        self.check_outcomes()
    }

    /// Checks that no client waits for a place, and that every place is free.
    fn check_places(&self) {
        let places = self.shared.places();
        assert!(!places.is_stirred(), "nobody waits");
        let free = (0..=self.build_info.clients_max).take_while(|_| places.take()).count();
        assert_eq!(free, self.build_info.clients_max, "free places");
    }

    fn check_outcomes(&self) -> Vec<u64> {
        let net = self.net();
        let counted = self.counted();
        let mut others = 0;
        for (&outcome, (&counted, &seen)) in Outcome::ALL.iter().zip(counted.iter().zip(&net.tally)) {
            // An incomplete response may be counted with the outcome that it would have had.
            assert!(counted >= seen, "{outcome:?}: seen {seen} times, counted {counted} times");
            others += counted - seen;
        }
        let possible = net.unfinished..=net.unfinished + net.unsure;
        assert!(possible.contains(&others), "{others} ended otherwise: {possible:?}: {counted:?}");
        for outcome in [Outcome::Forwarded, Outcome::Page] {
            assert_eq!(counted[outcome as usize], net.tally[outcome as usize], "{outcome:?}");
        }
        let reused = self.sum(|counters| &counters.upstreams_reused);
        let retries = self.sum(|counters| &counters.retries);
        assert!(reused >= net.reused && retries >= net.sent_again && reused >= retries);
        assert!(retries <= net.opened + net.failed_connects.len() as u64 + others, "{retries} retries");
        counted
    }

    /// Returns the sum of a counter over all workers.
    fn sum(&self, counter: impl Fn(&Counters) -> &Counter) -> u64 {
        (0..self.workers()).map(|worker| counter(self.shared.counters(worker)).get()).sum()
    }

    /// Returns how often each outcome was counted, by all workers together.
    pub(crate) fn counted(&self) -> Vec<u64> {
        let counters: Vec<_> = (0..self.workers()).map(|worker| self.shared.counters(worker)).collect();
        let mut page = Vec::new();
        let (process, state) = (metrics::Process::default(), metrics::State::default());
        metrics::render(&mut page, &counters, self.build_info, &process, &state);
        let page = String::from_utf8(page).unwrap();
        let counts = page.lines().filter_map(|line| line.strip_prefix("psystrike_outcomes_total{"));
        counts.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect()
    }
}

/// A worker's clients, its active pod connections, and its idle ones.
fn levels(counters: &Counters) -> [usize; 3] {
    [&counters.clients, &counters.upstreams_active, &counters.upstreams_idle]
        .map(|level| level.get() as usize)
}
