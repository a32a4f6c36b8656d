//! Leading a lane: reading for everybody on it, and writing what is queued before each read.

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::net::stream::Stream;
use crate::pipeline::lane::{End, Kit, Message, Seat, is_stream};
use crate::pipeline::shared::Core;
use crate::report::stats::Brief;
use crate::runtime::connection::{Abandoned, Connection};
use crate::state::lanes::{Fate, GaveUp, Lead, Look, Own};
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::now;
use crate::sync::user_code::{destroy, guarded};

/// How long a call waits for a further connection while other lanes could carry it.
const GROW: Duration = Duration::from_millis(20);
/// The shortest time-out.
const MOMENT: Duration = Duration::from_millis(1);

type Decision<R, C> = Look<Arc<Seat<R, C>>, Box<Kit<R, C>>>;

/// A caller that leads a lane.
pub(super) struct Leader<'a, R: Send + 'static, C: Read + Write + Send + 'static> {
    core: &'a Core<R, C>,
    lane: usize,
    /// There until the lane is passed on.
    kit: Option<Box<Kit<R, C>>>,
    key: usize,
    request: &'a [u8],
    deadline: Option<Instant>,
    own: Stage,
    end: Option<End<R>>,
    /// What was decided while a reply was being read.
    next: Option<Decision<R, C>>,
    trouble: Option<Trouble>,
}

/// The leader's own call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Unsent,
    InFlight,
    Over,
}

/// Why a leader cannot go on.
enum Trouble {
    OutOfTime,
    Broken(io::Error),
    /// What came was no reply.
    Nonsense(io::Error),
}

impl<'a, R: Send + 'static, C: Read + Write + Send + 'static> Leader<'a, R, C> {
    pub(super) fn new(
        core: &'a Core<R, C>,
        lead: &mut Lead<Box<Kit<R, C>>>,
        key: usize,
        request: &'a [u8],
        deadline: Option<Instant>,
    ) -> Self {
        Self {
            core,
            lane: lead.lane,
            kit: Some(lead.kit.take().unwrap_or_default()),
            key,
            request,
            deadline,
            own: if lead.unsent {
                Stage::Unsent
            } else {
                Stage::InFlight
            },
            end: None,
            next: None,
            trouble: None,
        }
    }

    /// Leads until the own call is over; `None` if it is queued again.
    pub(super) fn run(mut self, others: bool, stale: bool) -> Option<End<R>> {
        if let Some(left) = self.kit().left.take() {
            self.kit().lease = left.take_back();
            self.kit().is_fresh = true;
        }
        if stale && !self.has_come() {
            let pen = self.core.with(|lanes| lanes.restart(self.lane));
            drop(pen);
            self.close(false);
            self.kit().clear();
        }
        if self.kit().lease.is_none() && !self.connect(others) {
            return self.end.take();
        }
        if self.own == Stage::Unsent && self.is_out_of_time() {
            self.abandon();
        }
        if !self.kit().out.is_empty() {
            self.write_out();
        }
        loop {
            match self.trouble.take() {
                None => {}
                Some(Trouble::OutOfTime) => self.abandon(),
                Some(Trouble::Broken(error)) => {
                    self.break_lane(error, true);
                    return self.end.take();
                }
                Some(Trouble::Nonsense(error)) => {
                    self.break_lane(error, false);
                    return self.end.take();
                }
            }
            match self.next.take() {
                None if self.kit().input.has_unread() => self.read_reply(),
                None => self.go_on(),
                Some(look) => {
                    if self.leave(look) {
                        return self.end.take();
                    }
                }
            }
        }
    }

    fn kit(&mut self) -> &mut Kit<R, C> {
        self.kit.as_mut().expect("bug: a leader without a kit")
    }

    fn stream(&self) -> &Stream {
        let lease = self.kit.as_ref().and_then(|kit| kit.lease.as_ref());
        Connection::stream(lease.expect("bug: a leader without a lease"))
    }

    fn is_out_of_time(&self) -> bool {
        self.deadline.is_some_and(|at| at <= now())
    }

