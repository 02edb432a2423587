//! Compares our parsing of heads with that of h11 (PyPI, pure Python, independent of httparse): random heads, most of
//! them valid, with a few bytes changed. If both accept a head, it means the same to both. If one refuses a head that
//! the other accepts, a row of [`KNOWN`] names the section of the standard that decides.

#[path = "support/bytes.rs"]
mod bytes;
mod support;

use std::{
    cell::RefCell,
    io::Write as _,
    process::{Command, Stdio},
};

use bytes::{Random, Shown, with_seeds};
use psystrike::http1::{
    framing,
    head::{self, Version},
};
use support::{base64::encode, repository, require_working};

/// The kind of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Request,
    Answer,
}

/// The result of parsing a message.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// The words of its start line, and the names, in small letters, and values of its fields.
    Head(Vec<Vec<u8>>),
    More,
    Refused(String),
}

/// A known difference: the section that requires or allows the refusal of one parser.
struct Known {
    kind: Kind,
    /// Whether psystrike refuses; otherwise h11 does.
    ours: bool,
    /// The text of the refusal.
    why: &'static str,
    section: &'static str,
}

const fn ours(kind: Kind, why: &'static str, section: &'static str) -> Known {
    Known { kind, ours: true, why, section }
}

const fn theirs(kind: Kind, why: &'static str, section: &'static str) -> Known {
    Known { kind, ours: false, why, section }
}

const KNOWN: &[Known] = &[
    ours(
        Kind::Request,
        "Malformed(\"bare LF\")",
        "RFC 9112 2.2: a recipient may take it; smuggling begins there (answers get a second look: lenient.rs)",
    ),
    ours(
        Kind::Answer,
        "Malformed(\"bare LF\")",
        "RFC 9112 2.2: a recipient may take it; smuggling begins there (answers get a second look: lenient.rs)",
    ),
    ours(
        Kind::Request,
        "Malformed(\"header name\")",
        "RFC 9112 5.2: a server refuses or joins folded lines (answers get a second look)",
    ),
    ours(
        Kind::Answer,
        "Malformed(\"header name\")",
        "RFC 9112 5.2: a server refuses or joins folded lines (answers get a second look)",
    ),
    ours(
        Kind::Request,
        "Malformed(\"header value\")",
        "RFC 9110 5.5: control bytes are invalid; a recipient may keep them",
    ),
    ours(
        Kind::Answer,
        "Malformed(\"header value\")",
        "RFC 9110 5.5: control bytes are invalid; a recipient may keep them",
    ),
    ours(
        Kind::Request,
        "both Content-Length and Transfer-Encoding",
        "RFC 9112 6.3: ought to be handled as an error (answers get a second look)",
    ),
    ours(
        Kind::Answer,
        "both Content-Length and Transfer-Encoding",
        "RFC 9112 6.3: ought to be handled as an error (answers get a second look)",
    ),
    ours(
        Kind::Request,
        "Content-Length repeated",
        "RFC 9112 6.3: refused, or taken once if all are the same (answers get a second look)",
    ),
    ours(
        Kind::Answer,
        "Content-Length repeated",
        "RFC 9112 6.3: refused, or taken once if all are the same (answers get a second look)",
    ),
    ours(
        Kind::Request,
        "FramingError(\"invalid Content-Length\")",
        "RFC 9112 6.3: a list of the same lengths may be taken; Go's client refuses it",
    ),
    ours(
        Kind::Answer,
        "FramingError(\"invalid Content-Length\")",
        "RFC 9112 6.3: a list of the same lengths may be taken; Go's client refuses it",
    ),
    ours(Kind::Request, "Transfer-Encoding in HTTP/1.0", "RFC 9112 6.1: faulty framing"),
    ours(Kind::Answer, "Transfer-Encoding in HTTP/1.0", "RFC 9112 6.1: faulty framing"),
    ours(
        Kind::Request,
        "Version",
        "RFC 9110 2.5: another major version is refused; HTTP/1.2 gets a second look in answers",
    ),
    ours(
        Kind::Answer,
        "Version",
        "RFC 9110 2.5: another major version is refused; HTTP/1.2 gets a second look in answers",
    ),
    ours(
        Kind::Request,
        "Malformed(\"Host header\")",
        "RFC 9112 3.2: a Host with an invalid value is answered by 400",
    ),
    ours(Kind::Answer, "Malformed(\"status code\")", "RFC 9110 15: 100 to 599"),
    ours(
        Kind::Answer,
        "Malformed(\"status line\")",
        "RFC 9112 4: control bytes are no part of a reason phrase (a second look takes them as spaces)",
    ),
    theirs(
        Kind::Request,
        "no request line received",
        "RFC 9112 2.2: a server ignores at least one empty line before the request line",
    ),
];

