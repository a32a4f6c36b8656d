//! The core together with all that acts on it: callers, connects, leases, sweeps and the clock.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::pool::{Config, LONGEST, LONGEST_WINDOW, SPACING};
use super::{Choices, Digest};
use crate::backoff::Backoff;
use crate::report::error::Error;
use crate::report::event::Close;
use crate::report::outcome::{Eviction, PeerSignal};
use crate::state::core::{self, CloseWhen, Dead, IdlePeriod, Readiness, Turn};
use crate::state::queue::{Answer, Seat};
use crate::state::slots::{Lease, SlotKey, Taker};

/// A client and a handle are the number of their connection; a caller is woken by its number.
type Core = core::Core<u64, u64, u8>;

/// One transition. The numbers are places in the lists of [`World`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Enter {
        stays: bool,
    },
    Poll(u8),
    Retry(u8),
    Leave(u8),
    ProbedAlive(u8),
    ProbedDead {
        guest: u8,
        silent: bool,
    },
    ProbedDeadTooLate(u8),
    GiveBack {
        lease: u8,
        fit: bool,
        signal: u8,
    },
    Discard(u8),
    Detach(u8),
    Abandon(u8),
    TakeBack(u8),
    /// Whoever abandoned it does not come back for it.
    Forget(u8),
    /// Somebody waits until so many connections are open.
    BeginReady(u8),
    PollReady,
    EndReady,
    Opened(u8),
    Connected(u8),
    /// Also that no thread could be started for it.
    ConnectFailed {
        connect: u8,
        is_permanent: bool,
    },
    ConnectDropped(u8),
    Vacate(u8),
    CloseLeft,
    EvictStale,
    EvictOldest,
    Inspect,
    EvictIdle(u8),
    Refill,
    Ping,
    PingBack {
        fit: bool,
    },
    SetLimit(u8),
    Free {
        keep: u8,
        hard: bool,
    },
    End {
        hard: bool,
    },
    SetFactory,
    Drain,
    Pass(u8),
    /// To the next time at which a caller wakes by itself.
    Jump,
}

/// A caller between its entry and its lease.
#[derive(Clone, Debug)]
struct Guest {
    itself: core::Caller<u8>,
    number: u64,
    /// What it was handed and now probes.
    probes: Option<Lease<u64>>,
    /// Whether its parker has been woken.
    is_woken: bool,
    poll_at: Option<Instant>,
    /// Whether it was told that its try failed.
    is_asleep: bool,
    is_permanent: bool,
}

/// Who waits for connections to be open.
#[derive(Clone, Debug)]
struct ReadyGuest {
    number: u64,
    count: usize,
    failures: u64,
    is_woken: bool,
    poll_at: Option<Instant>,
}

/// Wakes the one who waits for connections to be open.
const READY: u8 = u8::MAX;

#[derive(Clone, Debug)]
struct Connect {
    key: SlotKey,
    /// Whether it has a socket, or was refused one because it was given up.
    is_open: Option<bool>,
}

#[derive(Clone, Debug)]
pub(super) struct World {
    core: Core,
    /// By their numbers in the queue.
    guests: Vec<Guest>,
    leases: Vec<Lease<u64>>,
    /// Those that were left to the pool, which may have closed them since.
    abandoned: Vec<Lease<u64>>,
    ready: Option<ReadyGuest>,
    ping: Option<Lease<u64>>,
    connects: Vec<Connect>,
    closing: Vec<SlotKey>,
    /// What a sweep probes.
    seen: Vec<IdlePeriod>,
    last_start: Option<Instant>,
    /// Whether somebody waits in `drain`, and has not been told.
    drains: bool,
}

impl Guest {
    fn seat(&self) -> Option<Seat> {
        self.itself.seat
    }
}

fn place(index: usize) -> u8 {
    u8::try_from(index).unwrap()
}

fn is_past(at: Option<Instant>, now: Instant) -> bool {
    at.is_some_and(|at| at <= now)
}

impl super::World for World {
    type Config = Config;
    type Act = Act;

