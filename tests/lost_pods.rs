//! Pods that vanish without FIN or RST: their node is gone, their address belongs to another pod, or a firewall dropped
//! the connection.

mod support;

use std::{
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use support::{
    netns::{in_new_namespace, ip},
    pods::{Pod, Then},
    psystrike::Psystrike,
};

const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nup 1\n";

/// Drops all packets of the pod on its current connections, even resets.
fn lose_connections_of(pod: SocketAddr) {
    let connections = Command::new("ss").args(["-Htn", "state", "established"]).output().expect("ss runs");
    let connections = String::from_utf8(connections.stdout).expect("text");
    let mut lost = 0;
    for line in connections.lines() {
        let mut columns = line.split_whitespace().skip(2);
        let (Some(local), Some(peer)) = (columns.next(), columns.next()) else { continue };
        let local_is_pod = local == pod.to_string();
        let Some((_, port)) = peer.rsplit_once(':').filter(|_| local_is_pod) else { continue };
        let [from, to] = [pod.port().to_string(), port.to_owned()];
        ip(&["rule", "add", "pref", "50", "ipproto", "tcp", "sport", &from, "dport", &to, "blackhole"]);
        lost += 1;
    }
    assert!(lost > 0, "{pod} has no connection: {connections}");
}

/// The rules of [`lose_connections_of`] come before the local addresses.
fn judge_before_local_addresses() {
    ip(&["rule", "add", "pref", "100", "lookup", "local"]);
    ip(&["rule", "del", "pref", "0"]);
}

#[test]
fn a_scrape_on_a_lost_connection_is_retried_on_a_new_one() {
    in_new_namespace(|| {
        judge_before_local_addresses();
        let psystrike = Psystrike::start(&[]);
        let pod = Pod::answering("10.1.2.3", ANSWER, Then::Keep);
        let target = Psystrike::target(pod.address(), "/metrics");
        assert_eq!(psystrike.get(&target).status(), 200);
        lose_connections_of(pod.address());

        let begun = Instant::now();
        let response = psystrike.get(&target);
        let took = begun.elapsed();
        assert_eq!((response.status(), response.text().as_str()), (200, "up 1\n"));
        assert!(took < Duration::from_secs(2), "noticed after {took:?}");
        assert_eq!(psystrike.metric("psystrike_retries_total"), 1.0);
        assert_eq!(pod.connections(), 2);
    });
}
