//! TLS over any transport, by rustls: the folder that knows rustls.
//!
//! - [`config`]: what is accepted from clients, and from pods;
//! - [`engine`]: the protocol of one connection, without a socket;
//! - [`stream`]: a connection that carries TLS.

pub mod config;
pub mod engine;
pub mod stream;
