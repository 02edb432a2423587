//! tinyproxy's configuration. Few of its settings affect the cost of a scrape: it starts a thread for every connection,
//! and closes the connections to client and pod after each response.

use std::net::SocketAddr;

use crate::setup::Setup;

/// No line is logged for a scrape, and no `Via` is added.
pub(crate) fn configuration(address: SocketAddr, setup: &Setup) -> String {
    // A closed connection may still count when the next one is accepted.
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
