//! The contents of a web configuration file, in the format of Prometheus's exporter-toolkit.
//!
//! Owns which keys there are, and which of them psystrike supports. A key that asks for something psystrike does not do
//! is an error, unless ignoring it leaves everything as safe as without it. Never reads a file.

use std::path::{Path, PathBuf};

use super::yaml::{self, Entry, Fault, Value, shown};
use crate::proxy::access::{bcrypt::PasswordHash, users::USERS_MAX};

/// The contents of a file.
pub struct Document {
    /// `tls_server_config`.
    pub tls: Option<WebTls>,
    /// `basic_auth_users`.
    pub users: Vec<(String, PasswordHash)>,
}

/// `tls_server_config`.
#[derive(Clone, PartialEq, Eq)]
pub struct WebTls {
    /// The line where it begins.
    pub line: usize,
    /// `cert_file` or `cert`.
    pub cert: Pem,
    /// `key_file` or `key`.
    pub key: Pem,
    /// `client_ca_file` or `client_ca`.
    pub client_ca: Option<Pem>,
    /// `client_auth_type`.
    pub client_auth: ClientAuthType,
    /// `client_allowed_sans`; `None`: any.
    pub allowed_sans: Option<Vec<String>>,
    /// `min_version`.
    pub min_version: TlsVersion,
    /// `max_version`.
    pub max_version: TlsVersion,
}

/// Where certificates or a key are. It has no `Debug`, as a key is secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// In this file.
    File(PathBuf),
    /// In the web configuration file itself.
    Inline(String),
}

/// Whether clients present a certificate (`crypto/tls.ClientAuthType` of Go).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuthType {
    /// None is requested.
    NoClientCert,
    /// One is requested, and not verified.
    RequestClientCert,
    /// One is required, and not verified.
    RequireAnyClientCert,
    /// One is requested, and verified if there is one.
    VerifyClientCertIfGiven,
    /// One is required and verified.
    RequireAndVerifyClientCert,
}

