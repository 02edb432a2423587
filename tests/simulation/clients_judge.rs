//! Checks each action of the worker on a client's connection, at the time of the action.

use super::*;

/// What the worker does to a client.
impl Net {
    /// The worker read bytes of the client.
    pub(crate) fn client_was_read(&mut self, client: usize) {
        let now = self.now;
        let this = &mut self.clients[client];
        let Some(conn) = this.conn else { return };
        let conn = &self.kernel.conns[conn];
        let read = conn.to_worker.taken;
        if this.waits && now < this.admitted_at + WAIT && !conn.end_reported {
            (this.waits, this.has_place) = (false, true); // the worker does not read from a waiting client
            self.places_after_wait += 1;
        }
        for ask in this.asks.iter_mut().skip(this.answered) {
            if read > ask.start {
                ask.begun_at.get_or_insert(now);
            }
            if read >= ask.head_end {
                ask.read_at.get_or_insert(now);
            }
        }
    }

    /// The worker wrote to the client.
    pub(crate) fn client_got(&mut self, client: usize, bytes: &[u8]) {
        self.bytes_to_clients += bytes.len() as u64;
        let answered = self.clients[client].answered;
        if let Some(ask) = self.clients[client].asks.get_mut(answered) {
            ask.written += bytes.len();
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = match &mut self.clients[client].parser {
                Parser::Over(_) | Parser::Broken(_) => {
                    panic!("client {client}: bytes after its last response: {}", Shown(rest))
                }
                Parser::Head(head) => {
                    let held = head.len();
                    head.extend_from_slice(rest);
                    // Only new bytes are searched.
                    let from = held.saturating_sub(3);
                    match end_of_head(&head[from..]).map(|at| from + at) {
                        None => &[],
                        Some(at) => {
                            let mut head = std::mem::take(head);
                            head.truncate(at);
                            let rest = &rest[at - held..];
                            self.client_got_head(client, &head);
                            rest
                        }
                    }
                }
                &mut Parser::PodBody { scrape, ref mut got, closes } => {
                    let at = *got;
                    let ask = &self.clients[client].asks[self.clients[client].answered];
                    let answer = &self.scrapes[scrape].answer;
                    let (content, whole) = answer.as_seen_by(ask.http10);
                    let most = if answer.ends_by_close(ask.http10) { usize::MAX } else { whole - at };
                    let (bytes, rest) = rest.split_at(rest.len().min(most));
                    let expected = content.get(at..at + bytes.len());
                    assert!(
                        expected == Some(bytes),
                        "client {client}: other bytes in scrape {scrape} from {at} of {} on: {} instead of {}",
                        content.len(),
                        Shown(bytes),
                        Shown(&content[at.min(content.len())..(at + bytes.len()).min(content.len())]),
                    );
                    let done = at + bytes.len() == whole && !answer.ends_by_close(ask.http10);
                    if let Parser::PodBody { got, .. } = &mut self.clients[client].parser {
                        *got += bytes.len();
                    }
                    if done {
                        self.client_answered(client, Outcome::Forwarded, closes);
                    }
                    rest
                }
                &mut Parser::OurBody { outcome, left, closes } => {
                    let (bytes, rest) = rest.split_at(rest.len().min(left));
                    self.clients[client].parser =
                        Parser::OurBody { outcome, left: left - bytes.len(), closes };
                    if left == bytes.len() {
                        self.client_answered(client, outcome, closes);
                    }
                    rest
                }
            };
        }
    }

    fn client_got_head(&mut self, client: usize, bytes: &[u8]) {
        let head = Head::parse(bytes);
        self.trace(|| format!("client {client} gets {} {}", head.status, head.reason));
        let this = &self.clients[client];
        let Some(ask) = this.current() else {
            panic!("client {client}: a response without a request: {head:?}")
        };
        let closes = head.one("connection") == Some("close");
        match head.one("x-scrape") {
            Some(named) => {
                assert_eq!(ask.kind, Kind::Scrape(named.parse().unwrap()), "client {client}: {head:?}");
                let Kind::Scrape(id) = ask.kind else { return };
                self.client_got_pods_head(client, id, &head, closes);
            }
            None => self.client_got_our_head(client, &head, closes),
        }
    }

