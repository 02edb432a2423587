//! The log of the real process on standard errors of all kinds: which lines arrive, that they arrive whole, and that
//! scrapes do not depend on the log.

mod support;

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read, Write},
    net::{SocketAddr, TcpListener},
    process::{Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use rustix::io::{ioctl_fionbio, ioctl_fionread};
use support::{
    LIMIT, Scratch, exposition,
    http::{Client, get},
    pods::{Pod, Refusing, Then, Unanswering},
    poll,
    program::{Program, Signal},
    psystrike::{self, Psystrike, start_with_stderr},
    require_working,
};

const PAGE: &str = "HTTP/1.1 200 OK\r\nDate: then\r\nContent-Length: 5\r\n\r\nup 1\n";
/// A line for each scrape, and few others.
const ACCESS_LOG: &[&str] = &["--access-log"];
const LOST: &str = "psystrike_log_lines_lost_total";
/// Time limit for the exit: well above the time that the process waits for a blocked log, as machines may be slow.
const END: Duration = Duration::from_millis(1500);

fn scrape_often(address: SocketAddr, pod: &Pod, path: &str, times: usize) {
    let mut client = Client::connect(address);
    let target = Psystrike::target(pod.address(), path);
    for _ in 0..times {
        assert_eq!(client.get(&target).status(), 200);
    }
}

/// A few scrapes with this path fill a pipe and the queue before it.
fn scrape_more_than_fits(address: SocketAddr, pod: &Pod) -> usize {
    const SCRAPES: usize = 500;
    scrape_often(address, pod, &long_path(), SCRAPES);
    SCRAPES
}

/// The complete head is just within the limit.
fn long_path() -> String {
    format!("/{}", "x".repeat(15_000))
}

/// Returns the numbers of lost lines on `/metrics`.
fn lost(address: SocketAddr, reason: &str) -> u64 {
    let page = Client::connect(address).get("/metrics").text();
    let (series, _) = exposition::sample(&format!("{LOST}{{reason=\"{reason}\"}} 0")).expect("a sample");
    exposition::parse(&page)[&series].parse().expect("a number")
}

/// Returns the total of lost lines according to the log.
fn said_lost<'l>(lines: impl IntoIterator<Item = &'l String>) -> u64 {
    let said = lines.into_iter().filter_map(|line| {
        let (number, _) = line.split_once(" level=warn msg=\"")?.1.split_once(" log line")?;
        number.parse::<u64>().ok()
    });
    said.sum()
}

/// Returns how many of the lines are complete lines of the access log.
fn accesses<'l>(lines: impl IntoIterator<Item = &'l String>) -> usize {
    // A line that was cut off in its last value is none: the value has six decimals.
    let whole = |line: &&String| {
        let seconds = line
            .split_once(" msg=scrape client=")
            .and_then(|(_, rest)| rest.split_once(" duration_seconds="));
        seconds
            .and_then(|(_, seconds)| seconds.split_once('.'))
            .is_some_and(|(_, decimals)| decimals.len() == 6)
    };
    lines.into_iter().filter(whole).count()
}

/// The lines that were read.
struct Lines {
    coming: Receiver<String>,
    seen: Vec<String>,
}

impl Lines {
    fn of(reader: impl Read + Send + 'static) -> Self {
        let (found, coming) = channel();
        thread::spawn(move || {
            let lines = BufReader::new(reader).lines().map_while(Result::ok);
            lines.map(|line| found.send(line)).take_while(Result::is_ok).count()
        });
        Self { coming, seen: Vec::new() }
    }

    /// Waits for the next line that contains `part`. Stores the lines before it too.
    fn wait_for(&mut self, part: &str) -> &str {
        loop {
            let line = self.coming.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("no line with {part:?}"));
            self.seen.push(line);
            if self.seen.last().is_some_and(|line| line.contains(part)) {
                return &self.seen[self.seen.len() - 1];
            }
        }
    }
}

/// A full pipe that is never read.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = io::pipe().expect("a pipe");
    ioctl_fionbio(&writer, true).expect("it can be set");
    for bytes in [&[b'.'; 4096][..], b"."] {
        while writer.write(bytes).is_ok() {}
    }
    ioctl_fionbio(&writer, false).expect("it can be set");
    (reader, writer)
}

