//! The fields of a head: the names that matter to a forwarder, and the small grammars of their values.
//!
//! Owns the only list of known names, and matches each field of a head against it once. Never decides on the
//! consequences of a field.

use std::ops::Range;

/// One field line, as httparse splits it: the name without its colon, the value without the white space around it.
pub type FieldLine<'b> = httparse::Header<'b>;

/// The role of a field name for a forwarder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// `Connection`: lists the fields that end at this hop (RFC 9110 section 7.6.1).
    Connection,
    /// `Content-Length`.
    ContentLength,
    /// `Transfer-Encoding`.
    TransferEncoding,
    /// `Trailer`: lists the fields of a chunked body's trailer section.
    Trailer,
    /// `Date` (RFC 9110 section 6.6.1).
    Date,
    /// `Host`.
    Host,
    /// `Via` (RFC 9110 section 7.6.3).
    Via,
    /// `Location` (RFC 9110 section 10.2.2).
    Location,
    /// `Content-Type` or `Content-Encoding`: describes the body. A `Connection` field cannot remove these.
    Content,
    /// `Authorization` (RFC 9110 section 11.6.2).
    Authorization,
    /// `X-Prometheus-Scrape-Timeout-Seconds`: how long Prometheus waits for this scrape.
    ScrapeTimeout,
    /// Hop-by-hop whether or not `Connection` lists it: `Keep-Alive`, `TE`, `Upgrade`, `Expect`, `Proxy-*`. RFC 9110
    /// section 7.6.1 names most; `Expect` is for psystrike, and without a body there is nothing to expect. `Proxy` is
    /// included, as CGI programs receive it as the variable `HTTP_PROXY` (httpoxy, CVE-2016-5385).
    HopByHop,
    /// Any other name: forwarded unchanged.
    Other,
}

impl Name {
    /// Classifies a field name, in any case.
    pub fn of(name: &str) -> Self {
        let bytes = name.as_bytes();
        let first = bytes.first().map_or(0, u8::to_ascii_lowercase);
        // Most senders use the usual spelling, and comparing with it is cheap.
        let is = |usual: &str| name == usual || name.eq_ignore_ascii_case(usual);
        // Length and first letter come first: no two known names share both, and most names of a scrape need no
        // comparison.
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
    /// The empty set.
    pub const NONE: Self = Self(0);

    /// Returns these names and `name`.
    pub const fn with(self, name: Name) -> Self {
        Self(self.0 | 1 << name as u16)
    }

    /// Returns the names of both sets.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns whether `name` is in the set.
    pub const fn contains(self, name: Name) -> bool {
        self.0 & 1 << name as u16 != 0
    }
}

/// The fields of one head in their order, each name classified once.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'b, 'f> {
    /// The whole head, which contains the lines.
    head: &'b [u8],
    lines: &'f [FieldLine<'b>],
    /// The class of each line's name.
    names: &'f [Name],
    /// All names in the head, so that an absent one needs no search.
    present: Names,
}

impl<'b, 'f> Fields<'b, 'f> {
    /// Classifies the names of `lines`, which are slices of `head`, into `names`, which has room for them.
    pub fn sort(head: &'b [u8], lines: &'f [FieldLine<'b>], names: &'f mut [Name]) -> Self {
        let names = &mut names[..lines.len()];
        let mut present = Names::NONE;
        for (name, line) in names.iter_mut().zip(lines) {
            *name = Name::of(line.name);
            present = present.with(*name);
        }
        Self { head, lines, names, present }
    }

    /// Returns every field, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Name, &'f FieldLine<'b>)> + use<'b, 'f> {
        self.names.iter().copied().zip(self.lines)
    }

    /// Returns whether the head has a field of this name.
    pub fn has(&self, name: Name) -> bool {
        self.present.contains(name)
    }

