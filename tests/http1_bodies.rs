//! Bodies as tables: each row is parsed whole, in two parts cut at every point, byte by byte, and with the next
//! message's bytes after it.
//!
//! No matter how a body is cut, the same bytes belong to it, the same bytes are content, and its end or its fault is
//! found at the same byte.

#[path = "support/bytes.rs"]
mod bytes;

use std::collections::VecDeque;

use bytes::{Random, Shown, cuts, with_seeds};
use psystrike::http1::body::{
    BodyError, BodyScanner, CHUNK_EXTENSION_BYTES_MAX, Kind, Progress, Scan, TRAILER_BYTES_MAX,
};
use psystrike::http1::framing::Framing;

/// The result of parsing a body in some number of parts.
#[derive(Clone, PartialEq, Eq)]
struct Followed {
    /// The number of valid bytes of the body.
    bytes: usize,
    progress: Progress,
    content: Vec<u8>,
}

impl std::fmt::Debug for Followed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} after {} bytes, content {}", self.progress, self.bytes, Shown(&self.content))
    }
}

/// Follows a body that comes in `parts`, with both ways of following: `scan`, and `piece` by piece.
fn follow(framing: Framing, parts: &[&[u8]]) -> Followed {
    let mut scanner = BodyScanner::new(framing);
    let mut by_piece = scanner.clone();
    let mut followed = Followed { bytes: 0, progress: Progress::More, content: Vec::new() };
    if scanner.ended() {
        followed.progress = Progress::Ended;
    }
    let mut parts: VecDeque<&[u8]> = parts.iter().copied().collect();
    while let Some(part) = parts.pop_front() {
        let before = scanner.clone();
        let Scan { bytes, progress } = scanner.scan(part);
        assert!(bytes <= part.len(), "{before:?} took {bytes} of {}", Shown(part));
        pieces(&mut by_piece, &part[..bytes], &mut followed.content);
        assert_eq!(by_piece, scanner, "both ways from {before:?} through {}", Shown(part));
        followed.bytes += bytes;
        followed.progress = progress;
        match progress {
            Progress::More => {
                assert_eq!(bytes, part.len(), "the body continues, so all is used: {}", Shown(part))
            }
            Progress::Ended => {
                assert_eq!(
                    scanner.scan(b"0\r\n\r\n"),
                    Scan { bytes: 0, progress },
                    "bytes were used after the end"
                );
                break;
            }
            Progress::Extension => {
                let extension = scanner.span(&part[bytes..]);
                assert_eq!(by_piece.span(&part[bytes..]), extension);
                let extension = match extension {
                    Ok(extension) => extension,
                    Err(error) => {
                        followed.progress = Progress::Broken(error);
                        break;
                    }
                };
                assert_eq!(extension.kind, Kind::Extension, "{before:?}: {}", Shown(part));
                followed.bytes += extension.bytes;
                followed.progress = Progress::More;
                parts.push_front(&part[bytes + extension.bytes..]);
            }
            Progress::Broken(error) => {
                assert_eq!(
                    by_piece.span(&part[bytes..]),
                    Err(error),
                    "both ways at {}",
                    Shown(&part[bytes..])
                );
                assert_eq!(scanner.scan(&part[bytes..]), Scan { bytes: 0, progress }, "an error is final");
                break;
            }
        }
    }
    let end = match (framing, followed.progress) {
        (Framing::UntilClose, _) | (_, Progress::Ended) => Ok(()),
        _ => Err(BodyError::CutShort),
    };
    assert_eq!(scanner.end_of_connection(), end, "{scanner:?}");
    assert_eq!(scanner.ended(), followed.progress == Progress::Ended, "{scanner:?}");
    followed
}

/// Goes through sound bytes piece by piece and keeps the content.
fn pieces(scanner: &mut BodyScanner, bytes: &[u8], content: &mut Vec<u8>) {
    let mut at = 0;
    while at < bytes.len() {
        let piece = scanner.span(&bytes[at..]).expect("sound bytes");
        assert!(piece.bytes > 0, "{scanner:?} makes no progress");
        assert_ne!(piece.kind, Kind::Extension, "{scanner:?} forwards an extension");
        if piece.kind == Kind::Content {
            content.extend_from_slice(&bytes[at..at + piece.bytes]);
        }
        at += piece.bytes;
    }
}

