//! Ten attacks on the static binary in a memory cgroup of 16 MiB, with the default limits: the kernel never kills it,
//! and when each is over, an ordinary scrape goes through.

mod support;

use std::{
    env,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    thread,
    time::Duration,
};

use support::{
    LIMIT,
    cgroup::Cgroup,
    http::{Client, get},
    image,
    pods::{Pod, Then},
    poll_within,
    psystrike::{Psystrike, start_binary_with_stderr},
    repository,
};

const MIB: u64 = 1 << 20;
const PAGE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nup 1\n";
/// How long a peer of an attack holds its side.
const HOLD: Duration = Duration::from_secs(3);

/// Returns the static binary, built once, by the compiler in `MUSL_RUSTC` if that is set. `None` if it cannot be built
/// here.
fn binary() -> Option<&'static Path> {
    static BINARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    let build = || {
        if !image::can_be_made() {
            return None;
        }
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("static");
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--release", "--locked", "--quiet", "--target", image::TARGET, "--target-dir"]);
        cargo.arg(&folder).current_dir(repository());
        if image::AS_THIS_TEST == image::WITHOUT_TLS {
            cargo.arg("--no-default-features");
        }
        if let Some(rustc) = env::var_os("MUSL_RUSTC") {
            cargo.env("RUSTC", rustc);
        }
        assert!(cargo.status().expect("cargo runs").success(), "the static binary is not built");
        Some(folder.join(image::TARGET).join("release/psystrike"))
    };
    BINARY.get_or_init(build).as_deref()
}

/// Starts the binary in a group of 16 MiB, runs an attack on it, and checks it afterwards.
fn survives(attack: &str, arguments: &[&str], attacks: impl FnOnce(&Psystrike)) {
    let (Some(binary), Some(group)) = (binary(), Cgroup::with_memory(16 * MIB)) else { return };
    let wrapper = group.wrapper();
    let arguments = [&["--allow", "127.0.0.0/8"], arguments].concat();
    let psystrike =
        Psystrike::start_binary_under(binary, &wrapper.each_ref().map(String::as_str), &arguments);
    attacks(&psystrike);
    assert_alive(attack, &group, psystrike.address());
}

fn assert_alive(attack: &str, group: &Cgroup, address: SocketAddr) {
    assert_eq!(group.kills(), 0, "{attack}");
    let pod = Pod::answering("127.41.0.1", PAGE, Then::Keep);
    let target = Psystrike::target(pod.address(), "/");
    // The kernel may need a moment to release the attack's memory.
    let scrape = || -> io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream
            .write_all(format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let is_whole =
        |answer: &io::Result<String>| answer.as_ref().is_ok_and(|answer| answer.ends_with("up 1\n"));
    let scraped = poll_within(2 * LIMIT, "an ordinary scrape", scrape, is_whole);
    assert!(is_whole(&scraped), "{attack}");
    support::tell(&format!("{attack}: peak {:.1} MiB", group.peak() as f64 / MIB as f64));
}

/// Opens connections that send these bytes and then stay open.
fn hold(psystrike: &Psystrike, connections: usize, bytes: &[u8]) -> Vec<TcpStream> {
    (0..connections)
        .map(|_| {
            let mut stream = TcpStream::connect(psystrike.address()).expect("a connection");
            stream.set_write_timeout(Some(HOLD)).expect("a time limit");
            let _ = stream.write_all(bytes); // a client that is turned away accepts no more
            stream
        })
        .collect()
}

fn long_answers(ip: &str, bytes: usize) -> Pod {
    let body = "x".repeat(bytes);
    Pod::answering(ip, format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n{body}"), Then::Keep)
}

#[test]
fn slow_heads_of_clients() {
    survives("slow heads of clients", &[], |psystrike| {
        let head = format!("GET /healthz HTTP/1.1\r\nX-Slow: {}", "s".repeat(15_000));
        let held = hold(psystrike, 3000, head.as_bytes());
        thread::sleep(HOLD); // the attack
        drop(held);
    });
}

#[test]
fn slow_heads_of_pods() {
    let head = format!("HTTP/1.1 200 OK\r\nX-Slow: {}", "s".repeat(65_000));
    let pod = Pod::serve("127.41.0.2", move |_, client| {
        client.send(&head)?;
        client.take_rest(HOLD);
        Ok(Then::Close)
    });
    survives("slow heads of pods", &["--clients-max", "1000"], |psystrike| {
        let held = hold(psystrike, 900, get(&Psystrike::target(pod.address(), "/")).as_bytes());
        thread::sleep(HOLD); // the attack
        drop(held);
    });
}

#[test]
fn stalled_readers() {
    let pod = long_answers("127.41.0.3", 8 << 20);
    survives("stalled readers", &["--clients-max", "1000"], |psystrike| {
        let held = hold(psystrike, 300, get(&Psystrike::target(pod.address(), "/")).as_bytes());
        thread::sleep(HOLD); // the attack
        drop(held);
    });
}

#[test]
fn bulk() {
    let pod = long_answers("127.41.0.4", 32 << 20);
    survives("bulk", &[], |psystrike| {
        let target = Psystrike::target(pod.address(), "/");
        thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    let mut client = psystrike.client();
                    for _ in 0..2 {
                        client.send(get(&target));
                        let mut left = 32 << 20;
                        let mut sink = vec![0; 1 << 16];
                        while left > 0 {
                            let bytes = client.stream().read(&mut sink).expect("the response continues");
                            assert!(bytes > 0, "an end");
                            left -= bytes.min(left);
                        }
                    }
                });
            }
        });
    });
}

