//! The actions of pods, the worker's actions on their connections, and invariants between turns.

use super::{super::sim::GATHER, *};

/// The actions of pods.
impl Net {
    /// Draws the result of a connect.
    pub(crate) fn random_connect(&mut self, to: SocketAddr) -> Result<(Link, Pod), Errno> {
        let now = self.now;
        let random = &mut self.random;
        if self.chaos.connects && random.one_in(40) {
            return Err(random.pick(&[
                Errno::CONNREFUSED,
                Errno::NETUNREACH,
                Errno::ADDRNOTAVAIL,
                Errno::MFILE,
            ]));
        }
        let at_once = random.one_in(4);
        let milliseconds = random.pick(&[0, 0, 0, 0, 1, 1, 50, 50, 450, 3000]);
        let mut link = Link::Up;
        if self.chaos.connects && random.one_in(12) {
            link = Link::Failed(random.pick(&[
                Errno::CONNREFUSED,
                Errno::HOSTUNREACH,
                Errno::TIMEDOUT,
                Errno::CONNRESET,
            ]));
        }
        let resolves = if at_once { None } else { Some((now + Duration::from_millis(milliseconds), link)) };
        let pod = Pod {
            conn: 0,
            address: to,
            opened_at: now,
            resolves,
            served: 0,
            head: Vec::new(),
            request_end: None,
            asked_at: now,
            scrape: None,
            sent: 0,
            known: false,
            asked: None,
            pauses_until: now,
            answer_end: 0,
            reusable: false,
            released: None,
            surplus: b"",
            unread_since: None,
            surplus_at: None,
            ends_at: None,
            dies: false,
        };
        Ok((if at_once { Link::Up } else { Link::Connecting }, pod))
    }

    /// Performs the next action of a pod. Returns whether there was one.
    pub(crate) fn pod_acts(&mut self, pod: usize, now: Timestamp, mid_turn: bool) -> bool {
        let this = &mut self.pods[pod];
        let conn = &self.kernel.conns[this.conn];
        if let Some((at, link)) = this.resolves {
            if now < at || !conn.is_held() {
                return false;
            }
            this.resolves = None;
            self.kernel.resolve(this.conn, link);
            self.trace(|| format!("pod {pod} connects: {link:?}"));
            return true;
        }
        if conn.link != Link::Up || conn.peer_ended || now < this.pauses_until {
            return false;
        }
        if !conn.is_held() {
            // The rest is sent to a closed connection, which causes a reset.
            self.pod_leaves(pod, false);
            return true;
        }
        if this.dies && !this.head.is_empty() {
            let resets = self.random.one_in(2);
            self.pod_leaves(pod, resets);
            return true;
        }
        let early = this.scrape.is_some_and(|id| self.scrapes[id].answer.early);
        if !conn.from_worker.is_empty() && !early {
            let most = 1 + self.random.below(2000);
            self.kernel.peer_take(this.conn, most);
            return true;
        }
        let is_read = this.request_end.is_some_and(|end| conn.from_worker.taken >= end);
        if let Some(id) = this.scrape {
            return (is_read || early) && self.pod_answers(pod, id, now);
        }
        // No surplus on a connection that a request is being sent on: it could not be distinguished from the beginning
        // of a response.
        let rests = this.released.is_some_and(|turn| turn < self.turn) && mid_turn;
        if let Some(at) = this.surplus_at.filter(|at| *at <= now && this.head.is_empty() && !rests) {
            let sent = self.kernel.peer_send(this.conn, this.surplus);
            this.surplus = &this.surplus[sent..];
            this.surplus_at = Some(at).filter(|_| !this.surplus.is_empty());
            self.trace(|| format!("pod {pod} sends {sent} surplus bytes"));
            return sent > 0;
        }
        if this.ends_at.is_some_and(|at| at <= now) {
            let resets = self.random.one_in(6);
            self.pod_leaves(pod, resets);
            return true;
        }
        false
    }

    fn pod_leaves(&mut self, pod: usize, resets: bool) {
        self.trace(|| format!("pod {pod} {}", if resets { "resets" } else { "ends" }));
        let conn = self.pods[pod].conn;
        if resets {
            let loses_sent = self.random.one_in(2);
            self.kernel.peer_reset(conn, loses_sent);
        } else if self.random.one_in(2) {
            self.kernel.peer_end(conn);
        } else {
            self.kernel.peer_close(conn);
        }
    }

