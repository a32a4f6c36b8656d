//! Leading a lane: reading for everybody on it, and writing what is queued before each read.

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::pipeline::lane::{Io, Message, Seat, Stop, Timeout, is_stream, shared_stream};
use crate::pipeline::shared::Core;
use crate::runtime::connection::{Abandoned, Connection};
use crate::state::lanes::{Condition, Lead, News, Step};
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::user_code::{destroy, guarded};
use crate::sync::{MutexGuard, now};

/// How long a call waits for a further connection while other lanes could carry it.
const GROW: Duration = Duration::from_millis(20);

type Successor<R> = (Arc<Seat<R>>, Lead);

/// A call, and the thread that makes it.
pub(super) struct Call<'a, R, C> {
    pub(super) core: &'a Core<R, C>,
    pub(super) key: usize,
    pub(super) seat: Arc<Seat<R>>,
    pub(super) request: &'a [u8],
    pub(super) deadline: Option<Instant>,
}

/// A caller that leads a lane.
pub(super) struct Leader<'a, R: Send + 'static, C: Read + Write + Send + 'static> {
    call: &'a Call<'a, R, C>,
    lane: usize,
    /// Whether it leads for its own call too.
    own: bool,
    io: MutexGuard<'a, Io<R, C>>,
    has_left: bool,
}

impl<'a, R: Send + 'static, C: Read + Write + Send + 'static> Leader<'a, R, C> {
    /// Leads until the own call is over, of which its seat hears, or queued again.
    pub(super) fn lead(call: &'a Call<'a, R, C>, lead: Lead) {
        let mut leader = Self {
            call,
            lane: lead.lane,
            own: lead.own,
            io: call.core.lines[lead.lane].io(),
            has_left: false,
        };
        let successor = leader.run(lead);
        leader.has_left = true;
        drop(leader);
        if let Some((seat, lead)) = successor {
            seat.tell(Message::News(News::Lead(lead)));
        }
    }

    fn run(&mut self, lead: Lead) -> Option<Successor<R>> {
        let left = self.io.left.take().filter(|_| lead.stale);
        if let Some(lease) = left.and_then(Abandoned::take_back) {
            self.begin(lease);
        }
        if lead.stale && !self.io.has_come() {
            self.core().with(|lanes| lanes.restart(self.lane));
            self.close(false);
        }
        if self.io.lease.is_none() && !self.connect(lead.others) {
            return None;
        }
        if self.own && self.io.stop.is_none() {
            // What the leader before could not write in its time.
            self.write_out();
        }
        loop {
            match self.io.stop.take() {
                None if self.io.input.has_unread() => self.read_reply(),
                None => self.go_on(),
                Some(Stop::OutOfTime) => self.time_is_up(),
                Some(Stop::Broken(error, by_itself)) => {
                    self.break_lane(error, by_itself);
                    return None;
                }
                Some(Stop::Leave(step)) => return self.leave(step),
            }
        }
    }

