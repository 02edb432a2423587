//! A DNS server for tests: over UDP, for IPv4 addresses (RFC 1035), from a table.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use super::Scratch;

/// Returns the beginning of a command: the program after it finds `text` in /etc/resolv.conf.
pub fn with_resolv_conf(scratch: &Scratch, text: &str) -> [String; 5] {
    let file = scratch.write("resolv.conf", text);
    let mount = format!("mount --bind {} /etc/resolv.conf && exec \"$0\" \"$@\"", file.display());
    ["unshare", "--mount", "sh", "-c", &mount].map(str::to_owned)
}

/// The answer to a name.
#[derive(Clone, Debug)]
pub enum Dns {
    Addresses(Vec<Ipv4Addr>),
    /// These answers one after another, and the last one from then on.
    InTurn(Vec<Vec<Ipv4Addr>>),
    After(Duration, Vec<Ipv4Addr>),
    ServerFailure,
    Silence,
}

/// A server. Names that are not in its table do not exist.
pub struct DnsServer(Arc<Mutex<Vec<String>>>);

impl DnsServer {
    pub fn start(ip: &str, table: Vec<(&'static str, Dns)>) -> Self {
        let socket = UdpSocket::bind((ip, 53)).unwrap_or_else(|e| panic!("cannot bind {ip}:53: {e}"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((bytes, from)) = socket.recv_from(&mut query) {
                respond(&socket, from, &query[..bytes], &table, &seen);
            }
        });
        Self(asked)
    }

    /// Returns how often the IPv4 addresses of a name were requested.
    pub fn queries(&self, name: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|asked| *asked == name).count()
    }
}

fn respond(
    socket: &UdpSocket,
    from: SocketAddr,
    query: &[u8],
    table: &[(&'static str, Dns)],
    seen: &Mutex<Vec<String>>,
) {
    const A: u8 = 1;
    let mut at = 12;
    let mut labels = Vec::new();
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_lowercase());
        at = end;
    }
    let (name, kind, question) = (labels.join("."), query[at + 2], &query[12..at + 5]);
    let earlier = seen.lock().unwrap().iter().filter(|asked| **asked == name).count();
    if kind == A {
        seen.lock().unwrap().push(name.clone());
    }
    let known = table.iter().find(|(known, _)| *known == name).map(|(_, answer)| answer.clone());
    let (code, addresses, delay) = match known {
        None => (3, Vec::new(), Duration::ZERO),
        Some(Dns::Silence) => return,
        Some(Dns::ServerFailure) => (2, Vec::new(), Duration::ZERO),
        Some(Dns::Addresses(addresses)) => (0, addresses, Duration::ZERO),
        Some(Dns::After(delay, addresses)) => (0, addresses, delay),
        Some(Dns::InTurn(turns)) => (0, turns[earlier.min(turns.len() - 1)].clone(), Duration::ZERO),
    };
    let addresses = if kind == A { addresses } else { Vec::new() };
    let mut response =
        vec![query[0], query[1], 0x81, 0x80 | code, 0, 1, 0, addresses.len() as u8, 0, 0, 0, 0];
    response.extend_from_slice(question);
    for ip in addresses {
        response.extend_from_slice(&[0xc0, 12, 0, A, 0, 1, 0, 0, 0, 0, 0, 4]);
        response.extend_from_slice(&ip.octets());
    }
    let socket = socket.try_clone().expect("another descriptor");
    thread::spawn(move || {
        thread::sleep(delay);
        let _ = socket.send_to(&response, from);
    });
}