    /// Returns the values of the fields of this name.
    pub fn values(&self, name: Name) -> impl Iterator<Item = &'b [u8]> + Clone + use<'b, 'f> {
        let among = if self.has(name) { self.names } else { &[] };
        let all = among.iter().zip(self.lines);
        all.filter(move |(sorted, _)| **sorted == name).map(|(_, line)| line.value)
    }

    /// Returns the values of the fields with exactly this name, in any case. Use it for names that share a [`Name`]
    /// with others.
    pub fn values_of(&self, name: &'static str) -> impl Iterator<Item = &'b [u8]> + use<'b, 'f> {
        let class = Name::of(name);
        let among = if self.has(class) { self.names } else { &[] };
        let all = among.iter().zip(self.lines);
        let is_it = move |of: Name, line: &FieldLine<'_>| of == class && line.name.eq_ignore_ascii_case(name);
        all.filter(move |(of, line)| is_it(**of, line)).map(|(_, line)| line.value)
    }

    /// Returns the range of the field lines in the head: from the first line to the empty line after the last.
    pub fn section(&self) -> Range<usize> {
        self.start(0)..self.start(self.lines.len())
    }

    /// Returns the range of a line in the head, its line end included.
    pub fn line_at(&self, index: usize) -> Range<usize> {
        self.start(index)..self.start(index + 1)
    }

    /// Returns the range of a value in the head.
    pub fn value_at(&self, index: usize) -> Range<usize> {
        let value = self.lines[index].value;
        let start = offset(self.head, value);
        start..start + value.len()
    }

    /// Returns the start of a line, or of the empty line after the last one.
    fn start(&self, index: usize) -> usize {
        let line = self.lines.get(index);
        line.map_or(self.head.len() - b"\r\n".len(), |line| offset(self.head, line.name.as_bytes()))
    }

    /// Returns whether a field ends at this hop, by its own name or because a `Connection` field lists it.
    ///
    /// `Connection` cannot remove fields that frame or describe a body: otherwise a peer could make the two sides
    /// disagree on where the body ends.
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

/// Returns the offset of `part` in `whole`, which contains it.
pub(super) fn offset(whole: &[u8], part: &[u8]) -> usize {
    part.as_ptr().addr() - whole.as_ptr().addr()
}

/// The options of all `Connection` fields of a head (RFC 9110 section 7.6.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// The head has a `Connection` field.
    pub present: bool,
    /// `close` is listed.
    pub close: bool,
    /// `keep-alive` is listed.
    pub keep_alive: bool,
    /// Field names are listed: those fields end at this hop too.
    pub lists_fields: bool,
}

impl Connection {
    /// Adds the value of one `Connection` field.
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

/// Returns the elements of a comma-separated list, without the white space around them and without empty ones (RFC 9110
/// section 5.6.1).
pub fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// Returns how many entries of a `Via` value were added by intermediaries with the name `pseudonym` (RFC 9110 section
/// 7.6.3: `received-protocol RWS received-by [ RWS comment ]`).
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

/// Parses `1*DIGIT` (RFC 9110 section 8.6). Refuses signs, lists, white space and numbers that overflow.
pub fn digits(value: &[u8]) -> Option<u64> {
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
    let (first, rest) = value.split_first()?;
    rest.iter().try_fold(digit(first)?, |number, byte| number.checked_mul(10)?.checked_add(digit(byte)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_classified_in_any_case() {
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
    fn connection_removes_listed_fields_but_never_those_of_the_body() {
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
    fn fields_are_found_by_their_whole_name() {
        let lines = [
            FieldLine { name: "Proxy-Connection", value: b"a" },
            FieldLine { name: "proxy-AUTHORIZATION", value: b"b" },
            FieldLine { name: "Authorization", value: b"c" },
            FieldLine { name: "Proxy-Authorization", value: b"d" },
        ];
        let mut names = [Name::Other; 4];
        let fields = Fields::sort(b"", &lines, &mut names);
        for (name, expected) in [
            ("Proxy-Authorization", &[&b"b"[..], b"d"][..]),
            ("Authorization", &[b"c"]),
            ("Proxy-Connection", &[b"a"]),
            ("TE", &[]),
            ("X", &[]),
        ] {
            assert_eq!(fields.values_of(name).collect::<Vec<_>>(), expected, "{name}");
        }
    }

    #[test]
    fn via_hops_counts_only_our_own_entries() {
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
    fn digits_refuses_anything_but_digits() {
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
