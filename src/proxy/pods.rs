//! Decides whether a pod is connected to by HTTP or HTTPS, and which connections to it are the same.
//!
//! Owns the operator's choice of the scheme. Never opens a connection or verifies a certificate.

use std::hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState};

use super::{
    access::ClientFacts,
    outcome::Outcome,
    peer::TlsProfile,
    route::{Destination, PodRoute, Scheme},
};

/// The scheme for paths to pods that name none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodScheme {
    /// HTTP.
    #[default]
    Http,
    /// HTTPS.
    Https,
    /// The one that the client uses towards psystrike.
    Client,
}

/// How pods are connected to.
#[derive(Clone, Debug)]
pub struct Pods {
    /// The scheme for paths that name none.
    pub scheme: PodScheme,
    /// How often the certificates and CAs for pods were read. Connections that were verified with others are not used
    /// again.
    pub tls_generation: u64,
    /// Keeps the hashes of profiles unpredictable: a client that finds two names with the same hash could use a
    /// connection that was verified for the other name.
    key: RandomState,
}

impl Default for Pods {
    fn default() -> Self {
        Self::new(PodScheme::default())
    }
}

impl Pods {
    /// Whether psystrike is built with TLS.
    pub const HAS_TLS: bool = cfg!(feature = "tls");

    /// Returns the settings with this scheme.
    pub fn new(scheme: PodScheme) -> Self {
        Self { scheme, tls_generation: 0, key: RandomState::new() }
    }

    /// Returns the scheme for paths of this client that name none.
    pub fn implied_scheme(&self, client: &ClientFacts) -> Scheme {
        match self.scheme {
            _ if !Self::HAS_TLS => Scheme::Http,
            PodScheme::Https => Scheme::Https,
            PodScheme::Client if client.is_encrypted => Scheme::Https,
            PodScheme::Http | PodScheme::Client => Scheme::Http,
        }
    }

    /// Returns the TLS profile for connections to a pod; `None`: without TLS.
    ///
    /// # Errors
    /// [`Outcome::HttpsNotSupported`].
    #[inline]
    pub fn tls_profile(
        &self,
        pod: &PodRoute<'_>,
        client: &ClientFacts,
    ) -> Result<Option<TlsProfile>, Outcome> {
        match pod.scheme.unwrap_or_else(|| self.implied_scheme(client)) {
            Scheme::Http => Ok(None),
            Scheme::Https if !Self::HAS_TLS => Err(Outcome::HttpsNotSupported),
            Scheme::Https => Ok(Some(self.profile(pod.destination))),
        }
    }

    /// Returns the profile of connections that are verified for this destination's name, or else its address.
    fn profile(&self, destination: Destination<'_>) -> TlsProfile {
        let mut hasher = self.key.build_hasher();
        self.tls_generation.hash(&mut hasher);
        match destination {
            Destination::Address(peer) => peer.ip().hash(&mut hasher),
            Destination::Name(name, _) => {
                let name = name.strip_suffix('.').unwrap_or(name);
                name.bytes().for_each(|byte| hasher.write_u8(byte.to_ascii_lowercase()));
            }
        }
        TlsProfile::new(hasher.finish())
    }
}

#[cfg(all(test, feature = "tls"))]
mod tests {
    use super::*;
    use crate::{
        http1::head::Target,
        proxy::route::{self, Route},
    };

    fn pod(path: &str) -> PodRoute<'_> {
        let target = match path.starts_with('/') {
            true => Target::Origin { path, query: None },
            false => Target::Absolute(path),
        };
        match route::resolve(target) {
            Ok(Route::Pod(pod)) => pod,
            other => panic!("{path}: {other:?}"),
        }
    }

    const PLAIN: ClientFacts = ClientFacts { ip: None, is_encrypted: false, has_proven_itself: false };
    const ENCRYPTED: ClientFacts = ClientFacts { is_encrypted: true, ..PLAIN };

    #[test]
    fn the_path_decides_first_and_then_the_settings() {
        use PodScheme::{Client, Http, Https};
        for (path, scheme, [plain, encrypted]) in [
            ("/pods/10.1.2.3/80/m", Http, [false, false]),
            ("/pods/10.1.2.3/80/m", Https, [true, true]),
            ("/pods/10.1.2.3/80/m", Client, [false, true]),
            ("/pods/web.svc/80/m", Client, [false, true]),
            ("/pods/http:10.1.2.3/80/m", Https, [false, false]),
            ("/pods/http:10.1.2.3/80/m", Client, [false, false]),
            ("/pods/https:10.1.2.3/80/m", Http, [true, true]),
            ("/pods/https:web.svc/80/m", Client, [true, true]),
            ("http://10.1.2.3/m", Https, [false, false]),
            ("http://10.1.2.3/m", Client, [false, false]),
        ] {
            for (client, expected) in [(PLAIN, plain), (ENCRYPTED, encrypted)] {
                let profile = Pods::new(scheme).tls_profile(&pod(path), &client);
                let is_https = profile.map(|profile| profile.is_some());
                assert_eq!(is_https, Ok(expected), "{path}, {scheme:?}, {client:?}");
            }
        }
    }

    #[test]
    fn profiles_differ_by_the_verified_name_and_the_generation() {
        let pods = Pods::default();
        let profile = |pods: &Pods, path| pods.tls_profile(&pod(path), &PLAIN).expect("built with TLS");
        let by_name = profile(&pods, "/pods/https:web.svc/80/m");
        assert!(by_name.is_some());
        for (path, is_same) in [
            ("/pods/https:web.svc/80/other", true),
            ("/pods/https:WEB.svc./80/m", true),
            ("/pods/https:web2.svc/80/m", false),
            ("/pods/https:10.1.2.3/80/m", false),
            ("/pods/http:web.svc/80/m", false),
        ] {
            assert_eq!(profile(&pods, path) == by_name, is_same, "{path}");
        }
        let next = Pods { tls_generation: 1, ..pods.clone() };
        assert_ne!(profile(&next, "/pods/https:web.svc/80/m"), by_name);
        assert_ne!(profile(&Pods::default(), "/pods/https:web.svc/80/m"), by_name, "another key");
    }
}
