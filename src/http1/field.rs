//! The fields of a head: the names that mean something to a forwarder, and the small grammars of their values.
//!
//! Owns the one list of names that is matched against, and matches each field of a head once. Never decides what
//! follows from a field.

use std::ops::Range;

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
    /// `Authorization` (RFC 9110 section 11.6.2).
    Authorization,
    /// `X-Prometheus-Scrape-Timeout-Seconds`: how long Prometheus is going to wait for this scrape.
    ScrapeTimeout,
    /// Hop-by-hop whatever `Connection` says: `Keep-Alive`, `TE`, `Upgrade`, `Expect`, `Proxy-*`.
    /// (RFC 9110 section 7.6.1 names most; an expectation is ours to meet, and with no body there is none.)
    /// `Proxy` too: a CGI program takes it for the variable `HTTP_PROXY` (httpoxy, CVE-2016-5385).
    HopByHop,
    /// Anything else: goes on as it came.
    Other,
}

impl Name {
    /// Sorts a field name, whatever its case.
    pub fn of(name: &str) -> Self {
        let bytes = name.as_bytes();
        let first = bytes.first().map_or(0, u8::to_ascii_lowercase);
        // Most senders spell a name one way, and to see that is cheap.
        let is = |usual: &str| name == usual || name.eq_ignore_ascii_case(usual);
        // By length and first letter before all: no two names that are known have both in common, and most names
        // of a scrape are told apart without a comparison.
        match (bytes.len(), first) {
            (2, b't') if is("TE") => Self::HopByHop,
            (3, b'v') if is("Via") => Self::Via,
            (4, b'h') if is("Host") => Self::Host,
            (4, b'd') if is("Date") => Self::Date,
            (5, b'p') if is("Proxy") => Self::HopByHop,
            (6, b'e') if is("Expect") => Self::HopByHop,
            (7, b't') if is("Trailer") => Self::Trailer,
            (7, b'u') if is("Upgrade") => Self::HopByHop,
            (8, b'l') if is("Location") => Self::Location,
            (10, b'c') if is("Connection") => Self::Connection,
            (10, b'k') if is("Keep-Alive") => Self::HopByHop,
            (12, b'c') if is("Content-Type") => Self::Content,
            (13, b'a') if is("Authorization") => Self::Authorization,
            (14, b'c') if is("Content-Length") => Self::ContentLength,
            (16, b'c') if is("Content-Encoding") => Self::Content,
            (17, b't') if is("Transfer-Encoding") => Self::TransferEncoding,
            (35, b'x') if is("X-Prometheus-Scrape-Timeout-Seconds") => Self::ScrapeTimeout,
            (6.., b'p') if bytes[..6].eq_ignore_ascii_case(b"Proxy-") => Self::HopByHop,
            _ => Self::Other,
        }
    }
}

/// A set of names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Names(u16);

const _: () = assert!((Name::Other as u32) < u16::BITS, "a bit for each name");

impl Names {
    /// No name.
    pub const NONE: Self = Self(0);

    /// These names and `name`.
    pub const fn with(self, name: Name) -> Self {
        Self(self.0 | 1 << name as u16)
    }

    /// The names of both.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether `name` is among them.
    pub const fn contains(self, name: Name) -> bool {
        self.0 & 1 << name as u16 != 0
    }
}

/// The fields of one head, in the order they came, each name sorted once.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'b, 'f> {
    /// The whole head, which the lines are cut from.
    head: &'b [u8],
    lines: &'f [FieldLine<'b>],
    /// What each line's name is.
    names: &'f [Name],
    /// Every name that is among them: what a head does not have is not looked for.
    present: Names,
}