#[test]
fn floods_above_the_limit() {
    survives("floods above the limit", &[], |psystrike| {
        for _ in 0..3 {
            drop(hold(psystrike, 3000, get("/metrics").as_bytes()));
        }
    });
}

#[test]
fn resets() {
    let pod = long_answers("127.41.0.5", 1 << 20);
    survives("resets", &[], |psystrike| {
        let target = Psystrike::target(pod.address(), "/");
        for _ in 0..2000 {
            let mut client = psystrike.client();
            client.send(get(&target));
            client.reset();
        }
    });
}

/// One listener serves all addresses of 127.0.0.0/8: one for each pod.
#[test]
fn a_hundred_thousand_distinct_pods() {
    const PODS: u32 = 100_000;
    const THREADS: u32 = 4;
    let listener = TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            thread::spawn(move || {
                let mut request = [0; 4096];
                while stream.read(&mut request).is_ok_and(|bytes| bytes > 0) {
                    if stream.write_all(PAGE.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    survives("100,000 distinct pods", &[], |psystrike| {
        thread::scope(|scope| {
            for thread in 0..THREADS {
                scope.spawn(move || {
                    let mut client = psystrike.client();
                    for at in (0..PODS).filter(|at| at % THREADS == thread) {
                        let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 100, 0, 0)) + at);
                        let response = client.get(&format!("/pods/{ip}/{port}/metrics"));
                        assert_eq!(response.status(), 200, "{ip}");
                    }
                });
            }
        });
    });
}

#[test]
fn pipelining() {
    survives("pipelining", &[], |psystrike| {
        let requests = get("/metrics").repeat(2000);
        let held: Vec<_> = thread::scope(|scope| {
            let attackers: Vec<_> =
                (0..60).map(|_| scope.spawn(|| hold(psystrike, 5, requests.as_bytes()))).collect();
            attackers.into_iter().flat_map(|attacker| attacker.join().expect("it ends")).collect()
        });
        drop(held);
    });
}

#[test]
fn an_access_log_into_a_blocked_pipe() {
    let (Some(binary), Some(group)) = (binary(), Cgroup::with_memory(16 * MIB)) else { return };
    let wrapper = group.wrapper();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let arguments = ["--access-log", "--allow", "127.0.0.0/8"];
    let wrapper = wrapper.each_ref().map(String::as_str);
    let (program, address) = start_binary_with_stderr(binary, &wrapper, &arguments, writer);
    let pod = Pod::answering("127.41.0.6", PAGE, Then::Keep);
    let target = Psystrike::target(pod.address(), &format!("/{}", "x".repeat(15_000)));
    let mut client = Client::connect(address);
    for _ in 0..3000 {
        assert_eq!(client.get(&target).status(), 200);
    }
    assert_alive("access log into a blocked pipe", &group, address);
    drop((program, reader));
}

#[test]
fn orphans() {
    let pod = long_answers("127.41.0.7", 16 << 20);
    survives("orphans", &[], |psystrike| {
        let target = Psystrike::target(pod.address(), "/");
        let gone: Vec<Client> = (0..400)
            .map(|_| {
                let mut client = psystrike.client();
                client.send(get(&target));
                let _ = client.stream().read(&mut [0]);
                let _ = client.stream().shutdown(Shutdown::Write);
                client
            })
            .collect();
        drop(gone);
    });
}