impl ClientAuthType {
    fn verifies(self) -> bool {
        matches!(self, Self::VerifyClientCertIfGiven | Self::RequireAndVerifyClientCert)
    }
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// Parses a file. Relative paths in it start at `folder`.
///
/// # Errors
/// [`Fault`].
#[cold]
pub fn parse(text: &str, folder: &Path) -> Result<Document, Fault> {
    let mut document = Document { tls: None, users: Vec::new() };
    for entry in yaml::parse(text)? {
        match &*entry.key {
            "tls_server_config" => document.tls = tls(&entry, folder)?,
            "http_server_config" => check_http(&entry)?,
            "basic_auth_users" => document.users = users(&entry)?,
            "rate_limit" => check_rate_limit(&entry)?,
            _ => return unknown(&entry),
        }
    }
    if document.tls.is_none() && document.users.is_empty() {
        return fault(1, "neither tls_server_config nor basic_auth_users in the file");
    }
    Ok(document)
}

#[cold]
fn fault<T>(line: usize, what: &str) -> Result<T, Fault> {
    Err(Fault { line, what: what.to_owned() })
}

#[cold]
fn faulty<T>(entry: &Entry, what: &str) -> Result<T, Fault> {
    Err(Fault { line: entry.line, what: format!("{}{what}", shown(&entry.key)) })
}

#[cold]
fn unknown<T>(entry: &Entry) -> Result<T, Fault> {
    Err(Fault { line: entry.line, what: format!("unknown key {}", shown(&entry.key)) })
}

/// Returns the entries of a mapping, which may be empty.
fn map(entry: &Entry) -> Result<&[Entry], Fault> {
    match &entry.value {
        Value::Empty => Ok(&[]),
        Value::Map(entries) => Ok(entries),
        Value::Text(_) | Value::List(_) => faulty(entry, ": expected a mapping"),
    }
}

/// Returns a text, or `None` if it is empty.
fn text(entry: &Entry) -> Result<Option<&str>, Fault> {
    match &entry.value {
        Value::Empty => Ok(None),
        Value::Text(text) => Ok(Some(text).map(|text| &**text).filter(|text| !text.is_empty())),
        Value::Map(_) | Value::List(_) => faulty(entry, ": expected a text"),
    }
}

fn check_boolean(entry: &Entry) -> Result<(), Fault> {
    let known = ["true", "false", "yes", "no", "on", "off", "y", "n"];
    match text(entry)? {
        Some(text) if !known.contains(&&*text.to_ascii_lowercase()) => {
            faulty(entry, ": expected true or false")
        }
        _ => Ok(()),
    }
}

/// Refuses a key that has a value.
fn check_unset(entry: &Entry, why: &str) -> Result<(), Fault> {
    match &entry.value {
        Value::Empty => Ok(()),
        Value::List(items) if items.is_empty() => Ok(()),
        Value::Map(entries) if entries.is_empty() => Ok(()),
        _ => faulty(entry, why),
    }
}

/// `http2` changes no more than the speed: clients use HTTP/1.1 either way.
fn check_http(entry: &Entry) -> Result<(), Fault> {
    for entry in map(entry)? {
        match &*entry.key {
            "http2" => check_boolean(entry)?,
            "headers" => check_unset(entry, " is not supported: psystrike adds no headers to responses")?,
            _ => return unknown(entry),
        }
    }
    Ok(())
}

fn check_rate_limit(entry: &Entry) -> Result<(), Fault> {
    for entry in map(entry)? {
        match (&*entry.key, text(entry)?) {
            // The toolkit limits nothing then.
            ("interval", None | Some("0" | "0s")) | ("burst", _) => {}
            ("interval", _) => return fault(entry.line, "rate_limit is not supported"),
            _ => return unknown(entry),
        }
    }
    Ok(())
}

#[cold]
fn users(entry: &Entry) -> Result<Vec<(String, PasswordHash)>, Fault> {
    let mut users = Vec::new();
    for entry in map(entry)? {
        if users.len() == USERS_MAX {
            return fault(entry.line, "more than 256 users");
        }
        if entry.key.contains(':') {
            return fault(entry.line, "a user name must not contain ':' (RFC 7617)");
        }
        let text = text(entry)?.unwrap_or_default();
        let hash = PasswordHash::parse(text);
        // A hash does not belong in a log; a name does.
        users.push((entry.key.clone(), hash.or_else(|what| faulty(entry, &format!(": {what}")))?));
    }
    Ok(users)
}

/// The values of `tls_server_config` that are files or texts, with their lines.
#[derive(Default)]
struct Texts<'e> {
    all: Vec<(&'e str, &'e Entry)>,
}

impl<'e> Texts<'e> {
    /// Returns the contents that one of these two keys gives.
    fn pem(&self, inline: &str, file: &str, folder: &Path) -> Result<Option<Pem>, Fault> {
        let find = |key: &str| self.all.iter().find(|(_, entry)| entry.key == key);
        match (find(inline), find(file)) {
            (Some((_, entry)), Some(_)) => {
                Err(Fault { line: entry.line, what: format!("both {inline} and {file} are given") })
            }
            (Some((text, _)), None) => Ok(Some(Pem::Inline((*text).to_owned()))),
            (None, Some((text, _))) => Ok(Some(Pem::File(folder.join(text)))),
            (None, None) => Ok(None),
        }
    }
}

