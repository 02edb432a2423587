//! Decides which addresses and ports may be reached. Keeps psystrike from becoming an open proxy into the cluster.
//!
//! Checks the address that the socket connects to. A name is checked too, before it is resolved, but allows nothing:
//! each of its addresses has to be allowed.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    ops::RangeInclusive,
    str::FromStr,
};

use ipnet::IpNet;

use super::{
    name::{ends_in, is_name},
    outcome::Outcome,
    peer::Peer,
    special,
};

/// The private ranges: RFC 1918, RFC 6598 (used for pods by several clouds) and RFC 4193.
pub const ALLOW_DEFAULT: &str = "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,fc00::/7";

/// The allowed destinations. The lists are merged when the policy is made, so that checking an address is a single
/// search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
    ports: Ports,
    /// The allowed suffixes of names. Empty: any name is allowed.
    names: Vec<Box<str>>,
    /// The addresses that both lists and [`special::RANGES`] allow: first and last [`bits`], disjoint, in order.
    allowed: Box<[(u128, u128)]>,
}

impl Policy {
    /// Returns a policy that allows the addresses in `allow` except those in `deny`, on `ports`.
    pub fn new(allow: Vec<IpNet>, deny: Vec<IpNet>, ports: Ports) -> Self {
        const IPV4: IpNet = special::v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96); // as in `bits`
        let ranges = || allow.iter().chain(&deny).chain(&special::RANGES).chain(&[IPV4]);
        // No list has a boundary between two neighbouring starts, so a piece is allowed if its first address is.
        let firsts = ranges().map(|range| bits(range.network()));
        let mut starts = vec![0];
        for start in firsts.chain(ranges().filter_map(|range| bits(range.broadcast()).checked_add(1))) {
            // std's sort is 7 KB of code.
            if let Err(at) = starts.binary_search(&start) {
                starts.insert(at, start);
            }
        }
        let lasts = starts.iter().skip(1).map(|next| next - 1).chain([u128::MAX]);
        let pieces = starts.iter().copied().zip(lasts);
        let allowed = pieces
            .filter(|&(first, _)| {
                let ip = IpAddr::V6(Ipv6Addr::from_bits(first)).to_canonical();
                lists_allow(&allow, &deny, ip)
            })
            .collect();
        Self { allow, deny, ports, names: Vec::new(), allowed }
    }

    /// Restricts names to these suffixes and their subdomains. Without suffixes, any name is allowed.
    #[must_use]
    pub fn with_names(self, suffixes: Vec<Box<str>>) -> Self {
        Self { names: suffixes, ..self }
    }

    /// Returns the allowed suffixes of names. Empty: any name is allowed.
    pub fn names(&self) -> &[Box<str>] {
        &self.names
    }

    /// Returns the allowed addresses.
    pub fn allow(&self) -> &[IpNet] {
        &self.allow
    }

    /// Returns the addresses that are refused even if [`Self::allow`] matches.
    pub fn deny(&self) -> &[IpNet] {
        &self.deny
    }

    /// Returns the allowed ports.
    pub fn ports(&self) -> &Ports {
        &self.ports
    }

    /// Checks whether a connection to `peer` may be opened.
    ///
    /// # Errors
    /// [`Outcome::AddressNotAllowed`] or [`Outcome::PortNotAllowed`].
    pub fn authorize(&self, peer: Peer) -> Result<(), Outcome> {
        let ip = peer.ip();
        let embedded_pass = match ip {
            IpAddr::V4(_) => true,
            IpAddr::V6(v6) => special::embedded(v6).into_iter().flatten().all(|v4| self.allows(v4.into())),
        };
        if !self.allows(ip) || !embedded_pass {
            return Err(Outcome::AddressNotAllowed);
        }
        if self.ports.contain(peer.port()) { Ok(()) } else { Err(Outcome::PortNotAllowed) }
    }

    /// Checks whether a name may be resolved, to connect to this port.
    ///
    /// # Errors
    /// [`Outcome::NameNotAllowed`] or [`Outcome::PortNotAllowed`].
    pub fn authorize_name(&self, name: &str, port: u16) -> Result<(), Outcome> {
        if !self.names.is_empty() && !self.names.iter().any(|suffix| ends_in(name, suffix)) {
            return Err(Outcome::NameNotAllowed);
        }
        if self.ports.contain(port) { Ok(()) } else { Err(Outcome::PortNotAllowed) }
    }

    fn allows(&self, ip: IpAddr) -> bool {
        let bits = bits(ip);
        let behind = self.allowed.partition_point(|&(first, _)| first <= bits);
        behind.checked_sub(1).is_some_and(|at| bits <= self.allowed[at].1)
    }
}

