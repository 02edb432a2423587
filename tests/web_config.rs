//! Web configuration files through the sockets of the real binary: users and passwords, changes of the file, and what
//! is refused at the start.

#![cfg(feature = "web-config")]

mod support;

#[cfg(feature = "tls")]
use std::fs;
use std::{
    net::TcpStream,
    path::Path,
    process::Command,
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use base64ct::{Base64, Encoding};
use support::{
    LIMIT, Scratch,
    http::{Client, Wire, connect_from},
    pods::{Pod, Then},
    poll,
    program::Signal,
    prometheus::{Prometheus, Release},
    psystrike::{Psystrike, run},
    require_programs,
    scrapes::{PAGE, echo, with_length},
};
#[cfg(feature = "tls")]
use support::{prometheus::NodeExporter, tls::make_certificate};

/// Of the password `pass!`, with the cost that Prometheus's documentation advises, and with the least.
const SLOW_HASH: &str = "$2y$10$If6bvum7DFjUnE9p2uDeDuFYRfXYR0cQZGZbGKBniRkAOSoBjmZOK";
const HASH: &str = "$2b$04$If6bvum7DFjUnE9p2uDeDuB9FHBtjxsfYVbvpSXewPCBc7bgqUl16";
/// Of the password `pass!`, with a cost in between.
const MEDIUM_HASH: &str = "$2y$08$If6bvum7DFjUnE9p2uDeDuzc9eWQ3zeg7auVjySWezqC2uSm5Jpc6";
/// Of the password `other`.
const OTHER_HASH: &str = "$2b$04$If6bvum7DFjUnE9p2uDeDuZ1mcTiaQtmDGmlQpmjn866qTzQ3l7vq";

const RELOADED: &str = "psystrike_config_last_reload_successful{option=\"--web-config-file\"}";

fn start(file: &Path, arguments: &[&str]) -> Psystrike {
    let file = ["--allow", "127.0.0.0/8", "--web-config-file", file.to_str().expect("a path")];
    Psystrike::start(&[&file, arguments].concat())
}

fn basic(user: &str, password: &str) -> String {
    let mut buffer = [0; 128];
    let pair = format!("{user}:{password}");
    format!("Authorization: Basic {}\r\n", Base64::encode(pair.as_bytes(), &mut buffer).expect("it fits"))
}

/// Returns the status of the response.
fn ask(client: &mut Client, target: &str, fields: &str) -> u16 {
    client.send(format!("GET {target} HTTP/1.1\r\nHost: psystrike\r\n{fields}\r\n"));
    client.response().expect("a response").status()
}

fn curl(arguments: &[&str]) -> String {
    let mut command = Command::new("curl");
    command.args(["-s", "-o", "/dev/null", "-w", "%{http_code} %{http_connect}", "--max-time", "20"]);
    let output = command.args(arguments).output().expect("curl runs");
    String::from_utf8(output.stdout).expect("a text")
}

#[test]
fn the_users_of_an_exporter_are_those_of_psystrike() {
    if !require_programs(&["curl"]) {
        return;
    }
    let scratch = Scratch::new("web-config-users");
    let file = scratch.write("web.yml", &format!("# users\nbasic_auth_users:\n  alice: {SLOW_HASH}\n"));
    let arguments = ["--web.config.file", file.to_str().expect("a path"), "--allow-connect"];
    let psystrike = Psystrike::start(&[&["--allow", "127.0.0.0/8"], &arguments[..]].concat());
    psystrike.wait_for_line("read 1 user");
    let pod = echo("127.33.0.1");
    let path = format!("http://{}{}", psystrike.address(), Psystrike::target(pod.address(), "/m"));
    let absolute = format!("http://{}/m", pod.address());
    let proxy = format!("http://{}", psystrike.address());
    let page = |name: &str| format!("http://{}{name}", psystrike.address());
    for (arguments, expected) in [
        (&["-u", "alice:pass!", &path][..], "200 000"),
        (&["-u", "alice:wrong", &path], "401 000"),
        (&["-u", "mallory:pass!", &path], "401 000"),
        (&["-H", "Authorization: Bearer pass!", &path], "401 000"),
        (&[&path], "401 000"),
        (&["-x", &proxy, "-U", "alice:pass!", &absolute], "200 000"),
        (&["-x", &proxy, "-U", "alice:wrong", &absolute], "407 000"),
        (&["-p", "-x", &proxy, "-U", "alice:pass!", &absolute], "200 200"),
        (&["-p", "-x", &proxy, "-U", "alice:wrong", &absolute], "000 407"),
        (&[&page("/metrics")], "401 000"),
        (&["-u", "alice:pass!", &page("/metrics")], "200 000"),
        (&["-u", "alice:pass!", &page("/")], "200 000"),
        (&[&page("/healthz")], "200 000"),
        (&[&page("/readyz")], "200 000"),
    ] {
        assert_eq!(curl(arguments), expected, "{arguments:?}");
    }
    for head in pod.heads() {
        assert!(head.field("Authorization").is_none() && head.field("Proxy-Authorization").is_none());
    }
}

#[test]
fn another_file_takes_effect_and_a_broken_one_does_not() {
    let scratch = Scratch::new("web-config-reload");
    let file = scratch.write("web.yml", &format!("basic_auth_users:\n  alice: {HASH}\n"));
    let psystrike = start(&file, &["--workers", "2"]);
    let pod = echo("127.33.0.2");
    let target = Psystrike::target(pod.address(), "/m");
    let accepts = |user: &str, password: &str| {
        let statuses = [0; 4].map(|_| ask(&mut psystrike.client(), &target, &basic(user, password)));
        assert!(statuses.iter().all(|status| [200, 401, 429].contains(status)), "{statuses:?}");
        statuses == [200; 4]
    };
    let is_successful = || {
        let mut client = psystrike.client();
        client.send(format!("GET /metrics HTTP/1.1\r\nHost: a\r\n{}\r\n", basic("alice", "pass!")));
        client.response().expect("a response").text().contains(&format!("{RELOADED} 1"))
    };
    assert!(accepts("alice", "pass!") && is_successful());
    for (text, why) in [
        ("basic_auth_users:\n  alice: wombat\n", "line 2: alice: expected a bcrypt hash of 60 characters"),
        ("basic_auth_user:\n", "line 1: unknown key basic_auth_user"),
        ("", "line 1: neither tls_server_config nor basic_auth_users in the file"),
        (
            "tls_server_config:\n  cert_file: no.pem\n  key_file: no.key\n",
            "no.pem: No such file or directory",
        ),
    ] {
        scratch.write("web.yml", text);
        psystrike.signal(Signal::HUP);
        let line = psystrike.wait_for_line(why);
        assert!(line.contains("cannot reload; the old content stays in effect"), "{line}");
        assert!(accepts("alice", "pass!") && !is_successful(), "{why}");
    }
    assert!(!psystrike.stderr().contains("bcrypt costs"), "{}", psystrike.stderr());
    // Without a signal, it is read within some seconds.
    scratch.write("web.yml", &format!("basic_auth_users:\n  alice: {MEDIUM_HASH}\n  bob: {OTHER_HASH}\n"));
    psystrike.wait_for_line("read 2 users");
    psystrike.wait_for_line("bcrypt costs of basic_auth_users differ (4 to 8)");
    poll("both workers", || accepts("bob", "other"), |all| *all);
    assert!(accepts("alice", "pass!") && is_successful());
    scratch.write("web.yml", &format!("basic_auth_users:\n  bob: {OTHER_HASH}\n"));
    psystrike.signal(Signal::HUP);
    poll("both workers", || accepts("alice", "pass!"), |any| !*any);
    assert!(!psystrike.stderr().contains("wombat"), "{}", psystrike.stderr());
}

#[cfg(feature = "tls")]
#[test]
fn the_node_exporter_takes_the_same_file() {
    if !require_programs(&["curl", "openssl", "prometheus-node-exporter"]) {
        return;
    }
    let scratch = Scratch::new("web-config-exporter");
    let [cert, key] = ["server.crt", "server.key"].map(|name| scratch.path(name));
    make_certificate(&cert, &key);
    let text = format!(
        "# The certificate is renewed by a timer.\n\
         tls_server_config:\n  cert_file: server.crt\n  key_file: \"server.key\"\n  min_version: TLS12\n\n\
         http_server_config:\n  http2: true\n\n\
         basic_auth_users:\n  alice: {SLOW_HASH}\n  'bob': \"{SLOW_HASH}\"\n"
    );
    let file = scratch.write("web-config.yml", &text);
    let option = format!("--web.config.file={}", file.to_str().expect("a path"));
    let exporter = NodeExporter::start_with("127.25.0.1", &["--collector.disable-defaults", &option]);
    let psystrike = Psystrike::start(&["--listen", "127.25.0.1:0", &option]);
    let cert = cert.to_str().expect("a path");
    for address in [exporter.address(), psystrike.address()] {
        let page = format!("https://{address}/metrics");
        for (arguments, expected) in [
            (&["-u", "alice:pass!", &page][..], "200 000"),
            (&["-u", "bob:pass!", &page], "200 000"),
            (&["-u", "alice:wrong", &page], "401 000"),
            (&["-u", "mallory:pass!", &page], "401 000"),
            (&[&page], "401 000"),
            (&["-u", "alice:pass!", &page.replace("https", "http")], "400 000"),
        ] {
            assert_eq!(curl(&[&["--cacert", cert], arguments].concat()), expected, "{arguments:?}");
        }
    }
}

/// Sends one request, and returns the status of its response.
fn ask_once(socket: TcpStream, target: &str, fields: &str) -> u16 {
    let mut wire = Wire::new(socket);
    let request = format!("GET {target} HTTP/1.1\r\nHost: psystrike\r\n{fields}Connection: close\r\n\r\n");
    wire.send(request).expect("sent");
    let (bytes, _) = wire.take_rest(6 * LIMIT);
    String::from_utf8_lossy(&bytes[9..12]).parse().expect("a status")
}

#[test]
fn guesses_hinder_neither_a_known_password_nor_a_new_one() {
    let scratch = Scratch::new("web-config-guesses");
    let users = format!("basic_auth_users:\n  alice: {MEDIUM_HASH}\n  bob: {MEDIUM_HASH}\n");
    let psystrike = start(&scratch.write("web.yml", &users), &[]);
    let pod = echo("127.33.0.3");
    let target = Psystrike::target(pod.address(), "/m");
    let right = basic("alice", "pass!");
    let mut known = psystrike.client();
    assert_eq!(ask(&mut known, &target, &right), 200);
    let statuses = thread::scope(|scope| {
        let target = &target;
        let guess = |number: u8| {
            let socket = connect_from([127, 33, 1, number / 4].into(), psystrike.address());
            scope.spawn(move || ask_once(socket, target, &basic("alice", &number.to_string())))
        };
        let guesses: Vec<_> = (0..120).map(guess).collect();
        let is_finished = |guess: &ScopedJoinHandle<'_, u16>| guess.is_finished();
        let mut slowest = Duration::ZERO;
        let mut new = None;
        while !guesses.iter().all(is_finished) {
            if new.is_none() && guesses.iter().any(is_finished) {
                let socket = connect_from([127, 33, 2, 1].into(), psystrike.address());
                new = Some(scope.spawn(move || ask_once(socket, target, &basic("bob", "pass!"))));
            }
            let begun = Instant::now();
            assert_eq!(ask(&mut known, target, &right), 200);
            slowest = slowest.max(begun.elapsed());
            thread::sleep(Duration::from_millis(5)); // else the checks have little of the machine
        }
        assert!(slowest < Duration::from_millis(500), "a scrape took {slowest:?}");
        let new = new.map(|new| new.join().expect("a status"));
        assert_eq!(new, Some(200), "a password that is not known yet was not checked");
        guesses.into_iter().map(|guess| guess.join().expect("a status")).collect::<Vec<_>>()
    });
    assert!(statuses.iter().all(|&status| status == 401), "{statuses:?}");
    // One at a time, although their clients have left.
    let mut quitters: Vec<Client> = (0..8).map(|_| psystrike.client()).collect();
    for (number, client) in quitters.iter_mut().enumerate() {
        let fields = basic("mallory", &number.to_string());
        client.send(format!("GET {target} HTTP/1.1\r\nHost: psystrike\r\n{fields}\r\n"));
    }
    drop(quitters);
    assert_eq!(ask(&mut known, &target, &right), 200);
}

#[test]
fn no_password_is_shown_anywhere() {
    let scratch = Scratch::new("web-config-shown");
    let file = scratch.write("web.yml", &format!("basic_auth_users:\n  alice: {HASH}\n"));
    let psystrike = start(&file, &["--access-log", "--log-level", "trace"]);
    let pod = echo("127.33.0.4");
    let target = Psystrike::target(pod.address(), "/m");
    let mut client = psystrike.client();
    for (user, password, status) in
        [("alice", "wombat", 401), ("wombat", "wombat", 401), ("alice", "pass!", 200), ("wombat", "", 401)]
    {
        assert_eq!(ask(&mut client, &target, &basic(user, password)), status);
    }
    let log = psystrike.stderr();
    assert!(!log.contains("wombat") && !log.contains("pass!") && !log.contains(HASH), "{log}");
}

#[test]
fn what_cannot_be_used_ends_it_at_the_start() {
    let scratch = Scratch::new("web-config-start");
    let path = |path: &Path| path.to_str().expect("a path").to_owned();
    let good = path(&scratch.write("good.yml", &format!("basic_auth_users:\n  alice: {HASH}\n")));
    let tls = "tls_server_config:\n  cert_file: c.pem\n  key_file: k.pem\n";
    let tls = path(&scratch.write("tls.yml", tls));
    let cost = HASH.replace("$04$", "$17$");
    let cost = path(&scratch.write("cost.yml", &format!("basic_auth_users:\n  alice: {cost}\n")));
    let missing = path(&scratch.path("missing.yml"));
    for (arguments, status, expected) in [
        (vec!["--web-config-file", &missing], 1, "missing.yml: No such file or directory"),
        (vec!["--web-config-file", &cost], 1, "cost.yml: line 2: alice: bcrypt cost over 16"),
        (vec!["--web-config-file=/"], 1, "Is a directory"),
        (vec!["--web.config.file", &missing], 1, "--web-config-file "),
        (vec!["--web.config.file"], 2, "--web-config-file requires a value"),
        (vec!["--web.config.files=x"], 2, "unknown option"),
        (vec!["--web-config-file", &good, "--web.config.file", &good], 2, "given more than once"),
        #[cfg(feature = "tls")]
        (vec!["--web-config-file", &tls], 1, "c.pem: No such file or directory"),
        #[cfg(not(feature = "tls"))]
        (
            vec!["--web-config-file", &tls],
            1,
            "line 1: tls_server_config: this psystrike is built without TLS",
        ),
        #[cfg(feature = "tls")]
        (vec!["--web-config-file", &good, "--tls-self-signed"], 2, "exclude each other"),
    ] {
        let ended = run(&[&["--listen", "127.0.0.1:0"], &arguments[..]].concat(), &[]);
        assert_eq!(ended.status.code(), Some(status), "{ended:?}");
        assert!(ended.stderr.contains(expected), "{expected}: {ended:?}");
    }
}

#[test]
fn prometheus_sends_a_password() {
    if !Release::Installed.require(&["prometheus"]) {
        return;
    }
    let scratch = Scratch::new("web-config-prometheus");
    let file = scratch.write("web.yml", &format!("basic_auth_users:\n  alice: {SLOW_HASH}\n"));
    let psystrike = start(&file, &[]);
    let pod = Pod::serve("127.33.0.5", |_, client| client.send(with_length(PAGE)).map(|()| Then::Keep));
    let target = format!("static_configs: [{{ targets: ['{}'] }}]", psystrike.address());
    let through = format!("static_configs: [{{ targets: ['{}'] }}]", pod.address());
    let path = Psystrike::target(pod.address(), "/metrics");
    let jobs = [
        (
            "right",
            format!("metrics_path: {path}\n  basic_auth: {{ username: alice, password: pass! }}\n  {target}"),
            "",
        ),
        (
            "wrong",
            format!("metrics_path: {path}\n  basic_auth: {{ username: alice, password: no }}\n  {target}"),
            { "HTTP status 401 authentication failed: unknown user or wrong password" },
        ),
        ("proxy", format!("proxy_url: http://alice:pass%21@{}\n  {through}", psystrike.address()), ""),
        ("own", format!("basic_auth: {{ username: alice, password: pass! }}\n  {target}"), ""),
    ];
    let mut text = "global: { scrape_interval: 1s, scrape_timeout: 1s }\nscrape_configs:\n".to_owned();
    for (name, lines, _) in &jobs {
        text += &format!("- job_name: {name}\n  {lines}\n");
    }
    scratch.write("prometheus.yml", &text);
    let prometheus = Prometheus::start(Release::Installed, &scratch);
    let settled = "count_over_time(up[5m]) >= 3";
    let in_time = prometheus.wait_until(Duration::from_secs(25), |it| it.query(settled).len() == jobs.len());
    let targets = prometheus.targets();
    assert!(in_time, "{targets:#?}");
    for (name, _, error) in &jobs {
        let found = targets.iter().find(|target| target.labels["job"] == *name);
        let found = found.unwrap_or_else(|| panic!("no {name}: {targets:#?}"));
        assert!(found.last_error.ends_with(error), "{name}: {:?}", found.last_error);
        assert_eq!(found.health, if error.is_empty() { "up" } else { "down" }, "{found:#?}");
    }
}

#[cfg(feature = "tls")]
#[test]
fn a_certificate_is_read_again_when_it_changes() {
    if !require_programs(&["openssl"]) {
        return;
    }
    let scratch = Scratch::new("web-config-tls");
    let [cert, key] = ["server.crt", "server.key"].map(|name| scratch.path(name));
    make_certificate(&cert, &key);
    // Relative to the folder of the file, as exporters have it.
    let file =
        scratch.write("web.yml", "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n");
    let mut psystrike = start(&file, &[]);
    let line = psystrike.wait_for_line("read certificate for ");
    assert!(line.contains("option=--web-config-file"), "{line}");
    make_certificate(&cert, &key);
    psystrike.wait_for_lines("read certificate for ", 2);
    // Another file is named.
    scratch.write("web.yml", "tls_server_config:\n  cert_file: other.crt\n  key_file: server.key\n");
    let line = psystrike.wait_for_line("other.crt: No such file or directory");
    assert!(line.contains("cannot reload; the old content stays in effect"), "{line}");
    fs::copy(&cert, scratch.path("other.crt")).expect("copied");
    psystrike.wait_for_lines("read certificate for ", 3);
    // In the file itself.
    let indented = |path: &Path| fs::read_to_string(path).expect("PEM").replace('\n', "\n    ");
    let inline =
        format!("tls_server_config:\n  cert: |\n    {}\n  key: |\n    {}\n", indented(&cert), indented(&key));
    scratch.write("web.yml", &(inline + &format!("basic_auth_users:\n  alice: {HASH}\n")));
    psystrike.wait_for_line("read 1 user; certificate for ");
    assert!(!psystrike.stderr().contains("PRIVATE KEY"), "{}", psystrike.stderr());
    assert!(psystrike.terminate(LIMIT).success());
}
