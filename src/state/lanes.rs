//! Shared calls: the queue, the lanes, who leads, what is sent where, and whose reply comes next.
//!
//! A lane is a connection in use. One caller, its *leader*, reads for all calls on it, and hands
//! the lane over when its own call is over. The other callers sleep, each on a *seat*. Here is only
//! what is decided; `src/pipeline/` reads, writes and wakes.
//!
//! Time comes in through [`Lanes::advance`], which never goes back; who is to be told what comes out
//! as [`Effects`].

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::report::error::Error;
use crate::report::pipeline_stats::PipelineStats;

/// A server that has ever answered faster is near: a leader looks at the queue soon.
const FAR: Duration = Duration::from_micros(100);
/// A leader that waits for longer than this in one read may not look for a long time, near or far.
const LONG: Duration = Duration::from_micros(500);
/// The longest time after which a queued call sees for itself whether a leader will look.
const LONGEST: Duration = Duration::from_millis(5);
/// What goes into the buffers of a socket in any case, if they are not set small. A caller that does
/// not lead writes no more, because that write has no deadline.
const HELD: usize = 16 * 1024;
/// For so long no further lane is started after an attempt found no connection.
const SPACING: Duration = Duration::from_millis(100);

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
#[expect(clippy::struct_field_names, reason = "they are the lanes' lanes")]
pub(crate) struct Lanes<S, K, P> {
    rules: Rules,
    now: Instant,
    calls: Vec<Call<S>>,
    /// Calls that are over, the oldest first; their places serve again once their seats are free.
    over: VecDeque<usize>,
    tickets: u64,
    queue: VecDeque<Waiting>,
    /// How many calls have not been sent.
    unsent: usize,
    /// How many bytes those in `queue` have together.
    queued_bytes: usize,
    /// The bytes of the calls in `queue`, in the order in which they came.
    bytes: Vec<u8>,
    /// The other one of two buffers, to close the gaps in `bytes`.
    spare: Vec<u8>,
    /// Calls too large for the bounds: each goes out alone, and its own caller writes it.
    large: VecDeque<(usize, u64)>,
    /// The lane that takes nothing new, so that the first of these can have it.
    reserved: Option<usize>,
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
pub(crate) struct Effects<S, K> {
    pub(crate) lead: Option<(S, Lead<K>)>,
    pub(crate) fates: Vec<(S, Fate)>,
}

/// A lane passes to a caller.
#[derive(Debug)]
pub(crate) struct Lead<K> {
    pub(crate) lane: usize,
    pub(crate) kit: Option<K>,
    /// Whether other lanes can carry the call where this one gets no connection.
    pub(crate) others: bool,
    /// Whether only replies are outstanding that nobody waits for: if none of them has come by
    /// now, the connection is to be replaced.
    pub(crate) stale: bool,
    /// Whether the caller's own request has not been sent; nobody else will send it.
    pub(crate) unsent: bool,
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

#[derive(Debug)]
struct Call<S> {
    seat: S,
    ticket: u64,
    stage: Stage,
    leads: bool,
    len: usize,
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

#[derive(Debug)]
struct Waiting {
    key: usize,
    ticket: u64,
    start: usize,
    len: usize,
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
    flights: VecDeque<Flight>,
    /// The number of the first of them.
    first: u64,
    outstanding: usize,
    /// Bytes that were taken on, and those of them that the kernel has, since the lane started.
    booked: u64,
    written: u64,
}

#[derive(Debug)]
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

/// The leader's own call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Own<'a> {
    Unsent(usize, &'a [u8]),
    InFlight,
    Over,
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
            unsent: 0,
            queued_bytes: 0,
            bytes: Vec::new(),
            spare: Vec::new(),
            large: VecDeque::new(),
            reserved: None,
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
        let key = self.admit(request.len(), deadline);
        let seat = self.calls[key].seat.clone();
        if let Some(lane) = self.lane_to_lead() {
            return (key, seat, Entry::Lead(self.appoint(key, lane)));
        }
        let is_large = self.is_large(request.len());
        if is_large {
            self.put_large(key, first);
        } else {
            self.put(key, request, first);
        }
        if let Some(error) = self.ended.clone() {
            self.tell_queued(&error);
            return (key, seat, Entry::Wait(None));
        }
        if is_large {
            return (key, seat, Entry::Wait(Some(LONGEST)));
        }
        let pen = self.lane_to_write(false).and_then(|lane| self.send(lane));
        let entry = pen.map(|(lane, pen)| Entry::Send { lane, pen });
        (
            key,
            seat,
            entry.unwrap_or_else(|| Entry::Wait(Some(self.patience()))),
        )
    }

