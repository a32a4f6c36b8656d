//! Shared calls: the queue, the lanes, who leads, what is sent where, and whose reply comes next.
//!
//! A lane is a connection in use. One caller, its *leader*, reads for all calls on it, and hands
//! the lane over when its own call is over. The other callers sleep, each on a *seat*. Here is only
//! what is decided; `src/pipeline/` reads, writes and wakes.
//!
//! Time comes in through [`Lanes::advance`], which never goes back; who is to be told what comes out
//! of [`Lanes::take_news`].

mod calls;
mod flow;
mod lead;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::report::error::Error;
use crate::report::pipeline_stats::PipelineStats;

/// Where a caller sleeps. A clone is another handle on the same seat.
pub(crate) trait Seat: Clone {
    fn new() -> Self;

    /// Whether its last user, and whoever had a message for it, have let go of it.
    fn is_free(&self) -> bool;
}

/// What never changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) lanes: usize,
    pub(crate) max_in_flight: usize,
    pub(crate) max_bytes: usize,
}

/// All calls and lanes. `S` is where a caller sleeps.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
#[expect(clippy::struct_field_names, reason = "they are the lanes' lanes")]
pub(crate) struct Lanes<S> {
    rules: Rules,
    now: Instant,
    calls: Vec<Call<S>>,
    /// Calls that are over, the oldest first; their places serve again once their seats are free.
    over: VecDeque<usize>,
    queue: VecDeque<usize>,
    /// Calls too large for the bounds: each goes out alone, and its own caller writes it.
    large: VecDeque<usize>,
    /// Of the callers that sleep, the one whose sleep ends by itself while somebody is queued. To
    /// sleep until a time that is near costs the system more than anything else in a call.
    watcher: Option<usize>,
    lanes: Vec<Lane>,
    /// Until then no further lane is started beside others.
    grow_at: Instant,
    /// The shortest round trip seen; it grows only by what a request alone on its lane took.
    shortest: Option<Duration>,
    stats: PipelineStats,
    /// What every call gets that is not in flight, once the pool has ended.
    ended: Option<Arc<Error>>,
    news: Vec<(S, News)>,
}

/// What a sleeping caller hears, other than its reply.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) enum News {
    Lead(Lead),
    Failed(Failure),
    /// It is to watch over the queue. Whatever else it hears comes instead of this.
    Watch,
}

/// A lane passes to a caller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lead {
    pub(crate) lane: usize,
    /// Whether it is for the caller's own call too. If not, nobody alive is on the lane.
    pub(crate) own: bool,
    /// Whether other lanes can carry the call where this one gets no connection.
    pub(crate) others: bool,
    /// Whether only replies are outstanding that nobody waits for: if none of them has come by
    /// now, the connection is to be replaced.
    pub(crate) stale: bool,
}

/// How a call ends that gets no reply.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// It was sent, and its lane broke.
    Lost(Arc<io::Error>),
    /// Its lane broke before one byte of it was sent.
    Unsent(Arc<io::Error>),
    /// The pool gave up.
    NoConnection(Arc<Error>),
    TimedOut {
        sent: bool,
    },
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct Call<S> {
    seat: S,
    stage: Stage,
    leads: bool,
    /// What is to be sent, while it is queued and not large.
    request: Vec<u8>,
    deadline: Option<Instant>,
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
    /// Its leader has left it to the caller that writes on it.
    Passing,
    /// Replies are outstanding that nobody waits for, and nobody leads it.
    Drifting,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
struct Lane {
    phase: Phase,
    /// Callers that do not lead can write.
    shared: bool,
    /// Such a caller writes; nobody else may meanwhile.
    writing: bool,
    /// What it writes; empty, but for its capacity, while nobody does.
    buffer: Vec<u8>,
    /// How often it has got something more to write.
    rounds: usize,
    /// Since when its leader waits in a read, and takes nothing from the queue.
    reading: Option<Instant>,
    /// The leader's own call is not sent, and goes before all others.
    own_first: bool,
    /// A reply is outstanding whose caller has given up, and no byte has come since.
    overdue: bool,
    /// The pool wants the connection back.
    wanted: bool,
    /// A write failed; its leader is about to notice.
    failing: bool,
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

/// What a caller is to do.
#[derive(Debug)]
pub(crate) enum Entry {
    Lead(Lead),
    /// Write this on a lane that another one leads, and say so.
    Send {
        lane: usize,
        bytes: Vec<u8>,
    },
    /// Sleep; if there is a time, watch over the queue, and ask again after so long.
    Wait(Option<Duration>),
}

/// What the leader knows of its connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Condition {
    /// The pool wants it back.
    pub(crate) wanted: bool,
    /// Other callers can write on it.
    pub(crate) shared: bool,
}

/// What was done on a connection.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Report {
    pub(crate) bytes: usize,
    pub(crate) writes: u64,
    /// A write failed.
    pub(crate) failed: bool,
    /// Bytes have come.
    pub(crate) heard: bool,
}

