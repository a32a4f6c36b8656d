//! What two states have in common that are the same but for names and times.

use super::*;
use crate::state::lanes::Seat;
use crate::state::lanes::flow::LONG;
use crate::state::lanes::world::Machine;

/// What a state is told apart by. Whatever has a counter counts from where it matters; a caller, or
/// the place of one that has gone, is a number given in the order in which they come up.
pub(super) struct Digester<'a> {
    world: &'a World,
    config: &'a Config,
    digest: Digest,
}

impl<'a> Digester<'a> {
    pub(super) fn new(world: &'a World, config: &'a Config) -> Self {
        Self {
            world,
            config,
            digest: Digest::new(world.now, Ages::default()),
        }
    }

    pub(super) fn all(mut self) -> u64 {
        let world = self.world;
        let mut callers: Vec<(u64, &Caller)> = world
            .callers
            .iter()
            .map(|caller| (self.alone(caller), caller))
            .collect();
        callers.sort_by_key(|(alone, caller)| (*alone, caller.id));
        for (alone, caller) in callers {
            self.digest.put(alone);
            self.digest.id(u64::from(caller.id));
            match &caller.at {
                At::Leading(leading) => {
                    if let Step::HandOver(mat, lead) = &leading.step {
                        let next = world.callers.iter().find(|other| other.mat.is(mat));
                        self.digest.id(next.map_or(0, |next| u64::from(next.id)));
                        self.lead(lead);
                    }
                }
                At::Writing { bytes, report, .. } => {
                    self.bytes(bytes);
                    self.report(report);
                }
                At::Asleep { .. } | At::Over => {}
            }
            if let Some(message) = world.message_for(caller) {
                self.message(&world.post[message].1);
            }
        }
        self.digest.put(u64::from(world.has_ended));
        self.lanes(&world.lanes);
        self.digest.finish()
    }

    /// What can be said of a caller without another one: callers are in the order of that.
    fn alone(&self, caller: &Caller) -> u64 {
        let Caller {
            id: _,
            len,
            deadline,
            key,
            mat: _,
            at,
            outcome,
            was_touched,
            was_executed,
        } = caller;
        let lanes = &self.world.lanes;
        let mut digest = Digest::new(self.world.now, Ages::default());
        digest.put(*len as u64);
        digest.due(*deadline);
        digest.put(outcome.map_or(0, |outcome| 1 + outcome as u64));
        for flag in [was_touched, was_executed] {
            digest.put(u64::from(*flag));
        }
        let Call {
            seat: _,
            stage,
            leads,
            request: _,
            deadline: _,
        } = &lanes.calls[*key];
        digest.put(u64::from(*leads) + 2 * u64::from(lanes.watcher == Some(*key)));
        match *stage {
            Stage::Queued => {
                let mut places = lanes.queue.iter().chain(&lanes.large);
                digest.put(1);
                digest.put(places.position(|other| other == key).unwrap() as u64);
            }
            Stage::Own => digest.put(2),
            Stage::Sent(at, number) => {
                digest.put(3 + at as u64);
                digest.put(number - lanes.lanes[at].first);
            }
            Stage::Over => digest.put(0),
        }
        match at {
            At::Asleep {
                asks_again,
                has_given_up,
            } => {
                digest.put(1 + u64::from(*asks_again) + 2 * u64::from(*has_given_up));
            }
            At::Writing { lane, .. } => digest.put(10 + *lane as u64),
            At::Leading(leading) => {
                digest.put(20 + leading.lane as u64);
                digest.put(u64::from(leading.own) + 2 * u64::from(leading.panics));
                let (step, more) = match leading.step {
                    Step::Begin { others, stale } => (0, u64::from(others) + 2 * u64::from(stale)),
                    Step::Connect { others } => (1, u64::from(others)),
                    Step::Ask => (2, 0),
                    Step::Write => (3, 0),
                    Step::WriteAndRead => (13, 0),
                    Step::WriteOwn(done) => (4, done as u64),
                    Step::Read => (5, 0),
                    Step::TimeIsUp(then) => (
                        6,
                        match then {
                            Then::Ask => 0,
                            Then::Break => 1,
                            Then::Leave => 2,
                        },
                    ),
                    Step::HandOver(..) => (7, 0),
                    Step::Drift => (9, 0),
                    Step::Shut => (10, 0),
                    Step::Break => (11, 0),
                    Step::Leave { is_clean } => (12, u64::from(is_clean)),
                };
                digest.put(step);
                digest.put(more);
            }
            At::Over => digest.put(0),
        }
        digest.finish()
    }

