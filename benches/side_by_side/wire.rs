//! The TLS of the pods and of the load: TLS 1.3 with AES-128-GCM, as Go's programs choose it, and nothing is resumed.
//!
//! Its cost is not measured. It trusts any certificate, as the forwarders do here, and uses no file.

use std::{
    io::{self, ErrorKind, IoSlice, Read, Write},
    sync::{Arc, LazyLock},
};

use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct, Error, ServerConfig, ServerConnection,
    SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    version::TLS13,
};

/// The bytes that are read from a socket at once.
const READ_BYTES: usize = 64 * 1024;

static CLIENT: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| Arc::new(client()));

/// A socket, with TLS or without.
pub(crate) struct Wire<S> {
    pub(crate) socket: S,
    tls: Option<Box<Tls>>,
}

struct Tls {
    connection: Connection,
    /// What was read from the socket, from `at` on.
    incoming: Vec<u8>,
    at: usize,
}

impl<S: Read + Write> Wire<S> {
    /// Without TLS.
    pub(crate) fn plain(socket: S) -> Self {
        Self { socket, tls: None }
    }

    /// A client's side. The first write or read makes the handshake, as far as the socket lets it.
    pub(crate) fn client(socket: S) -> Result<Self, String> {
        let name = ServerName::try_from("localhost").map_err(|error| error.to_string())?;
        let client = ClientConnection::new(Arc::clone(&CLIENT), name).map_err(|error| error.to_string())?;
        Ok(Self::of(socket, client.into()))
    }

    /// A server's side.
    pub(crate) fn server(socket: S, config: &Arc<ServerConfig>) -> io::Result<Self> {
        let server = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
        Ok(Self::of(socket, server.into()))
    }

    fn of(socket: S, connection: Connection) -> Self {
        Self { socket, tls: Some(Box::new(Tls { connection, incoming: Vec::new(), at: 0 })) }
    }

    /// The same over another socket type.
    pub(crate) fn map<T>(self, into: impl FnOnce(S) -> T) -> Wire<T> {
        Wire { socket: into(self.socket), tls: self.tls }
    }

    /// Whether it uses TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Makes the handshake on a blocking socket.
    pub(crate) fn shake_hands(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        while tls.connection.is_handshaking() {
            tls.connection.complete_io(&mut self.socket)?;
        }
        tls.send(&mut self.socket)
    }

    /// Sends what an earlier write has left.
    pub(crate) fn send(&mut self) -> io::Result<()> {
        self.tls.as_mut().map_or(Ok(()), |tls| tls.send(&mut self.socket))
    }
}

impl Tls {
    fn send(&mut self, socket: &mut impl Write) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(socket)?;
        }
        Ok(())
    }

    fn read(&mut self, socket: &mut (impl Read + Write), into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.reader().read(into) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return read,
            }
            if self.at == self.incoming.len() {
                self.incoming.resize(READ_BYTES, 0);
                self.at = 0;
                let read = socket.read(&mut self.incoming);
                self.incoming.truncate(*read.as_ref().unwrap_or(&0));
                if read? == 0 {
                    return Ok(0);
                }
            }
            self.at += self.connection.read_tls(&mut &self.incoming[self.at..])?;
            if self.at == self.incoming.len() {
                (self.incoming, self.at) = (Vec::new(), 0); // idle connections hold none
            }
            self.connection.process_new_packets().map_err(io::Error::other)?;
            self.send(socket)?;
        }
    }

    /// Takes content only when the socket has taken all before.
    fn write(&mut self, socket: &mut impl Write, from: &[u8]) -> io::Result<usize> {
        self.send(socket)?;
        let taken = self.connection.writer().write(from)?;
        match self.send(socket) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(taken),
            sent => sent.map(|()| taken),
        }
    }
}

impl<S: Read + Write> Read for Wire<S> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => tls.read(&mut self.socket, into),
            None => self.socket.read(into),
        }
    }
}

impl<S: Read + Write> Write for Wire<S> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => tls.write(&mut self.socket, from),
            None => self.socket.write(from),
        }
    }

    fn write_vectored(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => {
                // A head and its body, as a server's buffer joins them.
                let mut all = Vec::with_capacity(READ_BYTES);
                for part in from {
                    all.extend_from_slice(&part[..part.len().min(READ_BYTES - all.len())]);
                }
                tls.write(&mut self.socket, &all)
            }
            None => self.socket.write_vectored(from),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

/// The configuration of a pod with this certificate.
pub(crate) fn pod(
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, Error> {
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
    let mut config = builder.with_no_client_auth().with_single_cert(vec![certificate], key)?;
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn client() -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider());
    let builder = builder.with_protocol_versions(&[&TLS13]).unwrap_or_else(|error| panic!("{error}"));
    let trusting = builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate));
    let mut config = trusting.with_no_client_auth();
    config.resumption = Resumption::disabled();
    config
}

fn provider() -> Arc<CryptoProvider> {
    let cipher_suites = vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256];
    Arc::new(CryptoProvider { cipher_suites, ..ring::default_provider() })
}

/// Trusts any certificate without a look at its signatures.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
