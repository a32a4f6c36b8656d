//! How leases begin and end; nearly always with nothing for the core to decide.

use std::sync::Arc;

use super::{Held, Lease, Shared};
use crate::net::probe;
use crate::net::socket::Socket;
use crate::report::outcome::Eviction;
use crate::state::slots::{CallSite, Holder, SlotKey, Taker};
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::user_code::{guarded_call, log};
use crate::sync::{now, thread};

/// The call that takes a lease, and its thread, if that is watched.
#[inline]
pub(crate) fn taker(at: CallSite, is_watched: bool) -> Taker {
    Taker {
        at: Some(at),
        holder: is_watched.then(|| Holder::Caller(std::thread::current())),
    }
}

impl<C> Shared<C> {
    /// The most recently used idle connection, if there is one, not yet probed.
    #[inline]
    pub(crate) fn take(&self, barge: bool, at: CallSite) -> Option<Lease<C>> {
        let now = self.take_reads_clock.load(Relaxed).then(now);
        let taker = taker(at, self.settings.watches_untold);
        let mut state = self.lock();
        if let Some(now) = now {
            state.core.advance(now);
        }
        state.core.take(barge && now.is_some(), taker)
    }

    pub(crate) fn count_allocation(&self) {
        self.allocations.fetch_add(1, Relaxed);
    }

    /// A lease is over.
    pub(crate) fn give_back(self: &Arc<Self>, key: SlotKey, mut held: Held<C>, finished: bool) {
        self.tell_returned(key);
        let has_sent = held.socket().is_unanswered();
        let verdict = self.verdict(key, &mut held, finished);
        let was_of_use = finished || (has_sent && verdict.is_none());
        let signal = held.socket().peer_signal(was_of_use);
        held.socket().set_leased(verdict.is_some());
        let is_exact = self.settings.exact_lease_end || verdict.is_some();
        let mut state = if is_exact {
            self.lock_at(now())
        } else {
            self.lock()
        };
        if verdict.is_none() {
            match state.core.make_idle(key, held, signal) {
                Ok(()) => return,
                Err(back) => held = back,
            }
        }
        if !is_exact {
            // Nothing reads a clock under the lock.
            drop(state);
            state = self.lock_at(now());
        }
        self.decide(state, |state| {
            state.core.give_back(key, held, verdict, signal);
        });
    }

    /// What a lease that is over says against using its connection again.
    fn verdict(&self, key: SlotKey, held: &mut Held<C>, finished: bool) -> Option<Eviction> {
        let settings = &self.settings;
        if thread::panicking() {
            return Some(Eviction::Panicked);
        }
        let over = finished || settings.allow_unanswered || settings.only_finished;
        let unfit = held.socket().make_reusable(over, settings.allow_unread);
        if unfit.is_some() {
            return unfit;
        }
        if settings.only_finished && !finished {
            return Some(Eviction::Unfinished);
        }
        let recycle = self.functions.recycle.as_ref()?;
        if self.lock().core.is_doomed(key) {
            return None; // the core knows why it is to close
        }
        let socket = held.socket();
        // What lies in it was for this caller: it must not pass for what `recycle` asks for.
        socket.set_leased(false);
        if let Some(why) = probe::verdict(socket, settings.allow_unread) {
            if why == Eviction::PeerClosed {
                socket.hung_up();
            }
            return Some(why);
        }
        socket.set_leased(true);
        if let Err(error) = guarded_call(recycle, &mut held.client) {
            log!(Debug, "connection {}: recycle failed: {error}", key.id);
            return Some(Eviction::RecycleFailed);
        }
        held.socket().make_reusable(true, settings.allow_unread)
    }

    /// Whether the pool wants a lease back whose socket this is; costs no lock.
    pub(crate) fn wants_back(&self, socket: &Socket) -> bool {
        self.wants_leases_back.load(Relaxed) || socket.is_recalled()
    }
}
