//! What all handles of a pipeline share: the only file that locks the lanes.
//!
//! `state/lanes.rs` decides. The lock is never held across a system call, a wake-up or a function of
//! the user's.

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::{Arc, PoisonError};

use crate::pipeline::lane::{Machine, Message, Pen};
use crate::pool::Pool;
use crate::report::error::Error;
use crate::report::pipeline_stats::PipelineStats;
use crate::runtime::shared::Listener;
use crate::state::lanes::{Lanes, Rules};
use crate::sync::atomic::AtomicUsize;
use crate::sync::{Condvar, Mutex, MutexGuard, now};

pub(super) type ReadReply<R> = Box<dyn Fn(&mut dyn BufRead) -> io::Result<R> + Send + Sync>;

/// What all handles of a pipeline share.
pub(super) struct Core<R, C> {
    pub(crate) pool: Pool<C>,
    pub(super) read_reply: ReadReply<R>,
    pub(super) repeatable: bool,
    state: Mutex<State<R, C>>,
    /// Rings when a caller that does not lead has written.
    written: Condvar,
    /// How many of this pipeline's callers are getting a connection.
    pub(super) pulling: AtomicUsize,
}

struct State<R, C> {
    lanes: Machine<R, C>,
    /// How many wait for `written`.
    listeners: usize,
}

impl<R: Send + 'static, C: Read + Write + Send + 'static> Core<R, C> {
    pub(crate) fn new(
        pool: Pool<C>,
        read_reply: ReadReply<R>,
        repeatable: bool,
        rules: Rules,
    ) -> Self {
        let lanes = Lanes::new(rules, now());
        Self {
            pool,
            read_reply,
            repeatable,
            state: Mutex::new(State {
                lanes,
                listeners: 0,
            }),
            written: Condvar::new(),
            pulling: AtomicUsize::new(0),
        }
    }

    pub(crate) fn stats(&self) -> PipelineStats {
        self.with(|lanes| lanes.stats())
    }

    /// Locks, moves the clock, decides, unlocks, and tells who is to be told.
    pub(super) fn with<T>(&self, decide: impl FnOnce(&mut Machine<R, C>) -> T) -> T {
        let time = now();
        let mut state = self.lock();
        state.lanes.advance(time);
        let decided = decide(&mut state.lanes);
        let effects = state.lanes.take_effects();
        drop(state);
        if let Some(effects) = effects {
            for (seat, fate) in effects.fates {
                seat.tell(Message::Fate(fate));
            }
            if let Some((seat, lead)) = effects.lead {
                seat.tell(Message::Lead(lead));
            }
        }
        decided
    }

    fn lock(&self) -> MutexGuard<'_, State<R, C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes on a lane that another caller leads.
    pub(super) fn send(&self, lane: usize, mut pen: Pen) {
        loop {
            let (mut done, mut writes, mut failed) = (0, 0, false);
            while done < pen.ink.len() && !failed {
                match (&pen.stream).write(&pen.ink[done..]) {
                    Ok(count) => {
                        failed = count == 0;
                        done += count;
                        writes += 1;
                    }
                    Err(error) => failed = error.kind() != ErrorKind::Interrupted,
                }
            }
            if failed {
                // Its leader reads what has come, then finds the end.
                let _ = pen.stream.shutdown(Shutdown::Both);
            }
            let mut more = None;
            let ring = self.with_state(|state| {
                more = state.lanes.sent(lane, pen, (done, writes), failed);
                state.listeners > 0
            });
            if ring {
                self.written.notify_all();
            }
            let Some((_, next)) = more else { return };
            pen = next;
        }
    }

    fn with_state<T>(&self, decide: impl FnOnce(&mut State<R, C>) -> T) -> T {
        let time = now();
        let mut state = self.lock();
        state.lanes.advance(time);
        decide(&mut state)
    }

    /// Waits until nobody writes on this lane but its leader.
    pub(super) fn wait_for_writer(&self, lane: usize) {
        let mut state = self.lock();
        while state.lanes.is_writing(lane) {
            state.listeners += 1;
            state = self
                .written
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.listeners -= 1;
        }
    }
}

impl<R: Send + 'static, C: Read + Write + Send + 'static> Listener for Core<R, C> {
    fn pool_ended(&self) {
        let error = Arc::new(Error::Ended);
        self.with(|lanes| lanes.end(error));
    }
}
