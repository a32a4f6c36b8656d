//! The reaper: a thread that evicts what is dead, idle too long or too old.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use crate::net::probe;
use crate::report::error::Error;
use crate::report::event::Event;
use crate::report::outcome::Eviction;
use crate::report::stats::Brief;
use crate::runtime::shared::{Held, Shared};
use crate::state::slots::{Pinged, Place};
use crate::state::table::{Overdue, Resting};
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::user_code::{guarded_call, say};
use crate::sync::{now, thread};

/// How many slots a sweep looks at between two locks: few, because their handles are cold in the
/// cache, and whoever pulls meanwhile waits while they are cloned.
const BATCH: u32 = 8;
/// On how many connections a sweep also looks at the sending side, which costs as much again as
/// the peek. Larger pools take turns: each sweep looks at the next so many.
const SENDING_CHECKS: u32 = 512;

/// Starts the thread; it ends when the pool does.
pub(crate) fn start<C: Send + 'static>(
    shared: &Arc<Shared<C>>,
    every: Duration,
) -> Result<(), Error> {
    // One message is enough to say "look now".
    let (waker, woken) = bounded(1);
    let pool = Arc::downgrade(shared);
    thread::Builder::new()
        .name("jackpot-reaper".into())
        .spawn(move || run(&pool, &woken, every))
        .map_err(Error::Spawn)?;
    shared.set_reaper(waker);
    Ok(())
}

fn run<C: Send + 'static>(pool: &Weak<Shared<C>>, woken: &Receiver<()>, every: Duration) {
    let mut next = now().checked_add(every);
    loop {
        let message = match next {
            Some(next) => woken.recv_deadline(next),
            None => woken.recv().map_err(RecvTimeoutError::from),
        };
        match message {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => next = now().checked_add(every),
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let Some(shared) = pool.upgrade() else {
            return;
        };
        sweep(&shared);
    }
}

/// Evicts, refills, reports and pings; how many connections were evicted.
pub(crate) fn sweep<C: Send + 'static>(shared: &Arc<Shared<C>>) -> usize {
    if shared.is_ended() {
        return 0;
    }
    shared.close_graves();
    let evicted = evict_stale(shared) + evict_dead(shared);
    shared.with(|state| state.table.top_up());
    start_pinging(shared);
    evicted
}

fn evict_stale<C: Send + 'static>(shared: &Arc<Shared<C>>) -> usize {
    let mut evicted = 0;
    loop {
        let count = shared.with(|state| state.table.evict_stale(BATCH as usize));
        evicted += count;
        if count < BATCH as usize {
            return evicted;
        }
    }
}

/// Evicts what is dead or too old; how many connections that were.
///
/// The sockets are looked at through handles of their own, without the lock and without taking
/// them out of the pool, so a sweep never makes the pool look full.
pub(crate) fn evict_dead<C: Send + 'static>(shared: &Arc<Shared<C>>) -> usize {
    let slots = shared.with(|state| state.table.slots().len());
    let turns = u64::from(slots.div_ceil(SENDING_CHECKS)).max(1);
    let turn = shared.sweeps.fetch_add(1, Relaxed) % turns;
    let allow_unread = shared.settings.allow_unread;
    let mut evicted = 0;
    let mut idle = Vec::new();
    let mut overdue = Vec::new();
    for first in (0..slots).step_by(BATCH as usize) {
        let batch = first..first.saturating_add(BATCH);
        evicted += shared.with(|state| {
            let table = &mut state.table;
            table.inspect(batch, &mut idle, &mut overdue)
        });
        let look_at_sending = u64::from(first / SENDING_CHECKS) == turn;
        let mut dead: Vec<(Resting, Eviction)> = Vec::new();
        for (resting, socket) in idle.drain(..) {
            let verdict = probe::verdict(&socket, allow_unread).or_else(|| {
                if look_at_sending {
                    probe::cannot_send(&socket)
                } else {
                    None
                }
            });
            dead.extend(verdict.map(|why| (resting, why)));
        }
        if !dead.is_empty() {
            evicted += shared.with(|state| {
                let table = &mut state.table;
                dead.iter()
                    .filter(|&&(resting, why)| table.evict_idle(resting, why))
                    .count()
            });
        }
        if !overdue.is_empty() {
            report(shared, std::mem::take(&mut overdue));
        }
    }
    evicted
}