    /// A call has waited for longer than is usual: whether it is to write what is queued.
    pub(crate) fn nudge(&mut self, key: usize) -> Option<(usize, P)> {
        if !self.is_queued(key) {
            return None;
        }
        let lane = self.lane_to_write(true)?;
        self.send(lane)
    }

    /// A call has waited for longer than is usual: a lane for it to lead, if there is one by now.
    pub(crate) fn rise(&mut self, key: usize) -> Option<Lead<K>> {
        let call = &self.calls[key];
        if !self.waits(key, call.ticket) {
            return None;
        }
        let at = self.lane_to_lead()?;
        Some(self.appoint(key, at))
    }

    /// Whether buffers that are not small hold all that is outstanding on this lane.
    pub(crate) fn is_held(&self, at: usize) -> bool {
        self.lanes[at].outstanding <= HELD
    }

    /// Whether a caller that does not lead writes on this lane.
    pub(crate) fn is_writing(&self, at: usize) -> bool {
        self.lanes[at].writing
    }

    /// Whether the call of a leader has not been sent.
    pub(crate) fn is_unsent(&self, key: usize) -> bool {
        self.calls[key].stage == Stage::Own
    }

    pub(crate) fn is_queued(&self, key: usize) -> bool {
        self.calls[key].stage == Stage::Queued
    }

    /// The leader of a lane has its connection, and the pen if others can write to it.
    pub(crate) fn started(&mut self, at: usize, pen: Option<P>) {
        let lane = &mut self.lanes[at];
        lane.phase = Phase::Led;
        lane.pen = pen;
    }

    /// A lane on which nobody waits is to get another connection.
    pub(crate) fn restart(&mut self, at: usize) -> Option<P> {
        let lane = &mut self.lanes[at];
        let pen = lane.pen.take();
        lane.clear();
        lane.phase = Phase::Starting;
        pen
    }

    /// The leader of a new lane got no connection, and goes back into the queue if another lane
    /// can carry its call; if not, it keeps the lead.
    pub(crate) fn stand_back(
        &mut self,
        at: usize,
        kit: Option<K>,
        key: usize,
        request: &[u8],
    ) -> Result<(), Option<K>> {
        self.grow_at = self.now + SPACING;
        // Once the pool has ended, nobody would tell a call that is queued then.
        if self.ended.is_some() || !self.is_other_used(at) {
            return Err(kit);
        }
        // Its old place in the queue may still be there.
        self.tickets += 1;
        self.calls[key].ticket = self.tickets;
        self.calls[key].leads = false;
        if self.is_large(request.len()) {
            self.put_large(key, true);
        } else {
            self.put(key, request, true);
        }
        self.vacate(at, kit);
        Ok(())
    }

    /// The pool gave no connection, and says so to all who are queued.
    pub(crate) fn no_connection(
        &mut self,
        at: usize,
        kit: Option<K>,
        key: usize,
        error: &Arc<Error>,
    ) {
        self.end_call(key);
        self.tell_queued(error);
        self.vacate(at, kit);
    }

    /// The pool has ended: whoever is queued, and whoever comes, hears so at once.
    pub(crate) fn end(&mut self, error: Arc<Error>) {
        self.tell_queued(&error);
        self.ended = Some(error);
    }

    /// All who are queued hear that there is no connection.
    fn tell_queued(&mut self, error: &Arc<Error>) {
        let queued: Vec<_> = self.waiting().chain(self.waiting_large()).collect();
        for key in queued {
            let fate = Fate::NoConnection(Arc::clone(error));
            let seat = self.calls[key].seat.clone();
            self.effects.fates.push((seat, fate));
            self.end_call(key);
        }
    }

    /// The leader of a lane has no connection, or has closed it; whoever is first leads it anew.
    pub(crate) fn vacate(&mut self, at: usize, kit: Option<K>) {
        let lane = &mut self.lanes[at];
        debug_assert!(!lane.writing && lane.pen.is_none());
        lane.clear();
        lane.kit = kit;
        if self.reserved == Some(at) {
            self.reserved = None;
        }
        if self.now < self.grow_at && self.is_other_used(at) {
            return;
        }
        if let Some(key) = self.next_waiting() {
            let seat = self.calls[key].seat.clone();
            let lead = self.appoint(key, at);
            debug_assert!(self.effects.lead.is_none());
            self.effects.lead = Some((seat, lead));
        }
    }

