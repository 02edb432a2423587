//! TLS of curl and `openssl s_client` with psystrike: versions, ALPN, client certificates, a port shared with plain
//! HTTP, and clients that are turned away.
#![cfg(feature = "tls")]

mod support;

use std::{
    io::Write,
    net::TcpStream,
    process::{Command, Stdio},
};

use rustls::{
    AlertDescription,
    version::{TLS12, TLS13},
};
use support::{
    Scratch,
    certificates::{Ca, Files},
    http::{Client, End, get},
    pods::Pod,
    psystrike::Psystrike,
    require_programs,
    scrapes::echo,
    tls_client::{TlsClient, presenting, trusting},
};

/// What a program wrote, and whether it succeeded.
struct Ran {
    stdout: String,
    stderr: String,
    success: bool,
}

fn run(program: &str, arguments: &[&str], stdin: &str) -> Ran {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let mut pipe = child.stdin.take().expect("a pipe");
    let _ = pipe.write_all(stdin.as_bytes()); // a program that fails does not read it
    drop(pipe);
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { stdout: text(&output.stdout), stderr: text(&output.stderr), success: output.status.success() }
}

/// A psystrike with TLS, and a pod that responds with its path.
struct Setup {
    psystrike: Psystrike,
    pod: Pod,
}

impl Setup {
    fn new(ca: &Ca, arguments: &[&str]) -> Self {
        let [certificate, key] = ca.sign("psystrike", &["127.0.0.1"]).options("--tls");
        let given = ["--allow=127.0.0.0/8", "--allow-connect", &certificate, &key];
        Self { psystrike: Psystrike::start(&[&given, arguments].concat()), pod: echo("127.29.0.1") }
    }

    fn url(&self, scheme: &str) -> String {
        let path = Psystrike::target(self.pod.address(), "/metrics");
        format!("{scheme}://{}{path}", self.psystrike.address())
    }

    /// Runs `openssl s_client`, which sends `stdin` and then waits for the end of the connection.
    fn s_client(&self, ca: &Ca, arguments: &[&str], stdin: &str) -> Ran {
        let address = self.psystrike.address().to_string();
        let common = ["s_client", "-connect", &address, "-CAfile", &ca.file, "-ign_eof"];
        run("openssl", &[&common, arguments].concat(), stdin)
    }
}

const LAST: &str = "GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[test]
fn curl_scrapes_over_one_port() {
    if !require_programs(&["curl"]) {
        return;
    }
    let scratch = Scratch::new("tls-curl");
    let ca = Ca::new(&scratch, "ca");
    let setup = Setup::new(&ca, &[]);
    let curl = |arguments: &[&str]| {
        let common =
            ["-sS", "--cacert", &ca.file, "-w", "%{http_version} %{num_connects} %{ssl_verify_result}\n"];
        run("curl", &[&common, arguments].concat(), "")
    };
    let (https, http) = (setup.url("https"), setup.url("http"));
    for (arguments, expected) in [
        (&[&*https] as &[&str], "/metrics1.1 1 0\n"),
        (&["--tlsv1.3", &https], "/metrics1.1 1 0\n"),
        (&["--tls-max", "1.2", &https], "/metrics1.1 1 0\n"),
        // curl falls back to HTTP/1.1, by ALPN.
        (&["--http2", &https], "/metrics1.1 1 0\n"),
        (&["--http1.0", &https], "/metrics1.1 1 0\n"),
        (&[&http], "/metrics1.1 1 0\n"),
        // The second request uses the same connection.
        (&[&https, &https], "/metrics1.1 1 0\n/metrics1.1 0 0\n"),
        (&[&https, &http], "/metrics1.1 1 0\n/metrics1.1 1 0\n"),
    ] {
        let ran = curl(arguments);
        assert_eq!(ran.stdout, expected, "{arguments:?}: {}", ran.stderr);
    }
    let old = curl(&["--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0", &https]);
    assert!(!old.success && old.stderr.contains("alert handshake failure"), "{}", old.stderr);
    setup.psystrike.wait_for_line("TLS with a client failed: no common TLS version");

    let proxy = format!("https://{}", setup.psystrike.address());
    let pod = format!("http://{}/metrics", setup.pod.address());
    for arguments in [&[&*pod] as &[&str], &["--proxytunnel", &pod]] {
        let through = ["-x", &proxy, "--proxy-cacert", &ca.file];
        let ran = curl(&[&through, arguments].concat());
        assert_eq!(ran.stdout, "/metrics1.1 1 0\n", "{arguments:?}: {}", ran.stderr);
    }
}

