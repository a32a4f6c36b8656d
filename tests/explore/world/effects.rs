//! What an act does, and what follows from it.

use super::*;

impl World {
    /// Who acted, and the number of a waiter that got its connection in this very transition.
    pub(super) fn make(&mut self, act: Act, config: &Config) -> (Option<u8>, Option<u64>) {
        match act {
            Act::Enter { stays } => return self.enter(stays, config),
            Act::Poll(i) => return self.poll(i, false),
            Act::Retry(i) => {
                let i = usize::from(i);
                let guest = &mut self.guests[i];
                guest.is_woken = false;
                let waker = guest.itself.waker;
                let turn = match self.core.poll(&mut guest.itself) {
                    Turn::Pending(_) => {
                        guest.is_asleep = false;
                        self.core.retry(&mut guest.itself)
                    }
                    turn => turn,
                };
                return (Some(waker), self.told(i, turn));
            }
            Act::Leave(i) => return self.poll(i, true),
            Act::ProbedAlive(i) => {
                let guest = self.guests.remove(usize::from(i));
                self.keep(guest.probes.unwrap());
            }
            Act::ProbedDead { guest, silent } => {
                let i = usize::from(guest);
                let lease = self.guests[i].probes.take().unwrap();
                self.guests[i].is_asleep = false;
                let dead = Dead {
                    lease,
                    why: Eviction::PeerClosed,
                    silent,
                };
                let turn = self.core.come_back(&mut self.guests[i].itself, dead);
                let came = self.told(i, turn);
                self.renumber();
                return (None, came);
            }
            Act::ProbedDeadTooLate(i) => {
                let guest = self.guests.remove(usize::from(i));
                let dead = Dead {
                    lease: guest.probes.unwrap(),
                    why: Eviction::PeerClosed,
                    silent: false,
                };
                self.core.found_dead(dead, CloseWhen::Later);
            }
            Act::GiveBack { lease, fit, signal } => {
                let Lease { key, client, .. } = self.leases.remove(usize::from(lease));
                let signal = [PeerSignal::Silence, PeerSignal::Heard, PeerSignal::HungUp]
                    [usize::from(signal)];
                let verdict = (!fit).then_some(Eviction::Broken);
                let client = if fit {
                    self.core.make_idle(key, client, signal).err()
                } else {
                    Some(client)
                };
                if let Some(client) = client {
                    self.core.give_back(key, client, verdict, signal);
                }
            }
            Act::Discard(i) => {
                let Lease { key, client, .. } = self.leases.remove(usize::from(i));
                self.core.discard(key, client, PeerSignal::Silence);
            }
            Act::Detach(i) => {
                let lease = self.leases.remove(usize::from(i));
                self.core.detach(lease.key, PeerSignal::Silence);
            }
            Act::Opened(_)
            | Act::Connected(_)
            | Act::ConnectFailed { .. }
            | Act::ConnectDropped(_) => {
                self.end_connect(act);
            }
            Act::Vacate(i) => {
                let key = self.closing.remove(usize::from(i));
                self.core.vacate(&[key]);
            }
            Act::Pass(i) => self.pass(Duration::from_micros(config.steps[usize::from(i)])),
            Act::Jump => {
                let left = self.poll_times().min().map(|at| at - self.core.now());
                self.pass(left.unwrap());
            }
            _ => self.verb(act, config),
        }
        (None, None)
    }