    fn core(&self) -> &'a Core<R, C> {
        self.call.core
    }

    /// Gets a connection; false if the call is over or queued instead.
    fn connect(&mut self, mut others: bool) -> bool {
        let (core, lane, call) = (self.core(), self.lane, self.call);
        self.io.clear();
        loop {
            let left = call.deadline.map(|at| at.saturating_duration_since(now()));
            if left.is_some_and(|left| left.is_zero()) {
                self.time_is_up();
                self.vacate();
                return false;
            }
            let timeout = [left, others.then_some(GROW)].into_iter().flatten().min();
            core.pulling.fetch_add(1, Relaxed);
            let pulled = match timeout {
                None => core.pool.pull(),
                Some(timeout) => core.pool.pull_timeout(timeout),
            };
            core.pulling.fetch_sub(1, Relaxed);
            match pulled {
                Ok(lease) => {
                    self.io.timeout = Timeout::default();
                    self.begin(lease);
                    return true;
                }
                Err(error) if others && !error.is_ended() => {
                    if core.with(|lanes| lanes.stand_back(lane, call.key, call.request)) {
                        return false;
                    }
                    others = false;
                }
                Err(error) if error.is_timeout() => {}
                Err(error) => {
                    let error = Arc::new(error);
                    core.with(|lanes| lanes.no_connection(lane, call.key, &error));
                    return false;
                }
            }
        }
    }

    fn begin(&mut self, lease: Connection<C>) {
        let stream = shared_stream(&lease);
        self.io.is_shared = stream.is_some();
        *self.core().lines[self.lane].shared() = stream;
        self.io.lease = Some(lease);
    }

    /// Takes the lease from the lane; nobody else writes on it any more.
    fn take_lease(&mut self) -> Option<Connection<C>> {
        *self.core().lines[self.lane].shared() = None;
        self.io.lease.take()
    }

    /// Does what there is to do next, but for leaving.
    fn go_on(&mut self) {
        // Others write in the order in which requests are booked.
        let turn = self.core().lines[self.lane].shared();
        let step = self.next_step();
        if matches!(step, Some(Step::WriteAndRead)) {
            self.write_out();
        }
        drop(turn);
        match step {
            None => self
                .io
                .break_off(ErrorKind::InvalidData, "a reply that was not asked for"),
            Some(Step::Write) => {
                self.write_out();
                self.io.deliver();
            }
            Some(Step::WriteOwn) => self.write_own(),
            Some(Step::Read | Step::WriteAndRead) => {
                self.io.deliver();
                self.io.stop = self.io.read(self.call.deadline).err();
            }
            Some(step) => self.io.stop = Some(Stop::Leave(step)),
        }
    }

    /// Reports what was done, and takes what is queued, in one step. `None`: an unasked reply.
    fn next_step(&mut self) -> Option<Step<Arc<Seat<R>>>> {
        let condition = Condition {
            wanted: self.is_wanted_back(),
            shared: self.io.is_shared,
        };
        let own = (self.call.key, self.call.request);
        let (lane, own, io) = (self.lane, self.own.then_some(own), &mut *self.io);
        self.call.core.with(|lanes| {
            // All whole replies are reported: what is left is a part of one.
            if !io.report(lanes, lane) || io.input.has_any() && lanes.is_empty(lane) {
                return None;
            }
            let step = lanes.next_step(lane, own, condition, &mut io.out);
            io.is_held = lanes.is_held(lane);
            Some(step)
        })
    }

    /// Ends the lead; who leads next, if the lane is handed over.
    fn leave(&mut self, step: Step<Arc<Seat<R>>>) -> Option<Successor<R>> {
        let (core, lane) = (self.core(), self.lane);
        if matches!(step, Step::HandOver(..)) && !self.io.may_block() {
            // This call is over; a write that may wait is left to the next leader.
            self.write_out();
        }
        self.io.deliver();
        match step {
            Step::HandOver(seat, lead) => return Some((seat, lead)),
            Step::Pass => {}
            Step::Release => {
                if let Some(lease) = self.take_lease() {
                    Connection::finish(lease);
                }
                self.vacate();
            }
            Step::Discard => {
                self.close(false);
                self.vacate();
            }
            Step::Drift => {
                self.io.left = self.take_lease().map(Connection::abandon);
                core.with(|lanes| lanes.drift(lane));
            }
            Step::Write | Step::WriteAndRead | Step::WriteOwn | Step::Read => {
                unreachable!("bug: not a way to leave")
            }
        }
        None
    }

    /// Somebody else may lead the lane from here on.
    fn vacate(&mut self) {
        self.has_left = true;
        self.core().with(|lanes| lanes.vacate(self.lane));
    }

    /// The own call's time is up.
    fn time_is_up(&self) {
        debug_assert!(self.own, "bug: it reads or writes for others only");
        let key = self.call.key;
        self.core().with(|lanes| lanes.time_is_up(key, true));
    }

    /// The connection is of no use any more: everybody on it is told.
    fn break_lane(&mut self, error: Arc<io::Error>, by_itself: bool) {
        let (core, lane) = (self.core(), self.lane);
        let own = self.own.then_some(self.call.key);
        let io = &mut *self.io;
        let is_told = core.with(|lanes| {
            io.report(lanes, lane);
            lanes.broke(lane, own, &error)
        });
        io.deliver();
        if is_told {
            self.close(by_itself);
            self.vacate();
            destroy(error);
        } else {
            // Whoever writes finds that out at once, and leads next.
            let _ = io.stream().shutdown(Shutdown::Both);
            io.stop = Some(Stop::Broken(error, by_itself));
        }
    }

    /// Closes the connection. A plain stream that broke tells its pool itself how it did.
    fn close(&mut self, is_broken: bool) {
        match self.take_lease() {
            Some(lease) if is_broken && is_stream::<C>() => drop(lease),
            Some(lease) => Connection::discard(lease),
            None => {}
        }
    }

    fn write_out(&mut self) {
        let io = &mut *self.io;
        if io.out.is_empty() {
            return;
        }
        if io.may_block() {
            io.deliver();
        }
        let mut out = std::mem::take(&mut io.out);
        let done = io.write(&out, self.call.deadline);
        out.drain(..done);
        io.out = out;
        if !io.out.is_empty() {
            io.stop = Some(Stop::OutOfTime);
        }
    }

    fn write_own(&mut self) {
        let Call {
            request, deadline, ..
        } = *self.call;
        self.io.deliver();
        if self.io.write(request, deadline) < request.len() {
            self.time_is_up();
            let text = "a request was not wholly sent";
            self.io.break_off(ErrorKind::TimedOut, text);
        }
    }

    /// Reads a reply from what has come, and what is missing from the connection.
    fn read_reply(&mut self) {
        let core = self.core();
        let result = guarded(|| (core.read_reply)(self));
        if self.io.stop.is_some() {
            // It was not read to its end, whatever the function makes of that.
            self.io.input.rewind();
            destroy(result);
            return;
        }
        match result {
            Ok(Ok(reply)) if !self.io.input.has_read() => {
                destroy(reply);
                self.io
                    .break_off(ErrorKind::InvalidData, "a reply of no bytes");
            }
            Ok(Ok(reply)) => {
                self.io.input.finish();
                self.io.replies.push(reply);
            }
            Ok(Err(error)) => self.io.stop = Some(Stop::Broken(Arc::new(error), false)),
            Err(text) => {
                let text = format!("the reply function panicked: {text}");
                self.io.break_off(ErrorKind::Other, &text);
            }
        }
    }

    /// Whether the pool wants this lease back: it is doomed or too old, or somebody waits whom no
    /// connect under way will serve. Those who wait for a lane of this pipeline do not count.
    fn is_wanted_back(&self) -> bool {
        let Some(lease) = self
            .io
            .lease
            .as_ref()
            .filter(|lease| Connection::is_wanted_back(lease))
        else {
            return false;
        };
        let ours = self.core().pulling.load(Relaxed);
        if ours == 0 || Connection::stream(lease).socket().is_recalled() {
            return true;
        }
        let stats = self.core().pool.stats();
        stats.waiting > ours || stats.open > stats.limit
    }
}

/// Reads on, and does meanwhile what a leader does before each read that may block.
impl<R: Send + 'static, C: Read + Write + Send + 'static> BufRead for Leader<'_, R, C> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while !self.io.input.has_unread() {
            if self.io.stop.is_some() {
                return Err(ErrorKind::WouldBlock.into());
            }
            self.go_on();
        }
        Ok(self.io.input.unread())
    }

    fn consume(&mut self, count: usize) {
        self.io.input.consume(count);
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

/// A leader that panics leaves no lane behind, and no message on its seat.
impl<R: Send + 'static, C: Read + Write + Send + 'static> Drop for Leader<'_, R, C> {
    fn drop(&mut self) {
        if !self.has_left {
            let error = io::Error::other("the thread that led the lane panicked");
            self.break_lane(Arc::new(error), false);
            destroy(self.call.seat.wait(|| Some(now())));
        }
    }
}
