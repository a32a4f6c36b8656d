//! What is sent where, by whom, and whose reply comes next.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::state::lanes::{
    Condition, Entry, Failure, Flight, Lane, Lanes, Lead, Phase, Report, Seat, Stage, Step, Whose,
};

/// A server that has ever answered faster is near: a leader takes what is queued soon.
pub(super) const FAR: Duration = Duration::from_micros(100);
/// A leader that waits for longer than this in one read may not send for a long time, near or far.
pub(super) const LONG: Duration = Duration::from_micros(500);
/// So many requests, and bytes of them, go into the buffers of a socket in any case, if they are not
/// set small; each request may take a kilobyte there beside its own bytes. A caller that does not
/// lead writes no more, because that write has no deadline.
const HELD: Bounds = (32, 16 * 1024);
/// How many requests and bytes may be outstanding on a lane.
type Bounds = (usize, usize);

/// How often a caller that does not lead writes in a row: then others that wait do.
const ROUNDS: usize = 4;

impl<S: Seat> Lanes<S> {
    /// What the leader is to do next; what it is to write goes to `out`.
    pub(crate) fn next_step(
        &mut self,
        at: usize,
        own: Option<(usize, &[u8])>,
        Condition { wanted, shared }: Condition,
        out: &mut Vec<u8>,
    ) -> Step<S> {
        let (bounds, is_written) = (self.bounds(), out.is_empty());
        let lane = &mut self.lanes[at];
        (lane.phase, lane.wanted, lane.shared) = (Phase::Led, wanted, shared);
        lane.reading = None;
        let may_write = is_written && !lane.writing;
        let may_send = may_write && !lane.overdue && !lane.failing;
        let stage = |lanes: &Self| own.map_or(Stage::Over, |(key, _)| lanes.calls[key].stage);
        let own_to_send =
            own.filter(|(key, _)| may_send && stage(self) == Stage::Own && self.is_in_time(*key));
        if let Some((key, request)) = own_to_send {
            let len = request.len();
            if !self.is_large(len) && self.has_room(at, len, bounds) {
                self.book(at, key, len);
                out.extend_from_slice(request);
            } else if self.lanes[at].flights.is_empty() {
                self.book(at, key, len);
                return Step::WriteOwn;
            }
        }
        if may_write {
            self.lanes[at].own_first = stage(self) == Stage::Own;
            self.take(at, bounds, out);
        }
        if stage(self) == Stage::Over {
            return self.successor(at, is_written);
        }
        let opens = shared && self.is_held(at);
        if out.is_empty() || opens {
            self.lanes[at].reading = Some(self.now);
        }
        match (out.is_empty(), opens) {
            (true, _) => Step::Read,
            (false, true) => Step::WriteAndRead,
            (false, false) => Step::Write,
        }
    }

    /// What was done on a lane's connection.
    pub(crate) fn report(&mut self, at: usize, report: &Report) {
        let lane = &mut self.lanes[at];
        lane.failing |= report.failed;
        lane.overdue &= !report.heard;
        lane.written += report.bytes as u64;
        self.stats.writes += report.writes;
    }

    /// A caller that does not lead has written, or could not: what it is to do next.
    pub(crate) fn sent(&mut self, key: usize, at: usize, bytes: Vec<u8>, report: &Report) -> Entry {
        self.report(at, report);
        let lane = &mut self.lanes[at];
        (lane.writing, lane.buffer) = (false, bytes);
        lane.rounds += 1;
        if lane.phase == Phase::Passing {
            lane.phase = Phase::Led;
            self.watches_no_more(key);
            return Entry::Lead(Lead {
                lane: at,
                own: false,
                others: false,
                stale: false,
            });
        }
        let goes_on = lane.reading.is_some() && lane.rounds < ROUNDS;
        let more = goes_on.then(|| self.send(at)).flatten();
        more.unwrap_or_else(|| self.wait(key))
    }

    /// Whether nothing is outstanding on this lane.
    pub(crate) fn is_empty(&self, at: usize) -> bool {
        self.lanes[at].flights.is_empty()
    }

    /// Whether buffers that are not small hold all that is outstanding on this lane.
    pub(crate) fn is_held(&self, at: usize) -> bool {
        self.lanes[at].flights.len() <= HELD.0 && self.lanes[at].outstanding <= HELD.1
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
        let seat = self.calls[key].seat.clone();
        self.end_call(key);
        Whose::Caller(seat)
    }

