//! The reaper: a thread that evicts what is dead, idle too long or too old.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use crate::net::probe;
use crate::report::error::Error;
use crate::report::outcome::{Eviction, PeerSignal};
use crate::runtime::pinger::start_pinging;
use crate::runtime::shared::{Core, Shared};
use crate::state::core::IdlePeriod;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::{now, spawn};

/// How many slots a sweep goes through between two locks: few, because their handles are cold in the
/// cache, and whoever pulls meanwhile waits while they are cloned.
const BATCH: u32 = 8;
/// How many connections that were left to be closed are closed between two locks.
pub(crate) const CLOSE_BATCH: usize = 8;
/// On how many connections a sweep also tries the sending side, which costs as much again as the
/// peek. Larger pools take turns: each sweep tries the next so many.
const SENDING_CHECKS: u32 = 512;

/// Starts the thread; it ends when the pool does.
pub(crate) fn start<C: Send + 'static>(
    shared: &Arc<Shared<C>>,
    every: Duration,
) -> Result<(), Error> {
    // One message is enough to say "sweep now".
    let (waker, woken) = bounded(1);
    let pool = Arc::downgrade(shared);
    spawn("jackpot-reaper", move || run(&pool, &woken, every)).map_err(Error::Spawn)?;
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
        if pool.upgrade().and_then(|shared| sweep(&shared)).is_none() {
            return;
        }
    }
}

/// Evicts, refills, reports and pings; how many connections were evicted, unless the pool has ended.
pub(crate) fn sweep<C: Send + 'static>(shared: &Arc<Shared<C>>) -> Option<usize> {
    if shared.read(Core::has_ended) {
        return None;
    }
    shared.closer.run();
    while shared.with(|core| core.close_left(CLOSE_BATCH)) > 0 {}
    let evicted = evict_stale(shared) + evict_dead(shared);
    shared.with(Core::refill);
    start_pinging(shared);
    Some(evicted)
}

fn evict_stale<C: Send + 'static>(shared: &Arc<Shared<C>>) -> usize {
    let mut evicted = 0;
    loop {
        let count = shared.with(|core| core.evict_stale(BATCH as usize));
        evicted += count;
        if count < BATCH as usize {
            return evicted;
        }
    }
}

/// Evicts what is dead or too old; how many connections that were.
///
/// The sockets are probed through handles of their own, without the lock and without taking
/// them out of the pool, so a sweep never makes the pool look full.
pub(crate) fn evict_dead<C: Send + 'static>(shared: &Arc<Shared<C>>) -> usize {
    let slots = shared.with(|core| core.slots().len());
    let turns = u64::from(slots.div_ceil(SENDING_CHECKS)).max(1);
    let turn = shared.sweeps.fetch_add(1, Relaxed) % turns;
    let allow_unread = shared.settings.allow_unread;
    let mut evicted = 0;
    let mut idle = Vec::new();
    let mut overdue = Vec::new();
    for first in (0..slots).step_by(BATCH as usize) {
        let batch = first..first.saturating_add(BATCH);
        evicted += shared.with(|core| core.inspect(batch, &mut idle, &mut overdue));
        let try_sending = u64::from(first / SENDING_CHECKS) == turn;
        let mut dead: Vec<(IdlePeriod, Eviction, bool)> = Vec::new();
        for (period, socket) in idle.drain(..) {
            if let Some(why) = probe::sweep(&socket, allow_unread, try_sending) {
                let was_heard = socket.peer_signal(false) == PeerSignal::Heard;
                let silent = !was_heard && why != Eviction::HalfClosed;
                dead.push((period, why, silent));
            }
        }
        if !dead.is_empty() {
            evicted += shared.with(|core| {
                dead.iter()
                    .filter(|&&(period, why, silent)| core.evict_idle(period, why, silent))
                    .count()
            });
        }
        for event in overdue.drain(..) {
            shared.tell_of_connection(Some(event));
        }
    }
    evicted
}
