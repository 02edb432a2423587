//! The setup that forwarders are measured with.

use std::{net::SocketAddr, path::PathBuf};

use crate::{cases::Body, load::Scrape, pods};

/// The maximum number of open files of a forwarder.
pub(crate) const OPEN_FILES_MAX: usize = 20_000;

/// How a scrape names its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// In the path: `/pods/IP/PORT/..`.
    Pods,
    /// In an absolute URI, as with `proxy_url`.
    Absolute,
    /// By its tunnel, as with `proxy_url` and `https`.
    Tunnel,
}

/// The pods and clients of a forwarder.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// The folder for configurations and logs.
    pub(crate) scratch: PathBuf,
    /// The cores that it may run on.
    pub(crate) cores: Vec<usize>,
    pub(crate) pods: usize,
    pub(crate) pods_port: u16,
    pub(crate) clients: usize,
    /// The length of every response, header and body; only the baselines need it.
    pub(crate) answer_bytes: u64,
}

impl Setup {
    /// A scrape of each pod.
    pub(crate) fn scrapes(&self, forwarder: SocketAddr, form: Form, body: Body) -> Vec<Scrape> {
        let scrape = |number| match form {
            Form::Pods => Scrape::new(forwarder, pods::address(number), self.pods_port, body),
            Form::Absolute => Scrape::absolute(pods::address(number), self.pods_port, body),
            Form::Tunnel => Scrape::of_target(self.pod(number), &body.path(), 200, Some(body.bytes)),
        };
        (0..self.pods).map(scrape).collect()
    }

    /// The pod with this number.
    pub(crate) fn pod(&self, number: usize) -> SocketAddr {
        (pods::address(number), self.pods_port).into()
    }
}
