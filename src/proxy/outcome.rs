//! Every way an exchange can end. One enum is the status and the reason phrase that the client sees, the word in
//! the log and the label on `/metrics`.

use std::fmt;

use super::duration::HumanDuration;
use crate::http1::{body::BodyError, framing::FramingError, head::HeadError};

/// Where the cause of an outcome lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The client got what it asked for.
    Answered,
    /// We refused the request, and no pod heard of it.
    Refused,
    /// The pod, or the way to it.
    Pod,
    /// The client.
    Client,
}

/// Declares [`Outcome`] from a table, so that no variant can lack a column.
macro_rules! outcomes {
    ($($(#[$doc:meta])* $variant:ident $label:literal $class:ident $status:literal $reason:literal;)*) => {
        /// How an exchange ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Outcome {
            $($(#[$doc])* $variant,)*
        }

        impl Outcome {
            /// All of them, in the order of their discriminants.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The word for it in the log and on `/metrics`.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }

            /// Where its cause lies.
            pub const fn class(self) -> Class {
                match self { $(Self::$variant => Class::$class,)* }
            }

            /// The status code that tells of it, in an answer or, where none can, in the access log. 0: it is the
            /// pod's.
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// What happened, as the reason phrase says it.
            pub const fn reason(self) -> &'static str {
                match self { $(Self::$variant => $reason,)* }
            }
        }
    };
}

outcomes! {
    /// The pod's answer went through, whatever its status.
    Forwarded "forwarded" Answered 0 "";
    /// A page of our own.
    Page "page" Answered 200 "OK";

    /// The head breaks the grammar.
    MalformedRequest "malformed_request" Refused 400 "malformed request";
    /// The head did not end in time.
    HeadTimeout "head_timeout" Refused 408 "request head not complete";
    /// Neither HTTP/1.0 nor HTTP/1.1.
    Version "http_version" Refused 505 "only HTTP/1.1 and HTTP/1.0 are spoken here";
    /// The request line is over its limit.
    TargetTooLong "target_too_long" Refused 414 "request target over 16 KiB";
    /// The head is over its limit in bytes.
    HeadTooLarge "head_too_large" Refused 431 "request head over 16 KiB";
    /// The head is over its limit in fields.
    TooManyFields "too_many_fields" Refused 431 "request head over 100 fields";
    /// A body is announced.
    Body "body" Refused 413 "a scrape has no body";
    /// Neither GET nor HEAD.
    Method "method" Refused 405 "only GET and HEAD are allowed";
    /// The target is not a path: a proxy's request.
    NotOriginForm "not_origin_form" Refused 421 "not a proxy: ask for /pods/{ip}/{port}/{path}";
    /// No such page.
    NotFound "not_found" Refused 404 "no such page: ask for /pods/{ip}/{port}/{path}";
    /// The pod's address is none.
    BadHost "bad_host" Refused 400 "pod address is not an IP address";
    /// The pod is named by a name.
    HostName "host_name" Refused 400 "pod names are not resolved: give the pod's IP address";
    /// The pod's port is none.
    BadPort "bad_port" Refused 400 "pod port is not a number from 1 to 65535";
    /// The policy does not let us go to this address.
    AddressNotAllowed "address_not_allowed" Refused 403 "destination not allowed";
    /// The policy does not let us go to this port.
    PortNotAllowed "port_not_allowed" Refused 403 "destination port not allowed";
    /// The request has come through us too often.
    Loop "loop" Refused 508 "scrape loops through psystrike";
    /// All places for clients are taken.
    TooManyClients "too_many_clients" Refused 503 "too many clients";

    /// We had no file descriptor for a connection to the pod; in the log alone, for a client's.
    NoDescriptors "no_descriptors" Pod 503 "no file descriptor left for a connection to the pod";
    /// The bytes that are held for others were as many as may be, and this exchange had held some for longest. The
    /// client's connection was broken off if part of an answer was sent.
    BuffersFull "buffers_full" Pod 503 "psystrike's buffers are full, and this scrape stalled longest";
    /// Nothing listens there.
    ConnectionRefused "connection_refused" Pod 502 "pod refused the connection";
    /// No way to it, says the kernel or the network.
    Unreachable "unreachable" Pod 502 "pod is unreachable";
    /// Another error on the way to a connection.
    ConnectFailed "connect_failed" Pod 502 "connection to the pod failed";
    /// The connection was not there in time.
    ConnectTimeout "connect_timeout" Pod 504 "pod did not accept the connection";
    /// The pod closed the connection before its answer began.
    NoAnswer "no_answer" Pod 502 "pod closed the connection without an answer";
    /// The pod closed the connection within its answer's head.
    HeadCutShort "head_cut_short" Pod 502 "pod closed the connection within its answer's head";
    /// The pod's answer breaks the grammar.
    MalformedAnswer "malformed_answer" Pod 502 "malformed answer from the pod";
    /// The answer's head is over its limit.
    AnswerHeadTooLarge "answer_head_too_large" Pod 502 "answer head from the pod over 64 KiB";
    /// The pod switched protocols, and nobody had asked it to.
    SwitchedProtocols "switched_protocols" Pod 502 "pod switched protocols unasked";
    /// No head of an answer in time.
    AnswerTimeout "answer_timeout" Pod 504 "no answer from the pod";
    /// The answer's body ended before its time. The client's connection was broken off.
    BodyCutShort "body_cut_short" Pod 502 "answer from the pod was cut short";
    /// The answer's body broke its coding. The client's connection was broken off.
    BodyMalformed "body_malformed" Pod 502 "malformed body from the pod";
    /// The answer's body did not end in time. The client's connection was broken off.
    BodyTimeout "body_timeout" Pod 504 "answer from the pod not complete";

    /// The client went away before it had its answer.
    ClientGone "client_gone" Client 499 "client went away";
    /// The client did not take its answer in time. Its connection was broken off.
    ClientTimeout "client_timeout" Client 499 "client did not take the answer";
}

/// How many outcomes there are.
pub const OUTCOMES: usize = Outcome::ALL.len();

impl Outcome {
    /// Whether the reason phrase says within which time.
    const fn within(self) -> bool {
        matches!(self, Self::HeadTimeout | Self::ConnectTimeout | Self::AnswerTimeout | Self::BodyTimeout)
    }
}

/// An outcome that is not an answer, with what else is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which one.
    pub outcome: Outcome,
    /// What exactly was wrong. Words of ours, never a peer's.
    pub detail: Option<&'static str>,
}

impl Failure {
    /// Displays the reason phrase, with `patience` where the failure is one of time.
    pub fn phrase(self, patience: std::time::Duration) -> impl fmt::Display {
        Phrase { failure: self, patience }
    }
}

struct Phrase {
    failure: Failure,
    patience: std::time::Duration,
}

impl fmt::Display for Phrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { outcome, detail } = self.failure;
        f.write_str(outcome.reason())?;
        if let Some(detail) = detail {
            write!(f, ": {detail}")?;
        }
        if outcome.within() {
            write!(f, " within {}", HumanDuration(self.patience))?;
        }
        Ok(())
    }
}