    fn pod_answers(&mut self, pod: usize, id: usize, now: Timestamp) -> bool {
        let scrape = &self.scrapes[id];
        let (answer, fault) = (&scrape.answer, scrape.fault());
        let this = &mut self.pods[pod];
        let stop = match fault {
            Fault::Cut { at, .. } | Fault::Stall { at } => at,
            _ => answer.wire.len(),
        };
        if this.sent < stop {
            let most = self.random.pick(&[1, 50, 2000, 1 << 20, 1 << 20, 1 << 20]);
            let end = stop.min(this.sent + most);
            let mut bytes = answer.wire[this.sent..end].to_vec();
            if end == answer.wire.len() {
                bytes.extend_from_slice(answer.surplus);
            }
            let sent = self.kernel.peer_send(this.conn, &bytes);
            if sent == 0 {
                return false;
            }
            let left_over = (this.sent + sent).saturating_sub(answer.wire.len());
            this.sent += sent - left_over;
            this.unread_since.get_or_insert(now);
            if this.sent < answer.wire.len() {
                if self.random.one_in(16) {
                    this.pauses_until = now + Duration::from_millis(self.random.pick(&[1, 20, 200]));
                }
                self.trace(|| format!("pod {pod} answers {sent} bytes of scrape {id}"));
                return true;
            }
            this.surplus = &answer.surplus[left_over..];
            this.surplus_at = Some(now).filter(|_| !this.surplus.is_empty());
        } else if let Fault::Cut { resets, .. } = fault {
            self.pod_leaves(pod, resets);
            return true;
        } else {
            return false; // the pod stalls
        }
        self.trace(|| format!("pod {pod} has answered scrape {id}: {fault:?}"));
        if matches!(fault, Fault::Cut { .. }) {
            return true; // at its very end
        }
        self.pod_answered(pod, id, now);
        true
    }

    /// A pod sent all of a response. Its next action is drawn now.
    fn pod_answered(&mut self, pod: usize, id: usize, now: Timestamp) {
        let answer = &self.scrapes[id].answer;
        let whole = self.scrapes[id].is_whole();
        let this = &mut self.pods[pod];
        let pushed = self.kernel.conns[this.conn].to_worker.pushed;
        this.answer_end = pushed - (answer.surplus.len() - this.surplus.len());
        this.served += 1;
        this.reusable = answer.persists && whole;
        this.released = None;
        (this.scrape, this.sent) = (None, 0);
        if this.request_end.is_some() {
            this.awaits_request();
        }
        let soon = |random: &mut Random| now + Duration::from_millis(random.pick(&[0, 0, 10, 700]));
        if answer.body == Body::UntilClose || (!answer.persists && self.random.one_in(2)) {
            this.ends_at = Some(soon(&mut self.random));
            return;
        }
        if !this.reusable {
            return;
        }
        match self.random.below(12) {
            0 => this.ends_at = Some(soon(&mut self.random)),
            1 if this.surplus.is_empty() => {
                this.surplus = self.random.pick(&SURPLUS);
                this.surplus_at = Some(soon(&mut self.random));
            }
            2 | 3 => this.dies = true,
            _ => {}
        }
    }

    /// Returns when a pod's next action is due, if it is not due now.
    pub(crate) fn pod_wakes(&self, pod: usize) -> Option<Timestamp> {
        let this = &self.pods[pod];
        let conn = &self.kernel.conns[this.conn];
        if !conn.is_held() || conn.peer_ended {
            return None;
        }
        let resolves = this.resolves.map(|(at, _)| at);
        let all = [resolves, Some(this.pauses_until), this.surplus_at, this.ends_at];
        all.into_iter().flatten().filter(|at| *at > self.now).min()
    }
}