    fn client_got_pods_head(&mut self, client: usize, id: usize, head: &Head<'_>, closes: bool) {
        let draining = self.draining;
        let this = &mut self.clients[client];
        let ask = &mut this.asks[this.answered];
        let answer = &self.scrapes[id].answer;
        if (100..200).contains(&head.status) {
            assert!(!ask.http10 && ask.interims < answer.interims, "client {client}: {head:?}");
            ask.interims += 1;
            this.parser = Parser::Head(Vec::new());
            return;
        }
        assert!(
            ask.http10 || ask.interims == answer.interims,
            "client {client}: an interim response is missing"
        );
        assert_eq!((head.status, head.reason), (answer.status, answer.reason), "client {client}");
        let unchunk = ask.http10 && answer.body == Body::Chunked;
        let expected = answer.fields.iter().filter(|(name, _)| match name.as_str() {
            "Connection" | "Keep-Alive" => false,
            "Transfer-Encoding" => !ask.http10,
            _ => true,
        });
        let expected: Vec<_> = expected.map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let dated = answer.fields.iter().any(|(name, _)| name == "Date");
        let got: Vec<_> = head
            .fields
            .iter()
            .filter(|(name, _)| *name != "Connection" && (dated || *name != "Date"))
            .collect();
        assert!(got.iter().copied().eq(expected.iter()), "client {client}: {got:?}, not {expected:?}");
        assert!(head.one("date").is_some(), "client {client}: {head:?}");
        let until_close = answer.ends_by_close(ask.http10);
        assert_eq!(until_close, answer.body == Body::UntilClose || unchunk);
        let must_close = !ask.persists || until_close;
        assert!(closes == must_close || (closes && draining), "client {client}, scrape {id}: {head:?}");
        if ask.http10 && !closes {
            assert_eq!(head.one("connection"), Some("keep-alive"), "client {client}");
        }
        let (_, whole) = answer.as_seen_by(ask.http10);
        this.parser = Parser::PodBody { scrape: id, got: 0, closes };
        if whole == 0 && !until_close {
            self.client_answered(client, Outcome::Forwarded, closes);
        }
    }