    fn verb(&mut self, act: Act, config: &Config) {
        let close = |hard| if hard { Close::Hard } else { Close::Soft };
        match act {
            Act::CloseLeft => {
                self.core.close_left(1);
            }
            Act::EvictStale => {
                self.core.evict_stale(usize::MAX);
            }
            Act::EvictOldest => {
                self.core.evict_oldest();
            }
            Act::Inspect => {
                let mut idle = Vec::new();
                self.core.inspect(0..u32::MAX, &mut idle, &mut Vec::new());
                self.seen = idle.into_iter().map(|(period, _)| period).collect();
            }
            Act::EvictIdle(i) => {
                let period = self.seen.remove(usize::from(i));
                self.core.evict_idle(period, Eviction::PeerClosed, false);
            }
            Act::Refill => self.core.refill(),
            Act::Ping => {
                let every = config.pings.unwrap();
                self.ping = self.core.next_ping(&mut Some(0), every);
            }
            Act::PingBack { fit } => {
                let lease = self.ping.take().unwrap();
                let verdict = (!fit).then_some(Eviction::PingFailed);
                let Lease { key, client, .. } = lease;
                let signal = PeerSignal::Silence;
                self.core.give_back(key, client, verdict, signal);
            }
            Act::SetLimit(limit) => self.core.set_limit(usize::from(limit)),
            Act::Free { keep, hard } => {
                self.core.free(usize::from(keep), close(hard));
            }
            Act::End { hard } => {
                self.core.end(close(hard));
            }
            Act::SetFactory => self.core.factory_changed(),
            Act::Drain => self.drains = self.core.begin_draining(),
            Act::Abandon(i) => {
                let lease = self.leases.remove(usize::from(i));
                self.core.abandon(lease.key, lease.client);
                self.abandoned.push(lease);
            }
            Act::TakeBack(i) => {
                let lease = self.abandoned.remove(usize::from(i));
                if let Some(client) = self.core.take_abandoned(lease.key) {
                    assert_eq!(client, lease.key.id, "another's client");
                    self.keep(lease);
                }
            }
            Act::Forget(i) => {
                let lease = self.abandoned.remove(usize::from(i));
                if let Some(client) = self.core.take_abandoned(lease.key) {
                    self.core.discard(lease.key, client, PeerSignal::Silence);
                }
            }
            Act::BeginReady(count) => {
                let count = usize::from(count);
                self.ready = Some(ReadyGuest {
                    number: self.core.begin_ready(count, READY),
                    count,
                    failures: self.core.stats(0).connect_failures,
                    is_woken: true,
                    poll_at: None,
                });
            }
            Act::PollReady => self.poll_ready(),
            Act::EndReady => {
                let ready = self.ready.take().unwrap();
                self.core.end_ready(ready.number);
            }
            _ => unreachable!("{act:?} is no verb"),
        }
    }

    fn poll_ready(&mut self) {
        let ready = self.ready.as_mut().unwrap();
        match self.core.poll_ready(ready.number) {
            Readiness::Waits(poll_at) => {
                (ready.is_woken, ready.poll_at) = (false, poll_at);
                return;
            }
            Readiness::Ready => assert!(self.core.slots().open() >= ready.count),
            Readiness::AboveLimit(limit) => assert!(ready.count > limit),
            Readiness::Permanent(error) => assert!(error.is_permanent()),
            Readiness::Ended => assert!(self.core.has_ended()),
        }
        self.core.end_ready(ready.number);
        self.ready = None;
    }

    fn pass(&mut self, time: Duration) {
        self.core.advance(self.core.now() + time);
    }

    fn enter(&mut self, stays: bool, config: &Config) -> (Option<u8>, Option<u64>) {
        let waiting = self.waiting().count();
        let until = self.core.barging_until();
        let is_free = |waker: &u8| self.guests.iter().all(|guest| guest.itself.waker != *waker);
        let waker = (0..=u8::MAX).find(is_free).unwrap();
        let mut itself = core::Caller::new(waker, stays, Taker::default());
        let turn = self.core.enter(&mut itself);
        if matches!(turn, Turn::QueueFull) {
            let most = config.rules.max_waiting;
            assert!(
                most.is_some_and(|most| waiting >= most),
                "the line is not full"
            );
        }
        if matches!(turn, Turn::Granted(_)) && waiting > 0 {
            let may = stays && until.is_some_and(|until| self.core.now() < until);
            assert!(may, "a newcomer overtook a waiter");
        }
        let guest = Guest {
            number: itself
                .seat
                .map_or(u64::MAX, |seat| self.core.queue().number(seat)),
            itself,
            probes: None,
            is_woken: false,
            poll_at: None,
            is_asleep: false,
            is_permanent: false,
        };
        self.guests.push(guest);
        self.told(self.guests.len() - 1, turn);
        (Some(waker), None)
    }

    /// Polls as `pull` does; one that leaves does so unless its answer came at the last moment.
    fn poll(&mut self, i: u8, leaves: bool) -> (Option<u8>, Option<u64>) {
        let i = usize::from(i);
        let guest = &mut self.guests[i];
        guest.is_woken = false;
        let waker = guest.itself.waker;
        let turn = self.core.poll(&mut guest.itself);
        if leaves
            && matches!(
                turn,
                Turn::Pending(_) | Turn::Failed(..) | Turn::Permanent(_)
            )
        {
            self.core.cause();
            let mut guest = self.guests.remove(i);
            self.core.leave(&mut guest.itself);
            return (Some(waker), None);
        }
        (Some(waker), self.told(i, turn))
    }