/// Checks of the worker's actions on pods.
impl Net {
    /// The worker wrote to a pod.
    pub(crate) fn pod_got(&mut self, pod: usize, bytes: &[u8]) {
        if self.pods[pod].head.is_empty() {
            self.pod_is_asked(pod);
        }
        let this = &mut self.pods[pod];
        assert!(this.request_end.is_none(), "pod {pod}: bytes after a request: {}", Shown(bytes));
        this.head.extend_from_slice(bytes);
        if !this.known {
            self.pod_reads_request_line(pod);
        }
        let this = &mut self.pods[pod];
        if this.head.ends_with(b"\r\n\r\n") {
            this.request_end = Some(self.kernel.conns[this.conn].from_worker.pushed);
            let head = String::from_utf8(this.head.clone()).unwrap();
            let lines: Vec<_> = head.trim_end().split("\r\n").collect();
            let host = this.asked.map(|id| self.scrapes[id].host()).expect("its request line was read");
            assert_eq!(lines[1], format!("Host: {host}:{}", this.address.port()), "pod {pod}");
            assert!(lines.last().unwrap().ends_with(" psystrike"), "pod {pod}: {head}");
            if this.scrape.is_none() {
                this.awaits_request(); // the pod responded early
            }
            assert!(!head.contains("\r\nConnection") && !head.contains("\r\n\r\n\r\n"), "pod {pod}: {head}");
        }
    }

    /// The first bytes of a request.
    fn pod_is_asked(&mut self, pod: usize) {
        let now = self.now;
        let this = &mut self.pods[pod];
        this.asked_at = now;
        if this.served == 0 {
            return;
        }
        let conn = &self.kernel.conns[this.conn];
        let released = this.released.expect("the last answer was read to its end");
        assert!(conn.watched, "pod {pod} is reused, but the kernel would not detect that it vanished");
        assert!(this.reusable && this.scrape.is_none(), "pod {pod} is reused");
        assert!(released < self.turn, "pod {pod} is reused in the turn in which it was pooled");
        assert_eq!(conn.to_worker.pushed, this.answer_end, "pod {pod} is reused in spite of surplus bytes");
        this.surplus_at = None;
        self.reused += 1;
    }

    fn pod_reads_request_line(&mut self, pod: usize) {
        let this = &mut self.pods[pod];
        let Some(end) = this.head.windows(2).position(|two| two == b"\r\n") else { return };
        let line = str::from_utf8(&this.head[..end]).unwrap();
        let words: Vec<_> = line.split(' ').collect();
        let [method, target, "HTTP/1.1"] = words[..] else { panic!("pod {pod} is asked {line:?}") };
        let id: usize = target.strip_prefix("/s/").unwrap().parse().unwrap();
        let scrape = &mut self.scrapes[id];
        assert_eq!((method == "HEAD", scrape.address()), (scrape.to_head, this.address), "{line}");
        let conn = &self.kernel.conns[this.conn];
        let attempt = Attempt { pod, from: conn.to_worker.taken, reused: this.served > 0 };
        scrape.attempts.push(attempt);
        this.known = true;
        (this.scrape, this.asked) = (Some(scrape.id), Some(scrape.id));
        if let [first, _] = scrape.attempts[..] {
            let conn = &self.kernel.conns[self.pods[first.pod].conn];
            assert!(first.reused && !attempt.reused, "scrape {id} is retried without need");
            let read = &scrape.answer.wire[..conn.to_worker.taken - first.from];
            let stale = !read.iter().zip(b"HTTP/").all(|(read, expected)| read == expected);
            assert!(stale || read.len() < 5, "scrape {id} is retried after a response");
            assert!(
                (stale || conn.peer_left()) && !conn.is_held(),
                "scrape {id} is retried while the pod may respond"
            );
            self.sent_again += 1;
        }
        assert!(scrape.attempts.len() <= 2, "scrape {id} is retried more than once");
        self.trace(|| format!("pod {pod} receives scrape {id}"));
    }

    /// The worker is about to read from a pod.
    pub(crate) fn pod_is_read(&self, pod: usize) {
        let Some(client) = self.pods[pod].asked.map(|id| self.scrapes[id].client) else { return };
        let conn = &self.kernel.conns[self.clients[client].conn.unwrap()];
        assert!(!conn.stalled || !conn.is_held(), "pod {pod} is read while client {client} reads nothing");
    }

    pub(crate) fn pod_was_read(&mut self, pod: usize) {
        let this = &mut self.pods[pod];
        if self.kernel.conns[this.conn].to_worker.is_empty() {
            this.unread_since = None;
        }
        if this.served > 0 && self.kernel.conns[this.conn].to_worker.taken >= this.answer_end {
            this.released.get_or_insert(self.turn);
        }
    }