    /// Gets a connection; false if the call is over or queued instead.
    fn connect(&mut self, mut others: bool) -> bool {
        let core = self.core;
        loop {
            let left = self.deadline.map(|at| at.saturating_duration_since(now()));
            if left.is_some_and(|left| left.is_zero()) {
                self.abandon();
                self.vacate();
                return false;
            }
            core.pulling.fetch_add(1, Relaxed);
            let pulled = match (left, others) {
                (None, false) => core.pool.pull(),
                (Some(left), false) => core.pool.pull_timeout(left),
                (None, true) => core.pool.pull_timeout(GROW),
                (Some(left), true) => core.pool.pull_timeout(GROW.min(left)),
            };
            core.pulling.fetch_sub(1, Relaxed);
            let error = match pulled {
                Ok(lease) => {
                    self.kit().begin(lease);
                    return true;
                }
                Err(error) => error,
            };
            let (lane, key, request) = (self.lane, self.key, self.request);
            if others && !error.is_ended() {
                let kit = self.kit.take();
                match core.with(|lanes| lanes.stand_back(lane, kit, key, request)) {
                    Ok(()) => return false,
                    Err(kit) => (self.kit, others) = (kit, false),
                }
            } else if !error.is_timeout() {
                let error = Arc::new(error);
                self.end = Some(End::Failed(Fate::NoConnection(Arc::clone(&error))));
                let kit = self.kit.take();
                core.with(|lanes| lanes.no_connection(lane, kit, key, &error));
                return false;
            }
        }
    }

    /// Whether one of the replies has come that nobody waits for, on a lane that was left alone.
    fn has_come(&mut self) -> bool {
        if self.kit().lease.is_none() || self.stream().set_nonblocking(true).is_err() {
            return false;
        }
        let Kit { lease, input, .. } = self.kit();
        let lease = lease.as_mut().expect("bug: a leader without a lease");
        let count = lease.read(input.space()).unwrap_or(0);
        input.end += count;
        self.kit().has_heard = count > 0;
        self.kit().timeout.quiet_since = now();
        count > 0 && self.stream().set_nonblocking(false).is_ok()
    }

    /// Does what there is to do next; what ends the lead is left in `next`.
    fn go_on(&mut self) {
        let Some(look) = self.step() else {
            let error = io::Error::new(ErrorKind::InvalidData, "a reply that was not asked for");
            self.trouble = Some(Trouble::Nonsense(error));
            return;
        };
        match look {
            Look::Write => self.write_out(),
            Look::WriteOwn => self.write_own(),
            Look::Read => {
                self.kit().deliver();
                self.read_more();
            }
            look => self.next = Some(look),
        }
    }

    /// Reports what was done, and looks at the queue, in one step. `None`: an unasked reply.
    fn step(&mut self) -> Option<Decision<R, C>> {
        let (lane, key, request, mut stage) = (self.lane, self.key, self.request, self.own);
        let wanted = self.is_wanted_back();
        let kit = self.kit.as_mut().expect("bug: a leader without a kit");
        let mut reply = None;
        let look = self.core.with(|lanes| {
            if !kit.report(lanes, lane, key, &mut reply) {
                return None;
            }
            if reply.is_some() {
                stage = Stage::Over;
            }
            let own = match stage {
                Stage::Unsent => Own::Unsent(key, request),
                Stage::InFlight => Own::InFlight,
                Stage::Over => Own::Over,
            };
            let look = lanes.look(lane, own, wanted, &mut kit.out);
            kit.is_held = lanes.is_held(lane);
            if stage == Stage::Unsent && !lanes.is_unsent(key) {
                stage = Stage::InFlight;
            }
            if matches!(look, Look::Release | Look::Discard) {
                kit.lay_down(lanes.pen(lane));
            }
            Some(look)
        });
        kit.is_writing |= !kit.out.is_empty() || matches!(look, Some(Look::WriteOwn));
        self.own = stage;
        if let Some(reply) = reply {
            self.end = Some(End::Reply(reply));
        }
        look
    }

