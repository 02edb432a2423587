//! Addresses that wide ranges do not open, and the IPv4 addresses inside IPv6 ones.
//!
//! Owns both tables, with the source of each row. Never decides whether an address may be reached.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Ranges that only an `--allow` entry inside them opens. They contain the machine itself, its links, and the clouds'
/// metadata services, which give credentials to every client.
pub(super) const RANGES: [IpNet; 18] = [
    v4([0, 0, 0, 0], 8),          // "this network" (RFC 1122); Linux takes 0.0.0.0 for itself
    v4([127, 0, 0, 0], 8),        // loopback (RFC 1122)
    v4([169, 254, 0, 0], 16),     // link-local (RFC 3927), the metadata service of most clouds
    v4([224, 0, 0, 0], 4),        // multicast (RFC 5771)
    v4([255, 255, 255, 255], 32), // broadcast (RFC 919)
    v6([0, 0, 0, 0, 0, 0, 0, 0], 128), // unspecified (RFC 4291)
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128), // loopback (RFC 4291)
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), // link-local (RFC 4291)
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), // multicast (RFC 4291)
    // Alibaba Cloud, within 100.64.0.0/10 and fc00::/7: "View instance metadata" (Elastic Compute Service).
    v4([100, 100, 100, 200], 32),
    v6([0xfd00, 0x100, 0, 0, 0, 0, 0x100, 0x200], 128),
    // Azure's wire server and DNS: "What is IP address 168.63.129.16?" (Azure Virtual Network).
    v4([168, 63, 129, 16], 32),
    // Oracle Cloud: "Getting Instance Metadata" (Compute), and the address that its older images use.
    v6([0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe], 128),
    v4([192, 0, 0, 192], 32),
    // Scaleway: "Instance metadata API", by IPv6.
    v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128),
    // Akamai (Linode): "Overview of the Metadata Service".
    v6([0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1], 128),
    // AWS: metadata at ::254 (EC2 User Guide), credentials of EKS pods at ::23, DNS at ::253, time at ::123.
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32),
    // Google Cloud: "About VM metadata" (Compute Engine), for instances with IPv6 only.
    v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128),
];

const fn v4([a, b, c, d]: [u8; 4], prefix: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix))
}

pub(super) const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], prefix: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix))
}

/// Returns the IPv4 addresses inside an IPv6 one, which a router or the kernel may extract and connect to. All readings
/// are returned, as it is not known which one a translator uses.
pub(super) fn embedded(ip: Ipv6Addr) -> [Option<Ipv4Addr>; 5] {
    const LOW_32_BITS: [IpNet; 3] = [
        v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96), // NAT64 (RFC 6052)
        v6([0, 0, 0, 0, 0, 0, 0, 0], 96),         // IPv4-compatible (RFC 4291 section 2.5.5.1)
        v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96),    // IPv4-translated (RFC 2765)
    ];
    const LOCAL_NAT64: IpNet = v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48); // RFC 8215
    const SIX_TO_FOUR: IpNet = v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16); // RFC 3056
    const TEREDO: IpNet = v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32); // RFC 4380 section 4
    if ip.is_unspecified() || ip.is_loopback() {
        return [None; 5]; // `::` and `::1` are in ::/96, but embed no IPv4 address
    }
    let is_in = |range: &IpNet| range.contains(&IpAddr::V6(ip));
    let [_, a, b, c, e, f, y, z] = ip.segments();
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    let [one, two, three, four] = if LOW_32_BITS.iter().any(is_in) {
        [v4(y, z), None, None, None]
    } else if is_in(&LOCAL_NAT64) {
        rfc6052(ip.octets())
    } else if is_in(&SIX_TO_FOUR) {
        [v4(a, b), None, None, None]
    } else if is_in(&TEREDO) {
        [v4(b, c), v4(!y, !z), None, None] // the server, and the client, whose bits are inverted
    } else {
        [None; 4]
    };
    // An ISATAP interface identifier may follow any prefix, including those above.
    [one, two, three, four, v4(y, z).filter(|_| is_isatap(e, f))]
}

/// Returns whether `first` and `second` begin an ISATAP interface identifier, for any bits "universal" and "group" (RFC
/// 5214 section 6.1).
fn is_isatap(first: u16, second: u16) -> bool {
    first & !0x0300 == 0 && second == 0x5efe
}

/// Returns the readings of RFC 6052 section 2.2 for prefixes of 96, 64, 56 and 48 bits. Octet 8 is not part of the
/// address.
///
/// The octets around the address are zeros, which other readings include: 0.0.0.0/8 names no host and is left out.
fn rfc6052(octets: [u8; 16]) -> [Option<Ipv4Addr>; 4] {
    let [.., o6, o7, _, o9, o10, o11, o12, o13, o14, o15] = octets;
    let readings = [[o12, o13, o14, o15], [o9, o10, o11, o12], [o7, o9, o10, o11], [o6, o7, o9, o10]];
    readings.map(|octets| (octets[0] != 0).then(|| octets.into()))
}
