//! Renders psystrike's own pages, with their status codes.
//!
//! Owns their text, except that of [`metrics`]. Their data comes from a [`ServerStatus`].

use std::{io::Write, time::SystemTime};

use super::{
    events::{PageHead, Pages},
    metrics::{self, BuildInfo, Counters, Process},
    route::{Page, RouteName},
};
use crate::http1::local_response;

/// The data of the pages.
pub trait ServerStatus {
    /// Returns whether the process accepts new scrapes.
    fn is_serving(&self) -> bool;
    /// Returns a worker that hangs, if there is one.
    fn stuck_worker(&self) -> Option<usize>;
    /// Returns the counters of each worker.
    fn all_counters(&self) -> Vec<&Counters>;
    /// Returns the values that stay the same.
    fn build_info(&self) -> BuildInfo;
    /// Returns the kernel's numbers about this process.
    fn process(&self) -> Process;
    /// Returns the wall-clock time.
    fn date(&self) -> SystemTime;
}

impl<T: ServerStatus> Pages for T {
    fn render(&self, page: Page, body: &mut Vec<u8>) -> PageHead {
        match page {
            Page::Index => {
                render_index(body, self.build_info());
                PageHead { status: 200, content_type: "text/html; charset=utf-8" }
            }
            Page::Metrics => {
                metrics::render(body, &self.all_counters(), self.build_info(), &self.process());
                PageHead { status: 200, content_type: metrics::CONTENT_TYPE }
            }
            Page::Healthz => match self.stuck_worker() {
                None => words(body, 200, "ok"),
                Some(worker) => words(body, 503, &format!("worker {worker} does not run")),
            },
            Page::Readyz if self.is_serving() => words(body, 200, "ok"),
            Page::Readyz => words(body, 503, "shutting down"),
        }
    }

    fn date(&self) -> SystemTime {
        ServerStatus::date(self)
    }
}

fn words(body: &mut Vec<u8>, status: u16, text: &str) -> PageHead {
    body.extend_from_slice(text.as_bytes());
    body.push(b'\n');
    PageHead { status, content_type: local_response::TEXT }
}

/// Appends the page at `/`, which describes psystrike and its routes.
fn render_index(out: &mut Vec<u8>, build_info: BuildInfo) {
    let BuildInfo { version, revision, .. } = build_info;
    let link = |page: Page| RouteName::Page(page).label();
    let _ = write!(
        out,
        "<!DOCTYPE html>\n\
         <html lang=\"en\"><head><meta charset=\"utf-8\"><title>psystrike</title></head><body>\n\
         <h1>psystrike</h1>\n\
         <p>Forwards Prometheus's scrapes to pods that it cannot reach. Version {version}, revision {revision}.</p>\n\
         <ul>\n\
         <li><code>/pods/{{host}}/{{port}}/{{path}}</code>: scrapes the pod, at <code>/metrics</code> without a path</li>\n\
         <li><code>http://{{host}}:{{port}}/{{path}}</code>: scrapes the pod, for clients with a <code>proxy_url</code></li>\n\
         <li><a href=\"{metrics}\">{metrics}</a>: the metrics of psystrike itself</li>\n\
         <li><a href=\"{healthz}\">{healthz}</a>: whether its event loops run</li>\n\
         <li><a href=\"{readyz}\">{readyz}</a>: whether it takes new scrapes</li>\n\
         </ul>\n\
         </body></html>\n",
        metrics = link(Page::Metrics),
        healthz = link(Page::Healthz),
        readyz = link(Page::Readyz),
    );
}
