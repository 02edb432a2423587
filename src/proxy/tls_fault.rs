//! The reasons why TLS with a client or a pod fails, in the words of responses, logs and `/metrics`.
//!
//! Never knows a TLS library: [`crate::net::transport`] maps that library's errors to these.

/// Declares [`TlsFault`] from a table, so that no variant can lack a column.
macro_rules! faults {
    ($($(#[$doc:meta])* $variant:ident $label:literal $is_trust:literal $reason:literal;)*) => {
        /// Why TLS failed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum TlsFault {
            $($(#[$doc])* $variant,)*
        }

        impl TlsFault {
            /// All faults, in the order of their discriminants.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns the label on `/metrics`.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }

            /// Returns whether the peer's certificate is not accepted, rather than that the protocol failed.
            pub const fn is_trust(self) -> bool {
                match self { $(Self::$variant => $is_trust,)* }
            }

            /// Returns the reason, for people.
            pub const fn reason(self) -> &'static str {
                match self { $(Self::$variant => $reason,)* }
            }
        }
    };
}

faults! {
    /// No given CA signed the certificate.
    UnknownIssuer "unknown_issuer" true "unknown issuer";
    /// The certificate was not looked at: no CA is configured that could have signed it.
    NoCa "no_ca" true "no CA for pods is configured; set --pod-tls-ca or --pod-tls-skip-verify";
    /// The certificate has expired.
    Expired "expired" true "expired";
    /// The certificate is not valid yet.
    NotYetValid "not_yet_valid" true "not valid yet";
    /// The certificate is for other names.
    WrongName "wrong_name" true "not valid for this name";
    /// The certificate is a CA's, which cannot prove a server's identity (RFC 5280 section 4.2.1.9).
    CaAsServer "ca_as_server" true "a CA certificate, which many self-signed ones are, cannot be verified";
    /// The certificate may not be used for this purpose.
    WrongPurpose "wrong_purpose" true "not valid for this purpose";
    /// The certificate cannot be parsed, or has an unsupported algorithm or signature.
    BadCertificate "bad_certificate" true "invalid certificate";
    /// The peer presented no certificate.
    NoCertificate "no_certificate" true "no certificate";
    /// The peer does not accept the certificate that it was shown, or needs one.
    CertificateRefused "certificate_refused" false "the peer refused or requires a certificate";
    /// No common protocol version.
    Version "version" false "no common TLS version";
    /// No common cipher suite, group or signature algorithm.
    NothingInCommon "nothing_in_common" false "no common cipher suite";
    /// The peer's bytes are not TLS.
    NotTls "not_tls" false "not TLS";
    /// The peer closed the connection within the handshake.
    Closed "closed" false "connection closed in the handshake";
    /// The handshake was not complete in time.
    Timeout "timeout" false "handshake not complete in time";
    /// Too many handshakes were in progress, and this one began first, or there were too many clients.
    TooMany "too_many" false "too many handshakes or clients";
    /// The buffers were full, and this client had held buffered bytes longest.
    BuffersFull "buffers_full" false "buffer limit reached; this client held buffers longest";
    /// psystrike shuts down.
    Shutdown "shutdown" false "psystrike is shutting down";
    /// The peer broke the protocol, or a record was modified.
    Protocol "protocol" false "protocol error";
    /// The peer sent another alert.
    Alert "alert" false "alert from the peer";
}
