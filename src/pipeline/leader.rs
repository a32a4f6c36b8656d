//! Leading a lane: reading for everybody on it, and writing what is queued before each read.

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::pipeline::lane::{End, Kit, Message, Seat, is_stream};
use crate::pipeline::shared::Core;
use crate::pipeline::wire::Trouble;
use crate::runtime::connection::{Abandoned, Connection};
use crate::state::lanes::{Fate, GaveUp, Lead, Look};
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::now;
use crate::sync::user_code::{destroy, guarded};

/// How long a call waits for a further connection while other lanes could carry it.
const GROW: Duration = Duration::from_millis(20);

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
    /// How the own call has ended.
    end: Option<End<R>>,
    /// What was decided while a reply was being read.
    next: Option<Decision<R, C>>,
    trouble: Option<Trouble>,
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
        if stale && !self.kit().has_come() {
            let pen = self.core.with(|lanes| lanes.restart(self.lane));
            drop(pen);
            self.close(false);
            self.kit().clear();
        }
        if self.kit().lease.is_none() && !self.connect(others) {
            return self.end.take();
        }
        // What the leader before could not write in its time.
        self.write_out();
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
            let patience = [left, others.then_some(GROW)].into_iter().flatten().min();
            core.pulling.fetch_add(1, Relaxed);
            let pulled = match patience {
                None => core.pool.pull(),
                Some(patience) => core.pool.pull_timeout(patience),
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
                let deadline = self.deadline.filter(|_| self.end.is_none());
                self.kit().deliver();
                self.trouble = self.kit().read(deadline).err();
            }
            look => self.next = Some(look),
        }
    }

    /// Reports what was done, and looks at the queue, in one step. `None`: an unasked reply.
    fn step(&mut self) -> Option<Decision<R, C>> {
        let (lane, key, request) = (self.lane, self.key, self.request);
        let wanted = self.is_wanted_back();
        let kit = self.kit.as_mut().expect("bug: a leader without a kit");
        let mut reply = None;
        let look = self.core.with(|lanes| {
            if !kit.report(lanes, lane, key, &mut reply) {
                return None;
            }
            let look = lanes.look(lane, (key, request), wanted, &mut kit.out);
            kit.is_held = lanes.is_held(lane);
            if matches!(look, Look::Release | Look::Discard) {
                kit.lay_down(lanes.pen(lane));
            }
            Some(look)
        });
        kit.is_writing |= !kit.out.is_empty() || matches!(look, Some(Look::WriteOwn));
        self.end = self.end.take().or(reply.map(End::Reply));
        look
    }

    /// Ends the lead, unless there is something left to do.
    fn leave(&mut self, look: Decision<R, C>) -> bool {
        match look {
            Look::HandOver(seat, mut lead) => {
                // This call is over; a write that may wait is left to the next leader.
                if !self.kit().may_block() {
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
                if is_clean {
                    drop(self.kit().laid.take());
                    if let Some(lease) = self.kit().lease.take() {
                        Connection::finish(lease);
                    }
                } else {
                    self.close(false);
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
                self.trouble = Some(torn());
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
        if self.end.is_none() {
            let sent = self.core.with(|lanes| lanes.abandon(self.key)) == GaveUp::Sent;
            self.end = Some(End::TimedOut { sent });
        }
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
        if self.kit().may_block() {
            self.kit().deliver();
        }
        let deadline = self.deadline;
        let kit = self.kit();
        let mut out = std::mem::take(&mut kit.out);
        let done = kit.write(&out, deadline);
        out.drain(..done);
        kit.out = out;
        kit.deliver();
        if !kit.out.is_empty() {
            self.trouble = Some(Trouble::OutOfTime);
        }
    }

    fn write_own(&mut self) {
        let (request, deadline) = (self.request, self.deadline);
        self.kit().deliver();
        if self.kit().write(request, deadline) < request.len() {
            self.abandon();
            self.trouble = Some(torn());
        }
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

    /// Whether the pool wants this lease back: it is doomed or too old, or somebody waits whom no
    /// connect under way will serve. Those who wait for a lane of this pipeline do not count.
    fn is_wanted_back(&self) -> bool {
        let lease = self.kit.as_ref().and_then(|kit| kit.lease.as_ref());
        if !lease.is_some_and(Connection::is_wanted_back) {
            return false;
        }
        let ours = self.core.pulling.load(Relaxed);
        if ours == 0 || lease.is_some_and(|lease| Connection::stream(lease).socket().is_recalled())
        {
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
        self.kit().input.consume(count);
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

/// Whose time was up in the middle of a write leaves a part of a request on the connection.
fn torn() -> Trouble {
    let error = io::Error::new(ErrorKind::TimedOut, "a request was not wholly sent");
    Trouble::Broken(error)
}
