//! The log: lines on standard error in one of three formats (`format.rs`), written by a dedicated thread.
//!
//! Standard error can block, on a full pipe or a slow disk, and a worker that waits for it would stall all of its
//! connections. A line is therefore formatted where it is logged (`line.rs`) and put into a bounded queue (`queue.rs`);
//! a thread takes it from there and writes it in one call (`writer.rs`). A line that does not fit, or cannot be
//! written, is lost and counted ([`crate::proxy::log_losses`]); a later line reports how many were lost. No failure of
//! standard error ends the process or the log.
//!
//! simple_logger decides what is logged. It cannot write the lines: it prints each in two calls, after two for the
//! timestamp, panics if one fails, and knows one format, without fields. A test checks that our plain lines equal its.

mod format;
mod line;
mod queue;
mod writer;

use std::{
    fmt::{self, Display},
    io,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use log::{Level, LevelFilter, Log, Metadata, Record, kv::Source};
use simple_logger::SimpleLogger;

use crate::proxy::{journal::ACCESS_LOG, log_losses::LogLoss};
pub use format::LogFormat;
use line::{Entry, Line};
use queue::{Queue, Taken};
use writer::{Stderr, Writer};

/// Target of every line except those of the access log: module paths mean nothing to operators.
const TARGET: &str = "psystrike";
const NO_FIELDS: [(&str, &str); 0] = [];
/// How long the exiting process waits for standard error to accept a line. That takes microseconds unless its reader is
/// blocked.
const BLOCKED: Duration = Duration::from_millis(200);

/// The logger of the rest of the program.
struct Logger {
    queue: Arc<Queue>,
    format: LogFormat,
    /// Decides which levels are logged.
    levels: SimpleLogger,
}

/// Starts logging: lines of `level` and above, and the access log if enabled.
///
/// # Errors
/// If the thread cannot be started.
pub fn init(format: LogFormat, level: LevelFilter, access_log: bool) -> io::Result<()> {
    let queue = Arc::new(Queue::default());
    let of_thread = Arc::clone(&queue);
    thread::Builder::new()
        .name("log".to_owned())
        .stack_size(64 * 1024)
        .spawn(move || write(&of_thread, format))?;
    let mut levels = SimpleLogger::new().with_level(level);
    if access_log {
        levels = levels.with_module_level(ACCESS_LOG, LevelFilter::Info); // at every `level`
    }
    let most = levels.max_level();
    if log::set_boxed_logger(Box::new(Logger { queue, format, levels })).is_ok() {
        log::set_max_level(most);
    }
    Ok(())
}

/// Waits until the logged lines are written, as long as standard error accepts them.
pub fn flush() {
    log::logger().flush();
}

/// Logs the error that ends the process, without the log thread. If standard error is blocked or fails, only the exit
/// status shows the failure.
pub fn fatal(format: LogFormat, why: &dyn Display) {
    writer::try_write(line(format, Level::Error, TARGET, format_args!("{why}"), &NO_FIELDS).bytes(), BLOCKED);
}

/// Writes the error of an action to standard error, as command-line programs do.
pub fn print_error(why: &dyn Display) {
    writer::try_write(format!("psystrike: {why}\n").as_bytes(), BLOCKED);
}

fn line(
    format: LogFormat,
    level: Level,
    target: &str,
    message: fmt::Arguments<'_>,
    fields: &dyn Source,
) -> Line {
    Line::new(format, &Entry { time: SystemTime::now(), level, target, message, fields })
}

/// Runs the thread.
fn write(queue: &Queue, format: LogFormat) {
    let mut writer = Writer::new(Stderr);
    let mut line = Vec::new();
    loop {
        match queue.take(&mut line) {
            Taken::Line => {
                if (write_losses(&mut writer, format).and_then(|()| writer.write(&line))).is_err() {
                    writer.lost(LogLoss::WriteFailed, 1);
                    LogLoss::WriteFailed.count();
                }
            }
            Taken::Gap(lines) => {
                writer.lost(LogLoss::QueueFull, lines);
                let _ = write_losses(&mut writer, format); // on failure, retried before the next line
            }
        }
    }
}

/// Writes how many lines were lost since the last such line, if any were.
fn write_losses(writer: &mut Writer<Stderr>, format: LogFormat) -> Result<(), rustix::io::Errno> {
    let Some(losses) = writer.losses() else { return Ok(()) };
    let line = line(format, Level::Warn, TARGET, format_args!("{losses}"), &NO_FIELDS);
    writer.write(line.bytes())?;
    writer.set_logged();
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
        let fields = record.key_values();
        let line = line(self.format, record.level(), target, *record.args(), &fields);
        if !self.queue.put(line.bytes()) {
            LogLoss::QueueFull.count();
        }
    }

    fn flush(&self) {
        self.queue.flush(BLOCKED);
    }
}
