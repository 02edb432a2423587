//! Performs a session's actions on its pod's connection: takes one from the pool, opens, pools or closes it.
//!
//! The session decides on the action. [`crate::net::upstreams`] owns the connections.

use log::debug;

use super::{DELIVERED_WITHIN, Worker};
use crate::{
    net::{
        network::Network,
        slots::Key,
        stream::upstream_error,
        transport::Transport,
        upstreams::{LastResponse, ReadMode, Upstream},
    },
    proxy::{
        events::{Event, UpstreamAction},
        outcome::UpstreamError,
        peer::Peer,
        tls_fault::TlsFault,
    },
};

impl<N: Network> Worker<N> {
    fn upstream_of(&mut self, key: Key) -> Option<&mut Upstream<N::Socket>> {
        let upstream = self.clients.get(key)?.upstream?;
        self.upstreams.get_mut(upstream)
    }

    /// Returns whether a client is behind ([`crate::net::client::Client::is_behind`]), or the pod of its tunnel has yet
    /// to take bytes.
    pub(super) fn is_behind(&self, key: Key) -> bool {
        let Some(client) = self.clients.get(key) else { return false };
        let is_pod_behind = || {
            let upstream = client.upstream.and_then(|upstream| self.upstreams.get(upstream));
            upstream.is_some_and(|upstream| upstream.stream.channel().has_undelivered())
        };
        client.is_behind() || client.session.is_tunnel() && is_pod_behind()
    }

    pub(super) fn act_on_upstream(&mut self, key: Key, action: UpstreamAction) -> Option<Event<'static>> {
        match action {
            UpstreamAction::None => return None,
            UpstreamAction::CheckPassword => return self.check_password(key),
            UpstreamAction::Resolve => self.resolve(key),
            UpstreamAction::Connect(peer) => return self.connect(key, peer, false),
            UpstreamAction::ConnectOther(peer) => return self.connect(key, peer, true),
            UpstreamAction::Open(peer) => {
                self.close_upstream(key);
                if self.shared.listens_at(peer) {
                    return Some(Event::UpstreamFailed(UpstreamError::Itself));
                }
                return self.open(key, peer);
            }
            UpstreamAction::Next(peer) => {
                self.close_upstream(key);
                return self.connect(key, peer, true);
            }
            UpstreamAction::Shutdown => {
                if let Some(upstream) = self.upstream_of(key) {
                    upstream.stream.channel_mut().shutdown();
                }
            }
            UpstreamAction::CloseDelivering => {
                let upstream = self.clients.get_mut(key).and_then(|client| client.upstream.take());
                if let Some(upstream) = upstream {
                    let counters = self.shared.counters(self.index);
                    self.upstreams.close_delivering(upstream, DELIVERED_WITHIN, counters);
                }
            }
            UpstreamAction::Reset => {
                if let Some(upstream) = self.upstream_of(key) {
                    upstream.stream.channel_mut().reset_on_close();
                }
                self.close_upstream(key);
            }
            UpstreamAction::Retry(peer) => {
                debug!(pod:% = peer; "pooled connection was closed or stale; retrying on a new one");
                self.counters().retries.add(1);
                self.close_upstream(key);
                return self.open(key, peer);
            }
            UpstreamAction::Keep => self.pool_upstream(key),
            UpstreamAction::Close => self.close_upstream(key),
        }
        None
    }

    /// Takes a pooled connection to the pod, or opens one.
    fn connect(&mut self, key: Key, peer: Peer, to_other: bool) -> Option<Event<'static>> {
        let counters = self.shared.counters(self.index);
        let Some(upstream) = self.upstreams.reuse(peer, key, self.tools.now, counters) else {
            // Checked only before a connection is opened, because the check takes some system calls.
            let is_to_itself = self.shared.listens_at(peer);
            if is_to_itself && to_other {
                return Some(Event::UpstreamFailed(UpstreamError::Itself));
            }
            let event = self.open(key, peer);
            if let Some(upstream) = self.upstream_of(key) {
                upstream.is_to_itself = is_to_itself;
            }
            return event;
        };
        if let Some(client) = self.clients.get_mut(key) {
            client.upstream = Some(upstream);
        }
        Some(Event::Connected { reused: true })
    }

    fn open(&mut self, key: Key, peer: Peer) -> Option<Event<'static>> {
        let counters = self.shared.counters(self.index);
        match self.upstreams.open(&mut self.tools.network, peer, key, counters) {
            Ok(upstream) => {
                if let Some(client) = self.clients.get_mut(key) {
                    client.upstream = Some(upstream);
                    client.uses_tls_to_pod = peer.tls().is_some();
                }
                peer.tls().and_then(|_| self.start_tls(key, peer).err()).map(Event::UpstreamFailed)
            }
            Err(error) => Some(Event::UpstreamFailed(upstream_error(&error))),
        }
    }

    /// Begins TLS with a pod, which is verified to have the name, or else the address, that the request gives.
    fn start_tls(&mut self, key: Key, peer: Peer) -> Result<(), UpstreamError> {
        let name = self.clients.get(key).and_then(|client| client.session.server_name());
        let connector = self.tools.settings.tls().connector.as_ref();
        let connector = connector.ok_or(UpstreamError::Tls(TlsFault::NoCa))?;
        let name = connector.name_of(name, peer.ip()).ok_or(UpstreamError::Tls(TlsFault::WrongName))?;
        let connector = connector.clone();
        let Some(upstream) = self.upstream_of(key) else { return Ok(()) };
        let started = upstream.stream.channel_mut().start_tls(&connector, name);
        started.map_err(|error| upstream_error(&error))
    }

    fn pool_upstream(&mut self, key: Key) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let Some(upstream) = client.upstream.take() else { return };
        let bytes = client.outbox.sent_bytes;
        let response = LastResponse { read_mode: ReadMode::after(&client.session, bytes), bytes };
        self.upstreams.pool(upstream, response, self.tools.now, self.shared.counters(self.index));
    }

    fn close_upstream(&mut self, key: Key) {
        self.stop_waiting(key);
        let upstream = self.clients.get_mut(key).and_then(|client| client.upstream.take());
        if let Some(upstream) = upstream {
            self.upstreams.close(upstream, self.shared.counters(self.index));
        }
    }
}
