//! Responses of psystrike itself: a page, or a failure.
//!
//! Owns their content and the deadline for the client to take them. [`local_response`] owns their format on the wire.

use std::time::Duration;

use super::{states::Exchange, transaction::Transaction};
use crate::{
    http1::local_response::{self, LocalResponse},
    proxy::{
        access::Access,
        duration::HumanDuration,
        events::{Context, Output, PageHead},
        outcome::{Failure, Outcome},
        route::Page,
    },
};

impl Transaction {
    /// Responds with one of psystrike's own pages.
    pub(super) fn page(mut self: Box<Self>, page: Page, ctx: &mut Context<'_>, out: &mut Output) -> Exchange {
        let mut body = ctx.recycler.take_page();
        let PageHead { status, content_type } = ctx.pages.render(page, &mut body);
        self.status = status;
        let reason = if status == 200 { "OK" } else { "Service Unavailable" };
        let persistence = self.terms.persistence();
        let to_head = self.terms.to_head;
        let date = ctx.pages.date();
        LocalResponse { status, reason, content_type, fields: &[], body: &body, persistence, to_head, date }
            .write(&mut out.head);
        ctx.recycler.put_page(body);
        Exchange::Replying(self)
    }

    /// Responds with a failure: as one line of content, and in the reason phrase, which Prometheus shows.
    pub(super) fn fail(
        mut self: Box<Self>,
        failure: Failure,
        within: Duration,
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        self.outcome = failure.outcome;
        self.detail = failure.detail;
        self.within = within;
        self.status = failure.outcome.status();
        // A client whose scrape timed out gets extra time to take this response.
        self.until = self.until.max(ctx.now + ctx.settings.timeouts.header);
        let reason = failure.phrase(within).to_string();
        let after = HumanDuration(ctx.now.since(self.started));
        let body = match (&self.named, self.peer) {
            (None, Some(pod)) => format!("{reason} (pod {pod}, after {after})\n"),
            (Some(name), Some(pod)) => format!("{reason} (pod {name} at {pod}, after {after})\n"),
            (Some(name), None) => format!("{reason} (pod {name}, after {after})\n"),
            (None, None) => format!("{reason}\n"),
        };
        LocalResponse {
            status: self.status,
            reason,
            content_type: local_response::TEXT,
            fields: fields_of(failure.outcome, &ctx.settings.access),
            body: body.as_bytes(),
            persistence: self.terms.persistence(),
            to_head: self.terms.to_head,
            date: ctx.pages.date(),
        }
        .write(&mut out.head);
        Exchange::Replying(self)
    }
}

/// Returns the fields that belong to an outcome. Clients need only one of the challenges: `Bearer` for secrets, `Basic`
/// for secrets and passwords. There is none if neither is accepted: no header can have the certificate that is missing.
fn fields_of(outcome: Outcome, access: &Access) -> &'static [(&'static str, &'static str)] {
    let challenges: &[_] = match outcome {
        Outcome::MethodNotAllowed => return &[("Allow", "GET, HEAD")],
        Outcome::TooManyAuthenticationFailures => return &[("Retry-After", "1")],
        Outcome::AuthenticationRequired | Outcome::AuthenticationFailed => &[
            ("WWW-Authenticate", "Bearer realm=\"psystrike\""),
            ("WWW-Authenticate", "Basic realm=\"psystrike\""),
        ],
        Outcome::ProxyAuthenticationRequired | Outcome::ProxyAuthenticationFailed => &[
            ("Proxy-Authenticate", "Bearer realm=\"psystrike\""),
            ("Proxy-Authenticate", "Basic realm=\"psystrike\""),
        ],
        _ => return &[],
    };
    match (&access.tokens, &access.users) {
        (Some(_), _) => challenges,
        (None, Some(_)) => &challenges[1..],
        (None, None) => &[],
    }
}
