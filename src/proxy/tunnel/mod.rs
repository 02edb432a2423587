//! The state machine of a tunnel (RFC 9110 section 9.3.6): two directions that end apart, and an idle timeout.
//!
//! Owns when a tunnel ends, and how each side is informed. Never sees the bytes: those after CONNECT belong to the pod.
//!
//! ```text
//! one side closes its sending direction -> the same on the other side; the other direction goes on
//! both have                             -> both connections are closed
//! one connection fails                  -> the other one is reset
//! no byte moves for the idle timeout, or for a second during shutdown -> both are closed
//! the buffers are full                  -> both are reset
//! ```

pub mod report;

use std::time::Duration;

pub use self::report::{TunnelEnd, TunnelReport};
use super::{
    events::{ClientAction, Context, Event, Output, Side, UpstreamAction},
    timestamp::Timestamp,
};

/// The idle timeout during shutdown.
const QUIET: Duration = Duration::from_secs(1);

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

    /// Returns the report of a tunnel that is over `now`.
    pub fn report(&self, now: Timestamp) -> Option<TunnelReport> {
        self.end.map(|end| TunnelReport { end, duration: now.since(self.opened) })
    }

    /// Returns when [`Event::Timeout`] is due, if no byte moves before.
    pub fn deadline(&self) -> Option<Timestamp> {
        let timeout = if self.drains { QUIET.min(self.idle_timeout) } else { self.idle_timeout };
        self.end.is_none().then(|| self.active + timeout)
    }

    /// Handles an event. Events of other states change nothing.
    pub fn on_event(&mut self, event: Event<'_>, ctx: &mut Context<'_>, out: &mut Output) {
        out.clear();
        if self.is_over() {
            return;
        }
        match event {
            Event::Tunnelled => self.active = ctx.now,
            Event::TunnelEof(side) => self.eof(side, ctx, out),
            Event::TunnelFailed(side) => self.failed(side, out),
            Event::CloseIfIdle { .. } if ctx.now >= self.active + QUIET => {
                self.close(TunnelEnd::Drained, out)
            }
            Event::CloseIfIdle { .. } => self.drains = true,
            Event::Timeout { .. } if self.deadline().is_some_and(|at| ctx.now >= at) => {
                let end = if self.drains { TunnelEnd::Drained } else { TunnelEnd::Idle };
                self.close(end, out);
            }
            Event::NoRoom { .. } => {
                (out.client, out.upstream) = (ClientAction::Reset, UpstreamAction::Reset);
                self.end = Some(TunnelEnd::BuffersFull);
            }
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
        if self.client_ended && self.pod_ended {
            return self.close(TunnelEnd::Closed, out);
        }
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

    fn close(&mut self, end: TunnelEnd, out: &mut Output) {
        (out.client, out.upstream) = (ClientAction::CloseDelivering, UpstreamAction::CloseDelivering);
        self.end = Some(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{
        events::{PageHead, Pages},
        policy::{Policy, Ports},
        recycler::Recycler,
        route::Page,
        settings::{Settings, Timeouts},
    };

    struct NoPages;

    impl Pages for NoPages {
        fn render(&self, _: Page, _: &mut Vec<u8>) -> PageHead {
            unreachable!("a tunnel has no page")
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
        let settings = Settings {
            policy: Policy::new(Vec::new(), Vec::new(), Ports::all()),
            timeouts: Timeouts {
                scrape: TIMEOUT,
                scrape_max: TIMEOUT,
                connect: TIMEOUT,
                header: TIMEOUT,
                client_idle: TIMEOUT,
                upstream_idle: TIMEOUT,
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
            let mut ctx = Context { now, draining: false, settings: &settings, pages, recycler };
            tunnel.on_event(event, &mut ctx, &mut out);
        }
        let report = tunnel.report(last).map(|report| (report.end, report.duration.as_millis() as u64));
        (tunnel, out.upstream, out.client, report)
    }

    const TIMEOUT_EVENT: Event<'static> = Event::Timeout { client_stalled: false };
    const CLOSE_IF_IDLE: Event<'static> = Event::CloseIfIdle { client_stalled: false };

    #[test]
    fn each_direction_ends_apart_and_both_end_the_tunnel() {
        use {ClientAction as C, UpstreamAction as U};
        for (first, upstream, client) in
            [(Side::Client, U::Shutdown, C::None), (Side::Pod, U::None, C::Shutdown)]
        {
            let (tunnel, to_pod, to_client, report) = after(vec![(5, Event::TunnelEof(first))]);
            assert_eq!((to_pod, to_client, report), (upstream, client, None));
            assert!(!tunnel.reads_from(first) && tunnel.reads_from(first.other()) && !tunnel.is_over());
            let events = vec![(5, Event::TunnelEof(first)), (9, Event::TunnelEof(first.other()))];
            let (tunnel, to_pod, to_client, report) = after(events);
            assert_eq!((to_pod, to_client), (U::CloseDelivering, C::CloseDelivering));
            assert_eq!(
                (report, tunnel.is_over(), tunnel.deadline()),
                (Some((TunnelEnd::Closed, 9)), true, None)
            );
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
    fn the_reasons_are_in_order() {
        for (at, end) in TunnelEnd::ALL.into_iter().enumerate() {
            assert_eq!(end as usize, at);
        }
    }
}
