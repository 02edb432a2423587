//! Bytes. HTTP/1.1 and HTTP/1.0 as RFC 9110 and RFC 9112 write them: `&[u8]` in, decisions and bytes out.
//!
//! Nothing here knows a clock, a socket or a pod. Each file owns one concept:
//!
//! - [`head`]: the head of a request or of an answer, parsed more strictly than httparse does;
//! - [`field`]: the field names that mean something to a forwarder, and the values they carry;
//! - [`framing`]: where a message's body ends, as a table;
//! - [`body`]: finds that end while the bytes go by;
//! - [`lenient`]: what a pod's answer means that breaks the grammar;
//! - [`rewrite`]: the head that goes on to the other side;
//! - [`local_response`]: the small answers of our own.

pub mod body;
pub mod field;
pub mod framing;
pub mod head;
pub mod lenient;
pub mod local_response;
pub mod rewrite;
