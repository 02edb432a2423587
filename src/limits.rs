//! Limits on what uses memory: client connections, pooled pod connections, and buffered bytes.
//!
//! Options set by the operator take precedence. Otherwise the limits follow from the open-files limit and the cgroup's
//! memory limit. One quarter of the memory is for buffered bytes, one for clients, and one for pooled pod connections;
//! the last is for the program itself and for the kernel's socket buffers.

use std::fmt;

use crate::{
    config::Config,
    net::{event_loop, lookups, transport::splice},
    proxy::{budget::SHARE_MIN, size::Exact},
};

/// Descriptors of the process that are neither client nor pod connections: standard streams, signals, `/proc`, name
/// lookups. [`Limits::new`] adds those of each worker: its epoll, its waker, its pipes and its listeners.
const DESCRIPTORS_OTHER: usize = 16 + lookups::DESCRIPTORS;
/// Default limit of clients, and of pooled pod connections: containers often have an open-files limit of a million,
/// which does not mean that psystrike may use the memory for a million connections.
const CONNECTIONS_DEFAULT_MAX: usize = 16 * 1024;
/// Default limit of buffered bytes.
const BUFFERS_DEFAULT_MAX: u64 = 64 * 1024 * 1024;
/// Number of parts that the cgroup's memory limit is divided into.
const PARTS: u64 = 4;
/// Memory of a pooled pod connection, of which 4.2 KiB are the kernel's.
const UPSTREAM_BYTES: u64 = 4_500;
/// Memory of a client that scrapes: its connection, its pod's connection, and the bytes that the budget does not count.
const CLIENT_BYTES: u64 = 2 * UPSTREAM_BYTES + crate::proxy::budget::ALLOWANCE_BYTES as u64;

/// Memory of TLS on a connection, with certificates of usual size.
const TLS_BYTES: u64 = 6_000;

/// The source of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// An option.
    Option,
    /// The open-files limit.
    OpenFiles,
    /// The cgroup's memory limit.
    Memory,
    /// The default, where no other limit is lower.
    Default,
    /// The minimum that works.
    Least,
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Option => "configured",
            Self::OpenFiles => "from the open-files limit",
            Self::Memory => "from the cgroup's memory limit",
            Self::Default => "default",
            Self::Least => "minimum",
        })
    }
}

/// A limit and its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The limit: a number, or bytes.
    pub most: usize,
    /// Its source.
    pub from: Basis,
}

/// The limits of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Limit of client connections.
    pub clients: Limit,
    /// Limit of pooled pod connections.
    pub upstreams_idle: Limit,
    /// Limit of buffered bytes.
    pub buffers: Limit,
}

impl Limits {
    /// Describes the limits in the order of their declaration: each with its source.
    pub fn described(&self) -> [String; 3] {
        let Self { clients, upstreams_idle, buffers } = self;
        [
            format!("{} ({})", clients.most, clients.from),
            format!("{} ({})", upstreams_idle.most, upstreams_idle.from),
            format!("{} ({})", Exact(buffers.most as u64), buffers.from),
        ]
    }

    /// Computes the limits from the open-files limit and the cgroup's memory limit. A client that scrapes needs a
    /// second descriptor for its pod; if none is left, a pooled connection is closed to free one.
    ///
    /// Each worker gets at least one pooled connection, unless the option is 0: without any, a worker would open a
    /// connection for each scrape.
    pub fn new(config: &Config, open_files: u64, memory: Option<u64>) -> Self {
        let workers = config.workers;
        let other = DESCRIPTORS_OTHER
            + workers * (event_loop::DESCRIPTORS + splice::DESCRIPTORS + config.listen.len().max(1));
        let half = usize::try_from(open_files).unwrap_or(usize::MAX).saturating_sub(other) / 2;
        let connections = |set: Option<usize>, each: u64| {
            let by_files = Limit { most: half.max(1), from: Basis::OpenFiles };
            let by_memory = memory.map(|memory| (memory / PARTS / each).max(1));
            let by_memory = by_memory.map(|most| Limit { most: to_usize(most), from: Basis::Memory });
            let default = Limit { most: CONNECTIONS_DEFAULT_MAX, from: Basis::Default };
            let set = set.map(|most| Limit { most, from: Basis::Option });
            set.unwrap_or_else(|| {
                [Some(default), Some(by_files), by_memory].into_iter().flatten().fold(default, least)
            })
        };
        let tls_bytes = |has_tls: bool| if has_tls { TLS_BYTES } else { 0 };
        let (to_pods, of_clients) = (tls_bytes(config.tls.reaches_pods()), tls_bytes(config.serves_tls()));
        let mut upstreams_idle = connections(config.upstreams_idle_max, UPSTREAM_BYTES + to_pods);
        if (1..workers).contains(&upstreams_idle.most) {
            upstreams_idle = Limit { most: workers, from: Basis::Least };
        }
        let clients = connections(config.clients_max, CLIENT_BYTES + to_pods + of_clients);
        Self { clients, upstreams_idle, buffers: buffers(config, memory) }
    }
}