    /// Ends the lead, unless there is something left to do.
    fn leave(&mut self, look: Decision<R, C>) -> bool {
        match look {
            Look::HandOver(seat, mut lead) => {
                // This call is over; a write that may wait is left to the next leader.
                if !self.may_block() {
                    self.write_out();
                }
                self.kit().deliver();
                lead.kit = self.kit.take();
                seat.tell(Message::Lead(lead));
                true
            }
            Look::Release | Look::Discard => {
                self.kit().deliver();
                let is_clean = matches!(look, Look::Release) && !self.kit().input.has_any();
                drop(self.kit().laid.take());
                let lease = self
                    .kit()
                    .lease
                    .take()
                    .expect("bug: a leader without a lease");
                if is_clean {
                    Connection::finish(lease);
                } else {
                    Connection::discard(lease);
                }
                self.vacate();
                true
            }
            Look::Drift => {
                self.kit().deliver();
                let pen = self.core.with(|lanes| lanes.pen(self.lane));
                drop(pen);
                let (lane, mut kit) = (self.lane, self.kit.take().expect("bug: no kit"));
                kit.left = kit.lease.take().map(Connection::abandon);
                let drifts = self.core.with(|lanes| lanes.drift(lane, kit));
                let Err(mut kit) = drifts else { return true };
                // Somebody came meanwhile.
                kit.lease = kit.left.take().and_then(Abandoned::take_back);
                kit.is_fresh = true;
                let is_gone = kit.lease.is_none();
                self.kit = Some(kit);
                if is_gone {
                    self.vacate();
                }
                is_gone
            }
            Look::Wait if self.kit().is_writing => {
                let error = io::Error::new(ErrorKind::TimedOut, "a request was not wholly sent");
                self.trouble = Some(Trouble::Broken(error));
                false
            }
            Look::Wait => {
                self.kit().deliver();
                self.core.wait_for_writer(self.lane);
                false
            }
            Look::Write | Look::WriteOwn | Look::Read => unreachable!("bug: not a way to leave"),
        }
    }

    /// The lane goes to whoever is first in the queue, without a connection.
    fn vacate(&mut self) {
        let (lane, mut kit) = (self.lane, self.kit.take());
        if let Some(kit) = &mut kit {
            kit.clear();
        }
        self.core.with(|lanes| lanes.vacate(lane, kit));
    }

    /// The own call's time is up.
    fn abandon(&mut self) {
        if self.own == Stage::Over {
            return;
        }
        let gave_up = self.core.with(|lanes| lanes.abandon(self.key));
        self.own = Stage::Over;
        self.end = Some(End::TimedOut {
            sent: gave_up == GaveUp::Sent,
        });
    }

    /// The connection is of no use any more: everybody on it is told.
    fn break_lane(&mut self, error: io::Error, is_broken: bool) {
        let (lane, key, error) = (self.lane, self.key, Arc::new(error));
        loop {
            let kit = self.kit.as_mut().expect("bug: a leader without a kit");
            let mut reply = None;
            let broke = self.core.with(|lanes| {
                kit.report(lanes, lane, key, &mut reply);
                kit.report_written(lanes, lane);
                let fate = lanes.broke(lane, key, &error)?;
                kit.lay_down(lanes.pen(lane));
                Some(fate)
            });
            kit.deliver();
            if let Some(reply) = reply {
                self.end = Some(End::Reply(reply));
            }
            match broke {
                None => self.core.wait_for_writer(lane),
                Some(fate) => {
                    self.end = self.end.take().or(fate.map(End::Failed));
                    break;
                }
            }
        }
        self.close(is_broken);
        self.vacate();
    }

    /// Closes the connection. A plain stream that broke tells its pool itself how it did.
    fn close(&mut self, is_broken_stream: bool) {
        drop(self.kit().laid.take());
        match self.kit().lease.take() {
            Some(lease) if is_broken_stream && is_stream::<C>() => drop(lease),
            Some(lease) => Connection::discard(lease),
            None => {}
        }
    }

    fn write_out(&mut self) {
        if self.kit().out.is_empty() {
            return;
        }
        let out = std::mem::take(&mut self.kit().out);
        if self.may_block() {
            self.kit().deliver();
        }
        let done = self.write(&out);
        let kit = self.kit();
        kit.out = out;
        kit.out.drain(..done);
        kit.deliver();
    }

    fn write_own(&mut self) {
        self.kit().deliver();
        let done = self.write(self.request);
        if done < self.request.len() && matches!(self.trouble, Some(Trouble::OutOfTime)) {
            self.abandon();
            let error = io::Error::new(ErrorKind::TimedOut, "a request was not wholly sent");
            self.trouble = Some(Trouble::Broken(error));
        }
    }

