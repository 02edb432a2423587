//! Takes the place of [`users`](super) in a psystrike that is built without web configuration files: it has no users.

use std::{convert::Infallible, net::IpAddr, sync::Arc};

use crate::proxy::timestamp::Timestamp;

/// As in a build with web configuration files.
#[derive(Debug)]
pub struct Users(Infallible);

/// As in a build with web configuration files.
#[derive(Debug)]
pub struct Login(Infallible);

/// As in a build with web configuration files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LoginId(Infallible);

/// As in a build with web configuration files.
#[derive(Debug)]
pub enum Verdict {
    /// As in a build with web configuration files.
    Right,
    /// As in a build with web configuration files.
    Wrong,
    /// As in a build with web configuration files.
    Unchecked(Login),
}

#[expect(missing_docs, reason = "as in a build with web configuration files")]
impl Users {
    pub fn judge(self: &Arc<Self>, _: &[u8], _: &[u8], _: Option<IpAddr>, _: Timestamp) -> Verdict {
        match self.0 {}
    }

    pub fn id(&self, _: &[u8], _: &[u8]) -> LoginId {
        match self.0 {}
    }
}

#[expect(missing_docs, reason = "as in a build with web configuration files")]
impl Login {
    pub fn id(&self) -> LoginId {
        match self.0 {}
    }

    pub fn address(&self) -> Option<IpAddr> {
        match self.0 {}
    }

    pub fn check(&self) -> bool {
        match self.0 {}
    }

    pub fn remember(&self, _: bool, _: Timestamp) {
        match self.0 {}
    }

    pub fn copy(&self) -> Self {
        match self.0 {}
    }
}
