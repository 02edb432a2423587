//! The meanings of a request target: one of psystrike's own pages, or a pod and the target for it.
//!
//! Owns the names of the routes.

use crate::{http1::head::Target, proxy::peer::Peer};

/// One of psystrike's own pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// `/`.
    Index,
    /// `/healthz`.
    Healthz,
    /// `/readyz`.
    Readyz,
    /// `/metrics`.
    Metrics,
}

impl Page {
    /// Returns the page at a path.
    pub fn at(path: &str) -> Option<Self> {
        match path {
            "/" => Some(Self::Index),
            "/healthz" => Some(Self::Healthz),
            "/readyz" => Some(Self::Readyz),
            "/metrics" => Some(Self::Metrics),
            _ => None,
        }
    }
}

/// The route of a request, as a label on `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteName {
    /// To a pod: `/pods/`.
    Pods,
    /// To a pod: the absolute form, as sent to a proxy.
    Proxy,
    /// To a pod: a tunnel.
    Connect,
    /// One of psystrike's own pages.
    Page(Page),
    /// No known route, or a head that could not be parsed.
    None,
}

/// The number of [`RouteName`]s.
pub const ROUTES: usize = 8;

impl RouteName {
    /// All routes, in the order of their [`index`](Self::index).
    pub const ALL: [Self; ROUTES] = [
        Self::Pods,
        Self::Proxy,
        Self::Connect,
        Self::Page(Page::Index),
        Self::Page(Page::Healthz),
        Self::Page(Page::Readyz),
        Self::Page(Page::Metrics),
        Self::None,
    ];

    /// Returns the index in a table of counters.
    pub fn index(self) -> usize {
        match self {
            Self::Pods => 0,
            Self::Proxy => 1,
            Self::Connect => 2,
            Self::Page(Page::Index) => 3,
            Self::Page(Page::Healthz) => 4,
            Self::Page(Page::Readyz) => 5,
            Self::Page(Page::Metrics) => 6,
            Self::None => 7,
        }
    }

    /// Returns the label's value.
    pub fn label(self) -> &'static str {
        ["/pods", "proxy", "connect", "/", "/healthz", "/readyz", "/metrics", "none"][self.index()]
    }

    /// Returns whether requests on this route are scrapes.
    pub fn is_scrape(self) -> bool {
        matches!(self, Self::Pods | Self::Proxy)
    }

    /// Returns whether the route leads to pods.
    pub fn is_to_pods(self) -> bool {
        self.is_scrape() || self == Self::Connect
    }

    /// Returns the route of a request target, whether or not the rest of the request is valid.
    pub fn of(target: Target<'_>) -> Self {
        match target {
            Target::Origin { path, .. } if path.starts_with("/pods/") => Self::Pods,
            Target::Origin { path, .. } => Page::at(path).map_or(Self::None, Self::Page),
            Target::Absolute(_) => Self::Proxy,
            Target::Other(_) => Self::None,
        }
    }
}

/// The meaning of a request target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'b> {
    /// One of psystrike's own pages.
    Page(Page),
    /// A pod, and the request for it.
    Pod(PodRoute<'b>),
}

/// The scheme of a URI (RFC 9110 section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`.
    Http,
    /// `https`.
    Https,
}

impl Scheme {
    /// Returns the name and the colon.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Http => "http:",
            Self::Https => "https:",
        }
    }

    /// Returns the default port.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// The way to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodRoute<'b> {
    /// The scheme that the target names; `None`: the operator decides.
    pub scheme: Option<Scheme>,
    /// Its host and port.
    pub destination: Destination<'b>,
    /// The request target for the pod.
    pub target: PodTarget<'b>,
    /// The authority of the request target, for `Host`; `None`: `Host` is the destination.
    pub authority: Option<&'b str>,
}

/// The host and port of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination<'b> {
    /// An address.
    Address(Peer),
    /// A DNS name, and a port.
    Name(&'b str, u16),
}

impl Destination<'_> {
    /// Returns the port.
    pub fn port(self) -> u16 {
        match self {
            Self::Address(peer) => peer.port(),
            Self::Name(_, port) => port,
        }
    }
}

/// The request target for the pod: a path, and a query if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodTarget<'b> {
    /// The path, from its first `/` on.
    pub path: &'b str,
    /// The query, after the `?`.
    pub query: Option<&'b str>,
}

impl<'b> PodTarget<'b> {
    /// Returns the parts in order, as they are sent.
    pub fn parts(&self) -> [&'b str; 3] {
        match self.query {
            Some(query) => [self.path, "?", query],
            None => [self.path, "", ""],
        }
    }
}