fn terminate(mut program: Program) -> Duration {
    let began = Instant::now();
    program.signal(Signal::TERM);
    assert_eq!(program.wait(LIMIT).code(), Some(0));
    began.elapsed()
}

// Without a reader

#[test]
fn a_blocked_log_delays_neither_scrapes_nor_shutdown_and_takes_no_memory() {
    let pod = Pod::answering("127.24.1.1", PAGE, Then::Keep);
    let (_reader, writer) = io::pipe().expect("a pipe");
    let (program, address) = start_with_stderr(ACCESS_LOG, writer);
    scrape_often(address, &pod, &long_path(), 10);
    let before = program.process().resident_bytes();
    for _ in 0..5 {
        scrape_more_than_fits(address, &pod);
    }
    assert!(lost(address, "queue_full") > 0);
    let more = program.process().resident_bytes().saturating_sub(before);
    assert!(more < 1 << 20, "{more} bytes more than before");
    let took = terminate(program);
    assert!(took < END, "{took:?}");
}

#[test]
fn a_process_that_cannot_serve_exits_even_with_a_blocked_log() {
    let taken = TcpListener::bind("127.24.1.2:0").expect("an address");
    let address = taken.local_addr().expect("it is bound").to_string();
    for arguments in [&["--listen", &address][..], &["--listen", "nowhere"]] {
        let (_reader, writer) = full_pipe();
        let began = Instant::now();
        let mut program = Program::start_with_stderr(psystrike::command().args(arguments), writer.into());
        assert!(!program.wait(LIMIT).success(), "{arguments:?}");
        assert!(began.elapsed() < END, "{arguments:?}: {:?}", began.elapsed());
    }
}

#[test]
fn lines_that_do_not_fit_are_lost_and_counted() {
    let pod = Pod::answering("127.24.1.3", PAGE, Then::Keep);
    let (reader, writer) = io::pipe().expect("a pipe");
    let (program, address) = start_with_stderr(ACCESS_LOG, writer);
    let scrapes = scrape_more_than_fits(address, &pod);
    let mut lines = Lines::of(reader);
    let said = lines.wait_for("log lines were lost (queue_full=").to_owned();
    assert!(said.contains(" level=warn msg=\""), "{said}");
    scrape_often(address, &pod, "/after", 1);
    lines.wait_for("/after");
    assert_eq!(accesses(&lines.seen) as u64 + said_lost(&lines.seen), scrapes as u64 + 1);
    assert_eq!(lost(address, "queue_full"), said_lost(&lines.seen));
    assert_eq!(lost(address, "write_failed"), 0);
    terminate(program);
}

#[test]
fn at_exit_a_slow_reader_gets_all_lines() {
    const SCRAPES: usize = 60;
    let pod = Pod::answering("127.24.1.4", PAGE, Then::Keep);
    let (mut reader, writer) = io::pipe().expect("a pipe");
    let (mut program, address) = start_with_stderr(ACCESS_LOG, writer);
    scrape_often(address, &pod, &long_path(), SCRAPES); // the pipe holds some 35
    program.signal(Signal::TERM);
    let (mut log, mut some) = (Vec::new(), [0; 8192]);
    while let taken @ 1.. = reader.read(&mut some).expect("a pipe") {
        log.extend(&some[..taken]);
        thread::sleep(Duration::from_millis(5)); // a slow reader
    }
    assert_eq!(program.wait(LIMIT).code(), Some(0));
    let log = String::from_utf8(log).expect("text");
    let lines: Vec<String> = log.lines().map(str::to_owned).collect();
    assert_eq!(accesses(&lines), SCRAPES);
    assert!(log.ends_with(" msg=\"shutdown complete\"\n"), "{}", lines[lines.len() - 1]);
}