    /// Whether a write may have to wait until the server reads.
    fn may_block(&self) -> bool {
        let is_held = self.kit.as_ref().is_some_and(|kit| kit.is_held);
        !is_held || !self.stream().socket().is_roomy()
    }

    /// Writes by the deadline; how much of it is done with. What breaks the connection is left to the
    /// next read, because replies may have come before.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let deadline = self.deadline.filter(|_| self.may_block());
        if deadline.is_none() {
            return self.write_all(bytes);
        }
        let _ = self.stream().set_deadline(deadline);
        let done = self.write_all(bytes);
        // Whoever writes next may have more time.
        let _ = self.stream().set_deadline(None);
        done
    }

    fn write_all(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            // A client of another kind may send a part, and then fail or panic.
            let risked = if is_stream::<C>() {
                0
            } else {
                bytes.len() - done
            };
            let kit = self.kit();
            kit.wrote.0 += risked;
            let lease = kit.lease.as_mut();
            let lease = lease.expect("bug: a leader without a lease");
            let wrote = lease.write(&bytes[done..]);
            kit.wrote.0 -= risked;
            let wrote = match wrote {
                Ok(0) => Err(ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                wrote => wrote,
            };
            self.kit().wrote.1 += 1;
            match wrote {
                Ok(count) => {
                    done += count;
                    self.kit().wrote.0 += count;
                }
                Err(error) if is_passing(&error) && self.is_out_of_time() => {
                    self.trouble = Some(Trouble::OutOfTime);
                    return done;
                }
                Err(_) => {
                    self.kit().wrote.0 += risked;
                    self.fail();
                    return bytes.len();
                }
            }
        }
        let lease = self.kit().lease.as_mut();
        if lease.is_some_and(|lease| lease.flush().is_err()) {
            self.fail();
        }
        done
    }

    /// A write failed: what has come can still be read, then there is the end.
    fn fail(&mut self) {
        let _ = self.stream().shutdown(Shutdown::Both);
        self.kit().has_failed = true;
    }

    /// Reads a reply from what has come, and what is missing from the connection.
    fn read_reply(&mut self) {
        let core = self.core;
        let result = guarded(|| (core.read_reply)(self));
        if self.trouble.is_some() || self.next.is_some() {
            // It was not read to its end, whatever the function makes of that.
            self.kit().input.rewind();
            destroy(result);
            return;
        }
        match result {
            Ok(Ok(reply)) if !self.kit().input.has_read() => {
                destroy(reply);
                let error = io::Error::new(ErrorKind::InvalidData, "a reply of no bytes");
                self.trouble = Some(Trouble::Nonsense(error));
            }
            Ok(Ok(reply)) => {
                let kit = self.kit();
                kit.input.finish();
                kit.replies.push(reply);
            }
            Ok(Err(error)) => self.trouble = Some(Trouble::Nonsense(error)),
            Err(text) => {
                let text = format!("the reply function panicked: {text}");
                self.trouble = Some(Trouble::Nonsense(io::Error::other(text)));
            }
        }
    }

    fn read_more(&mut self) {
        if !self.arm_read() {
            self.trouble = Some(Trouble::OutOfTime);
            return;
        }
        let Kit { lease, input, .. } = self.kit();
        let lease = lease.as_mut().expect("bug: a leader without a lease");
        match lease.read(input.space()) {
            Ok(0) => {
                let error = io::Error::new(ErrorKind::UnexpectedEof, "the connection was closed");
                self.trouble = Some(Trouble::Broken(error));
            }
            Ok(count) => {
                input.end += count;
                self.kit().has_heard = true;
                self.kit().timeout.quiet_since = now();
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if is_passing(&error) => self.trouble = self.timed_out(error),
            Err(error) => self.trouble = Some(Trouble::Broken(error)),
        }
    }

    /// Sees to it that a read wakes at the deadline; false if that is over.
    ///
    /// Without a deadline, and where none was set before, this costs nothing. Else a time-out is
    /// rounded down to a power of two: it wakes early, a few times at most, but one that was set
    /// for a call serves the next call too.
    fn arm_read(&mut self) -> bool {
        let deadline = self.deadline.filter(|_| self.own != Stage::Over);
        if deadline.is_none() && self.kit().timeout.set.is_none() {
            return true;
        }
        let now = now();
        let left = deadline.map(|at| at.saturating_duration_since(now));
        if left.is_some_and(|left| left.is_zero()) {
            return false;
        }
        let given = self.given_timeout();
        let timeout = &self.kit().timeout;
        let silent = given.map(|given| {
            let until = timeout.quiet_since + given + given / 8;
            until.saturating_duration_since(now).max(MOMENT)
        });
        let wanted = [left, silent].into_iter().flatten().min();
        let is_fine = match (timeout.set.unwrap_or(given), wanted) {
            (None, None) => true,
            (Some(set), Some(wanted)) => set <= wanted && set >= wanted / 4,
            _ => false,
        };
        if !is_fine {
            let value = wanted.map(round_down);
            self.kit().timeout.set = Some(value);
            let _ = self.stream().set_read_timeout(value);
        }
        true
    }

    fn given_timeout(&mut self) -> Option<Duration> {
        if let Some(given) = self.kit().timeout.given {
            return given;
        }
        let given = self.stream().read_timeout().unwrap_or(None);
        self.kit().timeout.given = Some(given);
        given
    }

    /// A read has waited for as long as it may: whether that is too long.
    fn timed_out(&mut self, error: io::Error) -> Option<Trouble> {
        let now = now();
        if self.deadline.is_some_and(|at| at <= now) {
            return Some(Trouble::OutOfTime);
        }
        let given = self.given_timeout();
        let Some(given) = given else {
            let is_ours = self.kit().timeout.set.is_some();
            return (!is_ours).then_some(Trouble::Broken(error));
        };
        let quiet = now.saturating_duration_since(self.kit().timeout.quiet_since);
        (quiet >= given).then(|| {
            let text = format!("no byte within {}", Brief(quiet));
            Trouble::Broken(io::Error::new(ErrorKind::TimedOut, text))
        })
    }

    /// Whether the pool wants this lease back: it is doomed or too old, or somebody waits whom no
    /// connect under way will serve. Those who wait for a lane of this pipeline do not count.
    fn is_wanted_back(&self) -> bool {
        let lease = self.kit.as_ref().and_then(|kit| kit.lease.as_ref());
        if !lease.is_some_and(Connection::is_wanted_back) {
            return false;
        }
        let ours = self.core.pulling.load(Relaxed);
        if ours == 0 || self.stream().socket().is_recalled() {
            return true;
        }
        let stats = self.core.pool.stats();
        stats.waiting > ours || stats.open > stats.limit
    }
}

