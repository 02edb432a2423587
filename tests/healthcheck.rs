//! `--healthcheck` of the real binary: its request, when it succeeds, and that it always ends.

mod support;

use std::{
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};

use support::{
    LIMIT,
    pods::{Pod, Refusing, Then, Unanswering},
    poll,
    psystrike::{Ended, Psystrike, run},
    require_working,
};

/// Runs the check, and returns the exit status and the message.
fn ask(url: &str) -> (Option<i32>, String) {
    ended(run(&["--healthcheck", url], &[]))
}

fn ended(Ended { status, stdout, stderr }: Ended) -> (Option<i32>, String) {
    assert_eq!(stdout, "", "all is said on stderr");
    (status.code(), stderr)
}

fn content() -> (Option<i32>, String) {
    (Some(0), String::new())
}

#[test]
fn a_status_of_200_is_healthy() {
    let psystrike = Psystrike::start(&["--listen", "127.26.0.1:0"]);
    let address = psystrike.address();
    for path in ["/healthz", "/readyz", "/", "", "/metrics", "/healthz?from=probe"] {
        assert_eq!(ask(&format!("http://{address}{path}")), content(), "{path}");
    }
    let with_equals = format!("--healthcheck=http://{address}/healthz");
    assert_eq!(ended(run(&[&with_equals], &[])), content());
    let missing = format!("http://{address}/missing");
    assert_eq!(ask(&missing), (Some(1), format!("psystrike: {missing}: status 404\n")));
}

#[test]
fn without_a_url_it_queries_the_listen_address() {
    let psystrike = Psystrike::start(&["--listen", "127.26.0.2:0"]);
    let address = psystrike.address().to_string();
    assert_eq!(ended(run(&["--healthcheck", "--listen", &address], &[])), content());
    assert_eq!(ended(run(&["--listen", &address, "--healthcheck"], &[])), content());
    assert_eq!(ended(run(&["--healthcheck"], &[("PSYSTRIKE_LISTEN", &address)])), content());

    let refusing = Refusing::on("127.26.0.3").address().to_string();
    let [first, second] = [&refusing, &address].map(|address| format!("--listen={address}"));
    assert_eq!(ended(run(&["--healthcheck", &second, &first], &[])), content(), "the first counts");
    let (status, why) = ended(run(&["--healthcheck", &first, &second], &[]));
    assert!(status == Some(1) && why.contains(&format!("http://{refusing}/healthz")), "{why}");
    let asked = psystrike.metric("psystrike_requests_total{route=\"/healthz\",code=\"200\"}");
    assert_eq!(asked, 4.0);
}

#[test]
fn a_psystrike_on_all_addresses_is_queried_at_loopback() {
    for (listen, hosts) in [
        ("0.0.0.0:0", &["0.0.0.0", "127.0.0.1", "localhost"][..]),
        ("[::]:0", &["[::]", "[::1]", "0.0.0.0", "127.0.0.1", "localhost"]),
        ("[::1]:0", &["[::1]", "[::]", "localhost"]),
    ] {
        let psystrike = Psystrike::start(&["--listen", listen]);
        let port = psystrike.address().port();
        for host in hosts {
            assert_eq!(ask(&format!("http://{host}:{port}/healthz")), content(), "{host} of {listen}");
        }
        let address = psystrike.address().to_string();
        assert_eq!(ended(run(&["--healthcheck", "--listen", &address], &[])), content(), "{listen}");
    }
}

#[test]
fn without_listen_it_queries_port_8080() {
    // In its own network namespace without loopback: the error contains the address that was tried.
    let unshare = ["unshare", "--user", "--map-root-user", "--net"];
    if !require_working(&[&unshare[..], &["true"]].concat()) {
        return;
    }
    let mut command = std::process::Command::new(unshare[0]);
    command.args(&unshare[1..]).args([support::psystrike::BINARY, "--healthcheck"]);
    let output = command.output().expect("it starts");
    let why = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{why}");
    assert!(why.starts_with("psystrike: http://127.0.0.1:8080/healthz: "), "{why}");
}

#[test]
fn during_shutdown_psystrike_is_healthy_but_not_ready() {
    let psystrike = Psystrike::start(&["--shutdown-delay", "1h"]);
    let [healthz, readyz] =
        ["healthz", "readyz"].map(|page| format!("http://{}/{page}", psystrike.address()));
    assert_eq!(ask(&readyz), content());
    psystrike.signal(support::program::Signal::TERM);
    poll("the status of /readyz", || psystrike.get("/readyz").status(), |status| *status == 503);
    assert_eq!(ask(&readyz), (Some(1), format!("psystrike: {readyz}: status 503\n")));
    assert_eq!(ask(&healthz), content());
}

#[test]
fn a_refused_connection_is_reported() {
    let refusing = Refusing::on("127.26.0.4");
    let (status, why) = ask(&format!("http://{}/healthz", refusing.address()));
    assert_eq!(status, Some(1), "{why}");
    assert!(why.contains("refused") && why.lines().count() == 1, "{why}");
}

