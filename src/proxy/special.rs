//! Addresses that no wide range opens, and the IPv4 addresses inside of IPv6 ones.
//!
//! Owns both tables, with the source of each row. Never decides whether an address may be reached.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Ranges that are reached only through an `--allow` entry that lies inside them. Behind them stand the machine
/// itself, its links, and the clouds' metadata services, which hand out credentials to whoever asks.
pub(super) const RANGES: [IpNet; 12] = [
    v4([0, 0, 0, 0], 8),          // "this network" (RFC 1122); Linux takes 0.0.0.0 for itself
    v4([127, 0, 0, 0], 8),        // loopback
    v4([169, 254, 0, 0], 16),     // link-local (RFC 3927), the metadata service of most clouds
    v4([100, 100, 100, 200], 32), // Alibaba Cloud's metadata service, within 100.64.0.0/10
    v4([224, 0, 0, 0], 4),        // multicast
    v4([255, 255, 255, 255], 32), // broadcast
    v6([0, 0, 0, 0, 0, 0, 0, 0], 128), // unspecified
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128), // loopback
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), // link-local
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), // multicast
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128), // AWS's metadata service, within fc00::/7
    v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128), // Google Cloud's, likewise
];

const fn v4([a, b, c, d]: [u8; 4], prefix: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix))
}

pub(super) const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], prefix: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix))
}

/// The IPv4 addresses inside an IPv6 one, which a router or the kernel may unpack and go to.
pub(super) fn embedded(ip: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    const LOW_32_BITS: [IpNet; 4] = [
        v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96), // NAT64 (RFC 6052)
        v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), // NAT64, local use (RFC 8215), as its /96 prefixes have it
        v6([0, 0, 0, 0, 0, 0, 0, 0], 96),         // IPv4-compatible (RFC 4291 section 2.5.5.1)
        v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96),    // IPv4-translated (RFC 2765)
    ];
    const SIX_TO_FOUR: IpNet = v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16); // RFC 3056
    const TEREDO: IpNet = v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32); // RFC 4380 section 4
    if ip.is_unspecified() || ip.is_loopback() {
        return [None, None]; // in ::/96, but addresses of their own
    }
    let [_, a, b, c, .., y, z] = ip.segments();
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    if LOW_32_BITS.iter().any(|range| range.contains(&IpAddr::V6(ip))) {
        [v4(y, z), None]
    } else if SIX_TO_FOUR.contains(&IpAddr::V6(ip)) {
        [v4(a, b), None]
    } else if TEREDO.contains(&IpAddr::V6(ip)) {
        [v4(b, c), v4(!y, !z)] // the server, and the client, whose bits are inverted
    } else {
        [None, None]
    }
}
