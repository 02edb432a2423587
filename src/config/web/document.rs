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

fn fault<T>(line: usize, what: &str) -> Result<T, Fault> {
    Err(Fault::new(line, what))
}

/// Returns a fault of a key.
fn faulty<T>(entry: &Entry, what: &str) -> Result<T, Fault> {
    Err(about_key("", entry, what))
}

fn unknown<T>(entry: &Entry) -> Result<T, Fault> {
    Err(about_key("unknown key ", entry, ""))
}

#[inline(never)]
fn about_key(before: &str, entry: &Entry, after: &str) -> Fault {
    Fault::new(entry.line, &[before, &shown(&entry.key), after].concat())
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
#[inline(never)]
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
        users.push((entry.key.clone(), hash.or_else(|what| faulty(entry, &[": ", what].concat()))?));
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

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";

    fn read(text: &str) -> Result<Document, String> {
        parse(&text.replace("HASH", HASH), Path::new("/etc/web")).map_err(|fault| fault.to_string())
    }

    fn shown(document: &Document) -> String {
        let users: Vec<&str> = document.users.iter().map(|(name, _)| &**name).collect();
        let Some(tls) = &document.tls else { return format!("{users:?}") };
        let pem = |pem: &Pem| match pem {
            Pem::File(path) => path.display().to_string(),
            Pem::Inline(text) => format!("{text:?}"),
        };
        let ca = tls.client_ca.as_ref().map_or("-".to_owned(), pem);
        let (cert, key) = (pem(&tls.cert), pem(&tls.key));
        let WebTls { line, client_auth, allowed_sans, min_version, max_version, .. } = tls;
        let versions = format!("{min_version:?}-{max_version:?}");
        format!("{users:?} {line}: {cert} {key} {ca} {client_auth:?} {allowed_sans:?} {versions}")
    }

    #[test]
    fn files_of_exporters_are_read() {
        for (text, expected) in [
            ("basic_auth_users:\n  alice: HASH\n  'b o\"b': \"HASH\"", r#"["alice", "b o\"b"]"#),
            (
                "tls_server_config:\n  cert_file: server.crt\n  key_file: /abs/server.key\n",
                "[] 1: /etc/web/server.crt /abs/server.key - NoClientCert None Tls12-Tls13",
            ),
            (
                "tls_server_config:\n  cert: |\n    A\n    B\n  key: 'C'\n  client_ca: D\n  client_auth_type: \
                 RequireAndVerifyClientCert\n  client_allowed_sans:\n  - a.example\n  - spiffe://b\n  min_version: \
                 TLS13\n",
                "[] 1: \"A\\nB\\n\" \"C\" \"D\" RequireAndVerifyClientCert Some([\"a.example\", \"spiffe://b\"]) \
                 Tls13-Tls13",
            ),
            (
                "# c\ntls_server_config:\n  cert_file: a\n  key_file: b\n  client_ca_file: c\n  client_auth_type: \
                 VerifyClientCertIfGiven\n  max_version: TLS12\n  prefer_server_cipher_suites: false\n  \
                 cipher_suites:\n  curve_preferences: []\nhttp_server_config:\n  http2: true\n  headers: {}\n\
                 rate_limit:\n  interval: 0\n  burst: 5\nbasic_auth_users:\n  a: HASH\n",
                "[\"a\"] 2: /etc/web/a /etc/web/b /etc/web/c VerifyClientCertIfGiven None Tls12-Tls12",
            ),
            (
                "tls_server_config:\n  cert_file: a\n  key_file: b\n  client_auth_type: RequireClientCert\n",
                "[] 1: /etc/web/a /etc/web/b - RequireAnyClientCert None Tls12-Tls13",
            ),
            (
                "tls_server_config:\n  cert_file: a\n  key_file: b\n  client_auth_type: RequestClientCert\n  \
                 client_ca_file: ''\n",
                "[] 1: /etc/web/a /etc/web/b - RequestClientCert None Tls12-Tls13",
            ),
            ("tls_server_config:\nbasic_auth_users:\n  a: HASH", "[\"a\"]"),
        ] {
            let document = read(text).unwrap_or_else(|fault| panic!("{text}: {fault}"));
            assert_eq!(shown(&document), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_with_its_line() {
        let tls = |lines: &str| format!("tls_server_config:\n  cert_file: a\n  key_file: b\n{lines}");
        let many: String = (0..=USERS_MAX).map(|number| format!("  u{number}: HASH\n")).collect();
        for (text, expected) in [
            (String::new(), "line 1: neither tls_server_config nor basic_auth_users in the file"),
            ("basic_auth_users: {}".to_owned(), "line 1: neither tls_server_config nor basic_auth_users"),
            ("tls_config:\n  a: b".to_owned(), "line 1: unknown key tls_config"),
            (tls("  cert_fille: c"), "line 4: unknown key cert_fille"),
            (tls("  min_version: TLS10"), "line 4: min_version: TLS 1.0 and TLS 1.1 are not supported"),
            (tls("  max_version: TLS11"), "line 4: max_version: TLS 1.0 and TLS 1.1 are not supported"),
            (tls("  max_version: '1.3'"), "line 4: max_version: expected TLS12 or TLS13"),
            (tls("  min_version: TLS13\n  max_version: TLS12"), "line 1: min_version is above max_version"),
            (tls("  client_auth_type: Verify"), "line 4: client_auth_type: expected NoClientCert, "),
            (
                tls("  client_ca_file: c"),
                "line 1: client CAs have been configured without a client_auth_type",
            ),
            (
                tls("  client_auth_type: RequireAndVerifyClientCert"),
                "line 1: this client_auth_type requires one of client_ca or client_ca_file",
            ),
            (tls("  client_allowed_sans: [a]"), "line 1: client_allowed_sans requires a client_auth_type"),
            (tls("  client_allowed_sans: a"), "line 4: client_allowed_sans: expected a list"),
            (tls("  client_allowed_sans: []"), "line 4: client_allowed_sans: no name in the list"),
            (tls("  cipher_suites: [TLS_AES_128_GCM_SHA256]"), "line 4: cipher_suites is not supported"),
            (tls("  curve_preferences:\n  - X25519"), "line 4: curve_preferences is not supported"),
            (tls("  prefer_server_cipher_suites: 2"), "line 4: prefer_server_cipher_suites: expected true"),
            (tls("  cert: c"), "line 4: both cert and cert_file are given"),
            (tls("  client_ca: {}"), "line 4: client_ca: expected a text"),
            ("tls_server_config: a".to_owned(), "line 1: tls_server_config: expected a mapping"),
            ("tls_server_config:\n  key_file: a".to_owned(), "line 1: missing one of cert or cert_file"),
            ("tls_server_config:\n  cert: a\n".to_owned(), "line 1: missing one of key or key_file"),
            (
                "tls_server_config:\n  min_version: TLS12\n".to_owned(),
                "line 1: missing one of cert or cert_file",
            ),
            (
                "http_server_config:\n  headers:\n    X-Frame-Options: deny".to_owned(),
                "line 2: headers is not supported",
            ),
            ("http_server_config:\n  http2: maybe".to_owned(), "line 2: http2: expected true or false"),
            ("http_server_config:\n  http3: true".to_owned(), "line 2: unknown key http3"),
            ("rate_limit:\n  burst: 1\n  interval: 1s".to_owned(), "line 3: rate_limit is not supported"),
            ("rate_limit:\n  bursts: 1".to_owned(), "line 2: unknown key bursts"),
            ("basic_auth_users:\n- a".to_owned(), "line 1: basic_auth_users: expected a mapping"),
            (
                "basic_auth_users:\n  a: wombat".to_owned(),
                "line 2: a: expected a bcrypt hash of 60 characters",
            ),
            ("basic_auth_users:\n  a:".to_owned(), "line 2: a: expected a bcrypt hash of 60 characters"),
            ("basic_auth_users:\n  'a:b': HASH".to_owned(), "line 2: a user name must not contain ':'"),
            (format!("basic_auth_users:\n{many}"), "line 258: more than 256 users"),
            (
                format!("basic_auth_users:\n  a: {}", HASH.replace("$10$", "$18$")),
                "line 2: a: bcrypt cost over 16",
            ),
        ] {
            let fault = read(&text).err().unwrap_or_else(|| panic!("{text} is accepted"));
            assert!(fault.starts_with(expected), "{text}: {fault}");
            assert!(!fault.contains("wombat"), "{text}: {fault}");
        }
    }
}