/// Returns an address as a number. IPv4 addresses become IPv4-mapped IPv6 ones, which never occur as such.
fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Returns whether the lists and [`special::RANGES`] allow an address.
fn lists_allow(allow: &[IpNet], deny: &[IpNet], ip: IpAddr) -> bool {
    let special = special::RANGES.iter().filter(|range| range.contains(&ip));
    // The matching entry must lie inside every special range that contains the address.
    let opens = |entry: &IpNet| entry.contains(&ip) && special.clone().all(|range| range.contains(entry));
    allow.iter().any(opens) && !deny.iter().any(|entry| entry.contains(&ip))
}

/// Parses one entry of `--allow` or `--deny`: a range like `10.0.0.0/8`, or one address.
///
/// # Errors
/// The fault or the expected format, to be shown after the value.
pub fn parse_range(text: &str) -> Result<IpNet, String> {
    const EXPECTED: &str = "expected an address or a range: 10.1.2.3, 10.0.0.0/8, fd00::/8";
    let range = match IpAddr::from_str(text) {
        Ok(ip) => IpNet::from(ip),
        Err(_) => IpNet::from_str(text).map_err(|_| EXPECTED.to_owned())?,
    };
    if matches!(range, IpNet::V6(v6) if v6.network().to_ipv4_mapped().is_some()) {
        return Err("IPv4-mapped addresses are matched as IPv4; use the IPv4 range".to_owned());
    }
    let trunc = range.trunc();
    if trunc == range { Ok(range) } else { Err(format!("has host bits set; did you mean {trunc}?")) }
}

/// Parses one entry of `--allow-names`: a name or a suffix of names, with or without a leading dot.
///
/// # Errors
/// The expected format.
pub fn parse_suffix(text: &str) -> Result<Box<str>, &'static str> {
    let suffix = text.strip_prefix('.').unwrap_or(text);
    let suffix = suffix.strip_suffix('.').unwrap_or(suffix);
    if is_name(suffix) { Ok(suffix.into()) } else { Err("expected a DNS name: svc.cluster.local") }
}

/// A set of ports, as ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports(Vec<RangeInclusive<u16>>);

impl Ports {
    /// Returns the set of all ports.
    pub fn all() -> Self {
        Self(vec![1..=u16::MAX])
    }

    /// Returns whether a port is in both sets.
    pub fn overlap(&self, other: &Self) -> bool {
        let meets = |one: &RangeInclusive<u16>| {
            other.0.iter().any(|two| one.start() <= two.end() && two.start() <= one.end())
        };
        self.0.iter().any(meets)
    }

    /// Returns whether the set contains `port`.
    pub fn contain(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }
}

impl FromStr for Ports {
    type Err = &'static str;