/// Checks a row for every cut. A body that ends also ends there with any bytes after it.
fn check(name: &str, framing: Framing, bytes: &[u8], expected: &Followed) {
    check_cuts(name, framing, bytes, expected);
    if matches!(expected.progress, Progress::Ended | Progress::Broken(_)) {
        for behind in [&b"HTTP/1.1 200 OK\r\n\r\n"[..], b"\r\n", b"\n", b"0\r\n\r\n", b"\0"] {
            check_cuts(name, framing, &[bytes, behind].concat(), expected);
        }
    }
}

fn check_cuts(name: &str, framing: Framing, bytes: &[u8], expected: &Followed) {
    for cut in cuts(bytes.len()) {
        let (first, second) = bytes.split_at(cut);
        let got = follow(framing, &[first, second]);
        assert_eq!(got, *expected, "{name}: {} cut at {cut}", Shown(bytes));
    }
    let single: Vec<_> = bytes.chunks(1).collect();
    assert_eq!(follow(framing, &single), *expected, "{name}: {} byte by byte", Shown(bytes));
}

fn ended(bytes: usize, content: &[u8]) -> Followed {
    Followed { bytes, progress: Progress::Ended, content: content.to_vec() }
}

fn more(bytes: usize, content: &[u8]) -> Followed {
    Followed { bytes, progress: Progress::More, content: content.to_vec() }
}

fn broken(bytes: usize, what: &'static str, content: &[u8]) -> Followed {
    Followed { bytes, progress: Progress::Broken(BodyError::Coding(what)), content: content.to_vec() }
}

#[test]
fn bodies_without_coding() {
    let rows: &[(&str, Framing, &[u8], Followed)] = &[
        ("empty", Framing::Empty, b"", ended(0, b"")),
        ("empty, and bytes behind", Framing::Empty, b"HTTP/1.1 200 OK\r\n", ended(0, b"")),
        ("length 0", Framing::Length(0), b"x", ended(0, b"")),
        ("length", Framing::Length(5), b"hello", ended(5, b"hello")),
        ("length, and bytes after it", Framing::Length(5), b"hello world", ended(5, b"hello")),
        ("any bytes", Framing::Length(6), b"0\r\n\r\n\0", ended(6, b"0\r\n\r\n\0")),
        ("cut short", Framing::Length(6), b"hello", more(5, b"hello")),
        ("nothing yet", Framing::Length(6), b"", more(0, b"")),
        ("the greatest length", Framing::Length(u64::MAX), b"hello", more(5, b"hello")),
        ("until close", Framing::UntilClose, b"0\r\n\r\n\0\n", more(7, b"0\r\n\r\n\0\n")),
        ("until close, no byte yet", Framing::UntilClose, b"", more(0, b"")),
    ];
    for (name, framing, bytes, expected) in rows {
        check(name, *framing, bytes, expected);
    }
}

