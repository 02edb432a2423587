//! Renders psystrike's own pages, with their status codes.
//!
//! Owns their text, except that of [`metrics`]. Their data comes from a [`ServerStatus`].

use std::{io::Write, sync::Arc, time::SystemTime};

use super::{
    access::Access,
    events::{PageHead, Pages},
    metrics::{self, BuildInfo, Counters, Process, State},
    route::{Page, RouteName},
    settings::Settings,
};
use crate::http1::local_response;

/// The data of the pages.
pub trait ServerStatus {
    /// Returns whether the process accepts new scrapes.
    fn is_serving(&self) -> bool;
    /// Returns a worker that is stuck, if there is one.
    fn stuck_worker(&self) -> Option<usize>;
    /// Returns the counters of each worker.
    fn all_counters(&self) -> Vec<&Counters>;
    /// Returns the version and the limits, which never change.
    fn build_info(&self) -> BuildInfo;
    /// Returns the operator's settings.
    fn settings(&self) -> Arc<Settings>;
    /// Returns the metrics of this process from the kernel.
    fn process(&self) -> Process;
    /// Returns the values that change rarely.
    fn state(&self) -> State;
    /// Returns the wall-clock time.
    fn date(&self) -> SystemTime;
}

impl<T: ServerStatus> Pages for T {
    fn render(&self, page: Page, body: &mut Vec<u8>) -> PageHead {
        match page {
            Page::Index => {
                render_index(body, self.build_info(), &self.settings());
                PageHead { status: 200, content_type: "text/html; charset=utf-8" }
            }
            Page::Metrics => {
                let (process, state) = (self.process(), self.state());
                metrics::render(body, &self.all_counters(), self.build_info(), &process, &state);
                PageHead { status: 200, content_type: metrics::CONTENT_TYPE }
            }
            Page::Healthz => match self.stuck_worker() {
                None => words(body, 200, "ok"),
                Some(worker) => words(body, 503, &format!("worker {worker} is stuck")),
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

/// Appends the page at `/`: links, an example, and the policy in effect.
fn render_index(out: &mut Vec<u8>, build_info: BuildInfo, settings: &Settings) {
    let BuildInfo { version, revision, .. } = build_info;
    let link = |page: Page| RouteName::Page(page).label();
    let policy = &settings.policy;
    let connect =
        settings.connect_ports.as_ref().map_or("off".to_owned(), |ports| format!("to ports {ports}"));
    let _ = write!(
        out,
        "<!DOCTYPE html>\n\
         <html lang=\"en\"><head><meta charset=\"utf-8\"><title>psystrike</title></head><body>\n\
         <h1>psystrike</h1>\n\
         <p>Forwards Prometheus scrapes to pods that Prometheus cannot reach.</p>\n\
         <p>Version {version}, revision {revision}.</p>\n\
         <ul>\n\
         <li><a href=\"{metrics}\">{metrics}</a>: metrics of psystrike itself</li>\n\
         <li><a href=\"{healthz}\">{healthz}</a>: 200 while the event loops run</li>\n\
         <li><a href=\"{readyz}\">{readyz}</a>: 200 until shutdown begins</li>\n\
         </ul>\n\
         <h2>Example</h2>\n\
         <p>A Prometheus job with this line scrapes through psystrike:</p>\n\
         <pre>proxy_url: {scheme}://psystrike.example:31000</pre>\n\
         <p>Without <code>proxy_url</code>, put the pod into the path:</p>\n\
         <pre>{scheme}://psystrike.example:31000/pods/10.1.2.3/8080/metrics</pre>\n\
         <h2>Access control</h2>\n\
         <table>\n\
         <tr><td>Clients (<code>--allow-clients</code>)</td><td>{clients}</td></tr>\n\
         <tr><td>Authentication</td><td>{authentication}</td></tr>\n\
         </table>\n\
         <h2>Allowed destinations</h2>\n\
         <table>\n\
         <tr><td>Addresses (<code>--allow</code>)</td><td>{allow}</td></tr>\n\
         <tr><td>Refused addresses (<code>--deny</code>)</td><td>{deny}</td></tr>\n\
         <tr><td>Ports (<code>--allow-ports</code>)</td><td>{ports}</td></tr>\n\
         <tr><td>DNS names (<code>--allow-names</code>)</td><td>{names}</td></tr>\n\
         <tr><td>Tunnels (<code>--allow-connect</code>)</td><td>{connect}</td></tr>\n\
         </table>\n\
         <p>Loopback, link-local and other special ranges are refused unless <code>--allow</code> lists them \
         explicitly.</p>\n\
         </body></html>\n",
        version = escaped(version),
        revision = escaped(revision),
        metrics = link(Page::Metrics),
        healthz = link(Page::Healthz),
        readyz = link(Page::Readyz),
        clients = list(settings.access.clients.ranges(), "any"),
        scheme = if settings.access.is_encrypted_only() { "https" } else { "http" },
        authentication = authentication(&settings.access),
        allow = list(policy.allow(), "none"),
        deny = list(policy.deny(), "none"),
        ports = policy.ports(),
        names = list(policy.names(), "any"),
    );
}

/// Returns which credentials are accepted, in HTML. The option of certificates is not known here.
fn authentication(access: &Access) -> &'static str {
    match (access.tokens.is_some(), access.users.is_some(), access.client_certificates) {
        (false, false, false) => "off",
        (true, false, false) => "a secret (<code>--auth-token-file</code>)",
        (false, false, true) => "a client certificate",
        (true, false, true) => "a secret (<code>--auth-token-file</code>) or a client certificate",
        (false, true, false) => "a password (<code>--web-config-file</code>)",
        (true, true, false) => {
            "a secret (<code>--auth-token-file</code>) or a password (<code>--web-config-file</code>)"
        }
        (false, true, true) => "a client certificate, and a password (<code>--web-config-file</code>)",
        (true, true, true) => {
            "a client certificate, and a secret (<code>--auth-token-file</code>) or a password \
             (<code>--web-config-file</code>)"
        }
    }
}

/// Returns the elements as a comma-separated list in HTML, or `empty` if there are none.
fn list<T: ToString>(elements: &[T], empty: &str) -> String {
    let elements: Vec<String> = elements.iter().map(|element| escaped(&element.to_string())).collect();
    if elements.is_empty() { empty.to_owned() } else { elements.join(", ") }
}

/// Escapes the characters that begin markup in HTML text.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::access::{tokens::Tokens, users::Users};

    /// Some users, in builds that can have them.
    #[cfg(feature = "web-config")]
    fn users() -> Option<Arc<Users>> {
        Some(Arc::new(Users::new(Vec::new(), [7; 16])))
    }

    #[cfg(not(feature = "web-config"))]
    fn users() -> Option<Arc<Users>> {
        None
    }

    #[test]
    fn only_credentials_that_are_accepted_are_named() {
        const SECRET: &str = "a secret (<code>--auth-token-file</code>)";
        const PASSWORD: &str = "a password (<code>--web-config-file</code>)";
        const CERTIFICATE: &str = "a client certificate";
        let tokens = Some(Arc::new(Tokens::parse(b"a-secret-of-20-bytes", [7; 16]).expect("a secret")));
        for (takes_secrets, takes_passwords, client_certificates, expected) in [
            (false, false, false, "off".to_owned()),
            (true, false, false, SECRET.to_owned()),
            (false, false, true, CERTIFICATE.to_owned()),
            (true, false, true, format!("{SECRET} or {CERTIFICATE}")),
            (false, true, false, PASSWORD.to_owned()),
            (true, true, false, format!("{SECRET} or {PASSWORD}")),
            (false, true, true, format!("{CERTIFICATE}, and {PASSWORD}")),
            (true, true, true, format!("{CERTIFICATE}, and {SECRET} or {PASSWORD}")),
        ] {
            let tokens = tokens.clone().filter(|_| takes_secrets);
            let users = users().filter(|_| takes_passwords);
            if users.is_some() == takes_passwords {
                let access = Access { tokens, users, client_certificates, ..Access::default() };
                assert_eq!(authentication(&access), expected);
            }
        }
    }

    #[test]
    fn text_is_escaped() {
        assert_eq!(list(&["<b>&", "fd00::/8"], "none"), "&lt;b&gt;&amp;, fd00::/8");
        assert_eq!(list::<String>(&[], "none"), "none");
    }
}
