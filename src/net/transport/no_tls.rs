//! Takes the place of the folder `tls` in a psystrike that is built without it: its types have no values.

/// As in a build with TLS.
pub mod config {
    use std::{convert::Infallible, net::IpAddr};

    /// Accepts TLS connections of clients.
    pub type Acceptor = Infallible;
    /// The name of a pod.
    pub type Name = Infallible;

    /// Opens TLS connections to pods.
    #[derive(Clone, Debug)]
    pub struct Connector(Infallible);

    impl Connector {
        /// As in a build with TLS.
        pub fn name_of(&self, _: Option<&str>, _: IpAddr) -> Option<Name> {
            match self.0 {}
        }
    }
}

/// As in a build with TLS.
pub mod fault {
    use std::io;

    use crate::proxy::tls_fault::TlsFault;

    /// Returns the fault, if TLS caused the error.
    pub fn cause_of(_: &io::Error) -> Option<TlsFault> {
        None
    }
}

/// As in a build with TLS.
pub mod layer {
    use std::{
        convert::Infallible,
        io::{self, IoSlice},
    };

    use super::config::{Acceptor, Connector, Name};
    use crate::{net::transport::Transport, proxy::tls_fault::TlsFault};

    /// The TLS of one connection.
    #[derive(Debug)]
    pub struct TlsLayer(Infallible);

    impl TlsLayer {
        /// As in a build with TLS.
        pub fn accept(acceptor: &Acceptor) -> io::Result<Self> {
            match *acceptor {}
        }

        /// As in a build with TLS.
        pub fn connect(_: &Connector, name: Name) -> io::Result<Self> {
            match name {}
        }

        /// As in a build with TLS.
        pub fn is_handshaking(&self) -> bool {
            match self.0 {}
        }

        /// As in a build with TLS.
        pub fn has_answered(&self) -> bool {
            match self.0 {}
        }

        /// As in a build with TLS.
        pub fn has_verified_peer(&self) -> bool {
            match self.0 {}
        }

        /// As in a build with TLS.
        pub fn fault(&self) -> Option<TlsFault> {
            match self.0 {}
        }

        /// As in a build with TLS.
        pub fn has_failed(&self) -> bool {
            match self.0 {}
        }

        /// As in a build with TLS.
        pub fn fail(&mut self, _: TlsFault) {
            match self.0 {}
        }

        /// As in a build with TLS.
        pub fn held_bytes(&self) -> usize {
            match self.0 {}
        }

        /// As in a build with TLS.
        pub fn has_unsent(&self) -> bool {
            match self.0 {}
        }

        /// As in a build with TLS.
        pub fn is_drained(&self) -> bool {
            match self.0 {}
        }

        /// As in a build with TLS.
        pub fn is_end_clean(&self) -> bool {
            match self.0 {}
        }

        /// As in a build with TLS.
        pub fn read(&mut self, _: &mut impl Transport, _: &mut [u8]) -> io::Result<usize> {
            match self.0 {}
        }

        /// As in a build with TLS.
        pub fn peek(&mut self, _: &mut impl Transport, _: &mut [u8]) -> io::Result<usize> {
            match self.0 {}
        }

        /// As in a build with TLS.
        pub fn flush(&mut self, _: &mut impl Transport) -> io::Result<()> {
            match self.0 {}
        }

        /// As in a build with TLS.
        pub fn write(&mut self, _: &mut impl Transport, _: &[IoSlice<'_>]) -> io::Result<usize> {
            match self.0 {}
        }

        /// As in a build with TLS.
        pub fn close(&mut self, _: &mut impl Transport) {
            match self.0 {}
        }

        /// As in a build with TLS.
        pub fn shutdown(&mut self, _: &mut impl Transport) {
            match self.0 {}
        }

        /// As in a build with TLS.
        pub fn break_off(&mut self) {
            match self.0 {}
        }

        /// As in a build with TLS.
        pub fn handshake(&mut self, _: &mut impl Transport) -> io::Result<bool> {
            match self.0 {}
        }
    }
}