#[test]
fn chunked_bodies_that_end() {
    let rows: &[(&str, &[u8], &[u8])] = &[
        ("nothing", b"0\r\n\r\n", b""),
        ("many zeros", b"0000000000000000\r\n\r\n", b""),
        ("one chunk", b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        ("two chunks", b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", b"hello world"),
        ("hexadecimal digits", b"A\r\n0123456789\r\nb\r\n0123456789a\r\n0\r\n\r\n", b"01234567890123456789a"),
        ("16 digits", b"0000000000000005\r\nhello\r\n0\r\n\r\n", b"hello"),
        ("data that looks like coding", b"7\r\n0\r\n\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n\r\n"),
        ("an extension", b"5;a=b\r\nhello\r\n0;c\r\n\r\n", b"hello"),
        ("white space before an extension", b"5 \t;a=b\r\nhello\r\n0 ;c\r\n\r\n", b"hello"),
        ("white space after a size", b"5 \r\nhello\r\n0\t \r\n\r\n", b"hello"),
        ("white space in an extension", b"5; a = b ; c\r\nhello\r\n0;\tc\r\n\r\n", b"hello"),
        ("a quoted extension", b"5;a=\"b;\\\"c, d\"\r\nhello\r\n0\r\n\r\n", b"hello"),
        ("an extension not in ASCII", b"5;a=\"\xff\x80\"\r\nhello\r\n0\r\n\r\n", b"hello"),
        ("white space behind an extension", b"5;a \t\r\nhello\r\n0;\r\n\r\n", b"hello"),
        ("a quote without end", b"5;a=\"b\r\nhello\r\n0\r\n\r\n", b"hello"),
        ("control bytes in an extension", b"5;a\0\x7f\r\nhello\r\n0;\x01\r\n\r\n", b"hello"),
        ("an extension of digits", b"5;0\r\nhello\r\n0;5\r\n\r\n", b"hello"),
        ("a trailer field", b"0\r\nA: b\r\n\r\n", b""),
        ("trailer fields", b"5\r\nhello\r\n0;x\r\nA: b\r\nC:\r\nD:\t \xff\t:\r\n\r\n", b"hello"),
        ("trailer fields that mean nothing here", b"0\r\nContent-Length: 5\r\nHost: h\r\n\r\n", b""),
        ("a trailer field's odd name", b"0\r\n!#$%&'*+-.^_`|~9: b\r\n\r\n", b""),
    ];
    for (name, bytes, content) in rows {
        let expected = ended(bytes.len(), content);
        check(name, Framing::Chunked, bytes, &expected);
        // Every prefix is incomplete.
        for len in 0..bytes.len() {
            let got = follow(Framing::Chunked, &[&bytes[..len]]);
            let sound =
                got.progress == Progress::More && got.bytes == len && content.starts_with(&got.content);
            assert!(sound, "{name}: {} cut short at {len}\n got: {got:?}", Shown(bytes));
        }
    }
}

#[test]
fn chunked_bodies_that_break() {
    const SIZE: &str = "chunk size";
    const EXTENSION: &str = "chunk extension";
    const LONGER: &str = "chunk is longer than its size";
    const BARE_CR: &str = "bare CR";
    const TRAILER: &str = "trailer field";
    /// Name, bytes, the number of valid bytes before the broken one, the error, content.
    type Row<'a> = (&'a str, &'a [u8], usize, &'static str, &'a [u8]);
    let rows: &[Row<'_>] = &[
        ("an empty size", b"\r\n", 0, SIZE, b""),
        ("an empty size before an extension", b";a\r\n", 0, SIZE, b""),
        ("white space before a size", b" 5\r\nhello\r\n", 0, SIZE, b""),
        ("an empty line behind a chunk", b"1\r\na\r\n\r\n0\r\n\r\n", 6, SIZE, b"a"),
        ("a positive size", b"+5\r\nhello\r\n", 0, SIZE, b""),
        ("a negative size", b"-5\r\nhello\r\n", 0, SIZE, b""),
        ("0x", b"0x5\r\nhello\r\n", 1, SIZE, b""),
        ("an underscore", b"1_0\r\n", 1, SIZE, b""),
        ("a letter behind hexadecimal ones", b"fg\r\n", 1, SIZE, b""),
        ("a quoted size", b"\"5\"\r\n", 0, SIZE, b""),
        ("NUL in a size", b"5\0\r\n", 1, SIZE, b""),
        ("a comma", b"5,5\r\n", 1, SIZE, b""),
        ("a head instead of a size", b"HTTP/1.1 200 OK\r\n", 0, SIZE, b""),
        ("17 digits", b"00000000000000005\r\nhello\r\n", 16, "chunk size too large", b""),
        ("17 digits that overflow", b"10000000000000000\r\n", 16, "chunk size too large", b""),
        ("digits behind white space", b"5 5\r\nhello\r\n", 2, EXTENSION, b""),
        ("HTAB and digits", b"5\t5\r\n", 2, EXTENSION, b""),
        ("digits behind more white space", b"5 \t 5\r\n", 4, EXTENSION, b""),
        ("bare LF after a size", b"5\nhello\r\n", 1, SIZE, b""),
        ("bare LF behind white space", b"5 \nhello\r\n", 2, EXTENSION, b""),
        ("bare LF after an extension", b"5;a\nhello\r\n", 3, EXTENSION, b""),
        ("bare LF in a quoted string", b"5;a=\"\n\"\r\nhello\r\n", 5, EXTENSION, b""),
        ("bare LF behind data", b"5\r\nhello\n0\r\n\r\n", 8, LONGER, b"hello"),
        ("bare LF after the last size", b"0\n\r\n", 1, SIZE, b""),
        ("bare LF behind a trailer field", b"0\r\nA: b\n\r\n", 7, TRAILER, b""),
        ("bare LF in a trailer name", b"0\r\nA\n: b\r\n\r\n", 4, TRAILER, b""),
        ("bare LF as the last line", b"0\r\n\n", 3, TRAILER, b""),
        ("bare LF as the last line behind a trailer", b"0\r\nA: b\r\n\n", 9, TRAILER, b""),
        ("bare CR behind a size", b"5\rhello\r\n", 2, BARE_CR, b""),
        ("two CR behind a size", b"5\r\r\nhello\r\n", 2, BARE_CR, b""),
        ("bare CR behind an extension", b"5;a\rb\r\nhello\r\n", 4, BARE_CR, b""),
        ("bare CR behind data", b"5\r\nhello\r0\r\n\r\n", 9, LONGER, b"hello"),
        ("two CR behind data", b"5\r\nhello\r\r\n0\r\n\r\n", 9, LONGER, b"hello"),
        ("bare CR behind the last size", b"0\r\r\n", 2, BARE_CR, b""),
        ("bare CR in a trailer field", b"0\r\nA: b\rC: d\r\n\r\n", 8, BARE_CR, b""),
        ("bare CR in a trailer name", b"0\r\nA\r: b\r\n\r\n", 4, TRAILER, b""),
        ("bare CR as the last line", b"0\r\n\rX", 4, BARE_CR, b""),
        ("two CR in the last line", b"0\r\n\r\r\n", 4, BARE_CR, b""),
        ("data longer than its size", b"5\r\nhello world\r\n0\r\n\r\n", 8, LONGER, b"hello"),
        ("data longer by one", b"5\r\nhello!\r\n0\r\n\r\n", 8, LONGER, b"hello"),
        ("data shorter than its size", b"5\r\nhell\r\n0\r\n\r\n", 8, LONGER, b"hell\r"),
        ("no line end behind data", b"5\r\nhello0\r\n\r\n", 8, LONGER, b"hello"),
        ("obs-fold in a trailer", b"0\r\nA: b\r\n c\r\n\r\n", 9, TRAILER, b""),
        ("white space before a trailer", b"0\r\n A: b\r\n\r\n", 3, TRAILER, b""),
        ("white space before a trailer's colon", b"0\r\nA : b\r\n\r\n", 4, TRAILER, b""),
        ("an empty trailer name", b"0\r\n: b\r\n\r\n", 3, TRAILER, b""),
        ("a trailer without colon", b"0\r\nAb\r\n\r\n", 5, TRAILER, b""),
        ("an answer behind no last line", b"0\r\nHTTP/1.1 200 OK\r\n\r\n", 7, TRAILER, b""),
        ("NUL in a trailer name", b"0\r\nA\0: b\r\n\r\n", 4, TRAILER, b""),
        ("NUL in a trailer value", b"0\r\nA: \0\r\n\r\n", 6, TRAILER, b""),
        ("DEL in a trailer value", b"0\r\nA: \x7f\r\n\r\n", 6, TRAILER, b""),
    ];
    for (name, bytes, sound, what, content) in rows {
        // The whole row, not only up to the fault: later bytes change nothing.
        check(name, Framing::Chunked, bytes, &broken(*sound, what, content));
    }
}

/// At the end of every line, neither CR nor LF may be missing, doubled or swapped.
#[test]
fn every_line_ends_with_crlf() {
    let sound = b"5\r\nhello\r\n0 \r\nD: e\r\nF:\r\n\r\nX";
    check("sound", Framing::Chunked, sound, &ended(sound.len() - 1, b"hello"));
    let line_ends: Vec<usize> = (0..sound.len()).filter(|&at| sound[at] == b'\r').collect();
    assert_eq!(line_ends.len(), 6);
    for at in line_ends {
        for (instead, of_it) in [("\n", 0), ("\r", 1), ("\r\r\n", 1), ("\n\r", 0), ("\r\0", 1), ("\0\r\n", 0)]
        {
            let bytes = [&sound[..at], instead.as_bytes(), &sound[at + 2..]].concat();
            let got = follow(Framing::Chunked, &[&bytes]);
            let found =
                matches!(got.progress, Progress::Broken(BodyError::Coding(_))) && got.bytes == at + of_it;
            assert!(found, "{instead:?} for the line end at {at}: {}\n got: {got:?}", Shown(&bytes));
            check("the same, cut", Framing::Chunked, &bytes, &got);
        }
    }
}

#[test]
fn every_byte_at_every_place() {
    const TOKEN: fn(u8) -> bool = |byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    // A field's value, and the CR after it.
    const TEXT: fn(u8) -> bool = |byte| matches!(byte, b'\t' | b'\r' | b' '..=0x7e | 0x80..);
    type Fits = fn(u8) -> bool;
    let places: &[(&str, &str, Fits)] = &[
        ("size", "", |byte| byte.is_ascii_hexdigit()),
        ("size's second digit", "1", |byte| byte.is_ascii_hexdigit() || b"\r; \t".contains(&byte)),
        ("size's 17th digit", "0123456789abcdef", |byte| b"\r; \t".contains(&byte)),
        ("white space after a size", "1 ", |byte| b"\r; \t".contains(&byte)),
        ("extension", "1;", |byte| byte != b'\n'),
        ("extension's second byte", "1 ;a", |byte| byte != b'\n'),
        ("LF after a size", "1\r", |byte| byte == b'\n'),
        ("data", "1\r\n", |_| true),
        ("CR behind data", "1\r\nx", |byte| byte == b'\r'),
        ("LF behind data", "1\r\nx\r", |byte| byte == b'\n'),
        ("next size", "1\r\nx\r\n", |byte| byte.is_ascii_hexdigit()),
        ("LF after the last size", "0\r", |byte| byte == b'\n'),
        ("trailer line", "0\r\n", |byte| byte == b'\r' || TOKEN(byte)),
        ("trailer name", "0\r\nA", |byte| byte == b':' || TOKEN(byte)),
        ("trailer value", "0\r\nA:", TEXT),
        ("trailer value's second byte", "0\r\nA: b", TEXT),
        ("LF behind a trailer", "0\r\nA: b\r", |byte| byte == b'\n'),
        ("next trailer line", "0\r\nA: b\r\n", |byte| byte == b'\r' || TOKEN(byte)),
        ("last LF", "0\r\n\r", |byte| byte == b'\n'),
    ];
    for (name, before, fits) in places {
        for byte in 0..=u8::MAX {
            let bytes = [before.as_bytes(), &[byte]].concat();
            let got = follow(Framing::Chunked, &[&bytes]);
            let sound = match got.progress {
                Progress::Broken(_) => !fits(byte) && got.bytes == before.len(),
                Progress::More | Progress::Extension | Progress::Ended => {
                    fits(byte) && got.bytes == bytes.len()
                }
            };
            assert!(sound, "{name}, byte {byte:#04x}: {}\n got: {got:?}", Shown(&bytes));
        }
    }
}

#[test]
fn limits() {
    assert_eq!((CHUNK_EXTENSION_BYTES_MAX, TRAILER_BYTES_MAX), (4096, 65_536));
    let extension = CHUNK_EXTENSION_BYTES_MAX as usize;
    let trailer = TRAILER_BYTES_MAX as usize;
    let fill = |len: usize| vec![b'x'; len];
    let line = |before: &[u8], len: usize, behind: &[u8]| [before, &fill(len), behind].concat();

    let rows = [
        ("the longest extension", line(b"5;", extension, b"\r\nhello\r\n0\r\n\r\n"), &b"hello"[..]),
        ("the longest extension of a last chunk", line(b"0;", extension, b"\r\n\r\n"), b""),
        ("the longest trailer field", line(b"0\r\nA:", trailer - 4, b"\r\n\r\n"), b""),
        ("the longest trailer section", line(b"0\r\nA:b\r\nC:", trailer - 9, b"\r\n\r\n"), b""),
    ];
    for (name, bytes, content) in &rows {
        let followed_by = [bytes, &b"0\r\n\r\n"[..]].concat();
        check_cuts(name, Framing::Chunked, &followed_by, &ended(bytes.len(), content));
    }

    let too_long = "chunk extension too long";
    let trailer_too_long = "trailer section too long";
    let blank = [b"5".to_vec(), vec![b' '; extension + 2]].concat();
    let rows = [
        ("an extension too long", line(b"5;", extension + 1, b"\r\n"), 2 + extension, too_long),
        ("an extension without end", line(b"5;", 4 * extension, b""), 2 + extension, too_long),
        ("white space without end", blank, 2 + extension, too_long),
        ("a trailer name without end", line(b"0\r\n", trailer + 1, b""), 3 + trailer, trailer_too_long),
        ("a trailer value without end", line(b"0\r\nA:", 2 * trailer, b""), 3 + trailer, trailer_too_long),
        (
            "trailer fields without end",
            [b"0\r\n".to_vec(), b"A: b\r\n".repeat(trailer / 5)].concat(),
            3 + trailer,
            trailer_too_long,
        ),
    ];
    for (name, bytes, sound, what) in &rows {
        let expected = broken(*sound, what, b"");
        check_cuts(name, Framing::Chunked, bytes, &expected);
    }
}

/// Returns a valid body in chunks, in unusual spellings.
fn encoded(random: &mut Random, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in random.parts(body) {
        let zeros = if random.one_in(4) { random.below(12) } else { 0 };
        let size = format!("{}{:x}", "0".repeat(zeros), chunk.len());
        bytes.extend(if random.one_in(2) { size.into_bytes() } else { size.to_uppercase().into_bytes() });
        extension(random, &mut bytes);
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(&b"0000"[..1 + random.below(4)]);
    extension(random, &mut bytes);
    bytes.extend_from_slice(b"\r\n");
    for _ in 0..random.pick(&[0, 0, 1, 3]) {
        let field = [&b"A: b"[..], b"Server-Timing:\ttotal;dur=1", b"x-~:", b"E: \xff, 0"];
        bytes.extend_from_slice(random.pick(&field));
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

fn extension(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..random.pick(&[0, 0, 0, 1, 2]) {
        let one = [&b";a"[..], b";a=b", b" \t; a = \"b\\\"c;d\"", b";0=5", b";ieof"];
        bytes.extend_from_slice(random.pick(&one));
    }
}

#[test]
fn random_bodies_under_random_cuts() {
    with_seeds(400, |seed, random| {
        let length = random.pick(&[0, 1, 30, 3000]);
        let body: Vec<u8> = (0..length).map(|_| random.pick(b"\r\n0a;: \0\xff")).collect();
        let bytes = encoded(random, &body);
        let expected = ended(bytes.len(), &body);
        let wire = [&bytes[..], b"HTTP/1.1 200 OK\r\n\r\n"].concat();
        for _ in 0..8 {
            let parts = random.parts(&wire);
            let got = follow(Framing::Chunked, &parts);
            let cuts: Vec<usize> = parts.iter().map(|part| part.len()).collect();
            assert_eq!(got, expected, "seed {seed}: {} in parts of {cuts:?}", Shown(&wire));
        }
    });
}

/// Parses a body and scans as little of it as possible: opaque bytes are skipped in portions that `portion` draws, up
/// to the maximum; of the rest, as many bytes as `looked` draws are scanned.
fn follow_passing(
    framing: Framing,
    bytes: &[u8],
    mut portion: impl FnMut(usize) -> usize,
    mut looked: impl FnMut(usize) -> usize,
) -> (usize, Progress, BodyScanner) {
    let mut scanner = BodyScanner::new(framing);
    let mut at = 0;
    while at < bytes.len() && !scanner.ended() {
        let unseen = scanner.opaque_len();
        let left = bytes.len() - at;
        let before = scanner.clone();
        let scanned = if unseen > 0 {
            let most = usize::try_from(unseen).unwrap_or(usize::MAX).min(left);
            let passed = portion(most);
            let scanned = scanner.skip_opaque(passed as u64);
            assert_eq!(scanned.bytes, passed, "{before:?} skips opaque bytes");
            assert!(
                !matches!(scanned.progress, Progress::Broken(_)),
                "{before:?}: skipped bytes cannot be broken"
            );
            scanned
        } else {
            scanner.scan(&bytes[at..at + looked(left)])
        };
        at += scanned.bytes;
        assert_eq!(scanned.progress == Progress::Ended, scanner.ended(), "from {before:?}");
        if scanned.progress != Progress::More {
            return (at, scanned.progress, scanner);
        }
    }
    let progress = if scanner.ended() { Progress::Ended } else { Progress::More };
    (at, progress, scanner)
}

/// Checks that skipping, in portions of any size, has the same result as scanning the same bytes.
fn check_passing(name: &str, framing: Framing, bytes: &[u8]) {
    let mut scanner = BodyScanner::new(framing);
    let scanned = scanner.scan(bytes);
    let expected = (scanned.bytes, scanned.progress, scanner);
    for most in [1, 2, 3, 7, 1000, usize::MAX] {
        for looks in [1, 2, 3, usize::MAX] {
            let got = follow_passing(framing, bytes, |left| most.min(left), |left| looks.min(left));
            let bytes = Shown(bytes);
            assert_eq!(got, expected, "{name}: at most {most} skipped, {looks} scanned, of {bytes}");
        }
    }
    // Skips up to a point and scans from there, or the other way round: both are one body.
    for cut in cuts(bytes.len()) {
        let (first, second) = bytes.split_at(cut);
        for passes_first in [true, false] {
            let mut scanner = BodyScanner::new(framing);
            let mut sound = 0;
            let mut progress = if scanner.ended() { Progress::Ended } else { Progress::More };
            for (part, passes) in [(first, passes_first), (second, !passes_first)] {
                let mut rest = part;
                while progress == Progress::More && !rest.is_empty() {
                    let unseen = scanner.opaque_len().min(rest.len() as u64);
                    let scanned =
                        if passes && unseen > 0 { scanner.skip_opaque(unseen) } else { scanner.scan(rest) };
                    sound += scanned.bytes;
                    progress = scanned.progress;
                    rest = &rest[scanned.bytes..];
                }
            }
            let got = (sound, progress, scanner);
            assert_eq!(got, expected, "{name}: cut at {cut}, the first part passed: {passes_first}");
        }
    }
}

#[test]
fn opaque_lengths_in_every_state() {
    let chunked = |before: &[u8]| {
        let mut scanner = BodyScanner::new(Framing::Chunked);
        let scanned = scanner.scan(before);
        assert_eq!(scanned.bytes, before.len(), "{}", Shown(before));
        scanner
    };
    let extended = |before: &[u8], extension: &[u8]| {
        let mut scanner = chunked(before);
        let (scanned, _) = scanner.sound_to_front(&mut extension.to_vec());
        assert_eq!(scanned.bytes, extension.len(), "{}", Shown(extension));
        scanner
    };
    // The state, and the number of opaque bytes; skipping more than that changes nothing more.
    let rows: &[(&str, BodyScanner, u64)] = &[
        ("empty", BodyScanner::new(Framing::Empty), 0),
        ("length 0", BodyScanner::new(Framing::Length(0)), 0),
        ("length", BodyScanner::new(Framing::Length(5)), 5),
        ("the greatest length", BodyScanner::new(Framing::Length(u64::MAX)), u64::MAX),
        ("until close", BodyScanner::new(Framing::UntilClose), u64::MAX),
        ("size", chunked(b""), 0),
        ("size's second digit", chunked(b"5"), 0),
        ("LF after an extension", extended(b"5", b";a\r"), 0),
        ("extension", extended(b"5", b";a"), 0),
        ("LF after a size", chunked(b"5\r"), 0),
        ("data", chunked(b"5\r\n"), 5),
        ("data's second byte", chunked(b"5\r\nh"), 4),
        ("data's last byte", chunked(b"5\r\nhell"), 1),
        ("the largest chunk", chunked(b"ffffffffffffffff\r\n"), u64::MAX),
        ("CR behind data", chunked(b"5\r\nhello"), 0),
        ("LF behind data", chunked(b"5\r\nhello\r"), 0),
        ("next size", chunked(b"5\r\nhello\r\n"), 0),
        ("next data", chunked(b"5\r\nhello\r\n3\r\n"), 3),
        ("LF after the last size", chunked(b"0\r"), 0),
        ("trailer line", chunked(b"0\r\n"), 0),
        ("trailer name", chunked(b"0\r\nA"), 0),
        ("trailer value", chunked(b"0\r\nA:"), 0),
        ("LF behind a trailer", chunked(b"0\r\nA:\r"), 0),
        ("last LF", chunked(b"0\r\n\r"), 0),
        ("ended", chunked(b"0\r\n\r\n"), 0),
    ];
    for (name, scanner, unseen) in rows {
        assert_eq!(scanner.opaque_len(), *unseen, "{name}");
        // No bytes.
        let mut passing = scanner.clone();
        let progress = if scanner.ended() { Progress::Ended } else { Progress::More };
        assert_eq!(passing.skip_opaque(0), Scan { bytes: 0, progress }, "{name}");
        assert_eq!(passing, *scanner, "{name}: no bytes");
        // Exactly the opaque bytes, and more: only the opaque ones belong to the body.
        for bytes in [*unseen, unseen.saturating_add(1), u64::MAX] {
            let mut passing = scanner.clone();
            let passed = passing.skip_opaque(bytes);
            assert_eq!(passed.bytes as u64, *unseen.min(&bytes), "{name}: {bytes} passed");
            let ends = matches!(scanner, BodyScanner::Length(_)) || scanner.ended();
            assert_eq!(
                passed.progress,
                if ends { Progress::Ended } else { Progress::More },
                "{name}: {bytes} passed"
            );
            assert_eq!(passing.ended(), ends, "{name}: {bytes} passed");
            if *unseen == 0 {
                assert_eq!(passing, *scanner, "{name}: {bytes} skipped although each has to be scanned");
            }
            let end =
                if ends || *scanner == BodyScanner::UntilClose { Ok(()) } else { Err(BodyError::CutShort) };
            assert_eq!(passing.end_of_connection(), end, "{name}: {bytes} passed");
        }
        // All but one byte do not end it.
        if let Some(but_one @ 1..) = unseen.checked_sub(1) {
            let mut passing = scanner.clone();
            assert_eq!(
                passing.skip_opaque(but_one),
                Scan { bytes: but_one as usize, progress: Progress::More },
                "{name}"
            );
            let left = if *scanner == BodyScanner::UntilClose { u64::MAX } else { 1 };
            assert_eq!(passing.opaque_len(), left, "{name}");
        }
    }
}

/// Bytes after a chunk's size are never forwarded; all others are.
#[test]
fn extensions_are_not_forwarded() {
    for (came, goes) in [
        ("5 \r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ("5 \t ;a = b \r\nhello\r\n0  \r\nA: b\r\n\r\n", "5\r\nhello\r\n0\r\nA: b\r\n\r\n"),
        ("5;\r\nhello\r\n0;\"\0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ("4\r\n5 \r\n\r\n1 \r\nx\r\n0\r\n\r\n", "4\r\n5 \r\n\r\n1\r\nx\r\n0\r\n\r\n"),
    ] {
        for cut in 0..=came.len() {
            let mut scanner = BodyScanner::new(Framing::Chunked);
            let mut got = Vec::new();
            for part in [&came[..cut], &came[cut..]] {
                let mut part = part.as_bytes().to_vec();
                let (scanned, kept) = scanner.sound_to_front(&mut part);
                assert_eq!(scanned.bytes, part.len(), "{came:?} cut at {cut}");
                got.extend_from_slice(&part[..kept]);
            }
            assert!(scanner.ended(), "{came:?} cut at {cut}");
            assert_eq!(String::from_utf8_lossy(&got), goes, "{came:?} cut at {cut}");
        }
    }
}

#[test]
fn skipping_agrees_with_scanning() {
    for (name, framing, bytes) in [
        ("empty", Framing::Empty, &b"x"[..]),
        ("length", Framing::Length(5), b"hello"),
        ("length, and bytes after it", Framing::Length(5), b"hello world"),
        ("length, cut short", Framing::Length(9), b"hello"),
        ("until close", Framing::UntilClose, b"0\r\n\r\n"),
        ("chunks", Framing::Chunked, b"5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nA: b\r\n\r\nHTTP/1.1"),
        ("line ends in data", Framing::Chunked, b"4\r\n\r\n\r\n\r\n0\r\n\r\n"),
        ("chunks, cut short in data", Framing::Chunked, b"5\r\nhell"),
        ("chunks, cut short behind data", Framing::Chunked, b"5\r\nhello"),
        ("data longer than its size", Framing::Chunked, b"5\r\nhello!\r\n0\r\n\r\n"),
        ("no size behind data", Framing::Chunked, b"5\r\nhello\r\n-\r\n"),
    ] {
        check_passing(name, framing, bytes);
    }
}

#[test]
fn skipping_agrees_with_scanning_random_bodies() {
    with_seeds(400, |seed, random| {
        let length = random.pick(&[0, 1, 30, 3000]);
        let body: Vec<u8> = (0..length).map(|_| random.pick(b"\r\n0a;: \0\xff")).collect();
        let mut bytes = encoded(random, &body);
        if random.one_in(2) {
            let at = random.below(bytes.len());
            bytes[at] = random.pick(b"\r\n\t ;:0aF\0\x7f");
        }
        bytes.extend_from_slice(b"HTTP/1.1 200 OK\r\n\r\n");
        let framing = random.pick(&[
            Framing::Chunked,
            Framing::Chunked,
            Framing::UntilClose,
            Framing::Length(bytes.len() as u64 / 2),
        ]);
        let mut scanner = BodyScanner::new(framing);
        let scanned = scanner.scan(&bytes);
        let expected = (scanned.bytes, scanned.progress, scanner);
        for _ in 0..8 {
            let mut portions = Random::new(random.next());
            let mut looks = Random::new(random.next());
            let portion = |most: usize| 1 + portions.below(most);
            let got = follow_passing(framing, &bytes, portion, |most: usize| 1 + looks.below(most));
            assert_eq!(got, expected, "seed {seed}: {framing:?}, {}", Shown(&bytes));
        }
    });
}

#[test]
fn random_faults_are_found_independently_of_cuts() {
    with_seeds(1500, |seed, random| {
        let length = random.pick(&[0, 5, 60]);
        let body: Vec<u8> = (0..length).map(|_| random.byte()).collect();
        let mut bytes = encoded(random, &body);
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len());
            let byte = if random.one_in(4) { random.byte() } else { random.pick(b"\r\n\t ;:0aF\0\x7f") };
            match random.below(3) {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        let expected = follow(Framing::Chunked, &[&bytes]);
        check_cuts(&format!("seed {seed}"), Framing::Chunked, &bytes, &expected);
        for _ in 0..4 {
            let parts = random.parts(&bytes);
            let cuts: Vec<usize> = parts.iter().map(|part| part.len()).collect();
            let got = follow(Framing::Chunked, &parts);
            assert_eq!(got, expected, "seed {seed}: {} in parts of {cuts:?}", Shown(&bytes));
        }
    });
}