const METHODS: &[&str] = &["GET", "HEAD", "POST", "OPTIONS", "M-SEARCH", "get"];
const TARGETS: &[&str] =
    &["/", "/pods/10.1.2.3/8080/metrics", "/a?b=c&d", "*", "http://a/b", "a:1", "/%20{}|^"];
const VERSIONS: &[&str] =
    &["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1"];
const STATUSES: &[&str] =
    &["200 OK", "200 ", "200", "204 No", "304 Same", "500 Oh no", "100 Continue", "999 X"];
const FIELDS: &[&str] = &[
    "Host: a",
    "host: b:80",
    "Content-Length: 3",
    "Content-Length: 3",
    "content-length: 4",
    "Content-Length: 3, 3",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked",
    "Connection: close",
    "Connection: keep-alive, x-hop",
    "X-Hop: \t y \t",
    "Accept: */*;q=0.1",
    "X:",
    "X: \u{e9}",
    "Via: 1.1 p",
];
/// The bytes that replace a place in a message.
const EDITS: &[&str] =
    &["\n", "\r", "\r\n", " ", "\t", ":", "\0", "\x01", "\x7f", "\u{e9}", "x", "\r\n ", ",", ""];

fn message(random: &mut Random, kind: Kind) -> Vec<u8> {
    let mut lines = vec![match kind {
        Kind::Request => {
            format!("{} {} {}", random.pick(METHODS), random.pick(TARGETS), random.pick(VERSIONS))
        }
        Kind::Answer => format!("{} {}", random.pick(VERSIONS), random.pick(STATUSES)),
    }];
    if kind == Kind::Request && !random.one_in(8) {
        lines.push("Host: a".to_owned());
    }
    for _ in 0..random.below(4) {
        lines.push(random.pick(FIELDS).to_owned());
    }
    let mut bytes = (lines.join("\r\n") + "\r\n\r\n").into_bytes();
    if kind == Kind::Request && random.one_in(16) {
        bytes.splice(0..0, *b"\r\n");
    }
    for _ in 0..random.below(3) {
        let at = random.below(bytes.len());
        let end = bytes.len().min(at + random.below(3));
        bytes.splice(at..end, random.pick(EDITS).bytes());
    }
    bytes
}

fn by_us(kind: Kind, bytes: &[u8]) -> Verdict {
    let version = |version| if version == Version::Http10 { b"1.0".to_vec() } else { b"1.1".to_vec() };
    let read = match kind {
        Kind::Request => head::request(bytes, |head| {
            let start = vec![head.method.into(), head.target.to_string().into_bytes(), version(head.version)];
            (start, fields(&head.fields), framing::of_request(&head).err())
        }),
        Kind::Answer => head::response(bytes, |head| {
            let start = vec![head.status.to_string().into_bytes(), version(head.version)];
            (start, fields(&head.fields), framing::of_response(&head, false).err())
        }),
    };
    match read {
        Ok(Some((start, fields, None))) => Verdict::Head([start, fields].concat()),
        Ok(Some((_, _, Some(error)))) => Verdict::Refused(format!("{error:?}")),
        Ok(None) => Verdict::More,
        Err(error) => Verdict::Refused(format!("{error:?}")),
    }
}

