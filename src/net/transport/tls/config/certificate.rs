//! The names in a certificate, and when it expires (RFC 5280 section 4.1).
//!
//! Owns where they are in its DER. Verifies nothing: rustls does.

use std::net::IpAddr;

use der::{
    Decode as _, Reader as _, SliceReader, Tag, TagNumber, Tagged as _,
    asn1::{AnyRef, GeneralizedTime, UtcTime},
};

/// The object identifier of the extension with the alternative names, 2.5.29.17, as it is encoded.
const SUBJECT_ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// The part of a certificate that psystrike reads itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    /// Its last second, since 1970.
    pub(super) expires_at: u64,
    /// Its alternative names, each as a text: DNS names, IP addresses, e-mail addresses and URIs.
    pub(super) names: Vec<String>,
}

impl Certificate {
    /// Parses a certificate. `None`: it is not one, or expired before 1970.
    pub(super) fn parse(certificate: &[u8]) -> Option<Self> {
        let [certificate] = elements(certificate)?[..] else { return None };
        let content = *elements(certificate.value())?.first()?;
        let fields = elements(content.value())?;
        // Version 1 leaves out the version.
        let has_version = fields.first()?.tag() == context(0, true);
        let [_serial, _algorithm, _issuer, validity, _subject, _key, optional @ ..] =
            &fields[usize::from(has_version)..]
        else {
            return None;
        };
        let [_not_before, not_after] = elements(validity.value())?[..] else { return None };
        let extensions = optional.iter().find(|field| field.tag() == context(3, true));
        let names = match extensions {
            Some(extensions) => names_of(extensions.value())?,
            None => Vec::new(),
        };
        Some(Self { expires_at: seconds(not_after)?, names })
    }
}

/// Returns the names from the extensions.
fn names_of(extensions: &[u8]) -> Option<Vec<String>> {
    let [extensions] = elements(extensions)?[..] else { return None };
    for extension in elements(extensions.value())? {
        let parts = elements(extension.value())?;
        let (id, value) = (parts.first()?, parts.last()?);
        if id.value() == SUBJECT_ALTERNATIVE_NAME {
            let [names] = elements(value.value())?[..] else { return None };
            return elements(names.value())?.into_iter().filter_map(name).collect();
        }
    }
    Some(Vec::new())
}

/// Returns a `GeneralName` of RFC 5280 section 4.2.1.6 as a text. Outer `None`: a kind that has none; inner: malformed.
fn name(name: AnyRef<'_>) -> Option<Option<String>> {
    const EMAIL: u32 = 1;
    const DNS: u32 = 2;
    const URI: u32 = 6;
    const IP: u32 = 7;
    let Tag::ContextSpecific { constructed: false, number: TagNumber(kind) } = name.tag() else {
        return None;
    };
    match kind {
        EMAIL | DNS | URI => Some(str::from_utf8(name.value()).ok().map(str::to_owned)),
        IP => Some(ip(name.value()).map(|ip| ip.to_canonical().to_string())),
        _ => None,
    }
}

fn ip(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

/// Returns a time in seconds since 1970.
fn seconds(time: AnyRef<'_>) -> Option<u64> {
    let since = match time.tag() {
        Tag::UtcTime => time.decode_as::<UtcTime>().ok()?.to_unix_duration(),
        _ => time.decode_as::<GeneralizedTime>().ok()?.to_unix_duration(),
    };
    Some(since.as_secs())
}

/// Returns the elements that are encoded one after the other.
fn elements(encoded: &[u8]) -> Option<Vec<AnyRef<'_>>> {
    let mut reader = SliceReader::new(encoded).ok()?;
    let mut elements = Vec::new();
    while !reader.is_finished() {
        elements.push(AnyRef::decode(&mut reader).ok()?);
    }
    Some(elements)
}

const fn context(number: u32, constructed: bool) -> Tag {
    Tag::ContextSpecific { constructed, number: TagNumber(number) }
}