/// Tells of leases that have been out too long, then of those that ended meanwhile.
fn report<C: Send + 'static>(shared: &Arc<Shared<C>>, overdue: Vec<Overdue>) {
    let ids: Vec<u64> = overdue.iter().map(|lease| lease.id).collect();
    for Overdue { id, held, holder } in overdue {
        let thread = holder.name().map(str::to_owned);
        let name = thread.as_deref().unwrap_or("without a name");
        say!(
            Warn,
            "connection {id} has been leased for {} by thread {name}",
            Brief(held)
        );
        shared.tell(&Event::Overdue { id, held, thread });
    }
    for late in shared.with(|state| state.table.reported(&ids)) {
        shared.tell_evicted(late.id, late.why, late.age);
    }
}

/// A lease of the pool's own, for a ping; dropped, it goes back.
struct Ping<C: Send + 'static> {
    shared: Arc<Shared<C>>,
    place: Place,
    held: Option<Held<C>>,
    pinged: Pinged,
    verdict: Option<Eviction>,
}

/// The right to ping, of which there is one.
struct Pinging<C: Send + 'static>(Arc<Shared<C>>);

/// Pings what asks for it, one at a time, on a thread of its own: a server that hangs must not
/// hang the sweep.
fn start_pinging<C: Send + 'static>(shared: &Arc<Shared<C>>) {
    if shared.settings.ping.is_none() || !shared.with(|state| state.table.begin_pinging()) {
        return;
    }
    let pinging = Pinging(Arc::clone(shared));
    let mut from = 0;
    let Some(first) = pinging.next(&mut from) else {
        return;
    };
    let started = thread::Builder::new()
        .name("jackpot-ping".into())
        .spawn(move || {
            let mut next = Some(first);
            while let Some(mut ping) = next {
                ping.run();
                drop(ping);
                next = pinging.next(&mut from);
            }
        });
    if let Err(error) = started {
        say!(Warn, "cannot start the ping thread: {error}");
    }
}

impl<C: Send + 'static> Pinging<C> {
    fn next(&self, from: &mut u32) -> Option<Ping<C>> {
        let (every, _) = self.0.settings.ping.as_ref()?;
        let (lease, pinged) = self.0.with(|state| state.table.next_ping(from, *every))?;
        Some(Ping {
            shared: Arc::clone(&self.0),
            place: lease.place,
            held: Some(lease.held),
            pinged,
            verdict: None,
        })
    }
}

impl<C: Send + 'static> Drop for Pinging<C> {
    fn drop(&mut self) {
        self.0.with(|state| state.table.end_pinging());
    }
}

impl<C: Send + 'static> Ping<C> {
    fn run(&mut self) {
        let (Some((_, ping)), Some(held)) = (&self.shared.settings.ping, &mut self.held) else {
            return;
        };
        let socket = Arc::clone(held.stream.socket());
        socket.set_leased(true);
        self.verdict = match guarded_call(ping, &mut held.client) {
            Ok(()) => socket.settle(self.shared.settings.allow_unanswered),
            Err(error) => {
                let id = self.place.id;
                say!(Debug, "connection {id}: ping failed: {error}");
                Some(Eviction::PingFailed)
            }
        };
        socket.set_leased(self.verdict.is_some());
    }
}

impl<C: Send + 'static> Drop for Ping<C> {
    fn drop(&mut self) {
        let Some(held) = self.held.take() else {
            return;
        };
        self.shared.with(|state| {
            let table = &mut state.table;
            let (place, verdict) = (self.place, self.verdict);
            table.give_back_pinged(place, held, &self.pinged, verdict);
        });
    }
}
