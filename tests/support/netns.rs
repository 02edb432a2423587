//! A network namespace of a test, in which every address is local.

use std::{process::Command, thread};

use rustix::thread::UnshareFlags;

use super::require_working;

/// Runs a test in a new network namespace in which every address is local. Threads and programs that it starts are in
/// it too, and no packet leaves it. If that is not possible, skips the test as [`require_working`] does.
pub fn in_new_namespace(test: impl FnOnce() + Send) {
    if !require_working(&["unshare", "--net", "ip", "link"]) {
        return;
    }
    let inside = || {
        enter();
        test();
    };
    // A dedicated thread: the namespace is removed when the thread ends.
    if let Err(panic) = thread::scope(|scope| scope.spawn(inside).join()) {
        std::panic::resume_unwind(panic);
    }
}

fn enter() {
    #[expect(
        deprecated,
        reason = "it is unsafe because of shared file descriptor tables, which do not change here"
    )]
    rustix::thread::unshare(UnshareFlags::NEWNET).expect("a new network namespace");
    ip(&["link", "set", "lo", "up"]);
    ip(&["route", "add", "local", "0.0.0.0/0", "dev", "lo"]);
    ip(&["-6", "route", "add", "local", "::/0", "dev", "lo"]);
}

/// Runs ip(8), in the namespace of this thread.
pub fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("ip runs");
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
