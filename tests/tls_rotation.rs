//! Certificates that are replaced again and again, as Kubernetes replaces the files of a Secret, while scrapes over new
//! and over persistent connections go on: none fails, and no connection is closed.
#![cfg(feature = "tls")]

mod support;

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

use rustls::version::{TLS12, TLS13};
use support::{
    Scratch,
    certificates::{Ca, Flaw, swap},
    poll,
    program::Signal,
    psystrike::Psystrike,
    require_programs,
    scrapes::echo,
    tls_client::{TlsClient, trusting},
    tls_pods::TlsPods,
};

/// How often the files are replaced.
const ROTATIONS: usize = 100;

/// Folders like those of a Secret's volume: `..data` links to one of them, and the files link to those in `..data`.
fn volume(scratch: &Scratch, files: &[&str]) {
    symlink("v-0", scratch.path("..data")).expect("a link");
    for file in files {
        symlink(format!("..data/{file}"), scratch.path(file)).expect("a link");
    }
}

fn version(scratch: &Scratch, number: usize, files: &[(&str, &str)]) {
    let folder = scratch.path(&format!("v-{number}"));
    fs::create_dir_all(&folder).expect("a folder");
    for (name, from) in files {
        fs::copy(from, folder.join(name)).expect("copied");
    }
}

fn option(scratch: &Scratch, option: &str, file: &str) -> String {
    format!("{option}={}", scratch.path(file).display())
}

/// Replaces the files again and again. Waits each time until psystrike has read them, which `line` in its log shows,
/// and until some more scrapes over new connections were counted.
fn rotate(scratch: &Scratch, psystrike: &Psystrike, line: &str, scrapes: &AtomicUsize) {
    for rotation in 1..=ROTATIONS {
        swap(scratch, &format!("v-{}", rotation % 2));
        psystrike.signal(Signal::HUP);
        psystrike.wait_for_lines(line, rotation + 1);
        let enough = scrapes.load(SeqCst) + 4;
        poll("further scrapes", || scrapes.load(SeqCst), |count| *count >= enough);
    }
}

#[test]
fn no_scrape_fails_while_the_certificate_is_replaced() {
    let (scratch, made) = (Scratch::new("tls-rotation"), Scratch::new("tls-rotation-made"));
    let ca = Ca::new(&made, "ca");
    volume(&scratch, &["tls.crt", "tls.key"]);
    for number in 0..2 {
        let files = ca.sign(&format!("server-{number}"), &["127.0.0.1"]);
        version(&scratch, number, &[("tls.crt", &files.certificate), ("tls.key", &files.key)]);
    }
    let pod = echo("127.31.0.1");
    let psystrike = Psystrike::start(&[
        "--allow=127.0.0.0/8",
        &option(&scratch, "--tls-cert", "tls.crt"),
        &option(&scratch, "--tls-key", "tls.key"),
    ]);
    let target = Psystrike::target(pod.address(), "/metrics");
    let is_over = AtomicBool::new(false);
    let (new, kept) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let seen = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for version in [&TLS12, &TLS13] {
            let config = trusting(&ca.file, &[version]);
            let connect = {
                let (config, psystrike) = (config.clone(), &psystrike);
                move || TlsClient::connect(psystrike.address(), &config).expect("a handshake")
            };
            let (is_over, target, new, seen) = (&is_over, &target, &new, &seen);
            let fresh = connect.clone();
            scope.spawn(move || {
                while !is_over.load(SeqCst) {
                    let mut client = fresh();
                    assert_eq!(client.get(target).expect("a response").0, 200);
                    let certificate = client.certificate();
                    let mut seen = seen.lock().unwrap();
                    if !seen.contains(&certificate) {
                        seen.push(certificate);
                    }
                    new.fetch_add(1, SeqCst);
                }
            });
            let kept = &kept;
            scope.spawn(move || {
                let mut client = connect();
                while !is_over.load(SeqCst) {
                    assert_eq!(client.get(target).expect("a response on the same connection").0, 200);
                    kept.fetch_add(1, SeqCst);
                }
            });
        }
        let rotated =
            scope.spawn(|| rotate(&scratch, &psystrike, "read certificate for 127.0.0.1", &new)).join();
        is_over.store(true, SeqCst);
        rotated.expect("every rotation is read");
    });
    let (new, kept) = (new.into_inner(), kept.into_inner());
    support::tell(&format!(
        "{ROTATIONS} certificates: {new} scrapes over new connections, {kept} over persistent ones"
    ));
    assert!(new >= ROTATIONS && kept >= ROTATIONS);
    assert_eq!(seen.into_inner().unwrap().len(), 2, "both certificates are used");
    let failures = psystrike.get("/metrics").text();
    let failures = failures.lines().filter(|line| line.starts_with("psystrike_tls_failures_total"));
    let failures: Vec<&str> = failures.filter(|line| !line.ends_with(" 0")).collect();
    assert!(failures.is_empty(), "{failures:?}");
    assert_eq!(psystrike.outcomes("forwarded"), (new + kept) as f64);
}