    /// The lane has broken, says its leader, whose call is `own`: everybody on it hears so, and it
    /// is to be closed. False if somebody writes: that caller leads next, and does all this.
    pub(crate) fn broke(&mut self, at: usize, own: Option<usize>, error: &Arc<io::Error>) -> bool {
        if let Some(own) = own {
            if self.calls[own].stage == Stage::Own {
                self.tell(own, Failure::Unsent(Arc::clone(error)));
            }
            self.calls[own].leads = false;
        }
        let lane = &mut self.lanes[at];
        lane.reading = None;
        if lane.writing {
            lane.phase = Phase::Passing;
            return false;
        }
        let written = lane.written;
        while let Some(flight) = self.land(at) {
            let Some(key) = flight.key else { continue };
            let failure = if flight.start < written {
                self.stats.lost += 1;
                Failure::Lost(Arc::clone(error))
            } else {
                self.stats.calls -= 1;
                Failure::Unsent(Arc::clone(error))
            };
            self.tell(key, failure);
        }
        true
    }

    fn bounds(&self) -> Bounds {
        (self.rules.max_in_flight, self.rules.max_bytes)
    }

    /// Whether a request of this length may go out on a lane on which nobody writes.
    fn has_room(&self, at: usize, len: usize, (requests, bytes): Bounds) -> bool {
        let lane = &self.lanes[at];
        lane.flights.len() < requests && lane.outstanding + len <= bytes
    }

    /// The lane that takes nothing new, so that a large call can have it once it is empty.
    fn reserved(&self) -> Option<usize> {
        self.first_large()?;
        self.lanes.iter().position(|lane| lane.phase == Phase::Led)
    }

    /// Takes from the queue what may go out on this lane.
    fn take(&mut self, at: usize, bounds: Bounds, out: &mut Vec<u8>) {
        if !self.lanes[at].may_take() || self.reserved() == Some(at) {
            return;
        }
        while let Some(key) = self.first_small() {
            let len = self.calls[key].request.len();
            if !self.has_room(at, len, bounds) {
                return;
            }
            out.extend_from_slice(&self.calls[key].request);
            self.book(at, key, len);
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

    /// Takes what is queued for a caller that does not lead, if it is to write.
    pub(super) fn send_from_queue(&mut self, has_waited: bool) -> Option<Entry> {
        let at = self.lane_to_write(has_waited)?;
        self.lanes[at].rounds = 0;
        self.send(at)
    }

    /// The least busy lane on which a caller that does not lead is to write.
    ///
    /// Where a leader is about to wake up, it sends what is queued together with what comes until
    /// then, for one system call less and nothing lost. So a caller writes only if every leader
    /// waits in a read that will take a while: one that has taken long, or any if the server is
    /// far. On a busy loopback neither happens. After a while a leader that is not in a read counts
    /// no more: it may be writing, for as long as its server does not read.
    fn lane_to_write(&self, has_waited: bool) -> Option<usize> {
        let reserved = self.reserved();
        let is_far = self.shortest.is_some_and(|shortest| shortest >= FAR);
        let mut best: Option<usize> = None;
        for (at, lane) in self.lanes.iter().enumerate() {
            if lane.phase != Phase::Led {
                continue;
            }
            let waits = lane.reading;
            let waits = waits.map(|since| self.now.saturating_duration_since(since));
            if !has_waited && !waits.is_some_and(|waits| waits >= LONG || is_far) {
                return None;
            }
            let is_better =
                best.is_none_or(|best| lane.flights.len() < self.lanes[best].flights.len());
            let is_open = waits.is_some() && lane.shared && lane.may_take();
            if is_open && reserved != Some(at) && is_better {
                best = Some(at);
            }
        }
        best
    }

    /// Takes what is queued for a caller that does not lead this lane.
    fn send(&mut self, at: usize) -> Option<Entry> {
        let mut bytes = std::mem::take(&mut self.lanes[at].buffer);
        bytes.clear();
        let (requests, length) = self.bounds();
        let bounds = (requests.min(HELD.0), length.min(HELD.1));
        self.take(at, bounds, &mut bytes);
        if bytes.is_empty() {
            self.lanes[at].buffer = bytes;
            return None;
        }
        self.lanes[at].writing = true;
        Some(Entry::Send { lane: at, bytes })
    }
}

impl Lane {
    /// Whether something from the queue may go out on it.
    fn may_take(&self) -> bool {
        let barred = self.writing || self.own_first || self.overdue || self.wanted || self.failing;
        self.phase == Phase::Led && !barred
    }
}
