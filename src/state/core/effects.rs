//! What the core has decided and others carry out, once the lock is free.

use std::sync::Arc;

use crate::report::error::Error;
use crate::state::slots::{Closed, SlotKey};

/// What is to be done, in the order of the fields: what closes does so before anything connects.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Effects<L, H, W> {
    /// Waiters that have an answer, or a new time at which to poll.
    pub(crate) wake: Vec<W>,
    /// Connections that their holders are to give back as soon as they can.
    pub(crate) recall: Vec<H>,
    /// Connects that were given up and whose sockets are to be shut down.
    pub(crate) cut: Vec<H>,
    /// Handles that nobody needs any more; the last one on a socket closes it.
    pub(crate) released: Vec<H>,
    /// Connections to close and to report.
    pub(crate) close: Vec<Closed<L, H>>,
    /// Connects to start.
    pub(crate) connects: Vec<Reserved>,
    /// The client of a lease that had been aborted and is over now.
    pub(crate) aborted: Option<L>,
    /// No lease and no connect is outstanding any more, and somebody waits for that.
    pub(crate) drained: bool,
    /// A connection was found dead, so the reaper should probe all others.
    pub(crate) wake_reaper: bool,
    /// The other side keeps hanging up, which the log should say.
    pub(crate) warn_of_hang_ups: bool,
    /// Errors that nobody needs any more; their destructors are the user's.
    pub(crate) errors: Vec<Arc<Error>>,
}

impl<L, H, W> Effects<L, H, W> {
    /// The connections to close whose places are not free before that was done.
    pub(super) fn occupying(&mut self) -> impl Iterator<Item = &mut Closed<L, H>> {
        let last_first = self.close.iter_mut().rev();
        last_first.filter(|closed| closed.occupies)
    }
}

impl<L, H, W> Default for Effects<L, H, W> {
    fn default() -> Self {
        Self {
            wake: Vec::new(),
            recall: Vec::new(),
            cut: Vec::new(),
            released: Vec::new(),
            close: Vec::new(),
            connects: Vec::new(),
            aborted: None,
            drained: false,
            wake_reaper: false,
            warn_of_hang_ups: false,
            errors: Vec::new(),
        }
    }
}

/// A slot that has been taken for a connection to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reserved {
    pub(crate) key: SlotKey,
    /// Whether a waiter needs it, as opposed to `min_idle`.
    pub(crate) needed: bool,
}
