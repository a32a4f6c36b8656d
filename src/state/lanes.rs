//! Shared calls: the queue, the lanes, who leads, what is sent where, and whose reply comes next.
//!
//! A lane is a connection in use. One caller, its *leader*, reads for all calls on it, and hands
//! the lane over when its own call is over. The other callers sleep, each on a *seat*. Here is only
//! what is decided; `src/pipeline/` reads, writes and wakes.
//!
//! Time comes in through [`Lanes::advance`], which never goes back; who is to be told what comes out
//! as [`Effects`].

mod calls;
mod flow;
mod lead;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::report::error::Error;
use crate::report::pipeline_stats::PipelineStats;

/// A queued call sees for itself whether anybody sends it, at first after so long at the latest,
const LONGEST: Duration = Duration::from_millis(5);
/// and then this often, or less often where many do.
const TICK: Duration = Duration::from_millis(100);
/// How many look in a second at most, all together: one in this time.
const SHARE: Duration = Duration::from_micros(100);

/// Where a caller sleeps. A clone is another handle on the same seat.
pub(crate) trait Seat: Clone {
    fn new() -> Self;

    /// Whether its last user, and whoever had a message for it, have let go of it.
    fn is_free(&self) -> bool;
}

/// What a caller needs in order to write on a lane that another one leads.
pub(crate) trait Pen {
    /// What it is to write.
    fn ink(&mut self) -> &mut Vec<u8>;
}

/// What never changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) lanes: usize,
    pub(crate) max_in_flight: usize,
    pub(crate) max_bytes: usize,
}

/// All calls and lanes. `S` is where a caller sleeps, `K` what a leader works with, and `P` what
/// the others write with.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
#[expect(clippy::struct_field_names, reason = "they are the lanes' lanes")]
pub(crate) struct Lanes<S, K, P> {
    rules: Rules,
    now: Instant,
    calls: Vec<Call<S>>,
    /// Calls that are over, the oldest first; their places serve again once their seats are free.
    over: VecDeque<usize>,
    tickets: u64,
    queue: VecDeque<Ticket>,
    /// Calls too large for the bounds: each goes out alone, and its own caller writes it.
    large: VecDeque<Ticket>,
    /// How many calls have not been sent.
    unsent: usize,
    lanes: Vec<Lane<K, P>>,
    /// Until then no further lane is started beside others.
    grow_at: Instant,
    /// The shortest round trip seen; it grows only by what a request alone on its lane took.
    shortest: Option<Duration>,
    /// How many nanoseconds a call usually takes, waiting included.
    usual: u64,
    stats: PipelineStats,
    /// What every call gets that is not in flight, once the pool has ended.
    ended: Option<Arc<Error>>,
    effects: Effects<S, K>,
}

/// What is to be told once the lock is free.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Effects<S, K> {
    pub(crate) lead: Option<(S, Lead<K>)>,
    pub(crate) fates: Vec<(S, Fate)>,
}

/// A lane passes to a caller.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Lead<K> {
    pub(crate) lane: usize,
    pub(crate) kit: Option<K>,
    /// Whether other lanes can carry the call where this one gets no connection.
    pub(crate) others: bool,
    /// Whether only replies are outstanding that nobody waits for: if none of them has come by
    /// now, the connection is to be replaced.
    pub(crate) stale: bool,
}

/// How a call ends that gets no reply.
#[derive(Clone, Debug)]
pub(crate) enum Fate {
    /// It was sent, and its lane broke.
    Lost(Arc<io::Error>),
    /// Its lane broke before one byte of it was sent.
    Unsent(Arc<io::Error>),
    /// The pool gave up.
    NoConnection(Arc<Error>),
}

