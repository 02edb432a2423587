//! Access control through the sockets of the real binary: the addresses that may connect, the file with the secrets and
//! its changes, and that no secret is shown anywhere.

mod support;

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use support::{
    LIMIT, Scratch,
    http::{Client, End, Response, Wire, connect_from},
    poll,
    program::Signal,
    psystrike::{Psystrike, run},
    scrapes::echo,
};

/// Words that are found if a secret is shown anywhere.
const OLD: &str = "wombat-old-8f1d55c0";
const NEW: &str = "wombat-new-2b90e6aa";

const RELOADED: &str = "psystrike_config_last_reload_successful{option=\"--auth-token-file\"}";

fn start(arguments: &[&str]) -> Psystrike {
    Psystrike::start(&[&["--allow", "127.0.0.0/8"], arguments].concat())
}

fn start_with_tokens(file: &Path, arguments: &[&str]) -> Psystrike {
    start(&[&["--auth-token-file", file.to_str().expect("a path")], arguments].concat())
}

fn ask(client: &mut Client, target: &str, fields: &str) -> Response {
    client.send(format!("GET {target} HTTP/1.1\r\nHost: psystrike\r\n{fields}\r\n"));
    client.response().expect("a response")
}

fn bearer(secret: &str) -> String {
    format!("Authorization: Bearer {secret}\r\n")
}

#[test]
fn other_addresses_are_closed_before_they_take_a_place() {
    let listen = ["--listen", "127.0.0.1:0", "--listen", "[::]:0"];
    let limits = ["--allow-clients", "127.0.0.1,::1", "--clients-max", "1"];
    let psystrike = start(&[&listen[..], &limits].concat());
    let pod = echo("127.26.0.1");
    let target = Psystrike::target(pod.address(), "/m");
    let mut allowed = psystrike.client();
    assert_eq!(ask(&mut allowed, &target, "").status(), 200);
    let second = SocketAddr::from(([127, 0, 0, 1], psystrike.addresses()[1].port()));
    for to in [psystrike.address(), second] {
        for _ in 0..20 {
            let mut refused = Wire::new(connect_from([127, 26, 0, 9].into(), to));
            let _ = refused.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
            let (bytes, end) = refused.take_rest(LIMIT);
            assert!(bytes.is_empty() && matches!(end, End::Eof | End::Reset), "{bytes:?}, {end:?}");
        }
    }
    // The only place was not taken for any of them.
    assert_eq!(ask(&mut allowed, &target, "").status(), 200);
    drop(allowed);
    assert_eq!(psystrike.metric("psystrike_client_connections_refused_total"), 40.0);
    assert_eq!(psystrike.metric("psystrike_client_connections_accepted_total"), 3.0);
    let line = psystrike.wait_for_line("client address not allowed; connection closed");
    assert!(line.contains("client=127.26.0.9"), "{line}");
    assert_eq!(psystrike.stderr().matches("client address not allowed").count(), 1, "at a limited rate");
    // Through IPv6, an IPv4 address is the same address.
    let mut mapped = Client::connect(second);
    assert_eq!(ask(&mut mapped, "/healthz", "").status(), 200);
}

