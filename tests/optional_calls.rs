//! Optional system calls: if a seccomp profile or a sandboxed kernel refuses one of them, scrapes continue byte for
//! byte, and the change is logged and shown on `/metrics`. strace injects the failures.

mod support;

use support::{
    LIMIT,
    http::{Client, get},
    pods::{Pod, Then},
    psystrike::Psystrike,
    require_working,
};

/// Long enough to fill a pipe several times.
const LONG: usize = 700_000;
const COPIED: &str = "copying long responses from now on";

/// Returns bytes in which no two stretches are the same.
fn body(bytes: usize) -> Vec<u8> {
    let mut random = 0x9e37_79b9_u32;
    let next = |_| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 24) as u8
    };
    (0..bytes).map(next).collect()
}

fn with_length(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nDate: then\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn in_chunks(body: &[u8], bytes: usize) -> Vec<u8> {
    let mut answer = b"HTTP/1.1 200 OK\r\nDate: then\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for chunk in body.chunks(bytes) {
        answer.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        answer.extend_from_slice(chunk);
        answer.extend_from_slice(b"\r\n");
    }
    answer.extend_from_slice(b"0\r\n\r\n");
    answer
}

/// Returns pods that respond in every framing, and their bodies.
fn pods() -> Vec<(Pod, Vec<u8>)> {
    let (short, long) = (body(100), body(LONG));
    let answers =
        [with_length(&short), with_length(&long), in_chunks(&long, 300_000), in_chunks(&long, 1000)];
    let answers =
        answers.into_iter().map(|answer| (Pod::answering("127.26.0.1", answer.clone(), Then::Keep), answer));
    answers.collect()
}

/// Scrapes all pods in turn, on one connection, more than once: a long response is read differently after another one.
fn scrape_all(client: &mut Client, pods: &[(Pod, Vec<u8>)], case: &str) {
    for round in 0..3 {
        for (nth, (pod, answer)) in pods.iter().enumerate() {
            client.send(get(&Psystrike::target(pod.address(), "/")));
            let got = client.response().unwrap_or_else(|broken| {
                panic!("{case}: answer {nth} in round {round}: {}, {:?}", broken.why, broken.end)
            });
            let got = [got.head.raw, got.coded_body].concat();
            assert!(got == *answer, "{case}: response {nth} in round {round} differs");
        }
    }
}

/// Starts psystrike with failures of this call, which strace injects.
fn start_with(failure: &str) -> Psystrike {
    let inject = format!("inject={failure}");
    // -D: psystrike is the process that is started, and ends with the test.
    let strace = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", &inject];
    // The address of a client is known, however it was accepted.
    let clients = ["--allow-clients", "127.0.0.1"];
    let arguments = ["--allow", "127.0.0.0/8", "--workers", "1"];
    Psystrike::start_under(&strace, &[&arguments[..], &clients].concat())
}

/// Returns whether strace can inject failures here.
fn can_inject() -> bool {
    require_working(&["strace", "-o", "/dev/null", "-e", "inject=splice:error=ENOSYS", "true"])
}

fn terminate(mut psystrike: Psystrike) -> String {
    assert!(psystrike.terminate(LIMIT).success());
    psystrike.stderr()
}

#[test]
fn without_splice_or_tee_responses_are_copied() {
    if !can_inject() {
        return;
    }
    let pods = pods();
    for case in [
        "splice:error=ENOSYS",
        "splice:error=EINVAL",
        "splice:error=EPERM",
        // Bytes are already in the pipe: the first ones, or all that are forwarded unread.
        "splice:error=EPERM:when=2+",
        "splice:error=ENOSYS:when=3+",
        "splice:error=EINVAL:when=4+",
        "tee:error=ENOSYS",
        "tee:error=EPERM:when=2+",
        "pipe2:error=ENOSYS",
        "pipe2:error=EPERM",
        "pipe2:error=ENOSYS:when=2+",
    ] {
        let psystrike = start_with(case);
        scrape_all(&mut psystrike.client(), &pods, case);
        assert_eq!(psystrike.metric("psystrike_splice_enabled"), 0.0, "{case}");
        for cut in ["response_truncated", "client_closed_request", "connect_failed"] {
            assert_eq!(psystrike.outcomes(cut), 0.0, "{case}: {cut}");
        }
        let log = terminate(psystrike);
        let logged: Vec<_> = log.lines().filter(|line| line.contains(COPIED)).collect();
        assert_eq!(logged.len(), 1, "{case}: {log}");
        assert!(
            logged[0].contains(" level=warn ") && logged[0].contains(case.split(':').next().unwrap()),
            "{logged:?}"
        );
    }
}

#[test]
fn responses_are_spliced_even_if_a_call_fails_for_a_while() {
    if !can_inject() {
        return;
    }
    let pods = pods();
    for case in ["splice:error=EINTR:when=2+3", "pipe2:error=EMFILE:when=1..2", "fsync:error=EIO"] {
        let psystrike = start_with(case);
        scrape_all(&mut psystrike.client(), &pods, case);
        assert_eq!(psystrike.metric("psystrike_splice_enabled"), 1.0, "{case}");
        assert!(!terminate(psystrike).contains(COPIED), "{case}");
    }
}

#[test]
fn a_pod_s_failure_is_the_pod_s_in_any_call() {
    if !can_inject() {
        return;
    }
    let pod = Pod::answering("127.26.0.2", with_length(&body(LONG)), Then::Keep);
    for error in ["ECONNRESET", "ETIMEDOUT", "EHOSTUNREACH"] {
        let psystrike = start_with(&format!("splice:error={error}"));
        let mut client = psystrike.client();
        client.send(get(&Psystrike::target(pod.address(), "/")));
        client.response().expect_err("it was cut short");
        assert_eq!(psystrike.outcomes("response_truncated"), 1.0, "{error}");
        assert_eq!(psystrike.metric("psystrike_splice_enabled"), 1.0, "{error}");
        terminate(psystrike);
    }
}

#[test]
fn without_socket_options_and_accept4_scrapes_continue() {
    if !can_inject() {
        return;
    }
    let pods = pods();
    for case in [
        "setsockopt:error=ENOPROTOOPT",
        "setsockopt:error=EPERM",
        "setsockopt:error=ENOSYS",
        "accept4:error=ENOSYS",
        "accept4:error=EPERM",
    ] {
        let psystrike = start_with(case);
        // Several connections: each is accepted, and none waits for another.
        let mut clients: Vec<_> = (0..3).map(|_| psystrike.client()).collect();
        clients.iter_mut().for_each(|client| scrape_all(client, &pods, case));
        assert_eq!(psystrike.metric("psystrike_splice_enabled"), 1.0, "{case}");
        terminate(psystrike);
    }
}
