//! The meanings of a request target: one of psystrike's own pages, or a pod and the target for it.
//!
//! Owns the names of the routes.

use crate::proxy::peer::Peer;

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

/// The route of a request, as a label on `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteName {
    /// To a pod: `/pods/`.
    Pods,
    /// One of psystrike's own pages.
    Page(Page),
    /// No known route, or a head that could not be parsed.
    None,
}

/// The number of [`RouteName`]s.
pub const ROUTES: usize = 6;

impl RouteName {
    /// All routes, in the order of their [`index`](Self::index).
    pub const ALL: [Self; ROUTES] = [
        Self::Pods,
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
            Self::Page(Page::Index) => 1,
            Self::Page(Page::Healthz) => 2,
            Self::Page(Page::Readyz) => 3,
            Self::Page(Page::Metrics) => 4,
            Self::None => 5,
        }
    }

    /// Returns the label's value.
    pub fn label(self) -> &'static str {
        ["/pods", "/", "/healthz", "/readyz", "/metrics", "none"][self.index()]
    }
}

/// The meaning of a request target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'b> {
    /// One of psystrike's own pages.
    Page(Page),
    /// A pod.
    Pod {
        /// Its address and port.
        peer: Peer,
        /// The request target for the pod.
        target: PodTarget<'b>,
    },
}

/// The request target for the pod: a path, and a query if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodTarget<'b> {
    /// The path, from its first `/` on.
    pub path: &'b str,
    /// The query, behind a `?`.
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

/// Returns the route of `path`, whether or not the rest of the request is valid.
pub fn name(path: &str) -> RouteName {
    match path {
        "/" => RouteName::Page(Page::Index),
        "/healthz" => RouteName::Page(Page::Healthz),
        "/readyz" => RouteName::Page(Page::Readyz),
        "/metrics" => RouteName::Page(Page::Metrics),
        _ if path.starts_with("/pods/") => RouteName::Pods,
        _ => RouteName::None,
    }
}