    pub(crate) fn pod_closed(&mut self, pod: usize) {
        self.pods[pod].surplus_at = None;
    }

    /// Returns whether a pod's connection is pooled: its last response was read, and no request was sent since.
    fn pod_idles(&self, pod: &Pod) -> bool {
        let conn = &self.kernel.conns[pod.conn];
        conn.is_held() && pod.reusable && pod.head.is_empty() && pod.released.is_some()
    }

    /// Returns how many pod connections a worker has pooled.
    pub(crate) fn idle_pods(&self, worker: usize) -> usize {
        let of_worker = |pod: &&Pod| self.kernel.conns[pod.conn].worker == Some(worker);
        self.pods.iter().filter(of_worker).filter(|pod| self.pod_idles(pod)).count()
    }

    /// Returns how many pod connections a worker has.
    pub(crate) fn held_pods(&self, worker: usize) -> usize {
        self.kernel.held_by(worker).filter(|&id| matches!(self.owners[id], Owner::Pod(_))).count()
    }

    /// Returns whether a connection to `address` that is newer than `than` was lost before a request was sent on it.
    pub(crate) fn pod_lost_unasked(&self, address: SocketAddr, than: usize) -> bool {
        self.pods[than + 1..].iter().any(|pod| {
            pod.address == address && pod.asked.is_none() && self.kernel.conns[pod.conn].peer_left()
        })
    }

    /// Returns whether surplus bytes wait for the worker: their event must not come late.
    pub(crate) fn pod_has_surplus(&self, pod: usize) -> bool {
        let this = &self.pods[pod];
        this.served > 0
            && self.kernel.conns[this.conn].to_worker.pushed > this.answer_end
            && this.scrape.is_none()
    }
}

/// Invariants between turns.
impl Net {
    pub(crate) fn check_pod(&self, pod: usize) {
        let this = &self.pods[pod];
        let conn = &self.kernel.conns[this.conn];
        if !conn.is_held() {
            return;
        }
        if self.pod_idles(this) {
            let is_unnoticed = conn.has_news() && !conn.woken;
            assert!(
                !is_unnoticed,
                "pod {pod} is idle although it {}",
                if conn.peer_ended { "ended" } else { "sent" }
            );
            return;
        }
        if conn.link != Link::Up || this.head.is_empty() && this.served == 0 {
            let late = self.now > this.opened_at + self.settings.timeouts.connect + SLACK;
            assert!(!late, "pod {pod} is connecting forever");
        }
        let Some(scrape) = this.asked.map(|id| &self.scrapes[id]) else { return };
        let late = self.now > this.asked_at + scrape.patience + SLACK;
        assert!(!late, "scrape {} receives a response forever", scrape.id);
        let client = &self.clients[scrape.client];
        let client = &self.kernel.conns[client.conn.unwrap()];
        // Until the line of a next request is sent, only the last one's client is known.
        let is_next = !this.head.is_empty() && !this.known;
        assert!(
            is_next || client.is_held() && !client.end_reported,
            "pod {pod} is still active although its client has gone"
        );
    }

    /// Checks, when no event is left, that the worker does not sleep although it could act.
    pub(crate) fn check_pod_sleeps_well(&mut self, pod: usize) {
        let this = &self.pods[pod];
        let conn = &self.kernel.conns[this.conn];
        if !conn.is_held() || conn.link != Link::Up {
            return;
        }
        assert!(
            this.served > 0 || !this.head.is_empty(),
            "the worker sleeps although a request for pod {pod} is unsent"
        );
        let Some(id) = this.asked else { return };
        let client = &self.kernel.conns[self.clients[self.scrapes[id].client].conn.unwrap()];
        // Without room, it sleeps for a while, and then a session is ended.
        let may_wait = client.stalled || self.is_full(conn.worker);
        assert!(!conn.is_readable() || may_wait, "the worker sleeps although pod {pod} sent a response");
        // Bytes that gather wait for a look.
        let since = this.unread_since.map(|since| if may_wait { self.now } else { since });
        assert!(
            since.is_none_or(|since| self.now <= since + GATHER * 3),
            "the worker sleeps although pod {pod} sent bytes at {since:?}"
        );
        self.pods[pod].unread_since = since;
    }
}
