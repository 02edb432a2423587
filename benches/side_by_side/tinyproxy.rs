//! tinyproxy's configuration. Few of its settings affect what a scrape costs: it starts a thread for every connection,
//! and closes the client's and the pod's after each answer.

use std::net::SocketAddr;

use crate::setup::Setup;

/// No line is logged for a scrape, and no `Via` is added.
pub(crate) fn configuration(address: SocketAddr, setup: &Setup) -> String {
    // A client's closed connection may still count when the next one is accepted.
    let connections = 2 * setup.clients + 100;
    format!(
        "Listen {}
Port {}
MaxClients {connections}
Timeout 3600
LogLevel Critical
DisableViaHeader Yes
",
        address.ip(),
        address.port()
    )
}
