//! nginx's configuration: as a user writes it, at its best, and the settings that were tried to find what its best is.

use std::{fmt::Write as _, net::SocketAddr};

use rustix::process::geteuid;

use crate::{
    pods,
    setup::{OPEN_FILES_MAX, Setup},
};

/// Settings that make a difference, or might.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tuning {
    pub(crate) name: &'static str,
    /// In `events`.
    events: &'static str,
    /// Behind the address in `listen`.
    listen: &'static str,
    buffering: &'static str,
    buffer_kib: usize,
    /// In `http`.
    more: &'static str,
}

/// The cheapest over all bodies.
pub(crate) const TUNED: Tuning =
    Tuning { name: "tuned", events: "", listen: "", buffering: "off", buffer_kib: 256, more: "" };

/// What was tried beside it: each differs from it in what its name says.
pub(crate) const TRIED: [Tuning; 15] = [
    Tuning { name: "buffers of 4 KiB", buffer_kib: 4, ..TUNED },
    Tuning { name: "buffers of 16 KiB", buffer_kib: 16, ..TUNED },
    Tuning { name: "buffers of 32 KiB", buffer_kib: 32, ..TUNED },
    Tuning { name: "buffers of 64 KiB", buffer_kib: 64, ..TUNED },
    Tuning { name: "buffers of 1 MiB", buffer_kib: 1024, ..TUNED },
    Tuning { name: "buffering on, 4 KiB", buffering: "on", buffer_kib: 4, ..TUNED },
    Tuning { name: "buffering on, 16 KiB", buffering: "on", buffer_kib: 16, ..TUNED },
    Tuning { name: "buffering on, 32 KiB", buffering: "on", buffer_kib: 32, ..TUNED },
    Tuning { name: "buffering on, 64 KiB", buffering: "on", buffer_kib: 64, ..TUNED },
    Tuning { name: "buffering on", buffering: "on", ..TUNED },
    Tuning { name: "multi_accept on", events: "multi_accept on;", ..TUNED },
    Tuning { name: "reuseport", listen: "reuseport", ..TUNED },
    Tuning { name: "sendfile, tcp_nopush", more: "sendfile on; tcp_nopush on;", ..TUNED },
    Tuning { name: "client abort ignored", more: "proxy_ignore_client_abort on;", ..TUNED },
    Tuning { name: "request pool of 16 KiB", more: "request_pool_size 16k;", ..TUNED },
];

/// What two lines do: a regular expression and `proxy_pass` with variables.
pub(crate) fn simple(address: SocketAddr, setup: &Setup) -> String {
    const LOCATION: &str = r"
        location ~ ^/pods/(?<pod>[^/]+)/(?<port>[0-9]+)/(?<path>.*)$ {
            proxy_pass http://$pod:$port/$path$is_args$args;
        }";
    configuration(&address.to_string(), setup, "", "", LOCATION)
}

/// An `upstream` for each pod, which keeps connections.
pub(crate) fn tuned(address: SocketAddr, setup: &Setup, tuning: &Tuning) -> String {
    let Setup { pods, pods_port, .. } = setup;
    let Tuning { events, listen, buffering, buffer_kib, more, .. } = tuning;
    let busy_kib = 2 * buffer_kib;
    let mut http = format!(
        "
    {more}
    proxy_buffering {buffering};
    proxy_buffer_size {buffer_kib}k;
    proxy_buffers 8 {buffer_kib}k;
    proxy_busy_buffers_size {busy_kib}k;
    proxy_max_temp_file_size 0;
    keepalive_timeout 1h;
    keepalive_requests 1000000000;
    tcp_nodelay on;
    proxy_http_version 1.1;
    proxy_set_header Connection \"\";
    variables_hash_max_size 4096;",
    );
    let mut server = String::new();
    for pod in (0..*pods).map(pods::address) {
        let _ = write!(
            http,
            "
    upstream pod-{pod} {{
        server {pod}:{pods_port};
        keepalive 64; keepalive_timeout 1h; keepalive_requests 1000000000;
    }}"
        );
        let _ = write!(
            server,
            "
        location /pods/{pod}/{pods_port}/ {{ proxy_pass http://pod-{pod}/; }}"
        );
    }
    configuration(&format!("{address} {listen}"), setup, events, &http, &server)
}

/// What any nginx needs to run here, around what is specific to one.
fn configuration(listen: &str, setup: &Setup, events: &str, http: &str, server: &str) -> String {
    // It allots memory for all of them at its start: as few as the case needs.
    let connections = (2 * (setup.clients + setup.pods) + 512).min(OPEN_FILES_MAX - 100);
    // Its worker could not write temporary files into our scratch directory as anybody else.
    let user = if geteuid().is_root() { "user root;" } else { "" };
    format!(
        "{user}
daemon off;
pid nginx.pid;
worker_processes 1;
worker_rlimit_nofile {OPEN_FILES_MAX};
events {{ worker_connections {connections}; {events} }}
http {{
    # Off, as with all forwarders here: no log is measured.
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
{http}
    server {{
        listen {listen};
{server}
    }}
}}
"
    )
}