fn buffers(config: &Config, memory: Option<u64>) -> Limit {
    let default = Limit { most: to_usize(BUFFERS_DEFAULT_MAX), from: Basis::Default };
    let by_memory = memory.map(|memory| Limit { most: to_usize(memory / PARTS), from: Basis::Memory });
    let set = config.buffers_max.map(|bytes| Limit { most: to_usize(bytes), from: Basis::Option });
    let limit = set.unwrap_or_else(|| by_memory.map_or(default, |limit| least(default, limit)));
    let floor = config.workers * SHARE_MIN;
    if limit.most < floor { Limit { most: floor, from: Basis::Least } } else { limit }
}

fn least(one: Limit, other: Limit) -> Limit {
    if other.most < one.most { other } else { one }
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Command, parse};

    const MIB: u64 = 1 << 20;

    fn limits(arguments: &[&str], open_files: u64, memory: Option<u64>) -> Limits {
        match parse(arguments.iter().map(Into::into).collect(), |_| None) {
            Ok(Command::Serve(config)) => Limits::new(&config, open_files, memory),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn default_limits_follow_from_open_files_and_memory() {
        use Basis as B;
        for (arguments, open_files, memory, clients, upstreams_idle, buffers) in [
            (&[][..], 20_000, None, (9_979, B::OpenFiles), (9_979, B::OpenFiles), (64 * MIB, B::Default)),
            (&[], 1_048_576, None, (16_384, B::Default), (16_384, B::Default), (64 * MIB, B::Default)),
            (
                &["--workers=40"],
                20_000,
                None,
                (9_804, B::OpenFiles),
                (9_804, B::OpenFiles),
                (64 * MIB, B::Default),
            ),
            (&[], 36, None, (1, B::OpenFiles), (1, B::OpenFiles), (64 * MIB, B::Default)),
            (&[], 20_000, Some(16 * MIB), (320, B::Memory), (932, B::Memory), (4 * MIB, B::Memory)),
            (&[], 20_000, Some(32 * MIB), (640, B::Memory), (1_864, B::Memory), (8 * MIB, B::Memory)),
            (&[], 1_000, Some(32 * MIB), (479, B::OpenFiles), (479, B::OpenFiles), (8 * MIB, B::Memory)),
            (
                &[],
                1_048_576,
                Some(1 << 40),
                (16_384, B::Default),
                (16_384, B::Default),
                (64 * MIB, B::Default),
            ),
            (&[], 20_000, Some(0), (1, B::Memory), (1, B::Memory), (MIB / 8, B::Least)),
            (
                &["--clients-max=7", "--upstreams-idle-max=8", "--buffers-max=2MiB"],
                20_000,
                Some(16 * MIB),
                (7, B::Option),
                (8, B::Option),
                (2 * MIB, B::Option),
            ),
            (
                &["--workers=4", "--buffers-max=1MiB"],
                20_000,
                Some(MIB),
                (20, B::Memory),
                (58, B::Memory),
                (MIB, B::Option),
            ),
            (&["--workers=4"], 20_000, Some(MIB), (20, B::Memory), (58, B::Memory), (MIB / 2, B::Least)),
        ] {
            let limits = limits(arguments, open_files, memory);
            let expected = Limits {
                clients: Limit { most: clients.0, from: clients.1 },
                upstreams_idle: Limit { most: upstreams_idle.0, from: upstreams_idle.1 },
                buffers: Limit { most: buffers.0 as usize, from: buffers.1 },
            };
            assert_eq!(limits, expected, "{arguments:?} {open_files} {memory:?}");
        }
    }

    #[cfg(feature = "tls")]
    #[test]
    fn connections_with_tls_take_more_memory() {
        for (arguments, clients, upstreams_idle) in [
            (&[][..], 320, 932),
            (&["--tls-self-signed"], 219, 932),
            (&["--pod-tls-skip-verify"], 219, 399),
            (&["--tls-self-signed", "--pod-tls-skip-verify"], 167, 399),
            (&["--web-config-file=a"], 219, 932),
        ] {
            let Limits { clients: of_clients, upstreams_idle: of_pods, .. } =
                limits(arguments, 20_000, Some(16 * MIB));
            assert_eq!((of_clients.most, of_pods.most), (clients, upstreams_idle), "{arguments:?}");
        }
    }

    #[test]
    fn each_worker_may_pool_a_connection_unless_pooling_is_off() {
        for (arguments, expected) in [
            (&["--upstreams-idle-max=0", "--workers=3"][..], 0),
            (&["--upstreams-idle-max=1", "--workers=3"], 3),
            (&["--upstreams-idle-max=4", "--workers=3"], 4),
            (&["--workers=3"], 3), // limited by the open files
        ] {
            let most = limits(arguments, 55, None).upstreams_idle.most;
            assert_eq!(most, expected, "{arguments:?}");
        }
    }

    #[test]
    fn limits_are_described_with_their_source() {
        let described = limits(&["--clients-max=7"], 1_000, Some(16 * MIB)).described();
        assert_eq!(
            described,
            ["7 (configured)", "479 (from the open-files limit)", "4MiB (from the cgroup's memory limit)"]
        );
    }
}
