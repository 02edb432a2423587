//! Maps the errors of rustls to [`TlsFault`], and that to the cause of an [`io::Error`].

use std::{
    error, fmt,
    io::{self, ErrorKind},
};

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

use crate::proxy::tls_fault::TlsFault;

/// Returns the fault for an error of rustls.
pub(super) fn fault_of(error: &Error) -> TlsFault {
    match error {
        Error::InvalidCertificate(error) => of_certificate(error),
        Error::NoCertificatesPresented => TlsFault::NoCertificate,
        Error::AlertReceived(alert) => of_alert(*alert),
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::SupportedVersionsExtensionRequired
            // Clients with at most TLS 1.1 have no such extension, and rustls notices its absence first.
            | PeerIncompatible::SignatureAlgorithmsExtensionRequired,
        ) => TlsFault::Version,
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => TlsFault::NothingInCommon,
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType
            | InvalidMessage::MessageTooLarge
            | InvalidMessage::UnknownProtocolVersion,
        ) => TlsFault::NotTls,
        _ => TlsFault::Protocol,
    }
}

fn of_certificate(error: &CertificateError) -> TlsFault {
    match error {
        // A CA that was created again has the subject of the old one and another key: its signature seems to be bad.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => TlsFault::UnknownIssuer,
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsFault::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => TlsFault::NotYetValid,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            TlsFault::WrongName
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            TlsFault::WrongPurpose
        }
        // webpki's error, by its name: rustls has no variant for it.
        CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            TlsFault::CaAsServer
        }
        CertificateError::ApplicationVerificationFailure => TlsFault::WrongName,
        _ => TlsFault::BadCertificate,
    }
}

fn of_alert(alert: AlertDescription) -> TlsFault {
    match alert {
        AlertDescription::ProtocolVersion => TlsFault::Version,
        AlertDescription::HandshakeFailure
        | AlertDescription::InsufficientSecurity
        | AlertDescription::NoApplicationProtocol => TlsFault::NothingInCommon,
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied
        | AlertDescription::CertificateRequired => TlsFault::CertificateRefused,
        _ => TlsFault::Alert,
    }
}

/// A [`TlsFault`] as the cause of an [`io::Error`].
#[derive(Debug)]
struct Cause(TlsFault);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.reason())
    }
}

impl error::Error for Cause {}

/// Returns the fault as an error of a connection.
pub(super) fn error(fault: TlsFault) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, Cause(fault))
}

/// Returns the fault, if TLS caused the error.
pub fn cause_of(error: &io::Error) -> Option<TlsFault> {
    error.get_ref()?.downcast_ref::<Cause>().map(|cause| cause.0)
}