    fn client_got_our_head(&mut self, client: usize, head: &Head<'_>, closes: bool) {
        let this = &self.clients[client];
        let ask = &this.asks[this.answered];
        let outcome = match (head.status, head.reason) {
            (200, "OK") | (503, "Service Unavailable") => Outcome::Page,
            (status, reason) => {
                let is =
                    |outcome: &&Outcome| outcome.status() == status && reason.starts_with(outcome.reason());
                let all = Outcome::ALL.iter().filter(is);
                *all.max_by_key(|outcome| outcome.reason().len()).unwrap_or_else(|| panic!("{head:?}"))
            }
        };
        let (mut unasked, mut closes_expected, mut may_close) = (false, !ask.persists, self.draining);
        if ask.kind == Kind::Page {
            // psystrike's own pages are answered at the client limit too, and the connection is then closed.
            let left = this.conn.is_some_and(|conn| self.kernel.conns[conn].peer_left());
            may_close |= this.waits && (left || self.now >= this.admitted_at + WAIT);
        }
        match (ask.kind, outcome) {
            (_, Outcome::TooManyClients) => {
                let conn = &self.kernel.conns[this.conn.unwrap()];
                let wait_is_over = this.waits && (self.now >= this.admitted_at + WAIT || conn.peer_left());
                let silent = this.answered == 0 && ask.begun_at.is_none();
                let was_silent = silent && self.now >= this.admitted_at + SILENCE;
                assert!(wait_is_over || was_silent, "client {client}: {head:?} too early");
                (unasked, closes_expected) = (ask.begun_at.is_none(), true);
            }
            (_, Outcome::BuffersFull) => {
                self.justify_end_for_room(client);
                closes_expected = true;
            }
            (_, Outcome::RequestTimeout) => {
                let begun_at = ask.begun_at.expect("a request has begun").max(this.idle_since);
                assert!(
                    self.now >= begun_at + self.settings.timeouts.header,
                    "client {client}: {head:?} too early"
                );
                assert!(ask.read_at.is_none(), "client {client}: its head was complete");
                closes_expected = true;
            }
            (_, Outcome::TooManyAuthenticationFailures) if self.passwords.is_needed() => {
                closes_expected = true
            }
            (kind, Outcome::PasswordCheckTimeout) if self.passwords.is_needed() => {
                let since = this.exchange_since().expect("a request was read");
                let patience =
                    if let Kind::Scrape(id) = kind { self.scrapes[id].patience } else { PATIENCE_MIN };
                assert!(self.now >= since + patience, "client {client}: {head:?} too early");
            }
            (Kind::Page, Outcome::Page) => {}
            (Kind::Refused(refused), outcome) if outcome == refused => {}
            (Kind::Scrape(id), Outcome::ResolvedNotAllowed) => self.justify_failure(client, id, outcome),
            (Kind::Scrape(id), outcome) if outcome.class() == Class::Pod => {
                self.justify_failure(client, id, outcome);
            }
            (kind, _) => panic!("client {client}: {kind:?} was answered by {head:?}"),
        }
        let this = &self.clients[client];
        let ask = &this.asks[this.answered];
        assert!(closes == closes_expected || (closes && may_close), "client {client}: {head:?}");
        let unread =
            outcome == Outcome::RequestTimeout || outcome == Outcome::BuffersFull && ask.read_at.is_none();
        let to_head = ask.to_head && !unread && !unasked;
        let length: usize = head.one("content-length").unwrap().parse().unwrap();
        let left = if to_head { 0 } else { length };
        self.clients[client].parser = Parser::OurBody { outcome, left, closes };
        if left == 0 {
            self.client_answered(client, outcome, closes);
        }
    }

    /// A response is complete.
    fn client_answered(&mut self, client: usize, outcome: Outcome, closes: bool) {
        self.trace(|| format!("client {client} is answered: {outcome:?}"));
        if let (Outcome::Forwarded, Kind::Scrape(id)) =
            (outcome, self.clients[client].asks[self.clients[client].answered].kind)
        {
            assert!(self.scrapes[id].is_whole(), "scrape {id} was never complete");
        }
        self.tally[outcome as usize] += 1;
        let (now, turn) = (self.now, self.turn);
        let this = &mut self.clients[client];
        this.answered += 1;
        this.answered_in = turn;
        this.idle_since = now;
        this.parser = if closes { Parser::Over(now) } else { Parser::Head(Vec::new()) };
    }

    /// The worker closed its side of a client's connection.
    pub(crate) fn client_ended(&mut self, client: usize) {
        let this = &self.clients[client];
        match this.parser {
            Parser::Over(_) => return,
            Parser::PodBody { scrape, got, .. } => {
                let http10 = this.asks[this.answered].http10;
                if self.scrapes[scrape].answer.ends_by_close(http10) {
                    return self.client_answer_ended(client, scrape, got);
                }
            }
            _ => {}
        }
        if this.is_answering() || this.exchange_since().is_some() {
            self.unfinished += 1;
            if !self.client_left(client) {
                self.justify_break(client);
            }
        } else {
            let is_wanted = self.call == Call::Admit || self.clients.iter().any(|other| other.waits);
            let makes_room = this.answered > 0 && is_wanted;
            let ends = self.client_left(client) || self.call == Call::Drain || makes_room;
            assert!(ends, "client {client}: ended between requests");
        }
        self.clients[client].parser = Parser::Broken(self.now);
    }

    /// A response ended with the connection.
    fn client_answer_ended(&mut self, client: usize, scrape: usize, got: usize) {
        let this = &self.clients[client];
        let http10 = this.asks[this.answered].http10;
        let answer = &self.scrapes[scrape].answer;
        assert!(answer.ends_by_close(http10), "client {client}: scrape {scrape} ends in the middle");
        let (content, whole) = answer.as_seen_by(http10);
        assert_eq!((got, whole), (content.len(), got), "client {client}: scrape {scrape} ends too early");
        self.client_answered(client, Outcome::Forwarded, true);
    }