#[test]
fn a_non_blocking_pipe_loses_no_line() {
    const SCRAPES: usize = 120;
    let pod = Pod::answering("127.24.1.5", PAGE, Then::Keep);
    let (reader, writer) = io::pipe().expect("a pipe");
    ioctl_fionbio(&writer, true).expect("it can be set");
    let (program, address) = start_with_stderr(ACCESS_LOG, writer);
    scrape_often(address, &pod, &long_path(), SCRAPES); // the pipe holds some 35
    let filled = || ioctl_fionread(&reader).expect("a pipe");
    poll("a full pipe", filled, |bytes| *bytes > 50_000);
    let before = program.process().cpu();
    thread::sleep(Duration::from_millis(300)); // the test checks that nothing happens
    let cpu = program.process().cpu() - before;
    assert!(cpu <= Duration::from_millis(50), "{cpu:?} of processor time");
    let mut lines = Lines::of(reader);
    scrape_often(address, &pod, "/last", 1);
    lines.wait_for("/last");
    assert_eq!(accesses(&lines.seen), SCRAPES + 1);
    assert_eq!((lost(address, "queue_full"), lost(address, "write_failed")), (0, 0));
    terminate(program);
}

// Failed writes

#[test]
fn a_failing_log_stops_nothing_and_its_losses_are_counted() {
    let pod = Pod::answering("127.24.1.6", PAGE, Then::Keep);
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    let full = File::options().write(true).open("/dev/full").expect("it is there");
    for stderr in [Stdio::from(writer), full.into()] {
        let (program, address) = start_with_stderr(ACCESS_LOG, stderr);
        scrape_often(address, &pod, "/", 10);
        poll("lost lines", || lost(address, "write_failed"), |lost| *lost >= 10);
        let took = terminate(program);
        assert!(took < END, "{took:?}");
    }
}

#[test]
fn the_log_continues_with_a_new_reader() {
    if !require_working(&["mkfifo", "--version"]) {
        return;
    }
    let pod = Pod::answering("127.24.1.7", PAGE, Then::Keep);
    let scratch = Scratch::new("log-goes-on");
    let fifo = scratch.path("log");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("it starts").success());
    // Opened for reading and writing, so that it can be opened for writing without a reader.
    let both = File::options().read(true).write(true).open(&fifo).expect("a pipe");
    let writer = File::options().write(true).open(&fifo).expect("a pipe");
    let (_program, address) = start_with_stderr(ACCESS_LOG, writer);
    drop(both); // the last reader
    scrape_often(address, &pod, "/", 10);
    poll("lost lines", || lost(address, "write_failed"), |lost| *lost >= 10);
    let mut lines = Lines::of(File::open(&fifo).expect("a pipe"));
    scrape_often(address, &pod, "/again", 1);
    lines.wait_for("/again");
    assert_eq!(said_lost(&lines.seen), lost(address, "write_failed"));
}

#[test]
fn the_log_continues_when_a_full_disk_has_room_again() {
    const SCRAPES: usize = 100;
    const UNSHARE: &[&str] = &["unshare", "--user", "--map-root-user", "--mount"];
    if !require_working(&[UNSHARE, &["mount", "-t", "tmpfs", "none", "/mnt"]].concat()) {
        return;
    }
    // A disk of 32 KiB, of which one page is left for the log.
    const DISK: &str = "mount -t tmpfs -o size=32k none \"$0\" && head -c 28672 /dev/zero >\"$0/filler\" && \
                        exec \"$@\" 2>\"$0/log\"";
    let scratch = Scratch::new("log-full-disk");
    let disk = scratch.path("disk");
    fs::create_dir(&disk).expect("a folder is created");
    let pod = Pod::answering("127.24.1.8", PAGE, Then::Keep);
    let mut command = Command::new(UNSHARE[0]);
    command.args(&UNSHARE[1..]).args(["sh", "-c", DISK]).arg(&disk).arg(psystrike::BINARY);
    command.args(["--listen", "127.0.0.1:0", "--allow", "127.0.0.0/8"]).args(ACCESS_LOG);
    let program = Program::start_with_stderr(&mut command, Stdio::null());
    let address = program.process().wait_for_listeners(1)[0];
    let seen_by_it = |name: &str| program.process().root().join(disk.strip_prefix("/").unwrap()).join(name);
    let log = || {
        let log = fs::read_to_string(seen_by_it("log")).expect("a log");
        log.lines().map(str::to_owned).collect::<Vec<_>>()
    };

    // Only lines of scrapes are counted below: the last line of the start has to be written.
    poll("the start", log, |lines| lines.iter().any(|line| line.contains("allowed clients")));
    scrape_often(address, &pod, "/metrics?of=a-pod", SCRAPES);
    let accounted = || accesses(&log()) as u64 + lost(address, "write_failed");
    poll("written and lost lines", accounted, |lines| *lines == SCRAPES as u64);
    let before = log();
    fs::remove_file(seen_by_it("filler")).expect("it is there");
    scrape_often(address, &pod, "/again", 1);
    let after = poll("a log that continues", log, |lines| lines.iter().any(|line| line.contains("/again")));

    assert_eq!(after[..before.len()], before, "a partial line was changed");
    assert!(lost(address, "write_failed") > 0);
    assert_eq!(said_lost(&after), lost(address, "write_failed"));
    assert!(after.iter().any(|line| line.contains("No space left on device")), "{after:?}");
    assert_eq!(accesses(&after) as u64 + said_lost(&after), SCRAPES as u64 + 1);
    terminate(program);
}