    /// Parses a list like `8080,9090-9999`, with or without a trailing comma.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected ports from 1 to 65535 and ranges of them: 8080,9090-9999";
        let port = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u16>().ok().filter(|&port| digits && port > 0).ok_or(EXPECTED)
        };
        let range = |text: &str| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let range = port(first.trim())?..=port(last.trim())?;
            if range.is_empty() { Err(EXPECTED) } else { Ok(range) }
        };
        let text = text.strip_suffix(',').unwrap_or(text);
        text.split(',').map(|text| range(text.trim())).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, range) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match (range.start(), range.end()) {
                (first, last) if first == last => write!(f, "{comma}{first}")?,
                (first, last) => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allow: &str, deny: &str, ports: &str) -> Policy {
        let ranges = |list: &str| {
            list.split(',').filter(|text| !text.is_empty()).map(|text| parse_range(text).unwrap()).collect()
        };
        Policy::new(ranges(allow), ranges(deny), ports.parse().unwrap())
    }

    /// Each row: the allow list, the deny list, an address, whether it may be reached.
    #[test]
    fn every_special_range_is_opened_only_from_inside() {
        const ALL: &str = "0.0.0.0/0,::/0";
        for (allow, deny, ip, expected) in [
            // The default list.
            (ALLOW_DEFAULT, "", "10.0.0.1", true),
            (ALLOW_DEFAULT, "", "172.31.255.255", true),
            (ALLOW_DEFAULT, "", "172.32.0.0", false),
            (ALLOW_DEFAULT, "", "192.168.1.1", true),
            (ALLOW_DEFAULT, "", "100.127.0.1", true),
            (ALLOW_DEFAULT, "", "8.8.8.8", false),
            (ALLOW_DEFAULT, "", "fd00::1", true),
            (ALLOW_DEFAULT, "", "2a00::1", false),
            // Special ranges are closed even if everything is allowed.
            (ALL, "", "8.8.8.8", true),
            (ALL, "", "2a00::1", true),
            (ALL, "", "0.0.0.0", false),
            (ALL, "", "0.1.2.3", false),
            (ALL, "", "127.0.0.1", false),
            (ALL, "", "127.255.255.255", false),
            (ALL, "", "169.254.169.254", false),
            (ALL, "", "169.254.0.1", false),
            (ALL, "", "100.100.100.200", false),
            (ALLOW_DEFAULT, "", "100.100.100.200", false),
            (ALL, "", "224.0.0.1", false),
            (ALL, "", "239.255.255.255", false),
            (ALL, "", "255.255.255.255", false),
            (ALL, "", "240.0.0.1", true),
            (ALL, "", "::", false),
            (ALL, "", "::1", false),
            (ALL, "", "fe80::1", false),
            (ALL, "", "febf::1", false),
            (ALL, "", "fec0::1", true),
            (ALL, "", "ff02::1", false),
            (ALL, "", "fd00:ec2::254", false),
            (ALLOW_DEFAULT, "", "fd00:ec2::254", false),
            (ALLOW_DEFAULT, "", "fd20:ce::254", false),
            (ALLOW_DEFAULT, "", "fd00:ec2::23", false),
            (ALLOW_DEFAULT, "", "fd00:ec2:ffff::1", false),
            (ALLOW_DEFAULT, "", "fd00:ec3::254", true),
            (ALLOW_DEFAULT, "", "fd00:100::100:200", false),
            (ALLOW_DEFAULT, "", "fd00:c1::a9fe:a9fe", false),
            (ALLOW_DEFAULT, "", "fd00:42::42", false),
            (ALLOW_DEFAULT, "", "fd00:a9fe:a9fe::1", false),
            (ALLOW_DEFAULT, "", "fd00:a9fe:a9fe::2", true),
            (ALL, "", "168.63.129.16", false),
            (ALL, "", "168.63.129.17", true),
            (ALL, "", "192.0.0.192", false),
            (ALL, "", "192.0.0.193", true),
            // An entry inside a special range opens that entry alone.
            ("127.0.0.0/8", "", "127.9.9.9", true),
            ("127.0.0.1", "", "127.0.0.1", true),
            ("127.0.0.1", "", "127.0.0.2", false),
            ("126.0.0.0/7", "", "127.0.0.1", false),
            ("169.254.169.254", "", "169.254.169.254", true),
            ("169.254.0.0/16", "", "169.254.169.254", true),
            ("169.0.0.0/8", "", "169.254.169.254", false),
            ("0.0.0.0/8", "", "0.0.0.0", true),
            ("255.255.255.255", "", "255.255.255.255", true),
            ("240.0.0.0/4", "", "255.255.255.255", false),
            ("224.0.0.0/4", "", "224.0.0.1", true),
            ("::1/128", "", "::1", true),
            ("::/127", "", "::1", false),
            ("fe80::/10", "", "fe80::1", true),
            ("fe00::/9", "", "fe80::1", false),
            ("ff00::/8", "", "ff02::1", true),
            ("fd00:ec2::254", "", "fd00:ec2::254", true),
            ("fd00:ec2::/32", "", "fd00:ec2::254", true),
            ("fd00:ec2::/31", "", "fd00:ec2::254", false),
            ("168.63.129.16", "", "168.63.129.16", true),
            ("168.63.129.0/24", "", "168.63.129.16", false),
            ("fd00:c1::a9fe:a9fe,fc00::/7", "", "fd00:c1::a9fe:a9fe", true),
            // The deny list takes precedence.
            ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", false),
            ("10.0.0.0/8", "10.1.0.0/16", "10.2.2.3", true),
            ("10.1.2.3", "10.0.0.0/8", "10.1.2.3", false),
            ("10.0.0.0/8", "0.0.0.0/0", "10.1.2.3", false),
            // An empty list allows nothing.
            ("", "", "10.0.0.1", false),
            // IPv4-mapped addresses are IPv4 ones.
            (ALL, "", "::ffff:127.0.0.1", false),
            (ALL, "", "::ffff:169.254.169.254", false),
            ("::/0", "", "::ffff:10.0.0.1", false),
            ("10.0.0.0/8", "", "::ffff:10.0.0.1", true),
            ("0.0.0.0/0", "10.0.0.0/8", "::ffff:10.0.0.1", false),
            // Embedded IPv4 addresses must pass as well.
            (ALL, "", "64:ff9b::8.8.8.8", true),
            (ALL, "", "64:ff9b::169.254.169.254", false),
            (ALL, "", "64:ff9b:1::127.0.0.1", false),
            (ALL, "", "64:ff9b:1::8.8.8.8", true),
            // RFC 6052 section 2.2: by /64, /56 and /48 prefixes, around octet 8.
            (ALL, "", "64:ff9b:1:0:a9:fea9:fe00:0", false),
            (ALL, "", "64:ff9b:1:0:7f:0:100:0", false),
            (ALL, "", "64:ff9b:1:0:ffa9:fea9:fe00:0", false),
            (ALL, "", "64:ff9b:1:2:8:808:800:0", true),
            (ALL, "", "64:ff9b:1:a9:fe:a9fe::", false),
            (ALL, "", "64:ff9b:1:17f:0:1::", false),
            (ALL, "", "64:ff9b:1:208:8:808::", true),
            (ALL, "", "64:ff9b:1:a9fe:a9:fe00::", false),
            (ALL, "", "64:ff9b:1:7f00:0:100::", false),
            (ALL, "", "64:ff9b:1:808:8:800::", true),
            (ALL, "", "64:ff9b:2:a9fe:a9:fe00::", true),
            // ISATAP (RFC 5214), for any prefix and any bits "universal" and "group" of the identifier.
            (ALL, "", "2001:db8::5efe:169.254.169.254", false),
            (ALL, "", "2001:db8::200:5efe:127.0.0.1", false),
            (ALL, "", "2001:db8::300:5efe:127.0.0.1", false),
            (ALL, "", "2001:db8::400:5efe:127.0.0.1", true),
            (ALL, "", "2001:db8::5efe:8.8.8.8", true),
            // ISATAP hides no other reading.
            (ALL, "", "2002:a9fe:a9fe::5efe:8.8.8.8", false),
            (ALL, "10.0.0.0/8", "2002:a01:203:0:200:5efe:8.8.8.8", false),
            (ALL, "", "64:ff9b:1:7f00:0:5efe:8.8.8.8", false),
            (ALL, "", "2001:0:7f00:1::5efe:8.8.8.8", false),
            (ALLOW_DEFAULT, "", "fd00::5efe:169.254.169.254", false),
            (ALLOW_DEFAULT, "", "fd00::5efe:10.1.2.3", true),
            ("::/0", "", "64:ff9b::8.8.8.8", false),
            ("::/0,8.0.0.0/8", "", "64:ff9b::8.8.8.8", true),
            (ALL, "8.8.8.8", "64:ff9b::8.8.8.8", false),
            (ALL, "", "2002:7f00:1::", false),
            (ALL, "", "2002:a9fe:a9fe::1", false),
            (ALL, "", "2002:808:808::1", true),
            (ALL, "", "2001:0:808:808::5601:5601", false), // the client is 169.254.169.254
            (ALL, "", "2001:0:7f00:1::f7f7:f7f7", false),  // the server is 127.0.0.1
            (ALL, "", "2001:0:808:808::f7f7:f7f7", true),
            (ALL, "", "2001:1::7f00:1", true),
            (ALL, "", "::127.0.0.1", false),
            (ALL, "", "::8.8.8.8", true),
            (ALL, "", "::ffff:0:127.0.0.1", false),
        ] {
            let ip: IpAddr = ip.parse().unwrap();
            let got = policy(allow, deny, "1-65535").authorize(Peer::new(ip, 80));
            let expected = if expected { Ok(()) } else { Err(Outcome::AddressNotAllowed) };
            assert_eq!(got, expected, "{ip} with --allow {allow} --deny {deny}");
        }
    }

    /// Checks random lists of nested and adjacent ranges, at every address next to a boundary.
    #[test]
    fn the_search_agrees_with_the_lists() {
        const ENTRIES: [&str; 21] = [
            "0.0.0.0/0",
            "0.0.0.0/8",
            "10.0.0.0/8",
            "10.0.0.0/9",
            "10.128.0.0/9",
            "10.1.2.3",
            "100.64.0.0/10",
            "100.100.100.200",
            "126.0.0.0/7",
            "169.254.0.0/16",
            "224.0.0.0/3",
            "255.255.255.255",
            "::/0",
            "::/127",
            "::1",
            "fc00::/7",
            "fd00:ec2::/31",
            "fd00:ec2::/32",
            "fd00:ec2::254",
            "fe00::/7",
            "ff00::/8",
        ];
        let all = ENTRIES.map(|text| parse_range(text).unwrap());
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut some = |one_in: u64| -> Vec<IpNet> {
            let mut chosen = || {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 33).is_multiple_of(one_in)
            };
            all.into_iter().filter(|_| chosen()).collect()
        };
        for _ in 0..500 {
            let (allow, deny) = (some(3), some(8));
            let policy = Policy::new(allow.clone(), deny.clone(), Ports::all());
            for range in all.iter().chain(&special::RANGES) {
                for end in [bits(range.network()), bits(range.broadcast())] {
                    for near in [end.wrapping_sub(1), end, end.wrapping_add(1), end ^ (1 << 17)] {
                        let ip = IpAddr::V6(Ipv6Addr::from_bits(near)).to_canonical();
                        let expected = lists_allow(&allow, &deny, ip);
                        assert_eq!(policy.allows(ip), expected, "{ip} with {allow:?} without {deny:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn ports_are_checked_after_the_address() {
        let policy = policy("10.0.0.0/8", "", "8080, 9090-9092");
        for (ip, port, expected) in [
            ("10.0.0.1", 8080, Ok(())),
            ("10.0.0.1", 9090, Ok(())),
            ("10.0.0.1", 9092, Ok(())),
            ("10.0.0.1", 9093, Err(Outcome::PortNotAllowed)),
            ("10.0.0.1", 80, Err(Outcome::PortNotAllowed)),
            ("11.0.0.1", 80, Err(Outcome::AddressNotAllowed)),
        ] {
            assert_eq!(policy.authorize(Peer::new(ip.parse().unwrap(), port)), expected, "{ip}:{port}");
        }
    }

    #[test]
    fn ranges_and_ports_are_parsed_strictly() {
        for (text, expected) in [
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            ("10.1.2.3", Some("10.1.2.3/32")),
            ("fd00::/8", Some("fd00::/8")),
            ("::1", Some("::1/128")),
            ("10.1.2.3/8", None),
            ("10.0.0.0/33", None),
            ("10.0.0.0/", None),
            ("10.0.0/8", None),
            ("::ffff:10.0.0.0/104", None),
            ("pods.example", None),
            ("", None),
        ] {
            assert_eq!(
                parse_range(text).ok().map(|range| range.to_string()).as_deref(),
                expected,
                "{text:?}"
            );
        }
        for (text, expected) in [
            ("1-65535", Some("1-65535")),
            ("80", Some("80")),
            ("8080,9090-9999", Some("8080,9090-9999")),
            ("0", None),
            ("65536", None),
            ("9-8", None),
            ("80,", Some("80")),
            ("+80", None),
            ("80-", None),
            ("", None),
        ] {
            let got = text.parse::<Ports>().ok().map(|ports| ports.to_string());
            assert_eq!(got.as_deref(), expected, "{text:?}");
        }
    }
    #[test]
    fn names_are_allowed_by_suffix_and_port() {
        for (suffixes, name, port, expected) in [
            (&[][..], "any.example", 80, Ok(())),
            (&[], "any.example", 81, Err(Outcome::PortNotAllowed)),
            (&["svc", ".example.com."], "web.ns.svc", 80, Ok(())),
            (&["svc", ".example.com."], "example.com.", 80, Ok(())),
            (&["svc", ".example.com."], "web.ns.svc", 81, Err(Outcome::PortNotAllowed)),
            (&["svc", ".example.com."], "badexample.com", 80, Err(Outcome::NameNotAllowed)),
            (&["svc"], "web.ns.svc.cluster.local", 80, Err(Outcome::NameNotAllowed)),
        ] {
            let suffixes = suffixes.iter().map(|text| parse_suffix(text).unwrap()).collect();
            let policy = policy(ALLOW_DEFAULT, "", "80").with_names(suffixes);
            assert_eq!(policy.authorize_name(name, port), expected, "{name}");
        }
        for text in ["", ".", "..", "*.a", "10.1.2.3", "a b", "a..b"] {
            assert!(parse_suffix(text).is_err(), "{text}");
        }
    }
}