#[cold]
fn tls(entry: &Entry, folder: &Path) -> Result<Option<WebTls>, Fault> {
    let entries = map(entry)?;
    let mut texts = Texts::default();
    let (mut client_auth, mut allowed_sans) = (ClientAuthType::NoClientCert, None);
    let (mut min_version, mut max_version) = (TlsVersion::Tls12, TlsVersion::Tls13);
    for entry in entries {
        match &*entry.key {
            "cert" | "cert_file" | "key" | "key_file" | "client_ca" | "client_ca_file" => {
                texts.all.extend(text(entry)?.map(|text| (text, entry)));
            }
            "client_auth_type" => client_auth = client_auth_type(entry)?,
            "client_allowed_sans" => allowed_sans = names(entry)?,
            "min_version" => min_version = version(entry)?.unwrap_or(min_version),
            "max_version" => max_version = version(entry)?.unwrap_or(max_version),
            "cipher_suites" => {
                check_unset(entry, " is not supported: psystrike accepts AEAD with ECDHE only")?;
            }
            "curve_preferences" => {
                check_unset(entry, " is not supported: psystrike accepts X25519, P-256 and P-384")?;
            }
            // As in the toolkit, it has no effect.
            "prefer_server_cipher_suites" => check_boolean(entry)?,
            _ => return unknown(entry),
        }
    }
    let client_ca = texts.pem("client_ca", "client_ca_file", folder)?;
    let [cert, key] = [("cert", "cert_file"), ("key", "key_file")].map(|(inline, file)| {
        texts
            .pem(inline, file, folder)
            .map(|pem| pem.ok_or_else(|| format!("missing one of {inline} or {file}")))
    });
    let (cert, key) = (cert?, key?);
    let asks_nothing = cert.is_err() && key.is_err() && client_ca.is_none() && allowed_sans.is_none();
    if asks_nothing && client_auth == ClientAuthType::NoClientCert {
        return if entries.is_empty() {
            Ok(None)
        } else {
            fault(entry.line, "missing one of cert or cert_file")
        };
    }
    let found = |pem: Result<Pem, String>| pem.map_err(|what| Fault { line: entry.line, what });
    let (cert, key) = (found(cert)?, found(key)?);
    let tls = WebTls {
        line: entry.line,
        cert,
        key,
        client_ca,
        client_auth,
        allowed_sans,
        min_version,
        max_version,
    };
    check_client_auth(&tls)?;
    if min_version > max_version {
        return fault(entry.line, "min_version is above max_version");
    }
    Ok(Some(tls))
}

/// Refuses settings of which one would have no effect.
fn check_client_auth(tls: &WebTls) -> Result<(), Fault> {
    let what = match tls.client_auth {
        ClientAuthType::NoClientCert if tls.client_ca.is_some() => {
            "client CAs have been configured without a client_auth_type"
        }
        ClientAuthType::NoClientCert if tls.allowed_sans.is_some() => {
            "client_allowed_sans requires a client_auth_type"
        }
        auth if auth.verifies() && tls.client_ca.is_none() => {
            "this client_auth_type requires one of client_ca or client_ca_file"
        }
        _ => return Ok(()),
    };
    fault(tls.line, what)
}

fn client_auth_type(entry: &Entry) -> Result<ClientAuthType, Fault> {
    Ok(match text(entry)? {
        None | Some("NoClientCert") => ClientAuthType::NoClientCert,
        Some("RequestClientCert") => ClientAuthType::RequestClientCert,
        // The second is an older name, which the toolkit still takes.
        Some("RequireAnyClientCert" | "RequireClientCert") => ClientAuthType::RequireAnyClientCert,
        Some("VerifyClientCertIfGiven") => ClientAuthType::VerifyClientCertIfGiven,
        Some("RequireAndVerifyClientCert") => ClientAuthType::RequireAndVerifyClientCert,
        Some(_) => {
            return faulty(
                entry,
                ": expected NoClientCert, RequestClientCert, RequireAnyClientCert, VerifyClientCertIfGiven or \
                 RequireAndVerifyClientCert",
            );
        }
    })
}

fn version(entry: &Entry) -> Result<Option<TlsVersion>, Fault> {
    match text(entry)? {
        None => Ok(None),
        Some("TLS12") => Ok(Some(TlsVersion::Tls12)),
        Some("TLS13") => Ok(Some(TlsVersion::Tls13)),
        Some("TLS10" | "TLS11") => faulty(entry, ": TLS 1.0 and TLS 1.1 are not supported"),
        Some(_) => faulty(entry, ": expected TLS12 or TLS13"),
    }
}

fn names(entry: &Entry) -> Result<Option<Vec<String>>, Fault> {
    match &entry.value {
        Value::Empty => Ok(None),
        Value::List(items) if items.is_empty() => faulty(entry, ": no name in the list"),
        Value::List(items) => Ok(Some(items.iter().map(|(_, text)| text.clone()).collect())),
        Value::Text(_) | Value::Map(_) => faulty(entry, ": expected a list"),
    }
}
