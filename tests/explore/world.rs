//! The core together with all that acts on it: callers, connects, leases, sweeps and the clock.

mod acts;
mod checks;
mod effects;

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
    fn waiting(&self) -> impl Iterator<Item = &Guest> {
        let queue = self.core.queue();
        let waits = |guest: &&Guest| guest.seat().is_some_and(|seat| queue.seat(seat).waits);
        self.guests.iter().filter(waits)
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
}

/// What is to be compared with the state before.
struct Before {
    waiting: Vec<u64>,
    occupied: usize,
    is_open: bool,
}
