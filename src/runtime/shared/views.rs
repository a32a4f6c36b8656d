//! What the pool shows of itself.

use std::sync::Arc;
use std::time::Instant;

use super::Shared;
use crate::net::socket::Socket;
use crate::report::error::Error;
use crate::report::stats::{CallSites, ConnectionInfo, Stats};
use crate::state::queue::Failure;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::now;

impl<C> Shared<C> {
    pub(crate) fn connections(&self) -> Vec<ConnectionInfo> {
        let now = now();
        let found = self.read(|core| core.slots().connections(now));
        let with_addresses = |(info, socket): (ConnectionInfo, Option<Arc<Socket>>)| {
            let tcp = socket.as_ref().map(|socket| socket.tcp());
            ConnectionInfo {
                local: tcp.and_then(|tcp| tcp.local_addr().ok()),
                peer: tcp.and_then(|tcp| tcp.peer_addr().ok()),
                ..info
            }
        };
        found.into_iter().map(with_addresses).collect()
    }

    pub(crate) fn stats(&self) -> Stats {
        self.read(|core| core.stats(self.allocations.load(Relaxed)))
    }

    /// The same for an error, with the call sites of the leases: their list is copied from all
    /// slots under the lock, and counted outside.
    pub(crate) fn stats_with_call_sites(&self) -> Stats {
        let (stats, sites) = self.read(|core| {
            let stats = core.stats(self.allocations.load(Relaxed));
            (stats, core.slots().call_sites())
        });
        Stats {
            call_sites: CallSites::new(stats.leased, &sites),
            ..stats
        }
    }

    /// The error of a call that began at this time and has waited for too long.
    pub(crate) fn timed_out(&self, started: Instant, last: Option<&Failure>) -> Error {
        let stats = self.stats_with_call_sites();
        Error::TimedOut {
            elapsed: now().saturating_duration_since(started),
            last: last.map(|failure| Box::new(failure.to_error(|| stats.clone()))),
            stats: Box::new(stats),
        }
    }
}