impl<'b, 'f> Fields<'b, 'f> {
    /// Sorts the names of `lines`, which were cut from `head`, into `names`, which has room for them.
    pub fn sort(head: &'b [u8], lines: &'f [FieldLine<'b>], names: &'f mut [Name]) -> Self {
        let names = &mut names[..lines.len()];
        let mut present = Names::NONE;
        for (name, line) in names.iter_mut().zip(lines) {
            *name = Name::of(line.name);
            present = present.with(*name);
        }
        Self { head, lines, names, present }
    }

    /// Every field, in the order they came.
    pub fn iter(&self) -> impl Iterator<Item = (Name, &'f FieldLine<'b>)> + use<'b, 'f> {
        self.names.iter().copied().zip(self.lines)
    }

    /// Whether there is a field called `name`.
    pub fn has(&self, name: Name) -> bool {
        self.present.contains(name)
    }

    /// The values of the fields called `name`.
    pub fn values(&self, name: Name) -> impl Iterator<Item = &'b [u8]> + Clone + use<'b, 'f> {
        let among = if self.has(name) { self.names } else { &[] };
        let all = among.iter().zip(self.lines);
        all.filter(move |(sorted, _)| **sorted == name).map(|(_, line)| line.value)
    }

    /// Where the lines stand in the head: from the first one to the empty line behind the last.
    pub fn section(&self) -> Range<usize> {
        self.start(0)..self.start(self.lines.len())
    }

    /// Where a line stands in the head, its line end included.
    pub fn line_at(&self, index: usize) -> Range<usize> {
        self.start(index)..self.start(index + 1)
    }

    /// Where a value stands in the head.
    pub fn value_at(&self, index: usize) -> Range<usize> {
        let value = self.lines[index].value;
        let start = offset(self.head, value);
        start..start + value.len()
    }

    /// Where a line begins, or behind the last one, the empty line.
    fn start(&self, index: usize) -> usize {
        let line = self.lines.get(index);
        line.map_or(self.head.len() - b"\r\n".len(), |line| offset(self.head, line.name.as_bytes()))
    }

    /// Whether a field ends at this hop, by its own name or because a `Connection` field lists it.
    ///
    /// The fields that frame or describe a body cannot be listed away: a peer that could have them removed could
    /// make the two sides disagree on where the body ends.
    #[inline]
    pub fn ends_here(&self, name: Name, line: &FieldLine<'_>, connection: Connection) -> bool {
        match name {
            Name::Connection | Name::HopByHop => true,
            Name::ContentLength | Name::TransferEncoding | Name::Trailer | Name::Content => false,
            _ => connection.lists_fields && self.connection_lists(line.name.as_bytes()),
        }
    }

    fn connection_lists(&self, name: &[u8]) -> bool {
        self.values(Name::Connection).flat_map(list).any(|option| option.eq_ignore_ascii_case(name))
    }
}

/// Where `part` begins in `whole`, which it is cut from.
pub(super) fn offset(whole: &[u8], part: &[u8]) -> usize {
    part.as_ptr().addr() - whole.as_ptr().addr()
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
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
    let (first, rest) = value.split_first()?;
    rest.iter().try_fold(digit(first)?, |number, byte| number.checked_mul(10)?.checked_add(digit(byte)?))
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
            ("Proxy", Name::HopByHop),
            ("Proxy-", Name::HopByHop),
            ("Proxyless", Name::Other),
            ("Accept", Name::Other),
            ("Authorization", Name::Authorization),
            ("Authorisation", Name::Other),
            ("Content-Language", Name::Other),
            ("X", Name::Other),
        ] {
            assert_eq!(Name::of(name), expected, "{name}");
        }
    }

    #[test]
    fn a_connection_field_lists_fields_but_never_those_of_the_body() {
        let lines = [
            FieldLine { name: "Connection", value: b"X-Hop, close ,, Content-Length,content-type" },
            FieldLine { name: "connection", value: b"\tX-Second" },
        ];
        let mut names = [Name::Other; 2];
        let fields = Fields::sort(b"", &lines, &mut names);
        let mut connection = Connection::default();
        fields.values(Name::Connection).for_each(|value| connection.add(value));
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
            let line = FieldLine { name, value: b"" };
            assert_eq!(fields.ends_here(Name::of(name), &line, connection), expected, "{name}");
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
