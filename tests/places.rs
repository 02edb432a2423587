//! Small limits: of clients, of pooled pod connections, of open files. Each is reached through real sockets, with the
//! real binary; the tests check which clients get a response.

mod support;

use support::{
    pods::{Pod, Then},
    psystrike::{self, Psystrike},
};

const PAGE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nup 1\n";

fn start(arguments: &[&str]) -> Psystrike {
    Psystrike::start(&[&["--allow", "127.0.0.0/8"], arguments].concat())
}

// Pooled pod connections

#[test]
fn every_worker_pools_a_connection_at_any_limit() {
    const CLIENTS: usize = 16; // the kernel distributes them among the workers
    for (most, reused) in [("1", true), ("0", false)] {
        let psystrike = start(&["--workers", "4", "--upstreams-idle-max", most]);
        for at in 0..CLIENTS {
            let pod = Pod::answering("127.26.0.1", PAGE, Then::Keep);
            let target = Psystrike::target(pod.address(), "/");
            let mut client = psystrike.client();
            for _ in 0..3 {
                assert_eq!(client.get(&target).status(), 200);
            }
            let expected = if reused { 1 } else { 3 };
            assert_eq!(pod.connections(), expected, "client {at} with --upstreams-idle-max {most}");
        }
    }
}

// Open files

/// Runs it with this open-files limit; it must exit. Returns the number of open files that it requires by its error
/// message.
fn files_needed(most: usize, arguments: &[&str]) -> usize {
    let limit = format!("ulimit -n {most}; exec \"$0\" \"$@\"");
    let arguments = [&["-c", &limit, psystrike::BINARY, "--listen", "127.0.0.1:0"], arguments].concat();
    let ended = psystrike::run_under("sh", &arguments);
    assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
    let start = format!("level=error msg=\"the open-files limit of {most} is too low: at least ");
    let [line] = ended.stderr.lines().collect::<Vec<_>>()[..] else { panic!("one line: {ended:?}") };
    let (_, rest) = line.split_once(&start).unwrap_or_else(|| panic!("{line}"));
    rest.split(' ').next().expect("a word").parse().unwrap_or_else(|e| panic!("{line}: {e}"))
}

#[test]
fn with_too_few_open_files_it_does_not_start() {
    let pod = Pod::answering("127.26.0.2", PAGE, Then::Keep);
    let target = Psystrike::target(pod.address(), "/");
    for arguments in [&[][..], &["--workers", "3"], &["--workers", "2", "--listen", "127.0.0.1:0"]] {
        let needed = files_needed(12, arguments);
        assert_eq!(files_needed(needed - 1, arguments), needed, "{arguments:?}");
        // With that number, one scrape at a time is served.
        let arguments = [&["--allow", "127.0.0.0/8", "--listen", "127.0.0.1:0"], arguments].concat();
        let psystrike = Psystrike::start_with_open_files(needed, &arguments);
        for scrape in 0..3 {
            assert_eq!(psystrike.get(&target).status(), 200, "scrape {scrape} of {arguments:?}");
        }
    }
}
