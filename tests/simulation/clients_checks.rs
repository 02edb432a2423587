//! The bytes that the worker holds for clients, and invariants between turns.

use super::*;

/// The bytes that the worker holds for clients.
impl Net {
    /// Returns how many counted bytes are held for a client and its pod: the known ones, less `unseen` and the
    /// allowance.
    pub(crate) fn client_holds(&self, client: &Client, unseen: isize) -> usize {
        let Some(conn) = client.conn.filter(|_| client.admitted && !client.is_over()) else { return 0 };
        let conn = &self.kernel.conns[conn];
        let Some(ask) = client.current().filter(|_| conn.is_held()) else { return 0 };
        let read = conn.to_worker.taken;
        let begins = if client.exchange_since().is_some() { ask.head_end } else { ask.start };
        // A request that is refused, or answered before it is complete, is not held.
        let refused = matches!(ask.kind, Kind::Refused(_)) || ask.written > 0 || conn.stalled;
        if client.exchange_since().is_none() && refused {
            return 0;
        }
        // Not everything is forwarded to an HTTP/1.0 client, and bytes of a lost pod may be dropped.
        let kept = match ask.kind {
            Kind::Scrape(id) if !ask.http10 && client.exchange_since().is_some() => {
                let scrape = &self.scrapes[id];
                let last = scrape.attempts.last().map(|attempt| self.pods[attempt.pod].conn);
                let held = last.is_some_and(|conn| self.kernel.conns[conn].is_held());
                let read = scrape.answer_bytes_read(self).filter(|_| held).unwrap_or(0);
                read.saturating_sub(ask.written)
            }
            _ => 0,
        };
        // Pipelined bytes are dropped when it is ended for room, possibly before the response is written.
        let waits = if ask.written == 0 && !conn.stalled { read.saturating_sub(begins) } else { 0 };
        let seen = waits + kept;
        seen.saturating_sub(ALLOWANCE_BYTES).saturating_add_signed(-unseen.min(seen as isize))
    }

    pub(super) fn is_tight(&self) -> bool {
        self.buffers_max < 1 << 20
    }

    /// Notes which clients hold counted bytes now, and since when.
    pub(crate) fn note_what_clients_hold(&mut self) {
        if !self.is_tight() {
            return;
        }
        for client in 0..self.clients.len() {
            let holds = [HOLDS_SURELY, HOLDS_POSSIBLY]
                .map(|unseen| self.client_holds(&self.clients[client], unseen) > 0);
            let now = self.now;
            let this = &mut self.clients[client];
            if this.held_answered != this.answered {
                (this.held_answered, this.holds_since) = (this.answered, [None; 2]);
            }
            for (since, holds) in this.holds_since.iter_mut().zip(holds) {
                *since = if holds { Some(since.unwrap_or(now)) } else { None };
            }
        }
    }

    /// Checks why a client without a fault was ended: others needed room, and no session had held bytes longer.
    pub(super) fn justify_end_for_room(&self, client: usize) {
        assert!(self.is_tight(), "client {client}: ended for room although there is enough");
        let possibly = self.clients[client].holds_since[1];
        let worker = |client: &Client| client.conn.and_then(|conn| self.kernel.conns[conn].worker);
        let here = worker(&self.clients[client]);
        // Several may be ended in one turn. One that was ended before holds no bytes, even if its client read only a
        // part of the response.
        let lives = |known: &&Client| {
            let held = known.conn.is_some_and(|conn| self.kernel.conns[conn].is_held());
            held && worker(known) == here
                && !known.is_over()
                && known.held_answered == known.answered
                && self.client_holds(known, HOLDS_SURELY) > 0
        };
        for (other, known) in self.clients.iter().enumerate().filter(|(_, known)| lives(known)) {
            if let (Some(possibly), Some(surely)) = (possibly, known.holds_since[0]) {
                assert!(surely + SLACK >= possibly, "client {client} ended for room: {other} held longer");
            }
        }
    }

    /// Returns whether a worker has so little room that sessions are paused.
    pub(crate) fn is_full(&self, worker: Option<usize>) -> bool {
        let common = self.buffers_max - RESERVE_BYTES.min(self.buffers_max / 2);
        self.is_tight() && worker.is_some_and(|worker| self.buffered[worker] + ROOM_MIN > common)
    }
}

/// Invariants between turns.
impl Net {
    /// Returns how many clients are known to have a place, and to be served.
    pub(crate) fn places_taken(&self) -> usize {
        let has_place = |client: &&Client| {
            // A response before the request was read may be a rejection: another client then has the place.
            let is_rejected = client.current().is_some_and(|ask| ask.written > 0 && ask.read_at.is_none());
            let conn = client.conn.filter(|_| client.has_place && !client.is_over() && !is_rejected);
            conn.map(|conn| &self.kernel.conns[conn]).is_some_and(|conn| conn.is_held() && !conn.worker_ended)
        };
        self.clients.iter().filter(has_place).count()
    }