    fn new(config: &Config) -> Self {
        let now = Instant::now();
        let rules = config.rules.clone();
        let mut core = Core::new(config.limit, rules, Backoff::new(), now);
        if config.has_reaper {
            core.set_has_reaper();
        }
        if config.ages.hang_ups {
            core.breaker_mut().tolerate_no_more();
        }
        Self {
            core,
            guests: Vec::new(),
            leases: Vec::new(),
            abandoned: Vec::new(),
            ready: None,
            ping: None,
            connects: Vec::new(),
            closing: Vec::new(),
            seen: Vec::new(),
            last_start: None,
            drains: false,
        }
    }

    fn acts(&self, config: &Config, acts: &mut Vec<Act>) {
        acts.clear();
        let now = self.core.now();
        if self.guests.len() < config.callers
            && self.leases.len() + self.abandoned.len() <= config.most_leases()
        {
            acts.push(Act::Enter { stays: true });
            if config.allocates {
                acts.push(Act::Enter { stays: false });
            }
        }
        for (i, guest) in self.guests.iter().enumerate() {
            let i = place(i);
            if guest.probes.is_some() {
                acts.push(Act::ProbedAlive(i));
                acts.push(Act::ProbedDead {
                    guest: i,
                    silent: false,
                });
                if config.ages.hang_ups {
                    acts.push(Act::ProbedDead {
                        guest: i,
                        silent: true,
                    });
                }
                acts.push(Act::ProbedDeadTooLate(i));
                continue;
            }
            if guest.is_permanent {
                acts.push(Act::Leave(i));
                continue;
            }
            if guest.is_woken || is_past(guest.poll_at, now) {
                acts.push(Act::Poll(i));
            }
            if guest.is_asleep {
                acts.push(Act::Retry(i));
            }
            if guest.itself.stays {
                acts.push(Act::Leave(i));
            }
        }
        self.returns(config, acts);
        self.connect_acts(config, acts);
        for i in 0..self.closing.len() {
            acts.push(Act::Vacate(place(i)));
        }
        for i in 0..self.abandoned.len() {
            acts.push(Act::TakeBack(place(i)));
            acts.push(Act::Forget(place(i)));
        }
        match &self.ready {
            None => acts.extend(config.readies.iter().map(|&count| Act::BeginReady(count))),
            Some(ready) => {
                acts.push(Act::EndReady);
                if ready.is_woken || is_past(ready.poll_at, now) {
                    acts.push(Act::PollReady);
                }
            }
        }
        if config.sweeps {
            self.sweep_acts(config, acts);
        }
        self.verbs(config, acts);
        for i in 0..config.steps.len() {
            acts.push(Act::Pass(place(i)));
        }
    }

    fn act(&mut self, act: Act, config: &Config, _: &mut Choices) {
        self.core.pin(config.draws_greatest, config.has_convoy);
        let before = Before {
            waiting: self.waiting().map(|guest| guest.number).collect(),
            occupied: self.core.slots().occupied(),
            is_open: self.core.breaker().error().is_some(),
        };
        let came = self.make(act, config);
        self.carry_out_effects(&before, came);
        self.check(config);
    }

    fn digest(&self, config: &Config) -> u64 {
        let mut digest = Digest::new(self.core.now(), config.ages);
        let seats: Vec<Seat> = self.guests.iter().filter_map(Guest::seat).collect();
        self.core.digest(&mut digest, &seats);
        for guest in &self.guests {
            let Guest {
                itself,
                number: _,
                probes,
                is_woken,
                poll_at,
                is_asleep,
                is_permanent,
            } = guest;
            for flag in [itself.stays, *is_woken, *is_asleep, *is_permanent] {
                digest.put(u64::from(flag));
            }
            digest.put(u64::from(itself.number().is_some()));
            digest.due(*poll_at);
            digest.id(probes.as_ref().map_or(0, |lease| lease.key.id));
        }
        for lease in &self.leases {
            digest.put(2 + u64::from(lease.key.index));
            digest.id(lease.key.id);
        }
        for lease in &self.abandoned {
            digest.put(96);
            let is_there = self
                .core
                .abandoned()
                .iter()
                .any(|(key, _)| *key == lease.key);
            digest.id(if is_there { lease.key.id } else { 0 });
        }
        if let Some(ready) = &self.ready {
            let has_failed = self.core.stats(0).connect_failures > ready.failures;
            digest.put(200 + ready.count as u64);
            digest.put(u64::from(ready.is_woken) + 2 * u64::from(has_failed));
            digest.due(ready.poll_at);
        }
        digest.put(99);
        for connect in &self.connects {
            digest.id(connect.key.id);
            digest.put(connect.is_open.map_or(0, |open| 1 + u64::from(open)));
        }
        digest.put(98);
        for key in &self.closing {
            digest.put(u64::from(key.index));
        }
        digest.put(97);
        for period in &self.seen {
            digest.put(u64::from(period.key.index));
            let open = self.core.slots().get(period.key);
            digest.put(u64::from(
                open.is_some_and(|open| period.leases == open.leases),
            ));
        }
        if let Some(lease) = &self.ping {
            digest.id(lease.key.id);
        }
        digest.put(u64::from(self.drains));
        digest.finish()
    }

