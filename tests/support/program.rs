//! A child process: its output, stored line by line for tests that wait for a line or fail; its signals; and its end,
//! at the end of the test at the latest.

use std::{
    fmt,
    io::{self, BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread::{self, JoinHandle},
    time::Duration,
};

pub use rustix::process::Signal;

use super::process::Process;

/// A running program. Killed when dropped; if that is because the test fails, its stderr is printed.
pub struct Program {
    name: String,
    child: Child,
    stdout: Output,
    stderr: Output,
}

impl Program {
    pub fn start(command: &mut Command) -> Self {
        Self::start_with_stderr(command, Stdio::piped())
    }

    /// Starts it with another stderr, which is not recorded here.
    pub fn start_with_stderr(command: &mut Command, stderr: Stdio) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        let name = name.rsplit('/').next().unwrap_or_default().to_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        let stdout = Output::of(child.stdout.take().expect("stdout is piped"));
        let stderr = child.stderr.take().map_or_else(|| Output::of(io::empty()), Output::of);
        Self { name, child, stdout, stderr }
    }

    /// Waits for the first line on stderr that contains `part`.
    pub fn wait_for_line(&self, part: &str, limit: Duration) -> String {
        self.wait_for_lines(part, 1, limit).remove(0)
    }

    /// Waits for the first `count` lines on stderr that contain `part`.
    pub fn wait_for_lines(&self, part: &str, count: usize, limit: Duration) -> Vec<String> {
        let lines = self.stderr.wait(limit, |output| output.ended || output.matching(part).count() >= count);
        let found: Vec<String> = lines.matching(part).take(count).cloned().collect();
        let how = if lines.ended { "ended" } else { "ran on" };
        assert!(
            found.len() == count,
            "{} {how} without {count} line(s) with {part:?} within {limit:?}; its stderr:\n{lines}",
            self.name
        );
        found
    }

    pub fn process(&self) -> Process {
        Process::of(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        self.process().signal(signal);
    }

    /// Waits for the program's end. The end of its stderr is the event to wait for.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let lines = self.stderr.wait(limit, |output| output.ended);
        assert!(lines.ended, "{} still runs after {limit:?}; its stderr:\n{lines}", self.name);
        let Self { name, child, .. } = self;
        let status = || child.try_wait().expect("a child can be waited for");
        super::poll_within(limit, &format!("the end of {name}"), status, Option::is_some)
            .expect("the program has ended")
    }

    /// Returns its output to stdout so far.
    pub fn stdout(&self) -> String {
        self.stdout.so_far()
    }

    /// Returns its output to stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.so_far()
    }

    /// Returns all output to stdout of a program that has ended.
    pub fn whole_stdout(&self) -> String {
        self.stdout.wait(super::LIMIT, |output| output.ended).to_string()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.stdout.join();
        self.stderr.join();
        if thread::panicking() {
            eprintln!("--- stderr of {}:\n{}---", self.name, self.stderr());
        }
    }
}

/// One stream of output, read to its end by a thread.
struct Output {
    shared: Arc<(Mutex<Lines>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Clone, Default)]
struct Lines {
    lines: Vec<String>,
    ended: bool,
}

impl Output {
    fn of(stream: impl Read + Send + 'static) -> Self {
        let shared = Arc::new((Mutex::new(Lines::default()), Condvar::new()));
        let writer = Arc::clone(&shared);
        let reader = thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while stream.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
                writer.0.lock().unwrap().lines.push(text);
                writer.1.notify_all();
                line.clear();
            }
            writer.0.lock().unwrap().ended = true;
            writer.1.notify_all();
        });
        Self { shared, reader: Some(reader) }
    }

    /// Returns the output once `enough` holds or `limit` has passed.
    fn wait(&self, limit: Duration, enough: impl Fn(&Lines) -> bool) -> Lines {
        let (lines, changed) = &*self.shared;
        let lines = lines.lock().unwrap();
        changed.wait_timeout_while(lines, limit, |lines| !enough(lines)).unwrap().0.clone()
    }

    fn so_far(&self) -> String {
        self.shared.0.lock().unwrap().to_string()
    }

    fn join(&mut self) {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Lines {
    fn matching(&self, part: &str) -> impl Iterator<Item = &String> {
        self.lines.iter().filter(move |line| line.contains(part))
    }
}

impl fmt::Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}
