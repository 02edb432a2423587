//! TLS, by rustls. This folder alone knows rustls.
//!
//! - [`config`]: what is accepted from clients and from pods;
//! - `engine`: the protocol of one connection, without a socket;
//! - [`fault`]: the reasons for which rustls ends a connection;
//! - `held`: the bytes that wait on a connection;
//! - [`layer`]: TLS between the content of a connection and its socket;
//! - `parts`: how much is encrypted at once.

pub mod config;
mod engine;
pub mod fault;
mod held;
pub mod layer;
mod parts;
