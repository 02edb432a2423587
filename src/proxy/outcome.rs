//! Every way an exchange can end. One table has the status code and the reason phrase for the client, and the label in
//! the log and on `/metrics`.

use std::fmt;

use super::{duration::HumanDuration, tls_fault::TlsFault};
use crate::http1::{body::BodyError, framing::FramingError, head::HeadError};

/// The cause of an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// None: the request was answered.
    Answered,
    /// psystrike refused the request before contacting a pod.
    Refused,
    /// The pod, the network, or a limit of psystrike.
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
            /// All outcomes, in the order of their discriminants.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns the label in the log and on `/metrics`.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }

            /// Returns the cause.
            #[inline]
            pub const fn class(self) -> Class {
                match self { $(Self::$variant => Class::$class,)* }
            }

            /// Returns the status code for the response or, if none can be sent, for the access log. 0 stands for the
            /// pod's.
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// Returns the reason phrase.
            pub const fn reason(self) -> &'static str {
                match self { $(Self::$variant => $reason,)* }
            }
        }
    };
}

outcomes! {
    /// The pod's response was forwarded, whatever its status.
    Forwarded "forwarded" Answered 0 "";
    /// A page of psystrike.
    Page "page" Answered 200 "OK";
    /// A tunnel was opened.
    Tunnel "tunnel" Answered 200 "Connection established";

    /// The head breaks the grammar.
    MalformedRequest "malformed_request" Refused 400 "malformed request";
    /// The head was not complete in time.
    RequestTimeout "request_timeout" Refused 408 "request headers not received";
    /// The version is neither HTTP/1.0 nor HTTP/1.1.
    HttpVersion "http_version" Refused 505 "only HTTP/1.1 and HTTP/1.0 are supported";
    /// The request line exceeds its limit.
    UriTooLong "uri_too_long" Refused 414 "request target over 16 KiB";
    /// The head exceeds its limit in bytes.
    RequestHeadersTooLarge "request_headers_too_large" Refused 431 "request headers over 16 KiB";
    /// The head exceeds its limit in fields.
    TooManyRequestHeaders "too_many_request_headers" Refused 431 "more than 100 request headers";
    /// Requests need TLS, and this one came without.
    HttpsRequired "https_required" Refused 400 "HTTPS required; this port refuses plain HTTP";
    /// Requests need credentials, and this one has none.
    AuthenticationRequired "authentication_required" Refused 401 "authentication required";
    /// The credentials are not accepted.
    AuthenticationFailed "authentication_failed" Refused 401 "authentication failed";
    /// As `AuthenticationRequired`, for a request to a proxy: in absolute form, or CONNECT.
    ProxyAuthenticationRequired "proxy_authentication_required" Refused 407 "proxy authentication required";
    /// As `AuthenticationFailed`, for a request to a proxy: in absolute form, or CONNECT.
    ProxyAuthenticationFailed "proxy_authentication_failed" Refused 407 "proxy authentication failed";
    /// Too many wrong secrets came from the client's address. This one was not checked.
    TooManyAuthenticationFailures "too_many_authentication_failures" Refused 429 "too many authentication failures";
    /// Too many passwords wait for a check. This one was not checked.
    PasswordChecksFull "password_checks_full" Refused 503 "too many passwords are waiting to be checked";
    /// The password was not checked in time.
    PasswordCheckTimeout "password_check_timeout" Refused 503 "password not checked";
    /// The request has a body.
    RequestBody "request_body" Refused 413 "request body not allowed";
    /// The method is neither GET nor HEAD.
    MethodNotAllowed "method_not_allowed" Refused 405 "only GET and HEAD are allowed";
    /// The target is neither a path nor a valid `http` URL.
    BadTarget "bad_target" Refused 400 "invalid request target";
    /// CONNECT, without `--allow-connect`.
    ConnectNotAllowed "connect_not_allowed" Refused 403 "CONNECT is disabled; --allow-connect enables it";
    /// CONNECT to a port that `--connect-ports` does not allow.
    ConnectPortNotAllowed "connect_port_not_allowed" Refused 403 "destination port not allowed for CONNECT";
    /// No such page.
    NotFound "not_found" Refused 404 "no such page; pods are at /pods/{host}/{port}/{path}";
    /// The pod's address is not valid.
    BadHost "bad_host" Refused 400 "pod host is neither an IP address nor a DNS name";
    /// The pod's port is not valid.
    BadPort "bad_port" Refused 400 "pod port is not a number from 1 to 65535";
    /// The policy does not allow this address.
    AddressNotAllowed "address_not_allowed" Refused 403 "destination not allowed";
    /// The policy does not allow this port.
    PortNotAllowed "port_not_allowed" Refused 403 "destination port not allowed";
    /// The policy does not allow this name.
    NameNotAllowed "name_not_allowed" Refused 403 "name not allowed";
    /// The policy allows none of the name's addresses.
    ResolvedNotAllowed "resolved_not_allowed" Refused 403 "name resolves to no allowed address";
    /// HTTPS to a pod, without the feature `tls`.
    HttpsNotSupported "https_not_supported" Refused 501
        "HTTPS to pods is not supported; this psystrike is built without TLS";
    /// The request has passed through psystrike too often.
    Loop "loop" Refused 508 "scrape loops through psystrike";
    /// The limit of client connections is reached.
    TooManyClients "too_many_clients" Refused 503 "too many clients";

    /// No file descriptor was left for a connection to the pod. In the log also: none was left for a client's
    /// connection.
    NoFileDescriptors "no_file_descriptors" Pod 503 "no file descriptor left for a connection to the pod";
    /// The buffers were full, and this exchange had held buffered bytes longest. The client's connection was aborted if
    /// part of a response was sent.
    BuffersFull "buffers_full" Pod 503 "buffer limit reached; this scrape held buffers longest";
    /// The name does not exist, or has no address.
    NoSuchName "no_such_name" Pod 502 "no such name";
    /// The resolver reported a failure.
    LookupFailed "lookup_failed" Pod 502 "name lookup failed";
    /// The name was not resolved in time.
    LookupTimeout "lookup_timeout" Pod 504 "name not resolved";
    /// The queue of name lookups is full.
    LookupsFull "lookups_full" Pod 503 "too many name lookups are queued";
    /// Nothing listens on the pod's port.
    ConnectionRefused "connection_refused" Pod 502 "pod refused the connection";
    /// The kernel or the network reports no route to the pod.
    Unreachable "unreachable" Pod 502 "pod is unreachable";
    /// Connecting failed with another error.
    ConnectFailed "connect_failed" Pod 502 "connection to the pod failed";
    /// The connection was not established in time.
    ConnectTimeout "connect_timeout" Pod 504 "pod did not accept the connection";
    /// The pod's certificate is not accepted.
    CertificateNotTrusted "certificate_not_trusted" Pod 502 "pod's certificate is not trusted";
    /// TLS with the pod failed for another reason, before its response began.
    TlsFailed "tls_failed" Pod 502 "TLS connection to the pod failed";
    /// The pod closed the connection before its response began.
    NoResponse "no_response" Pod 502 "pod closed the connection without a response";
    /// The pod closed the connection within its response's head.
    ResponseHeadersTruncated "response_headers_truncated" Pod 502
        "pod closed the connection before the end of the response headers";
    /// The pod's response breaks the grammar.
    MalformedResponse "malformed_response" Pod 502 "malformed response from the pod";
    /// The response's head exceeds its limit.
    ResponseHeadersTooLarge "response_headers_too_large" Pod 502 "response headers from the pod over 64 KiB";
    /// The pod switched protocols, although no request has an `Upgrade` field.
    SwitchedProtocols "switched_protocols" Pod 502 "unexpected 101 Switching Protocols from the pod";
    /// The response's head was not complete in time.
    ResponseTimeout "response_timeout" Pod 504 "no response from the pod";
    /// The response's body ended too early. The client's connection was aborted.
    ResponseTruncated "response_truncated" Pod 502 "response from the pod was truncated";
    /// The response's body broke its coding. The client's connection was aborted.
    MalformedResponseBody "malformed_response_body" Pod 502 "malformed response body from the pod";
    /// The response's body was not complete in time. The client's connection was aborted.
    ResponseBodyTimeout "response_body_timeout" Pod 504 "response from the pod not complete";

    /// The client closed its connection before the end of the response.
    ClientClosedRequest "client_closed_request" Client 499 "client closed the connection";
    /// The client did not read the response in time. Its connection was reset.
    ClientTimeout "client_timeout" Client 499 "client did not read the response";
}