#[test]
fn scrapes_go_on_while_secrets_are_rotated() {
    let scratch = Scratch::new("access-rotation");
    // As Kubernetes mounts a Secret.
    let version = |name: &str, text: &str| {
        fs::create_dir(scratch.path(name)).expect("a folder");
        scratch.write(&format!("{name}/token"), text);
        let _ = fs::remove_file(scratch.path("..new"));
        symlink(name, scratch.path("..new")).expect("a link");
        fs::rename(scratch.path("..new"), scratch.path("..data")).expect("renamed");
    };
    version("v1", &format!("old:{OLD}\n"));
    symlink("..data/token", scratch.path("token")).expect("a link");
    let psystrike = start_with_tokens(&scratch.path("token"), &["--workers", "2"]);
    let pod = echo("127.26.0.2");
    let target = Psystrike::target(pod.address(), "/m");
    psystrike.wait_for_line("read 1 secret (old)");
    let accepts = |secret| ask(&mut psystrike.client(), &target, &bearer(secret)).status() == 200;
    assert!(accepts(OLD) && !accepts(NEW));

    // Each client changes its secret while both are accepted, and none of its scrapes fails.
    let (changed, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = psystrike.client();
                while !stop.load(Ordering::Relaxed) {
                    let secret = if changed.load(Ordering::Relaxed) { NEW } else { OLD };
                    let response = ask(&mut client, &target, &bearer(secret));
                    assert_eq!((response.status(), response.text()), (200, "/m".to_owned()));
                }
            });
        }
        version("v2", &format!("old:{OLD}\nnew:{NEW}\n"));
        psystrike.wait_for_line("read 2 secrets (old, new)");
        poll("both workers", || (0..8).all(|_| accepts(NEW)), |all| *all);
        changed.store(true, Ordering::Relaxed);
        thread::sleep(std::time::Duration::from_millis(100)); // requests that are under way
        version("v3", &format!("new:{NEW}\n"));
        psystrike.wait_for_line("read 1 secret (new)");
        poll("both workers", || (0..8).all(|_| !accepts(OLD)), |none| *none);
        stop.store(true, Ordering::Relaxed);
    });

    // A file that cannot be used leaves the secrets as they are, and SIGHUP reads it at once.
    for (name, text, why) in
        [("v4", "# none\n", "no secret in it"), ("v5", "wombat wombat", "line 1: a secret must not contain")]
    {
        version(name, text);
        psystrike.signal(Signal::HUP);
        let line = psystrike.wait_for_line(why);
        assert!(line.contains("cannot reload; the old content stays in effect"), "{line}");
        assert_eq!(psystrike.metric(RELOADED), 0.0);
        assert!(accepts(NEW) && !accepts("wombat"));
    }
    fs::remove_file(scratch.path("token")).expect("removed");
    psystrike.signal(Signal::HUP);
    psystrike.wait_for_line("No such file or directory");
    assert!(accepts(NEW));
    scratch.write("token", OLD);
    psystrike.signal(Signal::HUP);
    psystrike.wait_for_line("read 1 secret (unnamed)");
    assert_eq!(psystrike.metric(RELOADED), 1.0);
    assert!(accepts(OLD) && !accepts(NEW));
    assert!(psystrike.metric(&RELOADED.replace("successful", "success_timestamp_seconds")) > 1.7e9);
    assert!(!psystrike.stderr().contains("wombat"), "{}", psystrike.stderr());
}

#[test]
fn no_secret_is_shown_anywhere() {
    let scratch = Scratch::new("access-shown");
    let file = scratch.write("token", &format!("a:{OLD}\n{NEW}\nshort:wombat\n"));
    let psystrike = start_with_tokens(&file, &["--access-log", "--log-level", "trace", "--allow-connect"]);
    psystrike.wait_for_line("1 secret(s) shorter than 16 characters, which may be guessed");
    let pod = echo("127.26.0.3");
    let target = Psystrike::target(pod.address(), "/m");
    let absolute = format!("http://user:{OLD}@{}/m", pod.address());
    let mut client = psystrike.client();
    for (target, fields, status) in [
        (target.as_str(), bearer(OLD), 200),
        (&target, format!("Proxy-Authorization: Bearer {NEW}\r\n{}", bearer("pod")), 200),
        (&target, bearer("wombat-wrong"), 401),
        (&target, format!("{}{}", bearer(OLD), bearer(OLD)), 401),
        (&absolute, bearer(OLD), 400),
        (&absolute, String::new(), 407),
        ("/", bearer(OLD), 200),
        ("/metrics", bearer(OLD), 200),
        ("/readyz", String::new(), 200),
    ] {
        let response = ask(&mut client, target, &fields);
        assert_eq!(response.status(), status, "{target}, {fields}");
        let shown = format!("{:?}{}", response.head, response.text());
        assert!(!shown.contains("wombat"), "{shown}");
        if target == "/" {
            assert!(
                shown.contains("<td>Authentication</td><td>a secret (<code>--auth-token-file</code>)</td>")
            );
        }
    }
    for head in pod.heads() {
        assert!(!format!("{head:?}").contains("wombat"), "{head:?}");
    }
    let passed: Vec<_> = pod.heads().iter().map(|head| head.field("Authorization")).collect();
    assert_eq!(passed, [None, Some("Bearer pod".to_owned())]);
    assert_eq!(psystrike.metric("psystrike_authentication_enabled"), 1.0);
    assert_eq!(psystrike.outcomes("authentication_failed"), 2.0);
    assert_eq!(psystrike.outcomes("proxy_authentication_required"), 1.0);
    assert!(!psystrike.stderr().contains("wombat"), "{}", psystrike.stderr());
}

