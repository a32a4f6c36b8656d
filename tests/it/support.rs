//! What the rooms share: servers, sockets, threads, and the means to wait for what must happen.

#[path = "../common/books.rs"]
mod books;
pub(crate) mod faults;
pub(crate) mod lateness;
pub(crate) mod leases;
#[cfg(target_os = "linux")]
pub(crate) mod namespaces;
pub(crate) mod operator;
mod pools;
#[cfg(target_os = "linux")]
#[path = "../common/process.rs"]
mod process;
mod servers;
mod sockets;
mod threads;
mod told;

use std::thread;
use std::time::{Duration, Instant};

pub(crate) use books::{assert_at_rest, assert_over, assert_sums};
pub(crate) use pools::{assert_back, assert_left, idle, lease, one_retry};
#[cfg(target_os = "linux")]
pub(crate) use process::{descriptors, threads_named};
pub(crate) use servers::{Act, Peer, Server};
pub(crate) use sockets::{
    BlackHole, Opened, ask, assert_closed, connect, read_line, refused, reset, reset_cause,
    shows_resets, shutdown_wakes,
};
#[cfg(target_os = "linux")]
pub(crate) use threads::alone;
pub(crate) use threads::{
    Background, Gate, background, on_thread, on_threads, panic_quietly, waiting_thread,
};
pub(crate) use told::{Events, in_words, overhear};

/// Far longer than anything here takes; only a failing test waits for it.
///
/// Wine makes the system calls of all its programs one after the other.
pub(crate) const SOON: Duration = Duration::from_secs(if cfg!(windows) { 40 } else { 10 });

/// Longer than any test lasts.
pub(crate) const NEVER: Duration = Duration::from_secs(3600);

/// Waits until the condition holds, and fails the test if it does not in good time.
#[track_caller]
pub(crate) fn eventually(what: &str, condition: impl FnMut() -> bool) {
    assert!(happens_within(SOON, condition), "never happened: {what}");
}

/// Whether the condition comes to hold in this time.
pub(crate) fn happens_within(time: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + time;
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(1));
    }
    true
}

/// For a promise that ends with a short time, over which a busy machine may stall.
#[track_caller]
pub(crate) fn in_one_of_a_few_tries(what: &str, attempt: impl FnMut() -> bool) {
    let mut attempts = std::iter::repeat_with(attempt).take(10);
    assert!(attempts.any(|held| held), "never in ten tries: {what}");
}
