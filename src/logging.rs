//! The log: simple_logger's lines on standard error, written by a thread of their own.
//!
//! Standard error can block, on a full pipe or a slow disk, and a worker that waits for it would let all of its
//! connections wait. So a line goes into a bounded queue; what does not fit is dropped, and how much was is said
//! as soon as there is room. It can fail too, and that never ends the process either.

use std::{
    io, panic,
    sync::{
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use simple_logger::SimpleLogger;

use crate::net::worker::ACCESS_LOG;

/// Lines that may wait to be written.
const QUEUE_MAX: usize = 1024;
/// How long [`flush`] waits for them.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// How often it looks whether there is room in the queue.
const FLUSH_INTERVAL: Duration = Duration::from_millis(10);
/// The name of the thread that writes.
const THREAD: &str = "log";

enum Message {
    Line { level: Level, target: &'static str, text: String },
    Flush(SyncSender<()>),
}

struct Queue {
    lines: SyncSender<Message>,
    level: LevelFilter,
}

/// Lines that were dropped since it was last said.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Logs from here on: lines of `level` and above it, and the access log if it is asked for.
///
/// # Errors
/// Why there is no thread for it.
pub fn init(level: LevelFilter, access_log: bool) -> std::io::Result<()> {
    let (lines, receiver) = sync_channel(QUEUE_MAX);
    survive_failures();
    thread::Builder::new().name(THREAD.to_owned()).stack_size(64 * 1024).spawn(move || write(&receiver))?;
    if log::set_boxed_logger(Box::new(Queue { lines, level })).is_ok() {
        // Who asks for the access log gets it, whatever else is logged.
        log::set_max_level(if access_log { level.max(LevelFilter::Info) } else { level });
    }
    Ok(())
}

/// simple_logger panics where a line cannot be written, as on a full disk, and a panic ends the process. No log is
/// worth that: its thread stays in the panic for ever, and what is logged from then on is dropped.
fn survive_failures() {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        while thread::current().name() == Some(THREAD) {
            thread::park();
        }
        hook(info);
    }));
}

/// Whether there may be somebody to read standard error. Where a pipe's reader has gone, another can come.
fn is_read() -> bool {
    let stderr = io::stderr();
    // Failures are told unasked.
    let failed = poll(&mut [PollFd::new(&stderr, PollFlags::empty())], Some(&Timespec::default()));
    matches!(failed, Ok(0) | Err(Errno::INTR))
}

/// Waits until what was logged is written, but not for ever.
pub fn flush() {
    log::logger().flush();
}

fn write(lines: &Receiver<Message>) {
    let logger = SimpleLogger::new().with_level(LevelFilter::Trace).with_utc_timestamps();
    let write = |level, target, text: &str| {
        logger.log(&Record::builder().level(level).target(target).args(format_args!("{text}")).build());
    };
    for message in lines {
        let is_read = is_read();
        match message {
            Message::Line { level, target, text } if is_read => write(level, target, &text),
            Message::Line { .. } => {
                DROPPED.fetch_add(1, Relaxed);
            }
            Message::Flush(done) => {
                let _ = done.send(()); // whoever waited may have given up
            }
        }
        match if is_read { DROPPED.swap(0, Relaxed) } else { 0 } {
            0 => {}
            dropped => write(Level::Warn, "psystrike", &format!("{dropped} log lines were dropped")),
        }
    }
}

impl Log for Queue {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level || metadata.target() == ACCESS_LOG
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // Two words are enough to tell our lines apart; module paths say nothing to operators.
        let target = if record.target() == ACCESS_LOG { ACCESS_LOG } else { "psystrike" };
        let line = Message::Line { level: record.level(), target, text: record.args().to_string() };
        if self.lines.try_send(line).is_err() {
            DROPPED.fetch_add(1, Relaxed);
        }
    }

    fn flush(&self) {
        let until = Instant::now() + FLUSH_TIMEOUT;
        let (done, written) = sync_channel(1);
        let mut message = Message::Flush(done);
        // The queue may be full, and stay so.
        while let Err(TrySendError::Full(refused)) = self.lines.try_send(message) {
            if Instant::now() >= until {
                return;
            }
            message = refused;
            thread::sleep(FLUSH_INTERVAL);
        }
        let _ = written.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
}