#[test]
fn a_missing_response_times_out() {
    // One server does not accept, one accepts and is silent, one sends a byte now and then.
    let unanswering = Unanswering::on("127.26.1.1");
    let silent = TcpListener::bind("127.26.1.2:0").expect("a free port");
    let dripping = Pod::serve("127.26.1.3", |_, client| {
        for byte in b"HTTP/1.1 200 OK and so on" {
            client.send([*byte])?;
            thread::sleep(Duration::from_millis(250)); // the slow response is the subject
        }
        Ok(Then::Keep)
    });
    let silent_at = silent.local_addr().expect("it is bound");
    thread::scope(|scope| {
        for address in [unanswering.address(), silent_at, dripping.address()] {
            scope.spawn(move || {
                let began = Instant::now();
                let url = format!("http://{address}/healthz");
                assert_eq!(ask(&url), (Some(1), format!("psystrike: {url}: no response within 3s\n")));
                let took = began.elapsed();
                assert!((Duration::from_secs(3)..LIMIT / 2).contains(&took), "{address}: {took:?}");
            });
        }
    });
}

#[test]
fn an_invalid_response_is_unhealthy() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(5000));
    for (answer, then, expected) in [
        ("SSH-2.0-psystrike\r\n", Then::Keep, "malformed response"),
        ("HTTP/2 200\r\n\r\n", Then::Keep, "malformed response"),
        ("HTTP/1.1 2000 OK\r\n\r\n", Then::Keep, "malformed response"),
        ("HTTP/1.1 200 OK\n\n", Then::Keep, "malformed response: bare LF"),
        (&long, Then::Keep, "malformed response: headers over 4 KiB"),
        ("", Then::Close, "the connection closed"),
        ("HTTP/1.1 200 OK\r\n", Then::Close, "the connection closed"),
        ("", Then::Reset, "reset"),
        ("HTTP/1.1 100 Continue\r\n\r\n", Then::Keep, "status 100"),
        ("HTTP/1.1 204 No Content\r\n\r\n", Then::Keep, "status 204"),
        ("HTTP/1.1 302 Found\r\nLocation: /healthz\r\n\r\n", Then::Keep, "status 302"),
    ] {
        let pod = Pod::answering("127.26.2.1", answer, then);
        let (status, why) = ask(&format!("http://{}/healthz", pod.address()));
        assert_eq!(status, Some(1), "{answer:?}: {why}");
        assert!(why.contains(expected) && why.lines().count() == 1, "{answer:?}: {why}");
    }
    // One byte at a time, and with a truncated body: only the status matters.
    let slow = Pod::serve("127.26.2.2", |_, client| {
        for byte in b"HTTP/1.0 200\r\nContent-Length: 9\r\n\r\nok" {
            client.send([*byte])?;
        }
        Ok(Then::Close)
    });
    assert_eq!(ask(&format!("http://{}", slow.address())), content());
    let head = slow.wait_for("a request", |seen| seen.heads.len() == 1).heads.remove(0);
    assert_eq!(head.start_line(), "GET /healthz HTTP/1.1");
    let expected =
        [("host".to_owned(), slow.address().to_string()), ("connection".to_owned(), "close".to_owned())];
    assert_eq!(head.fields(), expected);
}

#[test]
fn usage_errors_have_another_exit_status_than_failed_checks() {
    let url = "http://127.26.0.5:8080/healthz";
    for (arguments, expected) in [
        (
            &["--healthcheck", "https://127.26.0.5:8080/"][..],
            &["--healthcheck", "https://", "http:// URL with"][..],
        ),
        (&["--healthcheck", "http://psystrike:8080/"], &["--healthcheck", "IP address or localhost"]),
        (&["--healthcheck", "http://127.26.0.5:0/"], &["--healthcheck", "1 to 65535"]),
        (&["--healthcheck", ""], &["--healthcheck", "\"\""]),
        (&["--healthcheck="], &["--healthcheck", "\"\""]),
        (&["--healthcheck", "http://127.26.0.5/\nx"], &["--healthcheck", "\\nx"]),
        (&["--healthcheck", url, url], &[url, "unexpected argument"]),
        (&["--healthcheck", url, "--healthcheck"], &["--healthcheck", "more than once"]),
        (&["--healthcheck", "--listen", "127.26.0.5:0"], &["--healthcheck at 127.26.0.5:0", "1 to 65535"]),
        (&["--healthcheck", "--listen", "8080"], &["--listen", "[::]:8080"]),
        (&["--healthcheck", url, "--nonsense"], &["--nonsense", "unknown"]),
    ] {
        let (status, why) = ended(run(arguments, &[]));
        assert_eq!(status, Some(2), "{arguments:?}: {why}");
        assert_eq!(why.lines().count(), 1, "{arguments:?}: {why}");
        let why = why.replace("\\\"", "\"").replace("\\\\", "\\"); // as before logfmt's quoting
        for part in expected {
            assert!(why.contains(part), "{arguments:?}: {why:?} lacks {part:?}");
        }
    }
}
