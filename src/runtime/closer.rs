//! The thread that drops clients: `jackpot-close`.
//!
//! A client that is not the plain `Stream` has a destructor of the user's, which may block. It runs
//! after its socket was shut down, so it can send nothing, and on no thread that anybody waits for.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::runtime::parker::wait_until;
use crate::sync::user_code::{destroy, log};
use crate::sync::{Condvar, Mutex, MutexGuard, now, spawn};

/// Drops clients, one at a time, on a thread that lives as long as there are any.
pub(crate) struct Closer<C> {
    line: Mutex<Line<C>>,
    done: Condvar,
    /// Starts the thread. A pointer, because only threads ask that `C` be `Send`, and a guard's
    /// `drop` may not.
    start: fn(&Arc<Self>) -> std::io::Result<()>,
}

struct Line<C> {
    clients: VecDeque<C>,
    /// Whether a thread is at it.
    is_running: bool,
}

impl<C: Send + 'static> Closer<C> {
    pub(crate) fn new() -> Arc<Self> {
        let line = Line {
            clients: VecDeque::new(),
            is_running: false,
        };
        Arc::new(Self {
            line: Mutex::new(line),
            done: Condvar::new(),
            start: |closer| {
                let closer = Arc::clone(closer);
                spawn("jackpot-close", move || {
                    while let Some(client) = closer.next() {
                        destroy(client);
                    }
                })
            },
        })
    }
}

impl<C> Closer<C> {
    /// Has this client dropped soon.
    pub(crate) fn drop_later(self: &Arc<Self>, client: C) {
        self.lock().clients.push_back(client);
        self.run();
    }

    /// Starts the thread if there is something to drop. Where that fails, clients wait for the next
    /// call, which comes with a sweep or with the next one to drop; as a last resort they are
    /// dropped with the pool.
    pub(crate) fn run(self: &Arc<Self>) {
        {
            let mut line = self.lock();
            if line.is_running || line.clients.is_empty() {
                return;
            }
            line.is_running = true;
        }
        if let Err(error) = (self.start)(self) {
            self.lock().is_running = false;
            self.done.notify_all();
            log!(Warn, "cannot start the thread that drops clients: {error}");
        }
    }

    /// Waits until all clients have been dropped, for so long at most.
    pub(crate) fn wait(&self, timeout: Duration) {
        let until = Some(now() + timeout);
        drop(wait_until(&self.done, self.lock(), until, |line| {
            !line.is_running
        }));
    }

    fn next(&self) -> Option<C> {
        let mut line = self.lock();
        let next = line.clients.pop_front();
        if next.is_none() {
            line.is_running = false;
            self.done.notify_all();
        }
        next
    }

    fn lock(&self) -> MutexGuard<'_, Line<C>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What no thread could be started for.
impl<C> Drop for Closer<C> {
    fn drop(&mut self) {
        let line = self.line.get_mut();
        let line = line.unwrap_or_else(PoisonError::into_inner);
        for client in line.clients.drain(..) {
            destroy(client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::atomic::{AtomicBool, Ordering::SeqCst};

    const SOON: Duration = Duration::from_secs(10);

    /// Does this when it is dropped.
    struct Client<F: FnMut()>(F);

    impl<F: FnMut()> Drop for Client<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }

    #[test]
    fn who_waits_for_descriptors_waits_until_the_clients_are_dropped_but_not_for_ever() {
        let dropped = Arc::<AtomicBool>::default();
        let (go_on, gate) = std::sync::mpsc::channel();
        let (closer, tell) = (Closer::new(), Arc::clone(&dropped));
        closer.drop_later(Client(move || {
            gate.recv_timeout(SOON).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            tell.store(true, SeqCst);
        }));
        closer.wait(Duration::from_millis(1));
        assert!(!dropped.load(SeqCst));
        go_on.send(()).unwrap();
        closer.wait(SOON);
        assert!(dropped.load(SeqCst));
    }

    #[test]
    fn a_client_that_no_thread_could_drop_panics_into_nobody() {
        let dropped = Arc::<AtomicBool>::default();
        let tell = Arc::clone(&dropped);
        let line = Line {
            clients: VecDeque::new(),
            is_running: false,
        };
        let closer = Arc::new(Closer {
            line: Mutex::new(line),
            done: Condvar::new(),
            start: |_| Err(std::io::ErrorKind::OutOfMemory.into()),
        });
        closer.drop_later(Client(move || {
            tell.store(true, SeqCst);
            std::panic::resume_unwind(Box::new("on purpose"));
        }));
        drop(closer);
        assert!(dropped.load(SeqCst));
    }
}