    fn message(&mut self, message: &Message) {
        match message {
            Message::Reply(id) => {
                self.digest.put(1);
                self.digest.id(u64::from(*id));
            }
            Message::News(News::Failed(failure)) => self.digest.put(match failure {
                Failure::Lost(_) => 2,
                Failure::Unsent(_) => 3,
                Failure::NoConnection(_) => 4,
                Failure::TimedOut { sent } => 6 + u64::from(*sent),
            }),
            Message::News(News::Watch) => self.digest.put(8),
            Message::News(News::Lead(lead)) => {
                self.digest.put(5);
                self.lead(lead);
            }
        }
    }

    fn lead(&mut self, lead: &Lead) {
        let Lead {
            lane,
            own,
            others,
            stale,
        } = lead;
        self.digest.put(*lane as u64);
        for flag in [own, others, stale] {
            self.digest.put(u64::from(*flag));
        }
    }

    fn report(&mut self, report: &Report) {
        let Report {
            bytes,
            writes: _,
            failed,
            heard,
        } = report;
        self.digest.put(*bytes as u64);
        self.digest.put(u64::from(*failed) + 2 * u64::from(*heard));
    }

    fn io(&mut self, io: &Io) {
        let Io {
            wire,
            left,
            out,
            report,
            has_half,
            replies,
            is_broken,
        } = io;
        for flag in [*has_half, *is_broken, left.is_some()] {
            self.digest.put(u64::from(flag));
        }
        self.report(report);
        self.bytes(out);
        self.ids(replies.iter());
        let number = wire.or(*left);
        let mut wires = self.world.wires.iter();
        let wire = wires.find(|(other, _)| Some(*other) == number);
        let Some((_, wire)) = wire else {
            return self.digest.put(0);
        };
        self.digest.put(1 + u64::from(wire.is_broken));
        self.bytes(&wire.partial);
        self.ids(wire.owed.iter());
        self.ids(wire.answers.iter());
    }

    fn ids<'b>(&mut self, ids: impl ExactSizeIterator<Item = &'b u32>) {
        self.digest.put(ids.len() as u64);
        for id in ids {
            self.digest.id(u64::from(*id));
        }
    }

    /// Requests, or parts of them: each has its number somewhere else too.
    fn bytes(&mut self, bytes: &[u8]) {
        self.digest.put(bytes.len() as u64);
    }

    /// The caller of a call, or the place of one that has gone.
    fn call(&mut self, key: usize) {
        let caller = self.world.callers.iter().find(|caller| caller.key == key);
        let id = caller.map_or(1 << 40 | key as u64, |caller| u64::from(caller.id));
        self.digest.id(id);
    }

    fn lanes(&mut self, lanes: &Machine) {
        let Lanes {
            rules: _,
            now: _,
            calls,
            over,
            queue,
            large,
            watcher: _,
            lanes,
            grow_at,
            shortest: _,
            stats: _,
            ended: _,
            news: _,
        } = lanes;
        for (lane, io) in lanes.iter().zip(&self.world.ios) {
            self.lane(lane);
            self.io(io);
        }
        if lanes.len() > 1 {
            self.digest.due(Some(*grow_at));
        }
        for queue in [queue, large] {
            self.digest.put(queue.len() as u64);
            for &key in queue {
                self.call(key);
            }
        }
        for &key in over {
            self.call(key);
            self.digest.put(u64::from(calls[key].seat.is_free()));
        }
    }

    fn lane(&mut self, lane: &Lane) {
        let Lane {
            phase,
            shared,
            writing,
            buffer: _,
            rounds,
            reading,
            own_first,
            overdue,
            wanted,
            failing,
            flights,
            first: _,
            outstanding: _,
            booked,
            written,
        } = lane;
        self.digest.put(*phase as u64);
        for flag in [shared, writing, own_first, overdue, wanted, failing] {
            self.digest.put(u64::from(*flag));
        }
        self.digest.age(*reading, LONG);
        // They count while somebody writes who does not lead.
        self.digest.put(if *writing { *rounds as u64 } else { 0 });
        self.digest.put(booked - written);
        self.digest.put(flights.len() as u64);
        for flight in flights {
            let Flight {
                key,
                len,
                start,
                sent,
                alone: _,
            } = flight;
            match key {
                None => self.digest.put(0),
                Some(key) => self.call(*key),
            }
            self.digest.put(*len as u64);
            self.digest.put(u64::from(start < written));
            if self
                .config
                .shortest
                .flatten()
                .is_some_and(|far| !far.is_zero())
            {
                self.digest.age(Some(*sent), 2 * HALF);
            }
        }
    }
}
