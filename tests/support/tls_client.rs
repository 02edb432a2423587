//! A client with TLS, by rustls with its own buffers.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::{LIMIT, certificates::Files, http::get};

/// Returns the configuration of clients that trust the CA in this file.
pub fn trusting(ca: &str, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).expect("a certificate")).expect("a CA");
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_protocol_versions(versions).expect("versions");
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The same, with a client certificate.
pub fn presenting(
    ca: &str,
    client: &Files,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut config = (*trusting(ca, versions)).clone();
    let chain = vec![CertificateDer::from_pem_file(&client.certificate).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_file(&client.key).expect("a key");
    let key = CertifiedKey::from_der(chain, key, &default_provider()).expect("a certificate and its key");
    config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(key));
    Arc::new(config)
}

/// A connection whose handshake is complete.
pub struct TlsClient(StreamOwned<ClientConnection, TcpStream>);

impl TlsClient {
    /// Connects, and completes the handshake.
    pub fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Self> {
        Self::over(TcpStream::connect_timeout(&address, LIMIT)?, config)
    }

    /// Completes a handshake on a connection, for the address that it is connected to.
    pub fn over(mut socket: TcpStream, config: &Arc<ClientConfig>) -> io::Result<Self> {
        socket.set_read_timeout(Some(LIMIT))?;
        socket.set_nodelay(true)?;
        let name = ServerName::IpAddress(socket.peer_addr()?.ip().into());
        let mut connection = ClientConnection::new(Arc::clone(config), name).expect("a client");
        connection.complete_io(&mut socket)?;
        Ok(Self(StreamOwned::new(connection, socket)))
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.0.write_all(bytes.as_ref())?;
        self.0.flush()
    }

    /// Returns the records that these bytes are sent in, without sending them.
    pub fn encrypt(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut records = Vec::new();
        self.0.conn.writer().write_all(bytes).expect("room for records");
        while self.0.conn.wants_write() {
            self.0.conn.write_tls(&mut records).expect("written");
        }
        records
    }

    /// Announces the end of this side, and leaves the socket open.
    pub fn close_notify(&mut self) -> io::Result<()> {
        self.0.conn.send_close_notify();
        self.0.flush()
    }

    /// Reads to the end, which must be announced.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).map(|_| bytes)
    }

    /// Returns the socket below.
    pub fn socket(&mut self) -> &mut TcpStream {
        &mut self.0.sock
    }

    /// Returns the DER of the server's own certificate.
    pub fn certificate(&self) -> Vec<u8> {
        self.0.conn.peer_certificates().expect("a certificate")[0].to_vec()
    }

    /// Sends a `GET`, and returns the status and the body of its response, which must have a length.
    pub fn get(&mut self, target: &str) -> io::Result<(u16, Vec<u8>)> {
        self.send(get(target))?;
        let mut bytes = Vec::new();
        let mut piece = [0; 16 << 10];
        loop {
            if let Some(response) = parsed(&bytes) {
                return Ok(response);
            }
            match self.0.read(&mut piece)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => bytes.extend_from_slice(&piece[..read]),
            }
        }
    }
}

/// Returns the status and the body of a complete response.
fn parsed(bytes: &[u8]) -> Option<(u16, Vec<u8>)> {
    let head = bytes.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let status = text.split(' ').nth(1)?.parse().expect("a status");
    let (_, length) = text.split_once("\r\ncontent-length: ").unwrap_or_else(|| panic!("no length: {text}"));
    let length: usize = length.split("\r\n").next()?.parse().expect("a length");
    bytes.get(head..head + length).map(|body| (status, body.to_vec()))
}