    /// The pen of a lane whose connection goes; it must go first.
    pub(crate) fn pen(&mut self, at: usize) -> Option<P> {
        self.lanes[at].pen.take()
    }

    /// The leader looks what there is to do. `wanted`: the pool wants the connection back.
    pub(crate) fn look(
        &mut self,
        at: usize,
        own: Own<'_>,
        wanted: bool,
        out: &mut Vec<u8>,
    ) -> Look<S, K> {
        let lane = &mut self.lanes[at];
        lane.wanted = wanted;
        lane.reading = None;
        let may_write = !lane.writing && out.is_empty();
        if let Own::Unsent(key, request) = own {
            if may_write && !lane.overdue && !lane.failing {
                if self.is_large(request.len()) {
                    if self.lanes[at].flights.is_empty() {
                        self.book(at, key, request.len());
                        self.lanes[at].writing = true;
                        return Look::WriteOwn;
                    }
                } else if self.has_room(at, request.len()) {
                    self.book(at, key, request.len());
                    out.extend_from_slice(request);
                }
            }
        }
        if may_write {
            self.take(at, self.rules.max_bytes, out);
            self.lanes[at].writing = !out.is_empty();
        }
        match own {
            Own::Over => self.successor(at),
            _ if self.lanes[at].writing && may_write => Look::Write,
            _ => {
                self.lanes[at].reading = Some(self.now);
                Look::Read
            }
        }
    }

    /// Who leads next, now that the leader's own call is over.
    fn successor(&mut self, at: usize) -> Look<S, K> {
        let alive = self.lanes[at].flights.iter().rev().find_map(|f| f.key);
        if let Some(key) = alive {
            // The newest: with the oldest there would be a hand-over for each reply.
            return self.hand_over(at, key, false, false);
        }
        let lane = &self.lanes[at];
        if lane.writing {
            return Look::Wait;
        }
        let (is_empty, wanted) = (lane.flights.is_empty(), lane.wanted);
        if wanted {
            return if is_empty {
                Look::Release
            } else {
                Look::Discard
            };
        }
        let next = if is_empty {
            self.next_large()
        } else {
            self.next_waiting()
        };
        if let Some(key) = next {
            self.set_stage(key, Stage::Own);
            if self.reserved == Some(at) {
                self.reserved = None;
            }
            self.lanes[at].overdue |= !is_empty;
            return self.hand_over(at, key, !is_empty, true);
        }
        if is_empty { Look::Release } else { Look::Drift }
    }

    fn hand_over(&mut self, lane: usize, key: usize, stale: bool, unsent: bool) -> Look<S, K> {
        self.calls[key].leads = true;
        let lead = Lead {
            lane,
            kit: None,
            others: true,
            stale,
            unsent,
        };
        Look::HandOver(self.calls[key].seat.clone(), lead)
    }

    /// Leaves a lane to itself, unless somebody came meanwhile; then its leader looks again.
    pub(crate) fn drift(&mut self, at: usize, kit: K) -> Result<(), K> {
        if self.next_waiting().is_some() || self.lanes[at].writing {
            return Err(kit);
        }
        let lane = &mut self.lanes[at];
        lane.phase = Phase::Drifting;
        lane.overdue = true;
        lane.reading = None;
        lane.kit = Some(kit);
        Ok(())
    }

    /// The leader has written so many of the bytes that are booked.
    pub(crate) fn wrote(&mut self, at: usize, bytes: usize, writes: u64, failed: bool) {
        let lane = &mut self.lanes[at];
        lane.failing |= failed;
        lane.written += bytes as u64;
        lane.writing = false;
        self.stats.writes += writes;
    }

    /// A caller that does not lead has written, or could not; what else it is to write.
    pub(crate) fn sent(
        &mut self,
        at: usize,
        pen: P,
        (bytes, writes): (usize, u64),
        failed: bool,
    ) -> Option<(usize, P)> {
        self.wrote(at, bytes, writes, failed);
        self.lanes[at].pen = Some(pen);
        let reads = self.lanes[at].reading.is_some();
        if !failed && reads {
            self.send(at)
        } else {
            None
        }
    }

    /// Bytes have come.
    pub(crate) fn heard(&mut self, at: usize) {
        self.lanes[at].overdue = false;
    }