/// Reads on, and does meanwhile what a leader does before each read that may block.
impl<R: Send + 'static, C: Read + Write + Send + 'static> BufRead for Leader<'_, R, C> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while !self.kit().input.has_unread() {
            if self.trouble.is_some() || self.next.is_some() {
                return Err(ErrorKind::WouldBlock.into());
            }
            self.go_on();
        }
        Ok(self.kit().input.unread())
    }

    fn consume(&mut self, count: usize) {
        let input = &mut self.kit().input;
        input.at = (input.at + count).min(input.end);
    }
}

impl<R: Send + 'static, C: Read + Write + Send + 'static> Read for Leader<'_, R, C> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut bytes = self.fill_buf()?;
        let count = bytes.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

/// A leader that panics leaves no lane behind.
impl<R: Send + 'static, C: Read + Write + Send + 'static> Drop for Leader<'_, R, C> {
    fn drop(&mut self) {
        if self.kit.is_some() {
            self.break_lane(
                io::Error::other("the thread that led the lane panicked"),
                false,
            );
        }
    }
}

/// Whether an error only says that a time-out is over.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// The largest power of two in milliseconds that is not longer, or what is too short for that.
fn round_down(wanted: Duration) -> Duration {
    let millis = u64::try_from(wanted.as_millis()).unwrap_or(u64::MAX);
    if millis < 4 {
        wanted.max(MOMENT)
    } else {
        Duration::from_millis(1 << millis.ilog2())
    }
}
