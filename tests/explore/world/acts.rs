//! What may happen next, and in the end what must.

use super::*;

impl World {
    pub(super) fn returns(&self, config: &Config, acts: &mut Vec<Act>) {
        for i in 0..self.leases.len() {
            let lease = place(i);
            let signals = if config.ages.hang_ups { 3 } else { 1 };
            for signal in 0..signals {
                acts.push(Act::GiveBack {
                    lease,
                    fit: true,
                    signal,
                });
            }
            acts.push(Act::GiveBack {
                lease,
                fit: false,
                signal: 0,
            });
            if config.abandons && self.abandoned.len() < config.limit {
                acts.push(Act::Abandon(lease));
            }
            if config.detaches {
                acts.push(Act::Discard(lease));
                acts.push(Act::Detach(lease));
            }
        }
        if self.ping.is_some() {
            acts.push(Act::PingBack { fit: true });
            acts.push(Act::PingBack { fit: false });
        }
    }

    pub(super) fn connect_acts(&self, config: &Config, acts: &mut Vec<Act>) {
        for (i, connect) in self.connects.iter().enumerate() {
            let i = place(i);
            if connect.is_open.is_none() {
                acts.push(Act::Opened(i));
            }
            if connect.is_open == Some(true) {
                acts.push(Act::Connected(i));
            }
            acts.push(Act::ConnectFailed {
                connect: i,
                is_permanent: false,
            });
            if config.fails_permanently {
                acts.push(Act::ConnectFailed {
                    connect: i,
                    is_permanent: true,
                });
            }
            if self.core.has_ended() && connect.is_open.is_none() {
                acts.push(Act::ConnectDropped(i));
            }
        }
    }

    pub(super) fn sweep_acts(&self, config: &Config, acts: &mut Vec<Act>) {
        acts.extend([Act::EvictStale, Act::EvictOldest, Act::Inspect, Act::Refill]);
        if self.core.slots().left() > 0 {
            acts.push(Act::CloseLeft);
        }
        for i in 0..self.seen.len() {
            acts.push(Act::EvictIdle(place(i)));
        }
        if self.ping.is_none() && config.pings.is_some() {
            acts.push(Act::Ping);
        }
    }

    pub(super) fn verbs(&self, config: &Config, acts: &mut Vec<Act>) {
        for &limit in config.limits {
            if limit != self.core.limit() {
                acts.push(Act::SetLimit(place(limit)));
            }
        }
        if config.frees {
            // One aborted lease at a time, or there would be no end to them.
            let hards: &[bool] = if self.core.aborted() > 0 {
                &[false]
            } else {
                &[false, true]
            };
            for &hard in hards {
                for keep in 0..=1 {
                    acts.push(Act::Free { keep, hard });
                }
                acts.push(Act::End { hard });
            }
            if !self.drains {
                acts.push(Act::Drain);
            }
        }
        if config.changes_factory {
            acts.push(Act::SetFactory);
        }
    }

    /// What happens next if the other side answers and nobody gives up: `None` once all is quiet.
    pub(super) fn next_fair(&self, returns_first: bool) -> Option<Act> {
        let now = self.core.now();
        for (i, guest) in self.guests.iter().enumerate() {
            let i = place(i);
            if guest.probes.is_some() {
                return Some(Act::ProbedAlive(i));
            }
            if guest.is_permanent {
                return Some(Act::Leave(i));
            }
            if guest.is_woken || is_past(guest.poll_at, now) {
                return Some(Act::Poll(i));
            }
        }
        if let Some(ready) = &self.ready {
            if ready.is_woken || is_past(ready.poll_at, now) {
                return Some(Act::PollReady);
            }
        }
        let fit = true;
        let lease_back = self.leases.first().map(|_| Act::GiveBack {
            lease: 0,
            fit,
            signal: 0,
        });
        let ping_back = self.ping.as_ref().map(|_| Act::PingBack { fit });
        let connect = self.connects.first().map(|connect| match connect.is_open {
            None => Act::Opened(0),
            Some(true) => Act::Connected(0),
            Some(false) => Act::ConnectFailed {
                connect: 0,
                is_permanent: false,
            },
        });
        let vacate = self.closing.first().map(|_| Act::Vacate(0));
        let back = lease_back.or(ping_back);
        let ahead = connect.or(vacate);
        let next = if returns_first {
            back.or(ahead)
        } else {
            ahead.or(back)
        };
        if next.is_some() {
            return next;
        }
        if self.guests.is_empty() && self.ready.is_none() {
            // Nobody has to wait for these.
            return self.abandoned.first().map(|_| Act::Forget(0));
        }
        if self.core.limit() == 0 {
            return Some(Act::SetLimit(1));
        }
        assert!(
            self.poll_times().next().is_some(),
            "somebody waits for ever"
        );
        Some(Act::Jump)
    }

    pub(super) fn poll_times(&self) -> impl Iterator<Item = Instant> + '_ {
        let ready = self.ready.as_ref().and_then(|ready| ready.poll_at);
        self.guests
            .iter()
            .filter_map(|guest| guest.poll_at)
            .chain(ready)
    }
}
