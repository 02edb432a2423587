//! The lenient parser of response heads: the strict parser reads every head that it rewrites, with the same meaning,
//! and the result does not depend on how the head is split into reads. Which heads it accepts is tested in
//! `answers.rs`.

#[path = "support/bytes.rs"]
mod bytes;

use std::cell::Cell;

use bytes::{Random, Shown, with_seeds};
use psystrike::http1::{
    field::Name,
    framing, head,
    lenient::{Lenient, normalise},
};

/// Returns a head of valid and odd parts.
fn odd_head(random: &mut Random) -> Vec<u8> {
    const VERSIONS: [&str; 6] = ["HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "HTTP/x.1"];
    const STATUSES: [&str; 6] = [" 200 OK", "  200", " 200  \x01\r x", " 304 \0", " 103 Hi", " 20"];
    const NAMES: [&str; 12] = [
        "A",
        "Content-Length",
        "content-length",
        "Transfer-Encoding",
        "Connection",
        "Content-Encoding",
        "X-Y ",
        "B c",
        "Content-Length ",
        "",
        "(",
        "Location",
    ];
    const VALUES: [&str; 12] = [
        " 5",
        "5",
        " chunked",
        " b",
        " b\r\n c",
        " b\n \t\n\td",
        " \x01",
        " \r",
        " \0",
        " close",
        "\t \u{e9} ",
        " 6",
    ];
    const ENDS: [&str; 5] = ["\r\n", "\r\n", "\n", "\n", "\r\r\n"];
    let most = if random.one_in(8) { ENDS.len() } else { ENDS.len() - 1 };
    let mut head = [random.pick(&VERSIONS), random.pick(&STATUSES), random.pick(&ENDS[..most])].concat();
    for _ in 0..random.below(6) {
        head += &[random.pick(&NAMES), ":", random.pick(&VALUES), random.pick(&ENDS[..most])].concat();
    }
    if random.one_in(20) {
        head += &format!("Connection: close{}\n", ", a".repeat(400));
    }
    head += random.pick(&ENDS[..4]);
    head.into_bytes()
}

/// Returns what the strict parser reads: status, framing fields, whether the connection persists; `None` if it refuses.
fn meaning(head: &[u8]) -> Option<String> {
    let read = head::response(head, |head| {
        let is_framing = |name: &Name| matches!(name, Name::ContentLength | Name::TransferEncoding);
        let fields: Vec<_> =
            head.fields.iter().filter(|(name, _)| is_framing(name)).map(|(_, line)| line.value).collect();
        let length = head.bytes.len();
        format!(
            "{} {fields:?} {:?} {} {length}",
            head.status,
            framing::of_response(&head, false),
            head.persistent()
        )
    });
    read.ok().flatten()
}

#[test]
fn the_strict_parser_accepts_the_normal_form() {
    let accepted = Cell::new(0);
    with_seeds(1500, |_, random| {
        let head = odd_head(random);
        let bytes = [&head[..], b"\r\nbody\n\n"].concat();
        let whole = normalise(&bytes);
        let Lenient::Head { bytes: normal, length } = &whole else {
            assert_ne!(whole, Lenient::Partial, "{}", Shown(&bytes));
            return;
        };
        assert!(*length <= head.len(), "{}", Shown(&bytes));
        for seen in 0..*length {
            assert_eq!(normalise(&bytes[..seen]), Lenient::Partial, "{seen} of {}", Shown(&bytes));
        }
        let meant = meaning(normal).unwrap_or_else(|| panic!("{} from {}", Shown(normal), Shown(&bytes)));
        let again = normalise(normal);
        assert_eq!(again, Lenient::Head { bytes: normal.clone(), length: normal.len() }, "{}", Shown(normal));
        // A head that the strict parser accepts has the same meaning in its normal form, except for a repeated length.
        let strictly = meaning(&head);
        if let Some(strictly) = strictly.filter(|strictly| strictly.contains("Ok(")) {
            let without_size = |meaning: &str| meaning.rsplit_once(' ').map(|(all, _)| all.to_owned());
            assert_eq!(without_size(&meant), without_size(&strictly), "{}", Shown(&bytes));
        }
        accepted.set(accepted.get() + 1);
    });
    let accepted = accepted.get();
    assert!(accepted > 100 || std::env::var_os("PSYSTRIKE_SEED").is_some(), "{accepted}");
}
