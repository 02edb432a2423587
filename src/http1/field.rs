//! Field names that mean something to a forwarder, and the small grammars of their values.
//!
//! Owns the one list of names that is matched against. Never decides what follows from a field.

use std::str;

/// One field line, as httparse cuts it: the name without its colon, the value without the white space around it.
pub type FieldLine<'b> = httparse::Header<'b>;

/// What a field name is to a forwarder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// `Connection`: lists the fields that end at this hop (RFC 9110 section 7.6.1).
    Connection,
    /// `Content-Length`.
    ContentLength,
    /// `Transfer-Encoding`.
    TransferEncoding,
    /// `Trailer`: announces the fields of a chunked body's trailer section.
    Trailer,
    /// `Date` (RFC 9110 section 6.6.1).
    Date,
    /// `Host`.
    Host,
    /// `Via` (RFC 9110 section 7.6.3).
    Via,
    /// `Location` (RFC 9110 section 10.2.2).
    Location,
    /// `Content-Type` or `Content-Encoding`: what a body is. No `Connection` field takes these away.
    Content,
    /// `X-Prometheus-Scrape-Timeout-Seconds`: how long Prometheus is going to wait for this scrape.
    ScrapeTimeout,
    /// Hop-by-hop whatever `Connection` says: `Keep-Alive`, `TE`, `Upgrade`, `Expect`, `Proxy-*`.
    /// (RFC 9110 section 7.6.1 names most; an expectation is ours to meet, and with no body there is none.)
    HopByHop,
    /// Anything else: goes on as it came.
    Other,
}

impl Name {
    /// Sorts a field name, whatever its case.
    pub fn of(name: &str) -> Self {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        // By length first: most names of a scrape are told apart without a comparison.
        match name.len() {
            2 if is("te") => Self::HopByHop,
            3 if is("via") => Self::Via,
            4 if is("host") => Self::Host,
            4 if is("date") => Self::Date,
            6 if is("expect") => Self::HopByHop,
            7 if is("trailer") => Self::Trailer,
            7 if is("upgrade") => Self::HopByHop,
            8 if is("location") => Self::Location,
            10 if is("connection") => Self::Connection,
            10 if is("keep-alive") => Self::HopByHop,
            12 if is("content-type") => Self::Content,
            14 if is("content-length") => Self::ContentLength,
            16 if is("content-encoding") => Self::Content,
            17 if is("transfer-encoding") => Self::TransferEncoding,
            35 if is("x-prometheus-scrape-timeout-seconds") => Self::ScrapeTimeout,
            7.. if name.as_bytes()[..6].eq_ignore_ascii_case(b"proxy-") => Self::HopByHop,
            _ => Self::Other,
        }
    }
}

/// What the `Connection` fields of a head say, taken together (RFC 9110 section 7.6.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// A `Connection` field is there.
    pub present: bool,
    /// `close` is listed.
    pub close: bool,
    /// `keep-alive` is listed.
    pub keep_alive: bool,
    /// Names of fields are listed: they end at this hop too.
    pub lists_fields: bool,
}

impl Connection {
    /// Adds one `Connection` field's value to what is known.
    pub fn add(&mut self, value: &[u8]) {
        self.present = true;
        for option in list(value) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else {
                self.lists_fields = true;
            }
        }
    }
}