/// The number of outcomes.
pub const OUTCOMES: usize = Outcome::ALL.len();

impl Outcome {
    /// Returns whether the reason phrase names a time limit.
    const fn within(self) -> bool {
        matches!(
            self,
            Self::RequestTimeout
                | Self::PasswordCheckTimeout
                | Self::LookupTimeout
                | Self::ConnectTimeout
                | Self::ResponseTimeout
                | Self::ResponseBodyTimeout
        )
    }
}

/// An outcome other than a response, with its details.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The outcome.
    pub outcome: Outcome,
    /// Details of the failure. Never text of a peer.
    pub detail: Option<&'static str>,
}

impl Failure {
    /// Displays the reason phrase, with `patience` if a time limit was exceeded.
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
    /// Returns the failure for an invalid request head.
    pub fn of_request(error: HeadError) -> Self {
        match error {
            HeadError::Malformed(detail) => Self { outcome: Outcome::MalformedRequest, detail: Some(detail) },
            HeadError::Version => Outcome::HttpVersion.into(),
            HeadError::TargetTooLong => Outcome::UriTooLong.into(),
            HeadError::TooLarge => Outcome::RequestHeadersTooLarge.into(),
            HeadError::TooManyFields => Outcome::TooManyRequestHeaders.into(),
        }
    }

