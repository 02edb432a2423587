//! The log: simple_logger's lines on standard error, written by a thread of their own.
//!
//! Standard error can block, on a full pipe or a slow disk, and a worker that waits for it would let all of its
//! connections wait. So a line goes into a bounded queue; what does not fit is dropped, and how much was is said
//! as soon as there is room.

use std::{
    sync::{
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use log::{Level, LevelFilter, Log, Metadata, Record};
use simple_logger::SimpleLogger;

/// Lines that may wait to be written.
const QUEUE_MAX: usize = 1024;
/// How long [`flush`] waits for them.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

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

/// Logs from here on, lines of `level` and above it.
///
/// # Errors
/// Why there is no thread for it.
pub fn init(level: LevelFilter) -> std::io::Result<()> {
    let (lines, receiver) = sync_channel(QUEUE_MAX);
    thread::Builder::new().name("log".to_owned()).stack_size(64 * 1024).spawn(move || write(&receiver))?;
    if log::set_boxed_logger(Box::new(Queue { lines, level })).is_ok() {
        log::set_max_level(level);
    }
    Ok(())
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
        match message {
            Message::Line { level, target, text } => write(level, target, &text),
            Message::Flush(done) => {
                let _ = done.send(()); // whoever waited may have given up
            }
        }
        match DROPPED.swap(0, Relaxed) {
            0 => {}
            dropped => write(Level::Warn, "psystrike", &format!("{dropped} log lines were dropped")),
        }
    }
}

impl Log for Queue {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // Two words are enough to tell our lines apart; module paths say nothing to operators.
        let target = if record.target() == "access" { "access" } else { "psystrike" };
        let line = Message::Line { level: record.level(), target, text: record.args().to_string() };
        if self.lines.try_send(line).is_err() {
            DROPPED.fetch_add(1, Relaxed);
        }
    }

    fn flush(&self) {
        let (done, written) = sync_channel(1);
        if self.lines.send(Message::Flush(done)).is_ok() {
            let _ = written.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}