    /// A reply has been read; whose it is.
    pub(crate) fn answered(&mut self, at: usize) -> Whose<S> {
        let Some(flight) = self.land(at) else {
            return Whose::Unasked;
        };
        self.stats.replies += 1;
        let took = self.now.saturating_duration_since(flight.sent);
        match self.shortest {
            Some(shortest) if took > shortest => {
                if flight.alone {
                    self.shortest = Some(shortest * 63 / 64 + took / 64);
                }
            }
            _ => self.shortest = Some(took),
        }
        let Some(key) = flight.key else {
            return Whose::Nobody;
        };
        let call = &self.calls[key];
        let took = self.now.saturating_duration_since(call.entered);
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.usual = self.usual / 16 * 15 + took / 16;
        let seat = call.seat.clone();
        self.end_call(key);
        Whose::Caller(key, seat)
    }

    /// The lane has broken: everybody on it is told, but for its leader `own`, whose fate is
    /// returned if its call is not over. `None` if somebody writes: look again after that.
    ///
    /// Then it is to be given back, and `vacate` called.
    pub(crate) fn broke(
        &mut self,
        at: usize,
        own: usize,
        error: &Arc<io::Error>,
    ) -> Option<Option<Fate>> {
        if self.lanes[at].writing {
            return None;
        }
        let mut fate_of_own = None;
        if self.calls[own].stage == Stage::Own {
            self.end_call(own);
            fate_of_own = Some(Fate::Unsent(Arc::clone(error)));
        }
        let written = self.lanes[at].written;
        while let Some(flight) = self.land(at) {
            let Some(key) = flight.key else { continue };
            let fate = if flight.start < written {
                self.stats.lost += 1;
                Fate::Lost(Arc::clone(error))
            } else {
                self.stats.calls -= 1;
                Fate::Unsent(Arc::clone(error))
            };
            self.end_call(key);
            if key == own {
                fate_of_own = Some(fate);
            } else {
                self.calls[key].leads = false;
                let seat = self.calls[key].seat.clone();
                self.effects.fates.push((seat, fate));
            }
        }
        Some(fate_of_own)
    }

    /// A call is sent once more.
    pub(crate) fn repeats(&mut self) {
        self.stats.repeated += 1;
    }

    /// A caller that does not lead gives up.
    pub(crate) fn give_up(&mut self, key: usize) -> GaveUp {
        if self.calls[key].leads || self.calls[key].stage == Stage::Over {
            return GaveUp::Settled;
        }
        self.abandon(key)
    }

    /// A call's time is up; its caller leads no more, or will look as one whose call is over.
    pub(crate) fn abandon(&mut self, key: usize) -> GaveUp {
        let stage = self.calls[key].stage;
        self.end_call(key);
        self.stats.timeouts += 1;
        let Stage::Sent(at, number) = stage else {
            return GaveUp::Unsent;
        };
        let lane = &mut self.lanes[at];
        let place = usize::try_from(number - lane.first).expect("bug: a call with a wrong number");
        lane.flights[place].key = None;
        lane.overdue = true;
        self.stats.abandoned += 1;
        GaveUp::Sent
    }

    /// A call that never began to wait or to be sent is counted.
    pub(crate) fn refused(&mut self) {
        self.stats.timeouts += 1;
    }

    fn admit(&mut self, len: usize, deadline: Option<Instant>) -> usize {
        self.unsent += 1;
        self.tickets += 1;
        let fresh = |seat| Call {
            seat,
            ticket: self.tickets,
            stage: Stage::Own,
            leads: false,
            len,
            deadline,
            entered: self.now,
        };
        for _ in 0..self.over.len().min(4) {
            let Some(key) = self.over.pop_front() else {
                break;
            };
            if self.calls[key].seat.is_free() {
                self.calls[key] = fresh(self.calls[key].seat.clone());
                return key;
            }
            self.over.push_back(key);
        }
        self.calls.push(fresh(S::new()));
        self.calls.len() - 1
    }

    fn end_call(&mut self, key: usize) {
        debug_assert_ne!(self.calls[key].stage, Stage::Over);
        self.set_stage(key, Stage::Over);
        self.over.push_back(key);
    }

    fn set_stage(&mut self, key: usize, stage: Stage) {
        let call = &mut self.calls[key];
        let old = std::mem::replace(&mut call.stage, stage);
        let len = call.len;
        if old == Stage::Queued && !self.is_large(len) {
            self.queued_bytes -= len;
        }
        let is_unsent = |stage| matches!(stage, Stage::Queued | Stage::Own);
        if is_unsent(old) && !is_unsent(stage) {
            self.unsent -= 1;
        }
    }

    fn is_large(&self, len: usize) -> bool {
        len > self.rules.max_bytes
    }

