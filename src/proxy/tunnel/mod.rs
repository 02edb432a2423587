//! The state machine of a tunnel (RFC 9110 section 9.3.6): two directions that end independently, and an idle timeout.
//!
//! Owns when a tunnel ends, and how each side is informed. Never sees the bytes: those after CONNECT belong to the pod.
//!
//! ```text
//! one side closes its sending direction -> the same on the other side; the other direction continues
//! both have, and have taken all bytes   -> both connections are closed
//! one connection fails                  -> the other one is reset
//! no byte moves for a second during shutdown
//!                                       -> both are closed, once both have taken all bytes
//! no byte moves for the idle timeout, or for a second while another client needs the place
//!                                       -> both are closed; or reset, if one has not taken all bytes
//! the buffers are full                  -> both are reset
//! ```

pub mod report;

use std::time::Duration;

pub use self::report::{TunnelEnd, TunnelReport};
use super::{
    events::{ClientAction, Context, Event, Output, Side, UpstreamAction},
    timestamp::Timestamp,
};

/// How long no byte must move before a tunnel is closed for shutdown, or in favour of another client.
const QUIET: Duration = Duration::from_secs(1);
/// How often to check whether both sides have taken all bytes. Until then they are in the kernel's buffers, and the
/// tunnel counts as a client: no limit counts the bytes of connections that are closed.
const CHECK: Duration = Duration::from_millis(50);

/// A tunnel.
#[derive(Debug)]
pub struct Tunnel {
    opened: Timestamp,
    /// When a byte last moved.
    active: Timestamp,
    idle_timeout: Duration,
    /// Whether the process is shutting down, which shortens the idle timeout.
    drains: bool,
    client_ended: bool,
    pod_ended: bool,
    /// When to check next whether both sides have taken all bytes.
    check_at: Timestamp,
    end: Option<TunnelEnd>,
}

impl Tunnel {
    /// Opens a tunnel.
    pub fn new(now: Timestamp, idle_timeout: Duration) -> Self {
        Self {
            opened: now,
            active: now,
            idle_timeout,
            drains: false,
            client_ended: false,
            pod_ended: false,
            check_at: now,
            end: None,
        }
    }

    /// Returns whether bytes may still come from a side.
    pub fn reads_from(&self, side: Side) -> bool {
        self.end.is_none()
            && match side {
                Side::Client => !self.client_ended,
                Side::Pod => !self.pod_ended,
            }
    }

    /// Returns whether the tunnel is over.
    pub fn is_over(&self) -> bool {
        self.end.is_some()
    }

    /// Returns when a byte last moved.
    pub fn active(&self) -> Timestamp {
        self.active
    }

    /// Returns from when on the tunnel may be closed in favour of others, if no byte moves before.
    pub fn quiet_at(&self) -> Timestamp {
        self.active + QUIET
    }

    /// Returns the report of a tunnel that is over `now`.
    pub fn report(&self, now: Timestamp) -> Option<TunnelReport> {
        self.end.map(|end| TunnelReport { end, duration: now.since(self.opened) })
    }

    /// Returns when [`Event::Timeout`] is due, if no byte moves before.
    pub fn deadline(&self) -> Option<Timestamp> {
        let at = match () {
            () if self.has_ended() => self.check_at,
            () if self.drains => (self.active + QUIET.min(self.idle_timeout)).max(self.check_at),
            () => self.active + self.idle_timeout,
        };
        self.end.is_none().then_some(at)
    }

    /// Returns whether both sides have closed their sending directions.
    fn has_ended(&self) -> bool {
        self.client_ended && self.pod_ended
    }