#[test]
fn openssl_connects_with_the_versions_that_are_on() {
    if !require_programs(&["openssl"]) {
        return;
    }
    let scratch = Scratch::new("tls-openssl");
    let ca = Ca::new(&scratch, "ca");
    let both = Setup::new(&ca, &[]);
    let new = Setup::new(&ca, &["--tls-min-version=1.3"]);
    let old: &[&str] = &["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"];
    for (setup, arguments, expected) in [
        (&both, &["-tls1_2"] as &[&str], Ok("Protocol  : TLSv1.2")),
        (&both, &["-tls1_3"], Ok("New, TLSv1.3, Cipher is TLS_")),
        (&both, &["-alpn", "h2,http/1.1"], Ok("ALPN protocol: http/1.1")),
        (
            &both,
            &["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"],
            Ok("Cipher    : ECDHE-ECDSA-CHACHA20"),
        ),
        (&both, &["-groups", "P-384"], Ok("Server Temp Key: ECDH, secp384r1")),
        (&new, &["-tls1_3"], Ok("New, TLSv1.3, Cipher is TLS_")),
        (&both, &["-alpn", "h2"], Err("alert no application protocol")),
        (&both, old, Err("alert handshake failure")),
        (&new, &["-tls1_2"], Err("alert protocol version")),
        (&both, &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"], Err("alert handshake failure")),
        (&both, &["-groups", "X448"], Err("alert handshake failure")),
    ] {
        let ran = setup.s_client(&ca, arguments, LAST);
        let shown = format!("{arguments:?}: {}{}", ran.stdout, ran.stderr);
        match expected {
            Ok(line) => {
                assert!(ran.stdout.contains(line), "{line} is missing: {shown}");
                assert!(ran.stdout.contains("Verify return code: 0 (ok)"), "{shown}");
                assert!(ran.stdout.contains("HTTP/1.1 200 OK\r\n"), "{shown}");
                // close_notify; without it, OpenSSL reports an unexpected EOF.
                assert!(ran.success && ran.stdout.ends_with("closed\n"), "{shown}");
            }
            Err(alert) => assert!(!ran.success && ran.stderr.contains(alert), "{alert} is missing: {shown}"),
        }
    }
    // Sessions are not resumed.
    let again = both.s_client(&ca, &["-tls1_2", "-reconnect"], LAST);
    assert!(!again.stdout.contains("Reused, ") && again.stdout.matches("New, TLSv1.2").count() == 6);
}

#[test]
fn a_refused_renegotiation_is_not_called_a_lack_of_cipher_suites() {
    if !require_programs(&["openssl"]) {
        return;
    }
    let scratch = Scratch::new("tls-renegotiation");
    let ca = Ca::new(&scratch, "ca");
    let setup = Setup::new(&ca, &[]);
    let mut command = Command::new("openssl");
    command.args(["s_client", "-tls1_2", "-connect", &setup.psystrike.address().to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("openssl starts");
    let mut pipe = child.stdin.take().expect("a pipe");
    pipe.write_all(b"R\n").expect("written"); // its command to renegotiate
    let line = setup.psystrike.wait_for_line("TLS with a client failed");
    drop(pipe);
    child.wait().expect("it ends");
    assert!(line.contains("alert from the peer"), "{line}");
}

#[test]
fn openssl_proves_who_it_is() {
    if !require_programs(&["openssl"]) {
        return;
    }
    let scratch = Scratch::new("tls-openssl-clients");
    let (ca, other) = (Ca::new(&scratch, "ca"), Ca::new(&scratch, "other"));
    let setup = Setup::new(&ca, &[&format!("--tls-client-ca={}", ca.file)]);
    let (known, unknown) = (ca.sign("known", &["a.example"]), other.sign("unknown", &["a.example"]));
    let scrape = get(&Psystrike::target(setup.pod.address(), "/metrics"));
    let scrape = scrape.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    let present = |files: &Files| ["-cert", &files.certificate, "-key", &files.key].map(str::to_owned);
    for (version, certificate, expected) in [
        ("-tls1_2", Some(&known), Ok(())),
        ("-tls1_3", Some(&known), Ok(())),
        ("-tls1_2", None, Err("alert certificate required")),
        ("-tls1_3", None, Err("alert certificate required")),
        ("-tls1_2", Some(&unknown), Err("alert unknown ca")),
        ("-tls1_3", Some(&unknown), Err("alert unknown ca")),
    ] {
        let files = certificate.map(present).into_iter().flatten().collect::<Vec<_>>();
        let arguments: Vec<&str> = files.iter().map(String::as_str).chain([version]).collect();
        let ran = setup.s_client(&ca, &arguments, &scrape);
        let shown = format!("{arguments:?}: {}{}", ran.stdout, ran.stderr);
        match expected {
            Ok(()) => assert!(ran.success && ran.stdout.contains("\r\n\r\n/metrics"), "{shown}"),
            Err(alert) => assert!(!ran.success && ran.stderr.contains(alert), "{alert} is missing: {shown}"),
        }
    }
}

/// With TLS 1.3, the client's side of the handshake is complete before psystrike sees the certificate.
#[test]
fn a_client_that_still_sends_reads_why_its_certificate_is_refused() {
    let scratch = Scratch::new("tls-alert");
    let (ca, other) = (Ca::new(&scratch, "ca"), Ca::new(&scratch, "other"));
    let setup = Setup::new(&ca, &[&format!("--tls-client-ca={}", ca.file)]);
    let config = presenting(&ca.file, &other.sign("client", &["a.example"]), &[&TLS13]);
    for _ in 0..10 {
        let mut client =
            TlsClient::connect(setup.psystrike.address(), &config).expect("complete, for the client");
        client.send(get("/healthz")).expect("sent");
        let refused = client.rest().expect_err("an alert").to_string();
        assert_eq!(refused, "received fatal alert: UnknownCA", "{:?}", AlertDescription::UnknownCA);
        client.socket().write_all(&[0; 1000]).expect("still accepted");
        drop(client);
    }
    setup.psystrike.wait_for_line("TLS with a client failed: unknown issuer");
}

#[test]
fn a_client_that_announces_its_end_gets_its_response() {
    let scratch = Scratch::new("tls-half-close");
    let ca = Ca::new(&scratch, "ca");
    let setup = Setup::new(&ca, &[]);
    for version in [&TLS12, &TLS13] {
        let config = trusting(&ca.file, &[version]);
        let mut client = TlsClient::connect(setup.psystrike.address(), &config).expect("a handshake");
        client.send(get(&Psystrike::target(setup.pod.address(), "/metrics"))).expect("sent");
        client.close_notify().expect("sent");
        let response = String::from_utf8(client.rest().expect("an announced end")).expect("text");
        assert!(response.ends_with("\r\n\r\n/metrics"), "{version:?}: {response}");
    }
}

#[test]
fn only_health_checks_are_answered_without_tls() {
    let scratch = Scratch::new("tls-only");
    let ca = Ca::new(&scratch, "ca");
    let setup = Setup::new(&ca, &["--tls-only"]);
    let config = trusting(&ca.file, &[&TLS13]);
    let scrape = Psystrike::target(setup.pod.address(), "/metrics");
    let scrape_by_proxy = format!("http://{}/metrics", setup.pod.address());
    for (target, plain) in [
        ("/healthz", 200),
        ("/readyz", 200),
        ("/metrics", 400),
        ("/", 400),
        (&scrape, 400),
        (&scrape_by_proxy, 400),
    ] {
        let response = setup.psystrike.get(target);
        assert_eq!(response.status(), plain, "{target}");
        if plain == 400 {
            assert_eq!(response.reason(), "HTTPS required; this port refuses plain HTTP");
        }
        let mut client = TlsClient::connect(setup.psystrike.address(), &config).expect("a handshake");
        assert_eq!(client.get(target).expect("a response").0, 200, "{target}");
    }
    assert_eq!(setup.pod.heads().len(), 2);
}

#[test]
fn clients_that_are_turned_away_get_503_or_an_end() {
    let scratch = Scratch::new("tls-turned-away");
    let ca = Ca::new(&scratch, "ca");
    let setup = Setup::new(&ca, &["--clients-max=1"]);
    let config = trusting(&ca.file, &[&TLS13]);
    let busy = Pod::serve("127.29.0.2", |_, client| {
        client.take_rest(support::LIMIT);
        Ok(support::pods::Then::Close)
    });
    let mut first = TlsClient::connect(setup.psystrike.address(), &config).expect("a handshake");
    first.send(get(&Psystrike::target(busy.address(), "/metrics"))).expect("sent");
    busy.wait_for("the request", |seen| seen.heads.len() == 1);
    // No place is free: a client with TLS gets the response in TLS.
    let mut second = TlsClient::connect(setup.psystrike.address(), &config).expect("a handshake");
    let target = Psystrike::target(setup.pod.address(), "/metrics");
    assert_eq!(second.get(&target).expect("a response").0, 503);
    let mut plain = Client::connect(setup.psystrike.address());
    assert_eq!(plain.get(&target).status(), 503);
    // One that says nothing is closed. Which protocol it speaks is not known.
    let silent = TcpStream::connect(setup.psystrike.address()).expect("a connection");
    let mut silent = support::http::Wire::new(silent);
    let (said, end) = silent.take_rest(support::LIMIT);
    assert!(end == End::Eof, "{said:?}, {end:?}");
}