#[test]
fn a_file_that_cannot_be_used_ends_it_at_the_start() {
    let scratch = Scratch::new("access-start");
    let missing = scratch.path("missing");
    let file = scratch.write("token", "wombat:\n");
    for (arguments, status, expected) in [
        (vec!["--auth-token-file", missing.to_str().expect("a path")], 1, "No such file or directory"),
        (vec!["--auth-token-file", "/"], 1, "Is a directory"),
        (vec!["--auth-token-file", file.to_str().expect("a path")], 1, "line 1: no secret after the ':'"),
        (vec!["--auth-token-file"], 2, "--auth-token-file requires a value"),
        (vec!["--auth-metrics"], 2, "--auth-metrics requires --auth-token-file"),
        (vec!["--allow-clients", "10.0.0.1/8"], 2, "did you mean 10.0.0.0/8?"),
    ] {
        let ended = run(&[&["--listen", "127.0.0.1:0"], &arguments[..]].concat(), &[]);
        assert_eq!(ended.status.code(), Some(status), "{ended:?}");
        assert!(ended.stderr.contains(expected), "{ended:?}");
        assert!(!ended.stderr.contains("wombat"), "{ended:?}");
    }
}

#[test]
fn an_open_port_is_warned_about() {
    const WARNING: &str = if cfg!(feature = "tls") {
        "any client that reaches psystrike can scrape all allowed destinations; \
         set --auth-token-file, --tls-client-ca or --allow-clients"
    } else {
        "any client that reaches psystrike can scrape all allowed destinations; \
         set --auth-token-file or --allow-clients"
    };
    let scratch = Scratch::new("access-warning");
    let file = scratch.write("token", OLD);
    let token = ["--auth-token-file", file.to_str().expect("a path")];
    for (arguments, is_warned) in [
        (&["--listen", "127.0.0.1:0"][..], false),
        (&["--listen", "[::1]:0"], false),
        (&["--listen", "0.0.0.0:0"], true),
        (&["--listen", "[::]:0"], true),
        (&["--listen", "127.0.0.1:0", "--listen", "0.0.0.0:0"], true),
        (&["--listen", "0.0.0.0:0", "--allow-clients", "127.0.0.0/8"], false),
        (&["--listen", "0.0.0.0:0", token[0], token[1]], false),
    ] {
        let mut psystrike = start(arguments);
        psystrike.wait_for_line("allowed clients");
        let enabled = u8::from(arguments.contains(&token[0]));
        let port = psystrike.address().port();
        if !psystrike.address().is_ipv6() {
            let page = Client::connect(SocketAddr::from(([127, 0, 0, 1], port))).get("/metrics").text();
            assert!(page.contains(&format!("\npsystrike_authentication_enabled {enabled}\n")), "{page}");
            let unrestricted = u8::from(is_warned);
            assert!(page.contains(&format!("\npsystrike_access_unrestricted {unrestricted}\n")), "{page}");
        }
        psystrike.terminate(LIMIT);
        assert_eq!(psystrike.stderr().contains(WARNING), is_warned, "{arguments:?}");
    }
}