fn fields(fields: &psystrike::http1::field::Fields<'_, '_>) -> Vec<Vec<u8>> {
    fields.iter().flat_map(|(_, line)| [line.name.to_ascii_lowercase().into(), line.value.to_vec()]).collect()
}

fn by_h11(messages: &[(Kind, Vec<u8>)]) -> Vec<Verdict> {
    let mut command = Command::new("python3");
    command.arg(repository().join("tests/http1_h11.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut python = command.spawn().expect("python3 runs");
    let mut stdin = python.stdin.take().expect("a pipe");
    let lines: String = messages
        .iter()
        .map(|(kind, bytes)| {
            let kind = if *kind == Kind::Request { "request" } else { "answer" };
            format!("{kind} {}\n", encode(bytes))
        })
        .collect();
    let writer = std::thread::spawn(move || stdin.write_all(lines.as_bytes()).expect("it reads"));
    let output = python.wait_with_output().expect("it ends");
    writer.join().expect("the script read all input");
    assert!(output.status.success(), "the script failed");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(verdict).collect()
}

fn verdict(line: &str) -> Verdict {
    let unhex = |word: &str| -> Vec<u8> {
        let digits = word.trim_start_matches('.').as_bytes();
        digits.chunks(2).map(|two| u8::from_str_radix(str::from_utf8(two).unwrap(), 16).unwrap()).collect()
    };
    match line.split_once(' ').unwrap_or((line, "")) {
        ("head", words) => Verdict::Head(words.split(' ').map(unhex).collect()),
        ("more", _) => Verdict::More,
        (_, why) => Verdict::Refused(why.to_owned()),
    }
}

#[test]
fn heads_mean_the_same_to_h11() {
    if !require_working(&["python3", "-c", "import h11; assert h11.__version__ == '0.16.0'"]) {
        return;
    }
    let messages = RefCell::new(Vec::new());
    with_seeds(20_000, |seed, random| {
        let kind = if seed % 2 == 0 { Kind::Request } else { Kind::Answer };
        messages.borrow_mut().push((kind, message(random, kind)));
    });
    let messages = messages.into_inner();
    let theirs = by_h11(&messages);
    assert_eq!(theirs.len(), messages.len());
    let mut taken = 0;
    let mut unknown = std::collections::BTreeMap::<String, (usize, String)>::new();
    let mut met = vec![0; KNOWN.len()];
    for ((kind, bytes), theirs) in messages.iter().zip(theirs) {
        let ours = by_us(*kind, bytes);
        let (by_us, why) = match (&ours, &theirs) {
            (Verdict::Head(ours), Verdict::Head(theirs)) => {
                taken += 1;
                assert!(
                    ours == theirs,
                    "the parsers disagree on the meaning of a {kind:?}: {}",
                    Shown(bytes)
                );
                continue;
            }
            (Verdict::Refused(why), Verdict::Head(_)) => (true, why),
            (Verdict::Head(_), Verdict::Refused(why)) => (false, why),
            // Both refuse it, possibly at different bytes.
            _ => continue,
        };
        let known = KNOWN
            .iter()
            .position(|known| (known.kind, known.ours) == (*kind, by_us) && why.contains(known.why));
        match known {
            Some(known) => met[known] += 1,
            None => {
                let who = if by_us { "ours" } else { "theirs" };
                unknown.entry(format!("{kind:?} {who} {why}")).or_insert((0, Shown(bytes).to_string())).0 +=
                    1;
            }
        }
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
    assert!(taken > 2_000, "only {taken} heads were accepted by both");
    for (known, met) in KNOWN.iter().zip(met) {
        assert!(met > 0, "{:?}: no head shows {:?} ({})", known.kind, known.why, known.section);
    }
}
