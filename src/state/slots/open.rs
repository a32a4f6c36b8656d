//! What is known of an open connection, idle or leased.

use std::panic::Location;
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::report::outcome::Eviction;

/// An open connection.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Open<L, H> {
    pub(crate) handle: H,
    pub(crate) usage: Usage<L>,
    pub(crate) born: Instant,
    /// When it became idle, or its lease began; where that does not read the clock, when the clock
    /// was last read before.
    pub(crate) since: Instant,
    /// When it last proved to answer: came back from a lease or a ping.
    pub(crate) answered: Instant,
    /// When it is too old.
    pub(crate) expires: Option<Instant>,
    pub(crate) leases: u64,
    /// How many of them were pings.
    pub(crate) pings: u64,
}

/// What an open connection is at.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) enum Usage<L> {
    Idle { client: L },
    Leased(Leased),
}

/// What is known of a lease; the default is one that has just begun.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leased {
    /// Why it is to close when it comes back.
    pub(crate) doom: Option<Eviction>,
    /// Whether the lease's beginning has been told, and its end has not.
    pub(crate) is_told: bool,
    pub(crate) taker: Taker,
}

/// Where in the user's program a lease was taken.
pub(crate) type CallSite = &'static Location<'static>;

/// Who takes a lease; the default is nobody in particular yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taker {
    /// `None` for a ping.
    pub(crate) at: Option<CallSite>,
    /// If leases are watched, until it has been reported overdue.
    pub(crate) holder: Option<Holder>,
}

/// Who has a lease.
#[derive(Clone, Debug)]
pub(crate) enum Holder {
    /// A caller, by its thread.
    Caller(Thread),
    /// The pool itself, for a ping.
    Ping,
}

/// The name of the thread that pings.
pub(crate) const PING_THREAD: &str = "jackpot-ping";

impl Holder {
    /// The name of its thread, if that has one.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Caller(thread) => thread.name(),
            Self::Ping => Some(PING_THREAD),
        }
    }
}

impl<L, H> Open<L, H> {
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.usage, Usage::Idle { .. })
    }

    /// The lease, while there is one.
    pub(crate) fn leased(&self) -> Option<&Leased> {
        match &self.usage {
            Usage::Idle { .. } => None,
            Usage::Leased(leased) => Some(leased),
        }
    }

    pub(crate) fn leased_mut(&mut self) -> Option<&mut Leased> {
        match &mut self.usage {
            Usage::Idle { .. } => None,
            Usage::Leased(leased) => Some(leased),
        }
    }

    /// Why it is to close when it comes back, if it is.
    pub(crate) fn doom(&self) -> Option<Eviction> {
        self.leased()?.doom
    }

    pub(crate) fn taken_at(&self) -> Option<CallSite> {
        self.leased()?.taker.at
    }

    /// The end of this lease is told: how long it lasted, if its beginning was told.
    pub(crate) fn end_told_lease(&mut self, now: Instant) -> Option<Duration> {
        let is_told = std::mem::take(&mut self.leased_mut()?.is_told);
        is_told.then(|| now.saturating_duration_since(self.since))
    }

    pub(crate) fn has_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}