impl From<Outcome> for Failure {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, detail: None }
    }
}

impl Failure {
    /// What is wrong with a request, in terms of its head.
    pub fn of_request(error: HeadError) -> Self {
        match error {
            HeadError::Malformed(detail) => Self { outcome: Outcome::MalformedRequest, detail: Some(detail) },
            HeadError::Version => Outcome::Version.into(),
            HeadError::TargetTooLong => Outcome::TargetTooLong.into(),
            HeadError::TooLarge => Outcome::HeadTooLarge.into(),
            HeadError::TooManyFields => Outcome::TooManyFields.into(),
        }
    }

    /// What is wrong with a request, in terms of its framing.
    pub fn of_request_framing(FramingError(detail): FramingError) -> Self {
        Self { outcome: Outcome::MalformedRequest, detail: Some(detail) }
    }

    /// What it means that no connection to the pod came about.
    pub fn of_connecting(error: UpstreamError) -> Self {
        let connect_failed = |detail| Self { outcome: Outcome::ConnectFailed, detail: Some(detail) };
        match error {
            UpstreamError::Refused => Outcome::ConnectionRefused.into(),
            UpstreamError::Unreachable => Outcome::Unreachable.into(),
            UpstreamError::TimedOut => Outcome::ConnectTimeout.into(),
            UpstreamError::NoDescriptors => Outcome::NoDescriptors.into(),
            UpstreamError::NoLocalPort => connect_failed("no local port left"),
            UpstreamError::Forbidden => connect_failed("a firewall or a route forbids it"),
            UpstreamError::Other => Outcome::ConnectFailed.into(),
        }
    }

    /// What is wrong with an answer, in terms of its head.
    pub fn of_response(error: HeadError) -> Self {
        let detail = match error {
            HeadError::TooLarge | HeadError::TargetTooLong => return Outcome::AnswerHeadTooLarge.into(),
            HeadError::Malformed(detail) => detail,
            HeadError::Version => "neither HTTP/1.1 nor HTTP/1.0",
            HeadError::TooManyFields => "more than 256 fields",
        };
        Self { outcome: Outcome::MalformedAnswer, detail: Some(detail) }
    }

    /// What is wrong with an answer, in terms of its framing.
    pub fn of_response_framing(FramingError(detail): FramingError) -> Self {
        Self { outcome: Outcome::MalformedAnswer, detail: Some(detail) }
    }

    /// What is wrong with an answer's body.
    pub fn of_body(error: BodyError) -> Self {
        match error {
            BodyError::CutShort => Outcome::BodyCutShort.into(),
            BodyError::Coding(detail) => Self { outcome: Outcome::BodyMalformed, detail: Some(detail) },
        }
    }
}

/// Why there is no connection to the pod, or no longer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamError {
    /// Nothing listens there.
    Refused,
    /// No way there.
    Unreachable,
    /// The kernel gave up waiting for it.
    TimedOut,
    /// We are out of file descriptors.
    NoDescriptors,
    /// There is no local address or port left to connect from.
    NoLocalPort,
    /// The kernel is told not to, by a firewall or a route.
    Forbidden,
    /// Anything else, a reset above all.
    Other,
}