    /// A lane for who comes: one that drifts, else another one.
    fn lane_to_lead(&self) -> Option<usize> {
        let find = |phase| self.lanes.iter().position(|lane| lane.phase == phase);
        if let Some(lane) = find(Phase::Drifting) {
            return Some(lane);
        }
        let lane = find(Phase::Vacant)?;
        (self.now >= self.grow_at || !self.is_other_used(lane)).then_some(lane)
    }

    fn is_other_used(&self, at: usize) -> bool {
        let mut others = self.lanes.iter().enumerate().filter(|(i, _)| *i != at);
        others.any(|(_, lane)| matches!(lane.phase, Phase::Led | Phase::Starting))
    }

    /// Gives a lane without a leader to a call that has not been sent.
    fn appoint(&mut self, key: usize, at: usize) -> Lead<K> {
        let others = self.is_other_used(at);
        let lane = &mut self.lanes[at];
        let stale = lane.phase == Phase::Drifting;
        lane.phase = if stale { Phase::Led } else { Phase::Starting };
        let kit = lane.kit.take();
        self.calls[key].leads = true;
        self.set_stage(key, Stage::Own);
        Lead {
            lane: at,
            kit,
            others,
            stale,
            unsent: true,
        }
    }

    fn put(&mut self, key: usize, request: &[u8], first: bool) {
        if self.queue.is_empty() {
            self.bytes.clear();
        }
        self.tidy();
        self.calls[key].stage = Stage::Queued;
        self.queued_bytes += request.len();
        let waiting = Waiting {
            key,
            ticket: self.calls[key].ticket,
            start: self.bytes.len(),
            len: request.len(),
        };
        self.bytes.extend_from_slice(request);
        if first {
            self.queue.push_front(waiting);
        } else {
            self.queue.push_back(waiting);
        }
    }

    fn put_large(&mut self, key: usize, first: bool) {
        self.calls[key].stage = Stage::Queued;
        let waiting = (key, self.calls[key].ticket);
        if self.large.len() > 2 * self.unsent + 16 {
            let large = std::mem::take(&mut self.large);
            let waits = large
                .into_iter()
                .filter(|&(key, ticket)| self.waits(key, ticket));
            self.large = waits.collect();
        }
        if first {
            self.large.push_front(waiting);
        } else {
            self.large.push_back(waiting);
        }
    }

    /// Forgets who has left the queue, and moves the bytes of the others together, once most of it
    /// is of no use any more.
    fn tidy(&mut self) {
        let has_gaps = self.bytes.len() > 4 * self.queued_bytes + 4096;
        if !has_gaps && self.queue.len() <= 2 * self.unsent + 64 {
            return;
        }
        let mut queue = std::mem::take(&mut self.queue);
        queue.retain(|waiting| self.waits(waiting.key, waiting.ticket));
        self.spare.clear();
        for waiting in &mut queue {
            let bytes = &self.bytes[waiting.start..waiting.start + waiting.len];
            waiting.start = self.spare.len();
            self.spare.extend_from_slice(bytes);
        }
        std::mem::swap(&mut self.bytes, &mut self.spare);
        self.queue = queue;
    }

    fn waits(&self, key: usize, ticket: u64) -> bool {
        let call = &self.calls[key];
        call.ticket == ticket
            && call.stage == Stage::Queued
            && call.deadline.is_none_or(|at| self.now < at)
    }

    /// The calls in the queue whose time is not up.
    fn waiting(&self) -> impl Iterator<Item = usize> + '_ {
        let queue = self.queue.iter();
        let waits = queue.filter(|waiting| self.waits(waiting.key, waiting.ticket));
        waits.map(|waiting| waiting.key)
    }

    fn waiting_large(&self) -> impl Iterator<Item = usize> + '_ {
        let large = self.large.iter();
        let waits = large.filter(|(key, ticket)| self.waits(*key, *ticket));
        waits.map(|(key, _)| *key)
    }

    /// The first large call that waits; its caller is to lead.
    fn next_large(&mut self) -> Option<usize> {
        while let Some(&(key, ticket)) = self.large.front() {
            if self.waits(key, ticket) {
                return Some(key);
            }
            self.large.pop_front();
        }
        self.reserved = None;
        None
    }

    /// The first call that waits, a large one before all others.
    fn next_waiting(&mut self) -> Option<usize> {
        if let Some(key) = self.next_large() {
            return Some(key);
        }
        while let Some(waiting) = self.queue.front() {
            if self.waits(waiting.key, waiting.ticket) {
                return Some(waiting.key);
            }
            self.queue.pop_front();
        }
        None
    }

