//! What is sent where, by whom, and whose reply comes next.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::state::lanes::{
    Entry, Fate, Flight, LONGEST, Lane, Lanes, Look, Pen, Phase, Seat, Stage, Whose,
};

/// A server that has ever answered faster is near: a leader looks at the queue soon.
pub(super) const FAR: Duration = Duration::from_micros(100);
/// A leader that waits for longer than this in one read may not look for a long time, near or far.
pub(super) const LONG: Duration = Duration::from_micros(500);
/// What goes into the buffers of a socket in any case, if they are not set small. A caller that does
/// not lead writes no more, because that write has no deadline.
const HELD: usize = 16 * 1024;
/// How often a caller that does not lead writes in a row: then others that wait do.
const ROUNDS: usize = 4;

impl<S: Seat, K, P: Pen> Lanes<S, K, P> {
    /// The leader, whose call is `key`, looks what there is to do. `wanted`: the pool wants the
    /// connection back.
    pub(crate) fn look(
        &mut self,
        at: usize,
        (key, request): (usize, &[u8]),
        wanted: bool,
        out: &mut Vec<u8>,
    ) -> Look<S, K> {
        let lane = &mut self.lanes[at];
        lane.wanted = wanted;
        lane.reading = None;
        let may_write = !lane.writing && out.is_empty();
        let may_send = may_write && !lane.overdue && !lane.failing;
        if may_send && self.calls[key].stage == Stage::Own && self.is_in_time(key) {
            let len = request.len();
            if self.is_large(len) {
                if self.lanes[at].flights.is_empty() {
                    self.book(at, key, len);
                    self.lanes[at].writing = true;
                    return Look::WriteOwn;
                }
            } else if self.has_room(at, len) {
                self.book(at, key, len);
                out.extend_from_slice(request);
            }
        }
        if may_write {
            self.take(at, self.rules.max_bytes, out);
            self.lanes[at].writing = !out.is_empty();
        }
        if self.calls[key].stage == Stage::Over {
            return self.successor(at);
        }
        if may_write && !out.is_empty() {
            return Look::Write;
        }
        self.lanes[at].reading = Some(self.now);
        Look::Read
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
        let lane = &mut self.lanes[at];
        lane.pen = Some(pen);
        lane.rounds += 1;
        if failed || lane.reading.is_none() || lane.rounds >= ROUNDS {
            return None;
        }
        self.send(at)
    }

    /// Whether buffers that are not small hold all that is outstanding on this lane.
    pub(crate) fn is_held(&self, at: usize) -> bool {
        self.lanes[at].outstanding <= HELD
    }

    /// Whether a caller that does not lead writes on this lane.
    pub(crate) fn is_writing(&self, at: usize) -> bool {
        self.lanes[at].writing
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
            if key == own {
                self.end_call(key);
                fate_of_own = Some(fate);
            } else {
                self.tell(key, fate);
            }
        }
        Some(fate_of_own)
    }

    /// Whether a request of this length may go out on a lane on which nobody writes.
    fn has_room(&self, at: usize, len: usize) -> bool {
        let lane = &self.lanes[at];
        lane.flights.len() < self.rules.max_in_flight
            && lane.outstanding + len <= self.rules.max_bytes
    }

    /// The lane that takes nothing new, so that a large call can have it once it is empty.
    fn reserved(&mut self) -> Option<usize> {
        self.first_large()?;
        self.lanes.iter().position(|lane| lane.phase == Phase::Led)
    }

    /// Takes from the queue what may go out on this lane.
    fn take(&mut self, at: usize, max_bytes: usize, out: &mut Vec<u8>) {
        if !self.lanes[at].may_take() || self.reserved() == Some(at) {
            return;
        }
        while let Some(key) = self.first_small() {
            let len = self.calls[key].request.len();
            if !self.has_room(at, len) || self.lanes[at].outstanding + len > max_bytes {
                return;
            }
            out.extend_from_slice(&self.calls[key].request);
            self.book(at, key, len);
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
    pub(super) fn patience(&self) -> Duration {
        Duration::from_nanos(self.usual * 4).clamp(LONG, LONGEST)
    }

    /// Takes what is queued for a caller that does not lead, if it is to write.
    pub(super) fn send_from_queue(&mut self, impatient: bool) -> Option<Entry<K, P>> {
        let at = self.lane_to_write(impatient)?;
        self.lanes[at].rounds = 0;
        let (lane, pen) = self.send(at)?;
        Some(Entry::Send { lane, pen })
    }

    /// The least busy lane on which a caller that does not lead is to write.
    ///
    /// Where a leader is about to look, it sends what is queued together with what comes until
    /// then, for one system call less and nothing lost. So a caller writes only if every leader
    /// waits in a read that will take a while: one that has taken long, or, if the server is far,
    /// one whose next reply is not due yet. On a busy loopback neither happens.
    fn lane_to_write(&mut self, impatient: bool) -> Option<usize> {
        let reserved = self.reserved();
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
            if lane.pen.is_some() && lane.may_take() && reserved != Some(at) && is_better {
                best = Some(at);
            }
        }
        best
    }

    /// Whether the next reply on this lane should come about now.
    pub(super) fn is_due(&self, lane: &Lane<K, P>) -> bool {
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
