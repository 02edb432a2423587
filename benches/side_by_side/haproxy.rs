//! HAProxy's configuration.

use std::net::SocketAddr;

use crate::encryption::Encryption;

/// One backend whose server is the pod in the path, and which pools connections.
pub(crate) fn configuration(address: SocketAddr, tls: &Encryption) -> String {
    let certificate = tls.certificate.as_ref().map(|files| format!("ssl crt {}", files.both.display()));
    let certificate = certificate.unwrap_or_default();
    let to_pods = if tls.to_pods { "ssl verify none" } else { "" };
    format!(
        "global
    maxconn 9500
    maxpipes 200
    nbthread 1
    tune.bufsize 32768
    tune.pipesize 1048576
    tune.pool-high-fd-ratio 99
    tune.pool-low-fd-ratio 99
    tune.idle-pool.shared off
    tune.ssl.cachesize 0
    ssl-default-bind-options no-tls-tickets
    ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
    ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout http-keep-alive 1h
    option splice-response
frontend scrapes
    bind {address} {certificate}
    default_backend pods
backend pods
    http-request set-dst path,field(3,/)
    http-request set-dst-port path,field(4,/)
    http-request replace-path /pods/[^/]+/[^/]+(/.*) \\1
    http-reuse always
    server pod 0.0.0.0:0 pool-purge-delay 1h pool-low-conn 9000 {to_pods}
"
    )
}