    pub(crate) fn check_client(&self, client: usize) {
        let this = &self.clients[client];
        let Some(conn) = this.conn.filter(|_| this.admitted) else { return };
        let conn = &self.kernel.conns[conn];
        if !conn.is_held() {
            return;
        }
        let Timeouts { header, client_idle, scrape, scrape_max, .. } = self.settings.timeouts;
        let read = conn.to_worker.taken;
        let due = match (&this.parser, this.current()) {
            // Delivery may take as long as a scrape.
            (Parser::Over(since), _) => *since + LINGER.max(scrape.max(scrape_max) + header) + LINGER_TICK,
            (Parser::Broken(since), _) => *since + LINGER.max(scrape) + LINGER_TICK,
            (_, None) => this.idle_since + client_idle,
            (_, Some(ask)) => match (ask.kind, this.exchange_since(), ask.begun_at) {
                (Kind::Scrape(id), Some(since), _) if this.has_place || this.waits => {
                    let scrape = &self.scrapes[id];
                    let read = scrape.answer_bytes_read(self);
                    // Not everything is forwarded to an HTTP/1.0 client.
                    if let Some(read) = read.filter(|_| !ask.http10) {
                        let kept = read.saturating_sub(ask.written);
                        assert!(kept <= KEPT_BYTES_MAX, "client {client}: {kept} bytes are held for it");
                    }
                    // A slow client still gets a failure response, and the bytes before an abort.
                    since + scrape.patience + header.max(LINGER) + LINGER_TICK
                }
                (_, Some(since), _) if self.passwords.is_needed() => since + scrape.max(scrape_max) + header,
                (_, Some(since), _) => since + scrape + header,
                (_, None, Some(begun_at)) => begun_at.max(this.idle_since) + header + scrape.max(header),
                (_, None, None) if this.answered == 0 && read == 0 => this.idle_since + header,
                (_, None, None) => this.idle_since + client_idle,
            },
        };
        let late = self.now.since(if this.waited { due + WAIT } else { due });
        assert!(late <= SLACK, "client {client} hangs by {late:?}: {:?}", this.current());
    }

    /// Checks, when no event is left, that the worker does not sleep although it could act.
    pub(crate) fn check_client_sleeps_well(&self, client: usize) {
        let this = &self.clients[client];
        let Some(conn) = this.conn.filter(|_| this.admitted) else { return };
        let conn = &self.kernel.conns[conn];
        if !conn.is_held() {
            return;
        }
        if let (Some(ask), Some(_)) = (this.current(), this.exchange_since()) {
            let waits = matches!(ask.kind, Kind::Scrape(_)) || conn.stalled || self.passwords.is_busy();
            assert!(waits, "the worker sleeps on a request of client {client}: {ask:?}");
        }
        if !conn.has_news() {
            return;
        }
        let delivers = this.is_over() && (conn.peer_ended || !conn.from_worker.is_empty());
        let waits = this.waits && self.now < this.admitted_at + WAIT && !conn.end_reported;
        let busy =
            this.exchange_since().is_some() || this.is_answering() || conn.stalled || delivers || waits;
        assert!(busy || self.is_full(conn.worker), "the worker sleeps on what client {client} sent");
    }

    /// Returns whether a client is idle between requests, and holds a place.
    fn client_idles(&self, client: &Client) -> bool {
        let Some(conn) = client.conn.filter(|_| client.admitted && client.has_place) else { return false };
        let conn = &self.kernel.conns[conn];
        let asks = client.current().is_some_and(|ask| conn.to_worker.taken > ask.start);
        // The worker may notice a client's last action only in the next turn.
        let turn = conn.worker.map_or(0, |worker| self.turns[worker]);
        let heard = client.admitted_in < turn && client.answered > 0 && client.answered_in < turn;
        heard && conn.is_held() && !client.is_over() && !client.is_answering() && !conn.stalled && !asks
    }

    /// A client was accepted.
    pub(crate) fn client_is_admitted(&mut self, client: usize, waits: bool) {
        let now = self.now;
        let this = &mut self.clients[client];
        (this.admitted, this.has_place, this.idle_since) = (true, !waits, now);
        (this.waited, this.waits) = (waits, waits);
        (this.admitted_in, this.admitted_at) = (self.turn, now);
        self.check_room(waits, self.turns.len() == 1);
    }

    /// Returns whether a client `waits` for a place. None may while another client is idle, once all workers are
    /// informed.
    pub(crate) fn check_room(&mut self, waits: bool, have_heard: bool) {
        let idles = self.clients.iter().any(|client| self.client_idles(client));
        assert!(!waits || !idles || !have_heard, "a client waits for a place although another one is idle");
        for client in self.clients.iter_mut().filter(|client| client.waits && !waits) {
            let conn = &self.kernel.conns[client.conn.unwrap()];
            if self.now < client.admitted_at + WAIT && !conn.peer_left() {
                (client.waits, client.has_place) = (false, true);
                self.places_after_wait += 1;
            }
        }
    }
}
