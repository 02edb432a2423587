//! nginx's configuration: simple, tuned, and with the other settings that were tried.

use std::{fmt::Write as _, net::SocketAddr};

use rustix::process::geteuid;

use crate::{
    encryption::Encryption,
    pods,
    setup::{OPEN_FILES_MAX, Setup},
};

/// Settings that affect the cost of a scrape, or might.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tuning {
    pub(crate) name: &'static str,
    /// In `events`.
    events: &'static str,
    /// After the address in `listen`.
    listen: &'static str,
    buffering: &'static str,
    buffer_kib: usize,
    /// In `http`.
    more: &'static str,
}

/// The best settings over all bodies.
pub(crate) const TUNED: Tuning =
    Tuning { name: "tuned", events: "", listen: "", buffering: "off", buffer_kib: 256, more: "" };

/// Other settings. The name of each says how it differs.
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

/// The usual two lines: a regular expression, and `proxy_pass` with variables.
pub(crate) fn simple(address: SocketAddr, setup: &Setup) -> String {
    const LOCATION: &str = r"
        location ~ ^/pods/(?<pod>[^/]+)/(?<port>[0-9]+)/(?<path>.*)$ {
            proxy_pass http://$pod:$port/$path$is_args$args;
        }";
    configuration(&address.to_string(), setup, "", "", LOCATION)
}

/// An `upstream` for each pod, which pools connections.
pub(crate) fn tuned(address: SocketAddr, setup: &Setup, tuning: &Tuning, tls: &Encryption) -> String {
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
    if let Some(files) = &tls.certificate {
        let (certificate, key) = (files.certificate.display(), files.key.display());
        let _ = write!(
            server,
            "
        ssl_certificate {certificate}; ssl_certificate_key {key};
        ssl_protocols TLSv1.3; ssl_session_cache off; ssl_session_tickets off;"
        );
    }
    let scheme = if tls.to_pods { "https" } else { "http" };
    if tls.to_pods {
        http.push_str(
            "
    proxy_ssl_protocols TLSv1.3; proxy_ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
    proxy_ssl_session_reuse off;",
        );
    }
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
        location /pods/{pod}/{pods_port}/ {{ proxy_pass {scheme}://pod-{pod}/; }}"
        );
    }
    let ssl = if tls.certificate.is_some() { "ssl" } else { "" };
    configuration(&format!("{address} {listen} {ssl}"), setup, events, &http, &server)
}

/// The settings that every nginx here needs, around the specific ones.
fn configuration(listen: &str, setup: &Setup, events: &str, http: &str, server: &str) -> String {
    // nginx allocates memory for all of them at start, so this is the minimum for the case.
    let connections = (2 * (setup.clients + setup.pods) + 512).min(OPEN_FILES_MAX - 100);
    // As another user, its worker cannot write temporary files into the scratch directory.
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