    /// The worker closed a client's connection.
    pub(crate) fn client_closed(&mut self, client: usize, close: Close) {
        if self.call == Call::Drop {
            return;
        }
        if let (Parser::PodBody { scrape, got, .. }, Close::Fin) = (&self.clients[client].parser, close) {
            let (scrape, got) = (*scrape, *got);
            let http10 = self.clients[client].asks[self.clients[client].answered].http10;
            let left = self.client_left(client);
            if self.scrapes[scrape].answer.ends_by_close(http10) && !left {
                // The client takes the response for complete.
                self.client_answer_ended(client, scrape, got);
            }
        }
        let now = self.now;
        let this = &self.clients[client];
        let conn = &self.kernel.conns[this.conn.unwrap()];
        let read = conn.to_worker.taken;
        if let Parser::Over(since) = this.parser {
            let patient = now < since + LINGER && self.call != Call::Drain;
            let loses = close == Close::Reset && !conn.from_worker.is_empty() && !conn.peer_left();
            let sent_much = this.wire.len() > LINGER_BYTES_MAX;
            assert!(!(patient && loses) || sent_much, "client {client}: a reset destroys its last response");
            return;
        }
        if let Parser::Broken(_) = this.parser {
            return;
        }
        let begun = this.current().is_some_and(|ask| read > ask.start);
        let in_exchange = this.is_answering() || this.exchange_since().is_some();
        self.unfinished += u64::from(in_exchange);
        if self.client_left(client) {
            self.unsure += u64::from(begun && !in_exchange);
            return;
        }
        if in_exchange {
            return self.justify_break(client);
        }
        if begun && self.call == Call::Turn {
            // It reads no response, not even a 408 or a 400.
            let begun_at = this.current().and_then(|ask| ask.begun_at).unwrap().max(this.idle_since);
            self.unsure += 1;
            if now < begun_at + self.settings.timeouts.header {
                self.justify_end_for_room(client);
            }
            return;
        }
        assert!(!begun, "client {client}: closed within a request's head");
        match self.call {
            // A client without a response so far must get a 503.
            Call::Admit => assert!(this.answered > 0, "client {client}: closed without a response"),
            // A new connection has a grace time for its request.
            Call::Drain => assert!(
                this.answered > 0 || now >= this.admitted_at + SILENCE,
                "client {client}: closed within the grace time"
            ),
            Call::Drop => {}
            Call::Turn if this.answered > 0 && self.clients.iter().any(|other| other.waits) => {}
            Call::Turn => {
                let timeouts = self.settings.timeouts;
                let patience = if this.answered == 0 { timeouts.header } else { timeouts.client_idle };
                assert!(now >= this.idle_since + patience, "client {client}: closed without a reason");
            }
        }
    }

    fn client_left(&self, client: usize) -> bool {
        let conn = self.clients[client].conn.unwrap();
        self.kernel.conns[conn].peer_left()
    }