    /// Handles an event. Ignores events that belong to other states.
    pub fn on_event(&mut self, event: Event<'_>, ctx: &mut Context<'_>, out: &mut Output) {
        out.clear();
        if self.is_over() {
            return;
        }
        match event {
            Event::Tunnelled => self.active = ctx.now,
            Event::TunnelEof(side) => self.eof(side, ctx, out),
            Event::TunnelFailed(side) => self.failed(side, out),
            Event::CloseIfIdle { client_stalled } if ctx.draining => {
                self.drains = true;
                if ctx.now >= self.quiet_at() {
                    self.close_once_taken(TunnelEnd::Drained, client_stalled, ctx, out);
                }
            }
            Event::CloseIfIdle { client_stalled } if ctx.now >= self.quiet_at() => {
                self.give_up(TunnelEnd::Evicted, client_stalled, out);
            }
            Event::Timeout { client_stalled } if self.deadline().is_some_and(|at| ctx.now >= at) => {
                let end = match () {
                    () if self.has_ended() => TunnelEnd::Closed,
                    () if self.drains => TunnelEnd::Drained,
                    () => TunnelEnd::Idle,
                };
                self.close_once_taken(end, client_stalled, ctx, out);
            }
            Event::NoRoom { .. } => self.give_up(TunnelEnd::BuffersFull, true, out),
            _ => {}
        }
    }

    /// Handles the end of a side's sending direction, once the other side took all bytes before it.
    fn eof(&mut self, side: Side, ctx: &mut Context<'_>, out: &mut Output) {
        self.active = ctx.now;
        match side {
            Side::Client => self.client_ended = true,
            Side::Pod => self.pod_ended = true,
        }
        self.check_at = ctx.now;
        match side {
            Side::Client => out.upstream = UpstreamAction::Shutdown,
            Side::Pod => out.client = ClientAction::Shutdown,
        }
    }

    /// Handles the failure of a side's connection: resets the other side, as it would be without a tunnel between them.
    fn failed(&mut self, side: Side, out: &mut Output) {
        match side {
            Side::Client => {
                (out.client, out.upstream) = (ClientAction::Close, UpstreamAction::Reset);
                self.end = Some(TunnelEnd::ClientFailed);
            }
            Side::Pod => {
                (out.client, out.upstream) = (ClientAction::Reset, UpstreamAction::Close);
                self.end = Some(TunnelEnd::PodFailed);
            }
        }
    }

    /// Ends the tunnel, unless a side is `stalled`, for which there is time up to the idle timeout.
    fn close_once_taken(&mut self, end: TunnelEnd, stalled: bool, ctx: &Context<'_>, out: &mut Output) {
        if stalled && ctx.now < self.active + self.idle_timeout {
            self.check_at = ctx.now + CHECK;
            return;
        }
        self.give_up(end, stalled, out);
    }

    /// Ends the tunnel. If a side is `stalled`, bytes for it are lost, and an orderly close would hide that.
    fn give_up(&mut self, end: TunnelEnd, stalled: bool, out: &mut Output) {
        if !stalled {
            return self.close(end, out);
        }
        (out.client, out.upstream) = (ClientAction::Reset, UpstreamAction::Reset);
        self.end = Some(end);
    }