    /// Whether a request of this length may go out on a lane on which nobody writes.
    fn has_room(&self, at: usize, len: usize) -> bool {
        let lane = &self.lanes[at];
        lane.flights.len() < self.rules.max_in_flight
            && lane.outstanding + len <= self.rules.max_bytes
    }

    fn may_take(&self, at: usize) -> bool {
        let lane = &self.lanes[at];
        let barred = lane.writing || lane.overdue || lane.wanted || lane.failing;
        lane.phase == Phase::Led && !barred && self.reserved != Some(at)
    }

    /// Takes from the queue what may go out on this lane.
    fn take(&mut self, at: usize, max_bytes: usize, out: &mut Vec<u8>) {
        if self.reserved.is_none() && !self.large.is_empty() && self.next_large().is_some() {
            self.reserved = Some(at);
        }
        if !self.may_take(at) {
            return;
        }
        while let Some(&Waiting {
            key,
            ticket,
            start,
            len,
        }) = self.queue.front()
        {
            if self.waits(key, ticket) {
                if !self.has_room(at, len) || self.lanes[at].outstanding + len > max_bytes {
                    return;
                }
                self.book(at, key, len);
                out.extend_from_slice(&self.bytes[start..start + len]);
            }
            self.queue.pop_front();
        }
    }

    fn book(&mut self, at: usize, key: usize, len: usize) {
        let lane = &mut self.lanes[at];
        let number = lane.first + lane.flights.len() as u64;
        lane.flights.push_back(Flight {
            key: Some(key),
            len,
            start: lane.booked,
            sent: self.now,
            alone: lane.flights.is_empty(),
        });
        lane.booked += len as u64;
        lane.outstanding += len;
        self.set_stage(key, Stage::Sent(at, number));
        self.stats.calls += 1;
    }

    /// The first in flight leaves its lane.
    fn land(&mut self, at: usize) -> Option<Flight> {
        let lane = &mut self.lanes[at];
        let flight = lane.flights.pop_front()?;
        lane.first += 1;
        lane.outstanding -= flight.len;
        Some(flight)
    }

    /// After how long a queued call should see whether somebody will look.
    fn patience(&self) -> Duration {
        Duration::from_nanos(self.usual * 4).clamp(LONG, LONGEST)
    }

    /// The least busy lane on which a caller that does not lead is to write.
    ///
    /// Where a leader is about to look, it sends what is queued together with what comes until
    /// then, for one system call less and nothing lost. So a caller writes only if every leader
    /// waits in a read that will take a while: one that has taken long, or, if the server is far,
    /// one whose next reply is not due yet. On a busy loopback neither happens.
    fn lane_to_write(&self, impatient: bool) -> Option<usize> {
        let is_far = self.shortest.is_some_and(|shortest| shortest >= FAR);
        let mut best: Option<usize> = None;
        for (at, lane) in self.lanes.iter().enumerate() {
            if lane.phase != Phase::Led {
                continue;
            }
            let since = lane.reading?;
            let waits = self.now.saturating_duration_since(since);
            if !impatient && waits < LONG && (!is_far || self.is_due(lane)) {
                return None;
            }
            let is_better =
                best.is_none_or(|best| lane.flights.len() < self.lanes[best].flights.len());
            if lane.pen.is_some() && self.may_take(at) && is_better {
                best = Some(at);
            }
        }
        best
    }

    /// Whether the next reply on this lane should come about now.
    fn is_due(&self, lane: &Lane<K, P>) -> bool {
        let (Some(flight), Some(shortest)) = (lane.flights.front(), self.shortest) else {
            return false;
        };
        let due = flight.sent + shortest;
        let off = due.max(self.now) - due.min(self.now);
        off < FAR / 2
    }

    /// Takes what is queued for a caller that does not lead this lane.
    fn send(&mut self, at: usize) -> Option<(usize, P)> {
        let mut pen = self.lanes[at].pen.take()?;
        pen.ink().clear();
        self.take(at, HELD, pen.ink());
        if pen.ink().is_empty() {
            self.lanes[at].pen = Some(pen);
            return None;
        }
        self.lanes[at].writing = true;
        Some((at, pen))
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
            flights: VecDeque::new(),
            first: 0,
            outstanding: 0,
            booked: 0,
            written: 0,
        }
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
#[path = "../../tests/model/lanes.rs"]
mod model;
