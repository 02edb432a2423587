//! The syntax of DNS names.
//!
//! Owns the distinction between names and addresses. Never decides whether a name may be resolved.

/// The longest DNS name, and the longest label in it (RFC 1035 section 2.3.4), in text and without a trailing dot.
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// Returns whether a text is a DNS name: labels of letters, digits, hyphens and underscores, with an optional trailing
/// dot. Other spellings of addresses that resolvers accept, such as `0x7f.1`, are not names.
pub fn is_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    // The last label of a name is not a number (WHATWG URL, "ends in a number"): getaddrinfo(3) would parse an address.
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit())
        || last.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("0x"));
    name.len() <= NAME_BYTES_MAX && name.split('.').all(is_label) && !is_number
}

/// Returns whether a text is a label (RFC 1123 section 2.1). Underscores are accepted too: the standard excludes them
/// from host names, but they are in use.
fn is_label(label: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=LABEL_BYTES_MAX).contains(&label.len())
        && label.bytes().all(is_inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Returns whether a name equals `suffix` or is a subdomain of it. The suffix is in lower case, without a trailing dot.
pub fn ends_in(name: &str, suffix: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let Some(start) = name.len().checked_sub(suffix.len()) else { return false };
    let (above, end) = (&name.as_bytes()[..start], &name.as_bytes()[start..]);
    end.eq_ignore_ascii_case(suffix.as_bytes()) && (above.is_empty() || above.ends_with(b"."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinguished_from_addresses_and_other_text() {
        let label = "a".repeat(LABEL_BYTES_MAX);
        let longest = [&*label, &label, &label, &label[..61]].join(".");
        assert_eq!(longest.len(), NAME_BYTES_MAX);
        for name in [
            "localhost",
            "LocalHost",
            "my-svc.my-ns.svc",
            "my-svc.my-ns.svc.cluster.local.",
            "a",
            "a.",
            "1a",
            "1.a",
            "10-1-2-3.default.pod.cluster.local",
            "10.1.2.3.example",
            "_http._tcp.svc",
            "a_b",
            "_",
            "xn--bcher-kva.example",
            "a0x1",
            &label,
            &longest,
            &format!("{longest}."),
        ] {
            assert!(is_name(name), "{name}");
        }
        for neither in [
            "",
            ".",
            "..",
            ".a",
            "a..",
            "a..b",
            "-",
            "-a",
            "a-",
            "a.-b",
            "a-.b",
            "a b",
            "a%2eb",
            "a:b",
            "a@b",
            "b\u{fc}cher.example",
            "*.a",
            "a/b",
            "[a]",
            "%5Ba%5D",
            "fe80::1%eth0",
            // Addresses in disguise.
            "0177.0.0.1",
            "2130706433",
            "0x7f.1",
            "0x7f000001",
            "127.1",
            "127.0.1",
            "0",
            "10.1.2.3.",
            "10.1.2.3.4",
            "10.1.2.256",
            "10.1.2.0x3",
            "10.1.2.0X3.",
            "a.0x",
            "a.0xyz",
            "a.1",
            "a.1.",
            &format!("{label}a"),
            &format!("a.{label}a.b"),
            &format!("{longest}a"),
            &format!("{longest}a."),
        ] {
            assert!(!is_name(neither), "{neither}");
        }
    }

    #[test]
    fn suffixes_are_whole_labels() {
        for (name, suffix, expected) in [
            ("web.ns.svc", "svc", true),
            ("web.ns.svc.", "svc", true),
            ("WEB.NS.SVC", "ns.svc", true),
            ("svc", "svc", true),
            ("websvc", "svc", false),
            ("svc.example", "svc", false),
            ("vc", "svc", false),
            ("web.ns.svc", "web.ns.svc", true),
            ("b.ns.svc", "web.ns.svc", false),
        ] {
            assert_eq!(ends_in(name, suffix), expected, "{name} in {suffix}");
        }
    }
}
