//! The log: lines on standard error, in simple_logger's form, written by a thread of their own.
//!
//! Standard error can block, on a full pipe or a slow disk, and a worker that waits for it would let all of its
//! connections wait. So a line is formatted where it is logged (`line.rs`) and goes into a queue of bounded size
//! (`queue.rs`); a thread takes it from there and writes it in one call (`writer.rs`). A line that does not fit, or
//! that cannot be written, is lost: it is counted ([`crate::proxy::log_losses`]), and the log says how many were as
//! soon as it goes on. Nothing that happens to standard error ends the process or the log.
//!
//! simple_logger decides what is logged. It cannot write the lines: it prints each in two calls, after the
//! timestamp's two, and panics where one fails. A test holds our lines equal to its own.

mod line;
mod queue;
mod writer;

use std::{
    fmt::Display,
    io,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use log::{Level, LevelFilter, Log, Metadata, Record};
use simple_logger::SimpleLogger;

use crate::proxy::{journal::ACCESS_LOG, log_losses::LogLoss};
use line::Line;
use queue::{Queue, Taken};
use writer::{Stderr, Writer};

/// What stands in a line for everything but the access log: module paths say nothing to operators.
const TARGET: &str = "psystrike";
/// How long the process's end waits for standard error to take a line, as it does in microseconds unless its reader
/// is blocked.
const BLOCKED: Duration = Duration::from_millis(200);

/// What the rest of the program logs to.
struct Logger {
    queue: Arc<Queue>,
    /// Knows the levels.
    levels: SimpleLogger,
}

/// Logs from here on: lines of `level` and above it, and the access log if it is asked for.
///
/// # Errors
/// Why there is no thread for it.
#[cold]
pub fn init(level: LevelFilter, access_log: bool) -> io::Result<()> {
    let queue = Arc::new(Queue::default());
    let of_thread = Arc::clone(&queue);
    thread::Builder::new().name("log".to_owned()).stack_size(64 * 1024).spawn(move || write(&of_thread))?;
    let mut levels = SimpleLogger::new().with_level(level);
    if access_log {
        levels = levels.with_module_level(ACCESS_LOG, LevelFilter::Info); // whatever else is logged
    }
    let most = levels.max_level();
    if log::set_boxed_logger(Box::new(Logger { queue, levels })).is_ok() {
        log::set_max_level(most);
    }
    Ok(())
}

/// Waits until what was logged is written, but only while standard error takes lines.
pub fn flush() {
    log::logger().flush();
}

/// Writes why the process ends, on a line of its own; not if standard error is blocked or fails: the exit status has
/// to do then.
#[cold]
pub fn complain(about: &dyn Display) {
    writer::try_write(format!("psystrike: {about}\n").as_bytes(), BLOCKED);
}

/// The thread's work.
fn write(queue: &Queue) {
    let mut writer = Writer::new(Stderr);
    let mut line = Vec::new();
    loop {
        match queue.take(&mut line) {
            Taken::Line => {
                if (say_losses(&mut writer).and_then(|()| writer.write(&line))).is_err() {
                    writer.lost(LogLoss::WriteFailed, 1);
                    LogLoss::WriteFailed.count();
                }
            }
            Taken::Gap(lines) => {
                writer.lost(LogLoss::QueueFull, lines);
                let _ = say_losses(&mut writer); // if not now, before the next line
            }
        }
    }
}

/// Says how many lines were lost since it was last said, unless none were.
fn say_losses(writer: &mut Writer<Stderr>) -> Result<(), rustix::io::Errno> {
    let Some(losses) = writer.losses() else { return Ok(()) };
    let line = Line::new(SystemTime::now(), Level::Warn, TARGET, format_args!("{losses}"));
    writer.write(line.bytes())?;
    writer.said();
    Ok(())
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.levels.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let target = if record.target() == ACCESS_LOG { ACCESS_LOG } else { TARGET };
        let line = Line::new(SystemTime::now(), record.level(), target, *record.args());
        if !self.queue.put(line.bytes()) {
            LogLoss::QueueFull.count();
        }
    }

    fn flush(&self) {
        self.queue.flush(BLOCKED);
    }
}