#[test]
fn without_standard_streams_it_serves() {
    let pod = Pod::answering("127.24.1.9", PAGE, Then::Keep);
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$0\" \"$@\" <&- >&- 2>&-", psystrike::BINARY]);
    shell.args(["--listen", "127.0.0.1:0", "--allow", "127.0.0.0/8"]).args(ACCESS_LOG);
    let program = Program::start_with_stderr(&mut shell, Stdio::null());
    let address = program.process().wait_for_listeners(1)[0];
    scrape_often(address, &pod, "/", 10);
    terminate(program);
}

// Lines are whole

#[test]
fn a_line_is_one_system_call() {
    if !require_working(&["strace", "-o", "/dev/null", "true"]) {
        return;
    }
    let scratch = Scratch::new("log-calls");
    let trace = scratch.path("trace");
    let trace_to = trace.display().to_string();
    let strace = ["strace", "-f", "-qq", "-e", "trace=write,writev", "-s", "9999", "-o", &trace_to];
    let mut psystrike = Psystrike::start_under(&strace, &[&["--allow", "127.0.0.0/8"], ACCESS_LOG].concat());
    let pod = Pod::answering("127.24.1.10", PAGE, Then::Keep);
    scrape_often(psystrike.address(), &pod, "/", 20);
    scrape_often(psystrike.address(), &pod, &long_path(), 20);
    psystrike.process().child().signal(Signal::TERM);
    assert!(psystrike.wait(LIMIT).success());
    let trace = fs::read_to_string(&trace).expect("strace has written it");
    let calls: Vec<_> = trace.lines().filter(|line| line.contains("(2, ")).collect();
    let log = psystrike.stderr();
    assert_eq!(calls.len(), log.lines().count(), "{trace}");
    assert!(calls.iter().all(|call| call.matches("\\n").count() == 1 && call.contains("\\n\", ")), "{trace}");
    assert!(log.lines().count() > 40, "{log}");
}

#[test]
fn lines_of_several_processes_on_one_pipe_do_not_mix() {
    const SCRAPES: usize = 150;
    let pod = Pod::answering("127.24.1.11", PAGE, Then::Keep);
    let (reader, writer) = io::pipe().expect("a pipe");
    let programs = [(); 3].map(|()| start_with_stderr(ACCESS_LOG, writer.try_clone().expect("a pipe")));
    drop(writer);
    let mut lines = Lines::of(reader);
    thread::scope(|scope| {
        for (_, address) in &programs {
            scope.spawn(|| scrape_often(*address, &pod, "/metrics", SCRAPES));
            scope.spawn(|| scrape_often(*address, &pod, &long_path(), SCRAPES));
        }
    });
    programs.into_iter().for_each(|(program, _)| assert!(terminate(program) < LIMIT));
    lines.seen.extend(lines.coming.iter());
    let starts = |line: &&String| line.matches("ts=20").count() == 1 && line.starts_with("ts=20");
    let torn: Vec<_> = lines.seen.iter().filter(|line| !starts(line)).collect();
    assert_eq!(torn, [""; 0]);
    assert_eq!(accesses(&lines.seen), 3 * 2 * SCRAPES);
}