/// A call's place, and the number with which it joined the queue: it may have left since.
type Ticket = (usize, u64);

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct Call<S> {
    seat: S,
    ticket: u64,
    stage: Stage,
    leads: bool,
    /// What is to be sent, while it is queued and not large.
    request: Vec<u8>,
    deadline: Option<Instant>,
    entered: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Not sent: anybody may send it, or its own caller if it is large.
    Queued,
    /// Not sent, and only its own caller, who leads a lane, will.
    Own,
    /// On this lane, with this number.
    Sent(usize, u64),
    /// Answered, failed or given up.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Vacant,
    /// Its leader is getting a connection.
    Starting,
    /// A caller leads it, or is about to.
    Led,
    /// Replies are outstanding that nobody waits for, and nobody leads it.
    Drifting,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
struct Lane<K, P> {
    phase: Phase,
    /// There while nobody leads.
    kit: Option<K>,
    /// There while nobody but the leader writes, if others can at all.
    pen: Option<P>,
    /// Somebody writes; nobody else may meanwhile.
    writing: bool,
    /// Since when its leader waits in a read, after its last look at the queue.
    reading: Option<Instant>,
    /// A reply is outstanding whose caller has given up, and no byte has come since.
    overdue: bool,
    /// The pool wants the connection back.
    wanted: bool,
    /// A write failed; its leader is about to notice.
    failing: bool,
    /// How often its writer, who does not lead, has got something more to write.
    rounds: usize,
    flights: VecDeque<Flight>,
    /// The number of the first of them.
    first: u64,
    outstanding: usize,
    /// Bytes that were taken on, and those of them that the kernel has, since the lane started.
    booked: u64,
    written: u64,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct Flight {
    /// Nobody once the caller has given up.
    key: Option<usize>,
    len: usize,
    /// Where its bytes begin, by the lane's count.
    start: u64,
    sent: Instant,
    alone: bool,
}

/// How a call begins.
#[derive(Debug)]
pub(crate) enum Entry<K, P> {
    Lead(Lead<K>),
    /// Its caller writes what is in the pen.
    Send {
        lane: usize,
        pen: P,
    },
    /// It waits; after so long it should look again.
    Wait(Option<Duration>),
}

/// What the leader is to do next.
#[derive(Debug)]
pub(crate) enum Look<S, K> {
    /// Write the buffer, say so, and look again.
    Write,
    /// Write the own call, which is large, say so, and look again.
    WriteOwn,
    Read,
    /// Write the buffer if there is something in it, and pass the lane to this caller.
    HandOver(S, Lead<K>),
    /// Give the lease back, then call `vacate`.
    Release,
    /// Close the connection, then call `vacate`: only replies are outstanding that nobody wants.
    Discard,
    /// Nobody alive is here: call `drift`.
    Drift,
    /// Somebody else writes; look again after that.
    Wait,
}

/// Whose reply it is.
#[derive(Debug)]
pub(crate) enum Whose<S> {
    Caller(usize, S),
    /// Its caller has given up.
    Nobody,
    /// It was not asked for.
    Unasked,
}

/// What became of a call whose time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GaveUp {
    /// It was not sent, and never will be.
    Unsent,
    /// It was sent; its reply will be dropped.
    Sent,
    /// Its outcome, or the lead of a lane, is on the way to its seat.
    Settled,
}

impl<S: Seat, K, P: Pen> Lanes<S, K, P> {
    pub(crate) fn new(rules: Rules, now: Instant) -> Self {
        Self {
            rules,
            now,
            calls: Vec::new(),
            over: VecDeque::new(),
            tickets: 0,
            queue: VecDeque::new(),
            large: VecDeque::new(),
            unsent: 0,
            lanes: (0..rules.lanes).map(|_| Lane::new()).collect(),
            grow_at: now,
            shortest: None,
            usual: 0,
            stats: PipelineStats::default(),
            ended: None,
            effects: Effects::default(),
        }
    }

    /// Moves the clock, never back.
    pub(crate) fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    /// What is to be told of the transitions since the last time.
    pub(crate) fn take_effects(&mut self) -> Option<Effects<S, K>> {
        let any = self.effects.lead.is_some() || !self.effects.fates.is_empty();
        any.then(|| std::mem::take(&mut self.effects))
    }

    pub(crate) fn stats(&self) -> PipelineStats {
        let (mut stats, mut in_flight, mut lanes) = (self.stats.clone(), 0, 0);
        for lane in &self.lanes {
            in_flight += lane.flights.len();
            lanes += usize::from(matches!(lane.phase, Phase::Led | Phase::Drifting));
        }
        (stats.queued, stats.in_flight, stats.lanes) = (self.unsent, in_flight, lanes);
        stats
    }

    /// A call begins; `first` if it goes ahead of the others, because its lane broke.
    pub(crate) fn enter(
        &mut self,
        request: &[u8],
        deadline: Option<Instant>,
        first: bool,
    ) -> (usize, S, Entry<K, P>) {
        let key = self.admit(deadline);
        let seat = self.calls[key].seat.clone();
        if let Some(lane) = self.lane_to_lead() {
            return (key, seat, Entry::Lead(self.appoint(key, lane)));
        }
        self.put(key, request, first);
        if let Some(error) = self.ended.clone() {
            self.tell_queued(&error);
            return (key, seat, Entry::Wait(None));
        }
        let entry = self.send_from_queue(false);
        let entry = entry.unwrap_or_else(|| Entry::Wait(Some(self.patience())));
        (key, seat, entry)
    }

    /// A call has waited for longer than is usual: what its caller is to do.
    pub(crate) fn again(&mut self, key: usize) -> Entry<K, P> {
        if !self.is_queued(key) {
            return Entry::Wait(None);
        }
        if let Some(entry) = self.send_from_queue(true) {
            return entry;
        }
        // A lane could not start before, and nobody else looks whether it can now.
        match self.lane_to_lead() {
            Some(lane) if self.is_in_time(key) => Entry::Lead(self.appoint(key, lane)),
            _ => {
                let waiting = u32::try_from(self.unsent).unwrap_or(u32::MAX);
                Entry::Wait(Some(TICK.max(SHARE.saturating_mul(waiting))))
            }
        }
    }

    fn is_large(&self, len: usize) -> bool {
        len > self.rules.max_bytes
    }
}

impl<K, P> Lane<K, P> {
    fn new() -> Self {
        Self {
            phase: Phase::Vacant,
            kit: None,
            pen: None,
            writing: false,
            reading: None,
            overdue: false,
            wanted: false,
            failing: false,
            rounds: 0,
            flights: VecDeque::new(),
            first: 0,
            outstanding: 0,
            booked: 0,
            written: 0,
        }
    }

    fn may_take(&self) -> bool {
        let barred = self.writing || self.overdue || self.wanted || self.failing;
        self.phase == Phase::Led && !barred
    }

    /// As new, but for its buffers.
    fn clear(&mut self) {
        let mut flights = std::mem::take(&mut self.flights);
        flights.clear();
        *self = Self {
            flights,
            ..Self::new()
        };
    }
}

impl<S, K> Default for Effects<S, K> {
    fn default() -> Self {
        Self {
            lead: None,
            fates: Vec::new(),
        }
    }
}

#[cfg(test)]
#[path = "../../tests/explore/lanes.rs"]
mod explore;
#[cfg(test)]
#[path = "../../tests/model/lanes.rs"]
mod model;
#[cfg(test)]
#[path = "../../tests/model/lane_rules.rs"]
mod rules;
#[cfg(test)]
#[path = "../../tests/model/lane_world.rs"]
mod world;