    fn go_on(&mut self, returns_first: bool, config: &Config, acts: &mut Vec<Act>) -> bool {
        let Some(act) = self.next_fair(returns_first) else {
            self.check_quiet();
            return false;
        };
        acts.push(act);
        super::World::act(self, act, config, &mut Choices::First);
        true
    }
}

impl World {
    fn returns(&self, config: &Config, acts: &mut Vec<Act>) {
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

    fn connect_acts(&self, config: &Config, acts: &mut Vec<Act>) {
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

    fn sweep_acts(&self, config: &Config, acts: &mut Vec<Act>) {
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

    fn verbs(&self, config: &Config, acts: &mut Vec<Act>) {
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
    fn next_fair(&self, returns_first: bool) -> Option<Act> {
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

    fn poll_times(&self) -> impl Iterator<Item = Instant> + '_ {
        let ready = self.ready.as_ref().and_then(|ready| ready.poll_at);
        self.guests
            .iter()
            .filter_map(|guest| guest.poll_at)
            .chain(ready)
    }

    /// All is quiet: nobody waits, and whoever drains has been told.
    fn check_quiet(&self) {
        assert!(self.core.is_drained(), "something is outstanding for ever");
        assert!(!self.drains, "somebody drains for ever");
        assert_eq!(self.core.aborted(), 0);
    }

    fn waiting(&self) -> impl Iterator<Item = &Guest> {
        let queue = self.core.queue();
        let waits = |guest: &&Guest| guest.seat().is_some_and(|seat| queue.seat(seat).waits);
        self.guests.iter().filter(waits)
    }

    /// Who acted, and the number of a waiter that got its connection in this very transition.
    fn make(&mut self, act: Act, config: &Config) -> (Option<u8>, Option<u64>) {
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

    /// A guest that came back keeps its number, or has its first one.
    fn renumber(&mut self) {
        for guest in &mut self.guests {
            let number = match guest.itself.seat {
                Some(seat) => Some(self.core.queue().number(seat)),
                None => guest.itself.number(),
            };
            guest.number = number.unwrap_or(u64::MAX);
        }
        self.guests.sort_by_key(|guest| guest.number);
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

    fn carry_out_effects(&mut self, before: &Before, (actor, came): (Option<u8>, Option<u64>)) {
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

    /// Who waited longer is served before.
    fn check_order(&self, before: &Before, came: Option<u64>) {
        let first = self.waiting().map(|guest| guest.number).min();
        let queue = self.core.queue();
        let is_granted = |guest: &&Guest| {
            let seat = guest.seat();
            seat.is_some_and(|seat| matches!(queue.pending(seat), Some(Answer::Granted(_))))
        };
        let granted = self
            .guests
            .iter()
            .filter(is_granted)
            .map(|guest| guest.number);
        let last = granted
            .chain(came)
            .filter(|number| before.waiting.contains(number))
            .max();
        if let (Some(first), Some(last)) = (first, last) {
            assert!(last < first, "a later one was served before an earlier one");
        }
    }

    fn check(&self, config: &Config) {
        let core = &self.core;
        let (slots, stats) = (core.slots(), core.stats(0));
        let counted = [
            slots.idle(),
            slots.leased(),
            slots.connecting(),
            slots.occupied() - slots.in_use(),
        ];
        assert_eq!(
            slots.counted(),
            counted,
            "idle, leased, connecting, closing"
        );
        assert_eq!(counted.iter().sum::<usize>(), slots.occupied());
        assert_eq!(slots.connecting(), self.connects.len(), "connects");
        assert_eq!(counted[3], self.closing.len() + slots.left(), "closing");
        assert_eq!(stats.connects, stats.releases + stats.open as u64);
        assert!(
            slots.idle() == 0 || slots.in_use() <= core.limit(),
            "idle above the limit"
        );
        self.check_clients(config);
        self.check_waiters(config);
        if let Some(ready) = self.ready.as_ref().filter(|ready| !ready.is_woken) {
            let waits = slots.open() < ready.count && ready.count <= core.limit();
            assert!(waits && !core.has_ended(), "it is over, and nobody woke it");
        }
        assert!(!core.has_ended() || slots.idle() + stats.waiting == 0);
        assert!(
            !(self.drains && core.is_drained()),
            "nobody told those who drain"
        );
    }

    /// Each client is in one place.
    fn check_clients(&self, config: &Config) {
        let slots = self.core.slots();
        for index in slots.by_age() {
            assert_eq!(*slots.idle_client(index), slots.key(index).id);
            let uses = slots.get(slots.key(index)).map(|open| open.leases);
            let is_used_up = config.rules.max_uses.is_some_and(|most| uses >= Some(most));
            assert!(!is_used_up, "idle, and used too often");
        }
        let queue = self.core.queue();
        let pending = self.guests.iter().filter_map(|guest| {
            match guest.seat().and_then(|seat| queue.pending(seat)) {
                Some(Answer::Granted(lease)) => Some(lease),
                _ => guest.probes.as_ref(),
            }
        });
        let is_left = |lease: &&Lease<u64>| {
            let mut left = self.core.abandoned().iter();
            left.any(|(key, client)| *key == lease.key && *client == key.id)
        };
        let left = self.abandoned.iter().filter(is_left);
        assert_eq!(left.clone().count(), self.core.abandoned().len());
        let out = pending
            .chain(&self.leases)
            .chain(self.ping.as_ref())
            .chain(left);
        let (mut leased, mut aborted, mut mask) = (0, 0, 0_u64);
        for lease in out {
            assert_eq!(lease.key.id, lease.client);
            if slots.get(lease.key).is_some() {
                let bit = 1 << lease.key.index;
                assert_eq!(mask & bit, 0, "a connection was handed out twice");
                mask |= bit;
                leased += 1;
            } else {
                aborted += 1;
            }
        }
        assert_eq!(leased, slots.leased(), "a lease is lost");
        assert_eq!(aborted, self.core.aborted(), "an aborted lease is lost");
    }

    /// Nobody sleeps over what it may use.
    fn check_waiters(&self, config: &Config) {
        let core = &self.core;
        let (slots, queue, now) = (core.slots(), core.queue(), core.now());
        for guest in &self.guests {
            let Some(seat) = guest.seat() else { continue };
            if guest.is_woken || guest.is_permanent {
                continue;
            }
            assert!(queue.pending(seat).is_none(), "an answer and no wake-up");
            if let Some(at) = core.poll_at(seat).filter(|_| queue.seat(seat).waits) {
                let knows = guest.poll_at.is_some_and(|poll_at| poll_at <= at);
                assert!(knows, "somebody does not know when to wake up");
            }
        }
        let Some(first) = self.waiting().next() else {
            return;
        };
        let wakes_within = |most: Duration| {
            first.is_woken || first.is_permanent || first.poll_at.is_some_and(|at| at <= now + most)
        };
        if slots.idle() > 0 {
            assert!(config.has_convoy, "idle beside a waiter");
            assert!(wakes_within(2 * LONGEST_WINDOW), "idle beside a sleeper");
        }
        let waiting = self.waiting().count();
        let connecting = slots.connecting_current();
        if let Some(most) = config.rules.max_waiting {
            assert!(waiting <= most + core.limit(), "the line is too long");
        }
        if slots.occupied() - slots.left() >= core.limit() && waiting > connecting {
            let left = core.abandoned().len();
            assert_eq!(left, 0, "somebody waits for a lease that nobody needs");
        }
        if core.has_ended() || slots.occupied() - slots.left() >= core.limit() {
            return;
        }
        if core.breaker().error().is_none() {
            assert!(
                connecting >= waiting.min(config.rules.max_connecting),
                "a waiter beside a free place"
            );
        } else if connecting == 0 {
            assert!(wakes_within(LONGEST), "nobody keeps the pool trying");
        }
    }
}

/// What is to be compared with the state before.
struct Before {
    waiting: Vec<u64>,
    occupied: usize,
    is_open: bool,
}