    fn close(&mut self, end: TunnelEnd, out: &mut Output) {
        (out.client, out.upstream) = (ClientAction::CloseDelivering, UpstreamAction::CloseDelivering);
        self.end = Some(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{
        access::{Access, attempts::Attempts},
        events::{ClientFacts, PageHead, Pages},
        pods::Pods,
        policy::{Policy, Ports},
        recycler::Recycler,
        route::Page,
        settings::{Settings, Timeouts},
    };

    struct NoPages;

    impl Pages for NoPages {
        fn render(&self, _: Page, _: &mut Vec<u8>) -> PageHead {
            unreachable!("a tunnel renders no page")
        }

        fn date(&self) -> std::time::SystemTime {
            unreachable!("a tunnel has no date")
        }
    }

    fn at(milliseconds: u64) -> Timestamp {
        Timestamp::default() + Duration::from_millis(milliseconds)
    }

    const TIMEOUT: Duration = Duration::from_secs(60);

    /// Passes these events to a tunnel, each at the given milliseconds after its opening. Returns the last output's
    /// actions, and the report.
    fn after(
        events: Vec<(u64, Event<'static>)>,
    ) -> (Tunnel, UpstreamAction, ClientAction, Option<(TunnelEnd, u64)>) {
        after_in(true, events)
    }

    fn after_in(
        draining: bool,
        events: Vec<(u64, Event<'static>)>,
    ) -> (Tunnel, UpstreamAction, ClientAction, Option<(TunnelEnd, u64)>) {
        let settings = Settings {
            access: Access::default(),
            policy: Policy::new(Vec::new(), Vec::new(), Ports::all()),
            pods: Pods::default(),
            timeouts: Timeouts {
                scrape: TIMEOUT,
                scrape_max: TIMEOUT,
                connect: TIMEOUT,
                header: TIMEOUT,
                client_idle: TIMEOUT,
                upstream_idle: TIMEOUT,
                gather: TIMEOUT,
                tunnel_idle: TIMEOUT,
                resolve_ttl: TIMEOUT,
            },
            connect_ports: None,
            access_log: false,
        };
        let (mut recycler, mut out) = (Recycler::default(), Output::default());
        let mut tunnel = Tunnel::new(at(0), TIMEOUT);
        let mut last = at(0);
        for (milliseconds, event) in events {
            last = at(milliseconds);
            let (pages, recycler) = (&NoPages, &mut recycler);
            let now = at(milliseconds);
            let (client, attempts) = (&ClientFacts::default(), &mut Attempts::default());
            let mut ctx = Context { now, draining, settings: &settings, pages, client, attempts, recycler };
            tunnel.on_event(event, &mut ctx, &mut out);
        }
        let report = tunnel.report(last).map(|report| (report.end, report.duration.as_millis() as u64));
        (tunnel, out.upstream, out.client, report)
    }

    const TIMEOUT_EVENT: Event<'static> = Event::Timeout { client_stalled: false };
    const CLOSE_IF_IDLE: Event<'static> = Event::CloseIfIdle { client_stalled: false };

    fn timeout(client_stalled: bool) -> Event<'static> {
        Event::Timeout { client_stalled }
    }

    #[test]
    fn directions_end_independently_and_both_end_the_tunnel() {
        use {ClientAction as C, UpstreamAction as U};
        let shutdowns = [(Side::Client, (U::Shutdown, C::None)), (Side::Pod, (U::None, C::Shutdown))];
        for ((first, after_first), (_, after_second)) in
            [(shutdowns[0], shutdowns[1]), (shutdowns[1], shutdowns[0])]
        {
            let (tunnel, to_pod, to_client, report) = after(vec![(5, Event::TunnelEof(first))]);
            assert_eq!(((to_pod, to_client), report), (after_first, None));
            assert!(!tunnel.reads_from(first) && tunnel.reads_from(first.other()) && !tunnel.is_over());

            // Once both have taken all bytes, their connections are closed.
            let ended = || vec![(5, Event::TunnelEof(first)), (9, Event::TunnelEof(first.other()))];
            let (tunnel, to_pod, to_client, report) = after(ended());
            assert_eq!(((to_pod, to_client), report), (after_second, None));
            assert_eq!(tunnel.deadline(), Some(at(9)));
            for (more, actions, deadline, end) in [
                (vec![(9, timeout(false))], (U::CloseDelivering, C::CloseDelivering), None, Some(9)),
                (vec![(9, timeout(true))], (U::None, C::None), Some(59), None),
                (
                    vec![(9, timeout(true)), (59, timeout(false))],
                    (U::CloseDelivering, C::CloseDelivering),
                    None,
                    Some(59),
                ),
                (vec![(60_009, timeout(true))], (U::Reset, C::Reset), None, Some(60_009)),
            ] {
                let name = format!("{more:?}");
                let (tunnel, to_pod, to_client, report) = after(ended().into_iter().chain(more).collect());
                assert_eq!(((to_pod, to_client), tunnel.deadline()), (actions, deadline.map(at)), "{name}");
                assert_eq!(report, end.map(|at| (TunnelEnd::Closed, at)), "{name}");
            }
        }
    }

    #[test]
    fn a_failure_resets_the_other_side() {
        use {ClientAction as C, UpstreamAction as U};
        for (side, upstream, client, end) in [
            (Side::Client, U::Reset, C::Close, TunnelEnd::ClientFailed),
            (Side::Pod, U::Close, C::Reset, TunnelEnd::PodFailed),
        ] {
            let (tunnel, to_pod, to_client, report) = after(vec![(7, Event::TunnelFailed(side))]);
            assert_eq!((to_pod, to_client, report), (upstream, client, Some((end, 7))));
            assert!(tunnel.is_over());
        }
        let (_, to_pod, to_client, report) = after(vec![(7, Event::NoRoom { client_stalled: true })]);
        assert_eq!((to_pod, to_client, report), (U::Reset, C::Reset, Some((TunnelEnd::BuffersFull, 7))));
    }

    #[test]
    fn bytes_postpone_the_idle_timeout() {
        for (events, deadline, end) in [
            (vec![], Some(60_000), None),
            (vec![(59_999, TIMEOUT_EVENT)], Some(60_000), None),
            (vec![(60_000, TIMEOUT_EVENT)], None, Some((TunnelEnd::Idle, 60_000))),
            (vec![(10, Event::Tunnelled), (60_000, TIMEOUT_EVENT)], Some(60_010), None),
            (vec![(10, Event::Tunnelled), (60_010, TIMEOUT_EVENT)], None, Some((TunnelEnd::Idle, 60_010))),
            (vec![(10, Event::TunnelEof(Side::Pod))], Some(60_010), None),
            // During shutdown, a second without a byte is enough.
            (vec![(10, CLOSE_IF_IDLE)], Some(1_000), None),
            (vec![(10, CLOSE_IF_IDLE), (500, Event::Tunnelled)], Some(1_500), None),
            (vec![(10, CLOSE_IF_IDLE), (1_000, TIMEOUT_EVENT)], None, Some((TunnelEnd::Drained, 1_000))),
            (vec![(1_000, CLOSE_IF_IDLE)], None, Some((TunnelEnd::Drained, 1_000))),
        ] {
            let name = format!("{events:?}");
            let (tunnel, _, _, report) = after(events);
            assert_eq!((tunnel.deadline(), report), (deadline.map(at), end), "{name}");
        }
    }

    #[test]
    fn a_tunnel_that_ends_with_undelivered_bytes_is_reset() {
        use {ClientAction as C, UpstreamAction as U};
        let evicted = Event::CloseIfIdle { client_stalled: true };
        for (draining, event, end) in [
            (false, (60_000, timeout(true)), TunnelEnd::Idle),
            (true, (60_000, timeout(true)), TunnelEnd::Idle),
            (false, (1_000, evicted), TunnelEnd::Evicted),
        ] {
            let at = event.0;
            let (_, to_pod, to_client, report) = after_in(draining, vec![event]);
            assert_eq!((to_pod, to_client, report), (U::Reset, C::Reset, Some((end, at))));
        }
        // During shutdown, a side that has not taken all bytes gets time for them.
        let closes = || Event::CloseIfIdle { client_stalled: true };
        for (events, deadline) in [
            (vec![(1_000, closes())], 1_050),
            (vec![(10, closes()), (1_000, timeout(true))], 1_050),
            (vec![(10, closes()), (1_000, timeout(true)), (1_050, timeout(true))], 1_100),
        ] {
            let name = format!("{events:?}");
            let (tunnel, to_pod, to_client, report) = after(events);
            assert_eq!((to_pod, to_client, report), (U::None, C::None, None), "{name}");
            assert_eq!(tunnel.deadline(), Some(at(deadline)), "{name}");
        }
    }

    #[test]
    fn a_quiet_tunnel_is_evicted_for_another_client() {
        for (events, deadline, end) in [
            (vec![(1_000, CLOSE_IF_IDLE)], None, Some((TunnelEnd::Evicted, 1_000))),
            (vec![(999, CLOSE_IF_IDLE)], Some(60_000), None),
            (vec![(500, Event::Tunnelled), (1_499, CLOSE_IF_IDLE)], Some(60_500), None),
        ] {
            let name = format!("{events:?}");
            let (tunnel, _, _, report) = after_in(false, events);
            assert_eq!((tunnel.deadline(), report), (deadline.map(at), end), "{name}");
        }
    }

    #[test]
    fn the_reasons_are_in_order() {
        for (at, end) in TunnelEnd::ALL.into_iter().enumerate() {
            assert_eq!(end as usize, at);
        }
    }
}