    /// Checks the reason for a response with a failure of the pod.
    fn justify_failure(&mut self, client: usize, id: usize, outcome: Outcome) {
        let scrape = &self.scrapes[id];
        let conn = |pod: usize| &self.kernel.conns[self.pods[pod].conn];
        let last = scrape.attempts.last();
        let got = |attempt: &crate::pods::Attempt| conn(attempt.pod).to_worker.taken - attempt.from;
        let lost = last.filter(|attempt| conn(attempt.pod).peer_left());
        let since = self.clients[client].exchange_since().expect("a request was read");
        let late = self.now >= since + scrape.patience;
        let fault = scrape.fault();
        let justified = match outcome {
            // On a reused connection, the scrape is retried instead.
            Outcome::NoResponse => lost.is_none_or(|last| {
                got(last) == 0 && (!last.reused || self.pod_lost_unasked(scrape.address(), last.pod))
            }),
            Outcome::ResponseHeadersTruncated => lost.is_some_and(|last| got(last) > 0),
            Outcome::MalformedResponse => fault == Fault::MalformedHead,
            Outcome::SwitchedProtocols => fault == Fault::SwitchedProtocols,
            Outcome::ResponseHeadersTooLarge => fault == Fault::HeadTooLarge,
            Outcome::MalformedResponseBody => fault == Fault::MalformedBody,
            Outcome::ResponseTimeout => late,
            Outcome::NoSuchName
            | Outcome::LookupFailed
            | Outcome::LookupTimeout
            | Outcome::ResolvedNotAllowed => {
                let patience = scrape.patience;
                scrape.is_named() && self.justifies_lookup_failure(scrape.peer, outcome, since, patience)
            }
            Outcome::ConnectTimeout if self.now >= since + self.settings.timeouts.connect || late => true,
            // An address refused the connection, and no time was left for the next one.
            Outcome::ConnectionRefused if late && scrape.is_named() => true,
            _ => {
                let to = scrape.address();
                let failed = self.failed_connects.iter().position(|failed| *failed == (to, outcome));
                failed.map(|at| self.failed_connects.swap_remove(at)).is_some()
            }
        };
        assert!(justified, "client {client}: {outcome:?} for scrape {id}, with {fault:?}, {:?}", last);
    }

    /// Checks the reason for a broken response.
    fn justify_break(&self, client: usize) {
        let this = &self.clients[client];
        let ask = this.current().unwrap();
        // A response to an incomplete request is a 400 or a 408.
        let whole = this.exchange_since();
        let since = whole.or(ask.begun_at).expect("a request was begun").max(this.idle_since);
        let patience = match ask.kind {
            Kind::Scrape(id) if whole.is_some() && (this.has_place || this.waits) => {
                let scrape = &self.scrapes[id];
                let last = scrape.attempts.last().map(|attempt| self.pods[attempt.pod].conn);
                let lost = last.is_some_and(|conn| self.kernel.conns[conn].peer_left());
                // The worker may have reached the body while a slow client has not read the bytes before it.
                let malformed = scrape.fault() == Fault::MalformedBody && scrape.is_read_beyond_sound(self);
                if malformed || (lost && scrape.is_head_read(self)) {
                    return;
                }
                // If it got no place in time, it did not read the rejection.
                if this.waited { scrape.patience.min(self.settings.timeouts.scrape) } else { scrape.patience }
            }
            _ => self.settings.timeouts.scrape.min(self.settings.timeouts.header),
        };
        if self.now < since + patience {
            assert!(self.is_tight(), "client {client}: {:?} broken off without a reason", ask.kind);
            self.justify_end_for_room(client);
        }
    }
}

/// Returns the end of a head, after its empty line. (std's search in strings is fast even in a debug build.)
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += 1 + bytes[at..].iter().position(|&byte| byte == b'\n')?;
        if bytes[..at].ends_with(b"\r\n\r\n") {
            return Some(at);
        }
    }
}

/// The head of a response, parsed as strictly as possible.
#[derive(Debug)]
struct Head<'b> {
    status: u16,
    reason: &'b str,
    fields: Vec<(&'b str, &'b str)>,
}

impl<'b> Head<'b> {
    fn parse(bytes: &'b [u8]) -> Self {
        let parts = str::from_utf8(bytes).ok().and_then(|text| {
            let mut lines = text.strip_suffix("\r\n\r\n")?.split("\r\n");
            let (status, reason) = lines.next()?.strip_prefix("HTTP/1.1 ")?.split_once(' ')?;
            let fields = lines.map(|line| line.split_once(": ")).collect::<Option<Vec<_>>>()?;
            Some((status, reason, fields))
        });
        let Some((status, reason, fields)) = parts else { panic!("not a response head: {}", Shown(bytes)) };
        Self { status: status.parse().unwrap(), reason, fields }
    }

    /// Returns the value of the only field of this name.
    fn one(&self, name: &str) -> Option<&'b str> {
        let mut all = self.fields.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        let first = all.next();
        assert!(all.next().is_none(), "more than one {name}: {self:?}");
        first.map(|(_, value)| *value)
    }
}
