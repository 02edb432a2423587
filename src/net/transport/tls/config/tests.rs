//! Handshakes between an [`Acceptor`] and a [`Connector`], and parsed certificates.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd};
use rustls::{
    CertificateError::{self, NotValidForName, UnknownIssuer},
    ClientConfig, ClientConnection, Error, PeerIncompatible, ServerConnection,
    crypto::ring,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName},
    version::TLS12,
};

use super::{certificate::Certificate, *};

/// A CA that signs certificates.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = key();
        let certificate = params.self_signed(&key).expect("a certificate").der().clone();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    fn sign(&self, params: &CertificateParams) -> Identity {
        let key = key();
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        identity(certificate.der(), &key).expect("an identity")
    }

    /// Signs a certificate with these DNS names and IP addresses.
    fn named(&self, names: &[&str]) -> Identity {
        self.sign(&params(names))
    }

    fn authorities(&self) -> Authorities {
        Authorities::new(vec![self.certificate.clone()]).expect("a CA")
    }
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

fn params(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).expect("names")
}

fn identity(certificate: &CertificateDer<'static>, key: &KeyPair) -> Result<Identity, String> {
    Identity::new(vec![certificate.clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
}

/// TLS with clients, without certificates of theirs.
fn server(identity: Identity) -> ServerTls {
    let client_auth = ClientAuth::None;
    ServerTls {
        identity,
        client_auth,
        client_ca: None,
        client_sans: Vec::new(),
        versions: Versions::default(),
    }
}

fn pods(trust: PodTrust) -> PodTls {
    PodTls { trust, name: None, identity: None }
}

/// Makes a handshake with a server that is requested as `pod.example`. Returns both sides at its end.
fn handshake(server: &ServerTls, pods: &PodTls) -> Result<(ServerConnection, ClientConnection), Error> {
    let connector = Connector::new(pods).expect("a connector");
    let name = connector.name_of(Some("pod.example"), [127, 0, 0, 1].into()).expect("a name");
    handshake_of(server, connector.config, name)
}

fn handshake_of(
    server: &ServerTls,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<(ServerConnection, ClientConnection), Error> {
    let acceptor = Acceptor::new(server).expect("an acceptor");
    let mut server = ServerConnection::new(acceptor.config).expect("a server");
    let mut client = ClientConnection::new(config, name).expect("a client");
    loop {
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        while client.wants_write() {
            client.write_tls(&mut to_server).expect("written");
        }
        let mut bytes = to_server.as_slice();
        while !bytes.is_empty() {
            server.read_tls(&mut bytes).expect("read");
            server.process_new_packets()?;
        }
        while server.wants_write() {
            server.write_tls(&mut to_client).expect("written");
        }
        let mut bytes = to_client.as_slice();
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).expect("read");
            client.process_new_packets()?;
        }
        if to_server.is_empty() && to_client.is_empty() {
            return Ok((server, client));
        }
    }
}

/// Why a certificate was not accepted, if the handshake failed for that.
fn refusal<T>(result: Result<T, Error>) -> Option<CertificateError> {
    match result {
        Ok(_) => None,
        Err(Error::InvalidCertificate(why)) => Some(why),
        Err(Error::NoCertificatesPresented) => Some(CertificateError::ApplicationVerificationFailure),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn clients_present_certificates_as_configured() {
    use ClientAuth::{None as NoAuth, Request, RequireAndVerify, RequireAny, VerifyIfGiven};
    const MISSING: Option<CertificateError> = Some(CertificateError::ApplicationVerificationFailure);
    const UNKNOWN: Option<CertificateError> = Some(UnknownIssuer);
    let (ca, other) = (Ca::new("one"), Ca::new("two"));
    let mut server = server(ca.named(&["pod.example"]));
    server.client_ca = Some(ca.authorities());
    for (client_auth, without, signed, of_another, verifies) in [
        (NoAuth, None, None, None, false),
        (Request, None, None, None, false),
        (RequireAny, MISSING, None, None, false),
        (VerifyIfGiven, None, None, UNKNOWN, true),
        (RequireAndVerify, MISSING, None, UNKNOWN, true),
    ] {
        server.client_auth = client_auth;
        assert_eq!(Acceptor::new(&server).expect("an acceptor").verifies_clients(), verifies);
        let trust = PodTrust::SignedBy(ca.authorities());
        for (identity, expected) in
            [(None, without), (Some(ca.named(&["a"])), signed), (Some(other.named(&["a"])), of_another)]
        {
            let given = identity.is_some();
            let result = handshake(&server, &PodTls { identity, ..pods(trust.clone()) });
            if let Ok((server, _)) = &result {
                assert_eq!(server.peer_certificates().is_some(), given && client_auth != NoAuth);
            }
            assert_eq!(refusal(result), expected, "{client_auth:?} {given}");
        }
    }
    let without_ca = ServerTls { client_ca: None, ..server };
    let error = Acceptor::new(&without_ca).expect_err("no CA");
    assert_eq!(error, "certificates of clients cannot be verified without a CA");
}

#[test]
fn names_of_clients_are_compared_exactly() {
    let ca = Ca::new("one");
    let mut all = params(&["prometheus.example", "*.wild.example", "192.0.2.7", "2001:db8::7"]);
    all.subject_alt_names.push(SanType::Rfc822Name("ops@example.com".try_into().expect("a name")));
    all.subject_alt_names
        .push(SanType::URI("spiffe://cluster.local/sa/prometheus".try_into().expect("a name")));
    let (all, unnamed) = (ca.sign(&all), ca.sign(&CertificateParams::default()));
    assert_eq!(all.names().len(), 6);
    let mut server = server(ca.named(&["pod.example"]));
    server.client_auth = ClientAuth::VerifyIfGiven;
    server.client_ca = Some(ca.authorities());
    let with = |identity: &Identity| PodTls {
        identity: Some(identity.clone()),
        ..pods(PodTrust::SignedBy(ca.authorities()))
    };
    for (name, is_accepted) in [
        ("prometheus.example", true),
        ("*.wild.example", true),
        ("192.0.2.7", true),
        ("2001:db8::7", true),
        ("ops@example.com", true),
        ("spiffe://cluster.local/sa/prometheus", true),
        ("a.wild.example", false),
        ("Prometheus.example", false),
        ("prometheus.example.", false),
        ("prometheus", false),
        ("example", false),
        ("2001:db8:0::7", false),
        ("rcgen self signed cert", false), // the common name
    ] {
        server.client_sans = vec!["other.example".to_owned(), name.to_owned()];
        let expected = (!is_accepted).then_some(NotValidForName);
        assert_eq!(refusal(handshake(&server, &with(&all))), expected, "{name}");
        assert_eq!(refusal(handshake(&server, &with(&unnamed))), Some(NotValidForName), "{name}");
    }
    let without = pods(PodTrust::SignedBy(ca.authorities()));
    assert_eq!(refusal(handshake(&server, &without)), None, "no certificate, which is optional");
    let of_another = with(&Ca::new("two").named(&["example"]));
    assert_eq!(refusal(handshake(&server, &of_another)), Some(UnknownIssuer), "a name proves nothing alone");
}

#[test]
fn pods_are_trusted_as_configured() {
    let (ca, other) = (Ca::new("one"), Ca::new("two"));
    let mut expired = params(&["pod.example"]);
    expired.not_after = date_time_ymd(2020, 1, 1);
    let mut authority = params(&["pod.example"]);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = key();
    let authority = authority.self_signed(&key).expect("a certificate").der().clone();
    let signed = || PodTrust::SignedBy(ca.authorities());
    let itself = Authorities::new(vec![authority.clone()]).expect("a CA");
    let alone = Identity::self_signed(&["pod.example".to_owned()]).expect("a name");
    let pinned = Authorities::new(alone.certified.cert.clone()).expect("a certificate");
    for (what, identity, trust, expected) in [
        ("signed", ca.named(&["pod.example"]), signed(), None),
        (
            "no CA",
            ca.named(&["pod.example"]),
            PodTrust::SignedBy(Authorities::default()),
            Some("UnknownIssuer"),
        ),
        ("another CA", other.named(&["pod.example"]), signed(), Some("UnknownIssuer")),
        ("another name", ca.named(&["b.example"]), signed(), Some("NotValidForName")),
        ("expired", ca.sign(&expired), signed(), Some("Expired")),
        (
            "a CA",
            identity(&authority, &key).expect("valid"),
            PodTrust::SignedBy(itself),
            Some("CaUsedAsEndEntity"),
        ),
        ("pinned", alone, PodTrust::SignedBy(pinned), None),
        ("any, of a CA", identity(&authority, &key).expect("valid"), PodTrust::Any, None),
        ("any, expired", other.sign(&expired), PodTrust::Any, None),
        ("any, another name", other.named(&["b.example"]), PodTrust::Any, None),
        ("any, self-signed", Identity::self_signed(&["b".to_owned()]).expect("valid"), PodTrust::Any, None),
    ] {
        let refusal = refusal(handshake(&server(identity), &pods(trust))).map(|why| format!("{why:?}"));
        let begins = |expected: &str| refusal.as_ref().is_some_and(|why| why.contains(expected));
        assert!(expected.map_or(refusal.is_none(), begins), "{what}: {refusal:?}");
    }
}

#[test]
fn another_name_can_be_verified() {
    let ca = Ca::new("one");
    let server = server(ca.named(&["fleet.example", "192.0.2.1"]));
    for (name, expected) in
        [(None, Some("NotValid")), (Some("fleet.example"), None), (Some("192.0.2.1"), None)]
    {
        let name = name.map(str::to_owned);
        let pods = PodTls { name, ..pods(PodTrust::SignedBy(ca.authorities())) };
        let refusal = refusal(handshake(&server, &pods)).map(|why| format!("{why:?}"));
        assert_eq!(refusal.is_some(), expected.is_some(), "{refusal:?}");
    }
    let wrong = PodTls { name: Some("a b".to_owned()), ..pods(PodTrust::Any) };
    assert!(Connector::new(&wrong).is_err());
}

#[test]
fn versions_are_limited() {
    let ca = Ca::new("one");
    let mut server = server(ca.named(&["pod.example"]));
    let pods = pods(PodTrust::SignedBy(ca.authorities()));
    let name = ServerName::try_from("pod.example").expect("a name");
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_protocol_versions(&[&TLS12]).expect("a version");
    let old = builder.with_root_certificates(Arc::clone(&ca.authorities().roots)).with_no_client_auth();
    let mut old = Arc::new(old);
    let version = |result: Result<(ServerConnection, _), Error>| {
        result.map(|(server, _)| server.protocol_version().and_then(|version| version.as_str()))
    };
    assert_eq!(version(handshake(&server, &pods)), Ok(Some("TLSv1_3")));
    assert_eq!(version(handshake_of(&server, Arc::clone(&old), name.clone())), Ok(Some("TLSv1_2")));
    server.versions.max = Version::Tls12;
    assert_eq!(version(handshake(&server, &pods)), Ok(Some("TLSv1_2")));
    server.versions = Versions { min: Version::Tls13, max: Version::Tls13 };
    assert_eq!(version(handshake(&server, &pods)), Ok(Some("TLSv1_3")));
    let refused = version(handshake_of(&server, Arc::clone(&old), name.clone()));
    let expected = PeerIncompatible::Tls12NotOfferedOrEnabled;
    assert_eq!(refused, Err(Error::PeerIncompatible(expected)));
    server.versions = Versions { min: Version::Tls13, max: Version::Tls12 };
    assert!(Acceptor::new(&server).is_err());
    server.versions = Versions::default();
    Arc::get_mut(&mut old).expect("not shared").alpn_protocols = vec![b"h2".to_vec()];
    assert_eq!(version(handshake_of(&server, old, name)), Err(Error::NoApplicationProtocol));
}

#[test]
fn nothing_is_resumed() {
    let ca = Ca::new("one");
    let (server, client) =
        handshake(&server(ca.named(&["pod.example"])), &pods(PodTrust::SignedBy(ca.authorities())))
            .expect("a handshake");
    assert_eq!(client.tls13_tickets_received(), 0);
    assert_eq!(server.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[test]
fn a_key_belongs_to_its_certificate() {
    let ca = Ca::new("one");
    let certificate = params(&["a"]).signed_by(&key(), &ca.issuer).expect("a certificate");
    let error = identity(certificate.der(), &key()).expect_err("another key");
    assert_eq!(error, "the key does not belong to the (first) certificate");
    let damaged = CertificateDer::from(certificate.der()[..100].to_vec());
    assert_eq!(identity(&damaged, &key()).expect_err("damaged"), "invalid certificate");
}

#[test]
fn certificates_are_parsed() {
    let mut params = params(&["a.example", "::ffff:192.0.2.1"]);
    for (year, expires_at) in
        [(1999, 915_148_800), (2049, 2_493_072_000), (2050, 2_524_608_000), (9999, 253_370_764_800)]
    {
        params.not_after = date_time_ymd(year, 1, 1);
        let certificate = params.self_signed(&key()).expect("a certificate");
        let parsed = Certificate::parse(certificate.der()).expect("a certificate");
        assert_eq!(
            (parsed.expires_at, parsed.names),
            (expires_at, vec!["a.example".into(), "192.0.2.1".into()])
        );
        let der = certificate.der();
        // A length that is too short is noticed, whatever remains.
        assert!((0..der.len()).all(|end| Certificate::parse(&der[..end]).is_none()));
        assert!(Certificate::parse(&[der, &b"\0"[..]].concat()).is_none());
    }
    params.not_after = date_time_ymd(1960, 1, 1);
    let old = params.self_signed(&key()).expect("a certificate");
    assert_eq!(Certificate::parse(old.der()), None);
    // Random damage never panics.
    let certificate = params.self_signed(&key()).expect("a certificate").der().to_vec();
    for at in 0..certificate.len() {
        for flip in [1, 0x80, 0xff] {
            let mut damaged = certificate.clone();
            damaged[at] ^= flip;
            let _ = Certificate::parse(&damaged);
        }
    }
}

#[test]
fn authorities_are_counted() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let junk = CertificateDer::from(b"junk".to_vec());
    let all = vec![one.certificate.clone(), junk.clone(), two.certificate];
    let authorities = Authorities::new(all).expect("CAs");
    assert_eq!((authorities.count(), authorities.unusable()), (2, 1));
    assert!(authorities.expires_at() > 4_000_000_000);
    assert_eq!(Authorities::new(vec![junk]).expect_err("none"), "invalid certificate");
}

#[test]
fn debug_output_is_short() {
    let identity = Identity::self_signed(&["a.example".to_owned(), "10.0.0.1".to_owned()]).expect("names");
    assert_eq!(format!("{identity:?}"), r#"Identity { names: ["a.example", "10.0.0.1"], .. }"#);
    let acceptor = Acceptor::new(&server(identity)).expect("an acceptor");
    assert_eq!(format!("{acceptor:?}"), "Acceptor { verifies_clients: false, .. }");
    let connector = Connector::new(&pods(PodTrust::Any)).expect("a connector");
    assert_eq!(format!("{connector:?}"), "Connector { name: None, .. }");
}