    /// A guest hears this; its number if that is its connection.
    fn told(&mut self, i: usize, turn: Turn<u64>) -> Option<u64> {
        let guest = &mut self.guests[i];
        match turn {
            Turn::Granted(lease) if lease.probe => {
                guest.poll_at = None;
                guest.is_asleep = false;
                guest.probes = Some(lease);
                return Some(guest.number);
            }
            Turn::Granted(lease) => {
                let number = guest.number;
                self.guests.remove(i);
                self.keep(lease);
                return Some(number);
            }
            Turn::Failed(_, poll_at) if guest.itself.stays => {
                guest.is_asleep = true;
                guest.poll_at = poll_at;
            }
            Turn::Permanent(_) if guest.itself.stays => {
                guest.is_permanent = true;
                guest.poll_at = None;
            }
            Turn::Pending(poll_at) => guest.poll_at = poll_at,
            _ => {
                self.guests.remove(i);
            }
        }
        None
    }

    fn keep(&mut self, lease: Lease<u64>) {
        assert_eq!(lease.key.id, lease.client, "a lease with another's client");
        self.leases.push(lease);
        self.leases
            .sort_unstable_by_key(|lease| (lease.key.index, lease.key.id));
    }

    fn end_connect(&mut self, act: Act) {
        let (Act::Opened(i)
        | Act::Connected(i)
        | Act::ConnectFailed { connect: i, .. }
        | Act::ConnectDropped(i)) = act
        else {
            return;
        };
        let key = self.connects[usize::from(i)].key;
        if act == Act::Opened(i) {
            let goes_on = self.core.opened(key, key.id);
            self.connects[usize::from(i)].is_open = Some(goes_on);
            return;
        }
        self.connects.remove(usize::from(i));
        match act {
            Act::Connected(_) => self.core.connected(key, key.id, key.id),
            Act::ConnectFailed { is_permanent, .. } => {
                let kind = if is_permanent {
                    io::ErrorKind::InvalidInput
                } else {
                    io::ErrorKind::ConnectionRefused
                };
                let error = Arc::new(Error::Connect(kind.into()));
                assert_eq!(error.is_permanent(), is_permanent);
                self.core.connect_failed(key, error);
            }
            _ => self.core.connect_dropped(key),
        }
    }

    pub(super) fn carry_out_effects(
        &mut self,
        before: &Before,
        (actor, came): (Option<u8>, Option<u64>),
    ) {
        self.renumber();
        let effects = self.core.take_effects();
        for waker in effects.wake {
            if waker == READY {
                if let Some(ready) = &mut self.ready {
                    ready.is_woken = true;
                }
                continue;
            }
            let guest = self
                .guests
                .iter_mut()
                .find(|guest| guest.itself.waker == waker);
            match guest {
                Some(guest) => guest.is_woken = true,
                None => assert_eq!(actor, Some(waker), "somebody who is gone is woken"),
            }
        }
        for closed in effects.close {
            let key = closed.key;
            assert_eq!(closed.handle, key.id);
            assert!(!self.closing.contains(&key), "closed twice");
            let has_client = !closed.is_aborted && closed.why != Eviction::Detached;
            assert_eq!(closed.client.is_some(), has_client, "a client is lost");
            assert!(closed.client.is_none_or(|client| client == key.id));
            if closed.occupies {
                self.closing.push(key);
            }
        }
        self.closing.sort_unstable_by_key(|key| key.index);
        let (occupied, limit) = (self.core.slots().occupied(), self.core.limit());
        assert!(
            occupied <= limit.max(before.occupied),
            "more places than the limit"
        );
        let started = effects.connects.len();
        if started > 0 {
            assert!(occupied <= limit, "a connect above the limit");
            assert!(!self.core.has_ended(), "a connect after the end");
            let now = self.core.now();
            if before.is_open && self.core.breaker().error().is_some() {
                assert_eq!(started, 1, "two connects in an open breaker");
                assert_eq!(
                    self.core.slots().connecting_current(),
                    1,
                    "two connects in an open breaker"
                );
                let is_spaced = self.last_start.is_none_or(|last| now - last >= SPACING);
                assert!(is_spaced, "connects in an outage follow too close");
            }
            self.last_start = Some(now);
        }
        for reserved in effects.connects {
            self.connects.push(Connect {
                key: reserved.key,
                is_open: None,
            });
        }
        self.connects
            .sort_unstable_by_key(|connect| connect.key.index);
        if effects.drained {
            assert!(self.core.is_drained());
            if std::mem::take(&mut self.drains) {
                self.core.end_draining();
            }
        }
        self.check_order(before, came);
    }
}