/// Whether a field ends at this hop, by its own name or because a `Connection` field of `fields` lists it.
///
/// The fields that frame or describe a body cannot be listed away: a peer that could have them removed could
/// make the two sides disagree on where the body ends.
pub fn ends_here(name: &str, connection: Connection, fields: &[FieldLine<'_>]) -> bool {
    match Name::of(name) {
        Name::Connection | Name::HopByHop => true,
        Name::ContentLength | Name::TransferEncoding | Name::Trailer | Name::Content => false,
        _ => {
            connection.lists_fields
                && fields
                    .iter()
                    .filter(|field| Name::of(field.name) == Name::Connection)
                    .flat_map(|field| list(field.value))
                    .any(|option| option.eq_ignore_ascii_case(name.as_bytes()))
        }
    }
}

/// The elements of a comma-separated list, without the white space around them and without empty ones
/// (RFC 9110 section 5.6.1).
pub fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// How many entries of a `Via` value were added by the intermediary called `pseudonym`
/// (RFC 9110 section 7.6.3: `received-protocol RWS received-by [ RWS comment ]`).
pub fn via_hops(value: &[u8], pseudonym: &str) -> usize {
    list(value)
        .filter(|entry| {
            let received_by = entry
                .split(|&byte| byte == b' ' || byte == b'\t')
                .filter(|word| !word.is_empty())
                .nth(1)
                .unwrap_or_default();
            received_by.eq_ignore_ascii_case(pseudonym.as_bytes())
        })
        .count()
}

/// `1*DIGIT` as a number (RFC 9110 section 8.6). No sign, no list, no white space, nothing that overflows.
pub fn digits(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_whatever_their_case() {
        for (name, expected) in [
            ("Connection", Name::Connection),
            ("CONTENT-LENGTH", Name::ContentLength),
            ("transfer-encoding", Name::TransferEncoding),
            ("Trailer", Name::Trailer),
            ("hOsT", Name::Host),
            ("Via", Name::Via),
            ("Date", Name::Date),
            ("Location", Name::Location),
            ("Content-Type", Name::Content),
            ("Content-Encoding", Name::Content),
            ("X-Prometheus-Scrape-Timeout-Seconds", Name::ScrapeTimeout),
            ("Keep-Alive", Name::HopByHop),
            ("TE", Name::HopByHop),
            ("Upgrade", Name::HopByHop),
            ("Expect", Name::HopByHop),
            ("Proxy-Authorization", Name::HopByHop),
            ("proxy-x", Name::HopByHop),
            ("Proxy", Name::Other),
            ("Accept", Name::Other),
            ("Authorization", Name::Other),
            ("Content-Language", Name::Other),
            ("X", Name::Other),
        ] {
            assert_eq!(Name::of(name), expected, "{name}");
        }
    }

    #[test]
    fn a_connection_field_lists_fields_but_never_those_of_the_body() {
        let fields = [
            FieldLine { name: "Connection", value: b"X-Hop, close ,, Content-Length,content-type" },
            FieldLine { name: "connection", value: b"\tX-Second" },
        ];
        let mut connection = Connection::default();
        fields.iter().for_each(|field| connection.add(field.value));
        assert_eq!(
            connection,
            Connection { present: true, close: true, keep_alive: false, lists_fields: true }
        );
        for (name, expected) in [
            ("x-hop", true),
            ("X-SECOND", true),
            ("Connection", true),
            ("Keep-Alive", true),
            ("X-Other", false),
            ("Content-Length", false),
            ("Content-Type", false),
            ("Transfer-Encoding", false),
        ] {
            assert_eq!(ends_here(name, connection, &fields), expected, "{name}");
        }
    }

    #[test]
    fn via_counts_our_own_entries_only() {
        for (value, expected) in [
            (&b""[..], 0),
            (b"1.1 psystrike", 1),
            (b"1.0 fred, 1.1 psystrike (edge), 1.1 PSYSTRIKE", 2),
            (b"1.1 psystrike-not, psystrike", 0),
            (b"HTTP/1.1   psystrike", 1),
        ] {
            assert_eq!(via_hops(value, "psystrike"), expected, "{}", value.escape_ascii());
        }
    }

    #[test]
    fn digits_take_nothing_but_digits() {
        for (value, expected) in [
            (&b"0"[..], Some(0)),
            (b"007", Some(7)),
            (b"18446744073709551615", Some(u64::MAX)),
            (b"18446744073709551616", None),
            (b"", None),
            (b"+1", None),
            (b"-1", None),
            (b"1,1", None),
            (b"1 ", None),
            (b"0x1", None),
        ] {
            assert_eq!(digits(value), expected, "{}", value.escape_ascii());
        }
    }
}
