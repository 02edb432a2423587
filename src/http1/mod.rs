//! Parses and writes HTTP/1.1 and HTTP/1.0 by RFC 9110 and RFC 9112: `&[u8]` in, decisions and bytes out.
//!
//! Nothing here uses a clock, a socket or a pod. Each file owns one concept:
//!
//! - [`head`]: the heads of requests and responses, parsed more strictly than by httparse;
//! - [`field`]: the field names that matter to a forwarder, and their values;
//! - [`framing`]: how a message's body ends, as a table;
//! - [`body`]: finds that end while the bytes pass through;
//! - [`lenient`]: repairs response heads that break the grammar;
//! - [`rewrite`]: the heads that are forwarded;
//! - [`local_response`]: the short responses that psystrike generates.

pub mod body;
pub mod field;
pub mod framing;
pub mod head;
pub mod lenient;
pub mod local_response;
pub mod rewrite;
