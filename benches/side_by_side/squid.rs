//! Squid's configuration and command line: a plain forward proxy without a cache, with the cheapest settings.

use std::{ffi::OsString, net::SocketAddr, path::Path};

use rustix::process::geteuid;

use crate::setup::OPEN_FILES_MAX;

/// One process with persistent connections on both sides, without a cache, access log, helpers or client statistics.
pub(crate) fn configuration(address: SocketAddr) -> String {
    format!(
        "http_port {address}
http_access allow all
cache deny all
access_log none
cache_store_log none
cache_log /dev/null
via off
forwarded_for delete
client_db off
memory_pools on
client_persistent_connections on
server_persistent_connections on
client_idle_pconn_timeout 1 hour
server_idle_pconn_timeout 1 hour
max_filedescriptors {OPEN_FILES_MAX}
pid_filename none
pinger_enable off
shutdown_lifetime 0 seconds
# Scrapes name pods by address. Without these, Squid would look up its own name, and use the system's name servers.
visible_hostname localhost
dns_nameservers 127.0.0.1
"
    )
}

/// The program and its arguments.
///
/// As root, Squid changes its user, and with that the kernel drops the signal that ends it with the harness. setpriv
/// changes the user first and then sets the signal again.
pub(crate) fn command(squid: &Path, configuration: &Path) -> Vec<OsString> {
    let as_user = ["setpriv", "--reuid=proxy", "--regid=proxy", "--clear-groups", "--pdeathsig=TERM"];
    let as_user = if geteuid().is_root() { &as_user[..] } else { &[] };
    let arguments = ["-N", "-d", "1", "-f"].map(OsString::from); // in the foreground, errors to standard error
    as_user
        .iter()
        .map(OsString::from)
        .chain([squid.into()])
        .chain(arguments)
        .chain([configuration.into()])
        .collect()
}