#[test]
fn a_long_request_is_cut_and_the_rest_of_its_line_remains() {
    let pod = Pod::answering("127.24.1.12", PAGE, Then::Keep);
    let mut psystrike = Psystrike::start(&[&["--allow", "127.0.0.0/8"], ACCESS_LOG].concat());
    // Quoted text has more bytes in the log.
    for path in [long_path(), format!("/{}", "\"".repeat(15_000))] {
        scrape_often(psystrike.address(), &pod, &path, 1);
    }
    assert!(psystrike.terminate(LIMIT).success());
    let log = psystrike.stderr();
    let lines: Vec<_> = log.lines().filter(|line| line.contains(" msg=scrape ")).collect();
    assert_eq!(lines.len(), 2, "{log}");
    for line in lines {
        assert!(line.contains("…\" status=200 outcome=forwarded bytes="), "{line}");
        assert!((1800..4096).contains(&line.len()), "{} bytes: {line}", line.len());
    }
}

// Fields

/// The value of a field in a line of a format.
fn field(format: &str, line: &str, key: &str) -> Option<String> {
    if format == "json" {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        return line.get(key).map(|value| value.as_str().map_or(value.to_string(), str::to_owned));
    }
    let (_, value) = line.split_once(&format!(" {key}="))?;
    value.split_whitespace().next().map(str::to_owned)
}

#[test]
fn lines_of_scrapes_and_failures_name_the_pod_and_the_seconds_alike_in_every_format() {
    let pod = Pod::answering("127.24.1.15", PAGE, Then::Keep);
    let dead = Refusing::on("127.24.1.16");
    for format in ["logfmt", "json", "plain"] {
        let arguments = ["--allow=127.0.0.0/8", "--allow-names=a", "--log-format", format, "--access-log"];
        let mut psystrike = Psystrike::start(&arguments);
        let mut client = psystrike.client();
        for (address, status) in [(pod.address(), 200), (dead.address(), 502)] {
            assert_eq!(client.get(&Psystrike::target(address, "/")).status(), status);
        }
        assert_eq!(client.get("/pods/b/1/").status(), 403);
        assert!(psystrike.terminate(LIMIT).success());
        let log = psystrike.stderr();
        let lines: Vec<_> = log.lines().filter(|line| field(format, line, "outcome").is_some()).collect();
        let expected = [Some(pod.address()), Some(dead.address()), Some(dead.address()), None, None];
        let pods: Vec<_> = lines.iter().map(|line| field(format, line, "pod")).collect();
        assert_eq!(pods, expected.map(|pod| pod.map(|pod| pod.to_string())), "{log}");
        // The last line is of a refused request, which takes no time.
        for line in &lines[..lines.len() - 1] {
            let seconds = field(format, line, "duration_seconds").and_then(|value| value.parse::<f64>().ok());
            assert!(seconds.is_some_and(|seconds| (0.0..10.0).contains(&seconds)), "{line}");
            assert!(format != "json" || line.contains("\"duration_seconds\":0."), "a number: {line}");
        }
    }
}

// Suppressed lines are counted

#[test]
fn however_it_ends_the_log_has_all_lines_or_their_number() {
    const FAILURES: usize = 5;
    let dead = Refusing::on("127.24.1.13");
    let dead = dead.address();
    let silent = Unanswering::on("127.24.1.14");
    let ends: [(&[&str], bool, &[Signal]); 3] = [
        (&["--workers=2"], false, &[Signal::TERM]),
        (&["--shutdown-timeout=100ms"], true, &[Signal::TERM]),
        (&["--shutdown-delay=1h"], true, &[Signal::TERM, Signal::INT]),
    ];
    for (arguments, one_runs, signals) in ends {
        let mut psystrike = Psystrike::start(&[&["--allow", "127.0.0.0/8"], arguments].concat());
        let mut client = psystrike.client(); // one connection: all lines are of one worker
        for _ in 0..FAILURES {
            assert_eq!(client.get(&Psystrike::target(dead, "/")).status(), 502);
        }
        let mut running = psystrike.client();
        if one_runs {
            running.send(get(&Psystrike::target(silent.address(), "/")));
        }
        for signal in signals {
            psystrike.signal(*signal);
            psystrike.wait_for_line("received SIG");
        }
        let _ = psystrike.wait(LIMIT);
        let log = psystrike.stderr();
        let line =
            log.lines().find(|line| line.contains(" level=warn msg=\"similar log lines suppressed\" "));
        let fields = format!(" pod={dead} outcome=connection_refused suppressed={}", FAILURES - 1);
        assert!(line.is_some_and(|line| line.ends_with(&fields)), "{arguments:?}: {log}");
    }
}