    /// Returns the failure for a request with invalid framing.
    pub fn of_request_framing(FramingError(detail): FramingError) -> Self {
        Self { outcome: Outcome::MalformedRequest, detail: Some(detail) }
    }

    /// Returns the failure for a connection to the pod that could not be established.
    pub fn of_connecting(error: UpstreamError) -> Self {
        let connect_failed = |detail| Self { outcome: Outcome::ConnectFailed, detail: Some(detail) };
        match error {
            UpstreamError::Refused => Outcome::ConnectionRefused.into(),
            UpstreamError::Unreachable => Outcome::Unreachable.into(),
            UpstreamError::TimedOut => Outcome::ConnectTimeout.into(),
            UpstreamError::NoDescriptors => Outcome::NoFileDescriptors.into(),
            UpstreamError::NoLocalPort => connect_failed("no local port left"),
            UpstreamError::Forbidden => connect_failed("blocked by a firewall or a route"),
            UpstreamError::Itself => Outcome::Loop.into(),
            UpstreamError::Tls(fault) => Self::of_tls(fault),
            UpstreamError::Other => Outcome::ConnectFailed.into(),
        }
    }

    /// Returns the failure for a connection on which TLS failed before a response began.
    pub fn of_tls(fault: TlsFault) -> Self {
        let outcome = if fault.is_trust() { Outcome::CertificateNotTrusted } else { Outcome::TlsFailed };
        Self { outcome, detail: Some(fault.reason()) }
    }

    /// Returns the failure for a name without addresses.
    pub fn of_lookup(error: LookupError) -> Self {
        match error {
            LookupError::NoSuchName => Outcome::NoSuchName.into(),
            LookupError::Failed => Outcome::LookupFailed.into(),
            LookupError::QueueFull => Outcome::LookupsFull.into(),
        }
    }

    /// Returns the failure for an invalid response head.
    pub fn of_response(error: HeadError) -> Self {
        let detail = match error {
            HeadError::TooLarge | HeadError::TargetTooLong => return Outcome::ResponseHeadersTooLarge.into(),
            HeadError::Malformed(detail) => detail,
            HeadError::Version => "neither HTTP/1.1 nor HTTP/1.0",
            HeadError::TooManyFields => "more than 256 headers",
        };
        Self { outcome: Outcome::MalformedResponse, detail: Some(detail) }
    }

    /// Returns the failure for a response with invalid framing.
    pub fn of_response_framing(FramingError(detail): FramingError) -> Self {
        Self { outcome: Outcome::MalformedResponse, detail: Some(detail) }
    }

    /// Returns the failure for an invalid response body.
    pub fn of_body(error: BodyError) -> Self {
        match error {
            BodyError::CutShort => Outcome::ResponseTruncated.into(),
            BodyError::Coding(detail) => {
                Self { outcome: Outcome::MalformedResponseBody, detail: Some(detail) }
            }
        }
    }
}

/// The reason why connecting to the pod, or the connection itself, failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamError {
    /// Nothing listens on the pod's port.
    Refused,
    /// The pod is unreachable.
    Unreachable,
    /// The kernel's own timeout expired.
    TimedOut,
    /// No file descriptor is left.
    NoDescriptors,
    /// No local address or port is left to connect from.
    NoLocalPort,
    /// A firewall or a route forbids the connection.
    Forbidden,
    /// The address is psystrike's own.
    Itself,
    /// TLS failed: its handshake, or later.
    Tls(TlsFault),
    /// Any other error, mostly a reset.
    Other,
}

impl UpstreamError {
    /// Returns the reason why TLS failed, if it did.
    pub fn tls_reason(self) -> Option<&'static str> {
        match self {
            Self::Tls(fault) => Some(fault.reason()),
            _ => None,
        }
    }
}

/// The reason why a name has no addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupError {
    /// The name does not exist, or has no address.
    NoSuchName,
    /// The resolver failed: no DNS server responded, or one responded with a failure.
    Failed,
    /// Too many lookups are queued.
    QueueFull,
}
