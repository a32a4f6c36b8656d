//! Threads, what holds them up, and what they return.

#[cfg(target_os = "linux")]
use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use jackpot::Pool;

use super::{SOON, eventually};

/// A panic that says nothing on the terminal.
pub(crate) fn panic_quietly() -> ! {
    std::panic::resume_unwind(Box::new("on purpose"))
}

/// A gate that threads wait at until a test opens it.
#[derive(Clone, Default)]
pub(crate) struct Gate {
    inner: Arc<(Mutex<bool>, Condvar)>,
    waiting: Arc<AtomicUsize>,
}

impl Gate {
    pub(crate) fn pass(&self) {
        self.waiting.fetch_add(1, SeqCst);
        let (open, bell) = &*self.inner;
        let mut guard = open.lock().unwrap();
        while !*guard {
            guard = bell.wait(guard).unwrap();
        }
        self.waiting.fetch_sub(1, SeqCst);
    }

    pub(crate) fn open(&self) {
        *self.inner.0.lock().unwrap() = true;
        self.inner.1.notify_all();
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }
}

/// Runs `f` on a thread of its own and gives a handle that says whether it is done.
pub(crate) fn background<T: Send + 'static>(
    f: impl FnOnce() -> T + Send + 'static,
) -> Background<T> {
    let (done, result): (Sender<T>, Receiver<T>) = mpsc::channel();
    thread::spawn(move || {
        let _ = done.send(f());
    });
    Background { result }
}

/// Runs this on a pool, on a thread of its own.
pub(crate) fn on_thread<T: Send + 'static, C: Send + 'static>(
    pool: &Pool<C>,
    call: impl FnOnce(&Pool<C>) -> T + Send + 'static,
) -> Background<T> {
    let pool = pool.clone();
    background(move || call(&pool))
}

/// The same, and it waits for a connection when this returns.
#[track_caller]
pub(crate) fn waiting_thread<T: Send + 'static, C: Send + 'static>(
    pool: &Pool<C>,
    call: impl FnOnce(&Pool<C>) -> T + Send + 'static,
) -> Background<T> {
    let before = pool.stats().waiting;
    let waiter = on_thread(pool, call);
    eventually("it waits", || pool.stats().waiting == before + 1);
    waiter
}

/// Runs this on a pool, on so many threads at once, which are numbered.
pub(crate) fn on_threads<T: Send + 'static, C: Send + 'static>(
    pool: &Pool<C>,
    count: usize,
    call: impl Fn(&Pool<C>, usize) -> T + Send + Sync + 'static,
) -> Vec<Background<T>> {
    let call = Arc::new(call);
    let start = |n| {
        let call = Arc::clone(&call);
        on_thread(pool, move |pool| call(pool, n))
    };
    (0..count).map(start).collect()
}

pub(crate) struct Background<T> {
    result: Receiver<T>,
}

impl<T> Background<T> {
    /// What it returned; fails the test if it does not return in good time or panicked.
    #[track_caller]
    pub(crate) fn join(self) -> T {
        self.result
            .recv_timeout(SOON)
            .expect("the thread is done in good time")
    }

    pub(crate) fn is_done_with(&self) -> Option<T> {
        self.result.try_recv().ok()
    }
}

/// Runs a test in a process of its own, where the threads that it counts are its own.
#[cfg(target_os = "linux")]
pub(crate) fn alone(name: &str, test: impl FnOnce()) {
    const MARK: &str = "JACKPOT_TEST_ALONE";
    if std::env::var_os(MARK).is_some() {
        return test();
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--show-output"])
        .env(MARK, "yes")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && told.contains("1 passed"),
        "{told}"
    );
    print!("{told}");
    // Why something is not shown is said there.
    let _ = io::stderr().write_all(&output.stderr);
}