/// What the leader is to do next.
#[derive(Debug)]
pub(crate) enum Step<S> {
    /// Write the buffer, and ask again.
    Write,
    /// Write the buffer, which cannot block, then read. Other callers may book requests on the lane
    /// meanwhile, and write them behind this.
    WriteAndRead,
    /// Write the own call, which is large, and ask again.
    WriteOwn,
    Read,
    /// Write the buffer if there is something in it, and pass the lane to this caller.
    HandOver(S, Lead),
    /// Leave the lane to the caller that writes on it.
    Pass,
    /// Give the lease back, then call `vacate`.
    Release,
    /// Close the connection, then call `vacate`: only replies are outstanding that nobody wants.
    Discard,
    /// Nobody alive is here: leave the lease to the pool, then call `drift`.
    Drift,
}

/// Whose reply it is.
#[derive(Debug)]
pub(crate) enum Whose<S> {
    Caller(S),
    /// Its caller has given up.
    Nobody,
    /// It was not asked for.
    Unasked,
}

impl<S: Seat> Lanes<S> {
    pub(crate) fn new(rules: Rules, now: Instant) -> Self {
        Self {
            rules,
            now,
            calls: Vec::new(),
            over: VecDeque::new(),
            queue: VecDeque::new(),
            large: VecDeque::new(),
            watcher: None,
            lanes: (0..rules.lanes).map(|_| Lane::new()).collect(),
            grow_at: now,
            shortest: None,
            stats: PipelineStats::default(),
            ended: None,
            news: Vec::new(),
        }
    }

    /// Moves the clock, never back.
    pub(crate) fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    /// Who is to be told what, once the lock is free.
    pub(crate) fn take_news(&mut self) -> Vec<(S, News)> {
        if self.watcher.is_none() {
            self.watcher = self.first_queued();
            if let Some(key) = self.watcher {
                self.news.push((self.calls[key].seat.clone(), News::Watch));
            }
        }
        std::mem::take(&mut self.news)
    }

    pub(crate) fn stats(&self) -> PipelineStats {
        let is_unsent = |call: &&Call<S>| matches!(call.stage, Stage::Queued | Stage::Own);
        let is_used = |lane: &&Lane| !matches!(lane.phase, Phase::Vacant | Phase::Starting);
        PipelineStats {
            queued: self.calls.iter().filter(is_unsent).count(),
            in_flight: self.lanes.iter().map(|lane| lane.flights.len()).sum(),
            lanes: self.lanes.iter().filter(is_used).count(),
            ..self.stats.clone()
        }
    }
}

impl Lane {
    fn new() -> Self {
        Self {
            phase: Phase::Vacant,
            shared: false,
            writing: false,
            buffer: Vec::new(),
            rounds: 0,
            reading: None,
            own_first: false,
            overdue: false,
            wanted: false,
            failing: false,
            flights: VecDeque::new(),
            first: 0,
            outstanding: 0,
            booked: 0,
            written: 0,
        }
    }

    /// As new, but for its buffers.
    fn clear(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        let mut flights = std::mem::take(&mut self.flights);
        flights.clear();
        *self = Self {
            buffer,
            flights,
            ..Self::new()
        };
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
#[path = "../../tests/model/lane_verbs.rs"]
mod verbs;
#[cfg(test)]
#[path = "../../tests/model/lane_world.rs"]
mod world;