/// The CA of pods, and psystrike's own certificate for them, alternate between two: the file of CAs has both, in
/// another order, as after the first step of a change of CAs.
#[test]
fn no_scrape_fails_while_the_files_for_pods_are_replaced() {
    if !require_programs(&["go"]) {
        return;
    }
    let (scratch, made) = (Scratch::new("tls-pods-rotation"), Scratch::new("tls-pods-rotation-made"));
    let (ca, next) = (Ca::new(&made, "ca"), Ca::new(&made, "next"));
    ca.sign("pod", &["127.31.0.2"]);
    let pods =
        TlsPods::start(&made, &[("required", "127.31.0.2", "pod"), ("requested", "127.31.0.2", "pod")]);
    volume(&scratch, &["ca.crt", "tls.crt", "tls.key"]);
    for number in 0..2 {
        let own = ca.sign_with(&format!("own-{number}"), &["psystrike.example"], Flaw::None);
        let order = if number == 0 { [&ca.file, &next.file] } else { [&next.file, &ca.file] };
        let cas = order.map(|file| fs::read_to_string(Path::new(file)).expect("a CA")).concat();
        let cas = made.write("cas.crt", &cas);
        let cas = cas.to_str().expect("a path");
        version(&scratch, number, &[("ca.crt", cas), ("tls.crt", &own.certificate), ("tls.key", &own.key)]);
    }
    let psystrike = Psystrike::start(&[
        "--allow=127.0.0.0/8",
        "--upstream-idle-timeout=1ms", // so that most scrapes need a new connection
        &option(&scratch, "--pod-tls-ca", "ca.crt"),
        &option(&scratch, "--pod-tls-cert", "tls.crt"),
        &option(&scratch, "--pod-tls-key", "tls.key"),
    ]);
    let is_over = AtomicBool::new(false);
    let scrapes = AtomicUsize::new(0);
    let seen = Mutex::new(Vec::<String>::new());
    thread::scope(|scope| {
        for pod in &pods.addresses {
            let (is_over, scrapes, seen, psystrike) = (&is_over, &scrapes, &seen, &psystrike);
            scope.spawn(move || {
                let target = format!("/pods/https:{}/{}/metrics", pod.ip(), pod.port());
                let mut client = psystrike.client();
                while !is_over.load(SeqCst) {
                    let response = client.get(&target);
                    let page = response.text();
                    assert_eq!(response.status(), 200, "{page}");
                    let name = page.split("client_certificate=\"").nth(1).and_then(|it| it.split('"').next());
                    let name = name.unwrap_or_else(|| panic!("{page}")).to_owned();
                    let mut seen = seen.lock().unwrap();
                    if !seen.contains(&name) {
                        seen.push(name);
                    }
                    scrapes.fetch_add(1, SeqCst);
                }
            });
        }
        let rotating =
            scope.spawn(|| rotate(&scratch, &psystrike, "read certificate for psystrike.example", &scrapes));
        let rotated = rotating.join();
        is_over.store(true, SeqCst);
        rotated.expect("every rotation is read");
    });
    let reads = psystrike.wait_for_lines("read 2 CA certificates", ROTATIONS / 2);
    poll(
        "the reload",
        || psystrike.metric("psystrike_config_last_reload_successful{option=\"--pod-tls-ca\"}"),
        |it| *it == 1.0,
    );
    let (scrapes, opened) =
        (scrapes.into_inner() as f64, psystrike.metric("psystrike_pod_connections_opened_total"));
    support::tell(&format!("{ROTATIONS} rotations: {scrapes} scrapes over {opened} connections to pods"));
    assert!(reads.len() >= ROTATIONS / 2 && opened >= ROTATIONS as f64);
    assert_eq!(psystrike.outcomes("forwarded"), scrapes);
    let mut seen = seen.into_inner().unwrap();
    seen.sort();
    assert_eq!(seen, ["own-0", "own-1"], "both certificates are used");
}
