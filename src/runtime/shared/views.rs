//! What the pool shows of itself.

use super::Shared;
use crate::report::event::Outage;
use crate::report::stats::{CallSites, ConnectionInfo, Stats};
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::now;

impl<C> Shared<C> {
    pub(crate) fn connections(&self) -> Vec<ConnectionInfo> {
        let now = now();
        let found: Vec<_> = self
            .lock()
            .core
            .slots()
            .occupants()
            .map(|found| {
                let socket = found.handle.cloned();
                (found.without_handle(), socket)
            })
            .collect();
        found
            .into_iter()
            .map(|(found, socket)| ConnectionInfo {
                id: found.id,
                state: found.state,
                local: socket.as_ref().and_then(|s| s.tcp().local_addr().ok()),
                peer: socket.as_ref().and_then(|s| s.tcp().peer_addr().ok()),
                age: now.saturating_duration_since(found.born),
                in_state: now.saturating_duration_since(found.since),
                leases: found.leases,
                taken_at: found.taken_at,
            })
            .collect()
    }

    pub(crate) fn stats(&self) -> Stats {
        let state = self.lock();
        state.core.stats(self.allocations.load(Relaxed))
    }

    /// The same for an error, with the call sites of the leases: their list is copied from all
    /// slots under the lock, and counted outside.
    pub(crate) fn stats_with_call_sites(&self) -> Stats {
        let (stats, sites) = {
            let locked = self.lock();
            let stats = locked.core.stats(self.allocations.load(Relaxed));
            (stats, locked.core.slots().call_sites())
        };
        Stats {
            call_sites: CallSites::new(stats.leased, &sites),
            ..stats
        }
    }

    pub(crate) fn outage(&self) -> Option<Outage> {
        self.lock().core.outage()
    }
}
