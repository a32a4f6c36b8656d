//! The connections, and the server at their other ends.

use super::*;

impl World {
    pub(in super::super) fn serve(&mut self, at: usize) {
        let wire = &mut self.wires[at].1;
        if !wire.is_broken {
            wire.answers.extend(wire.owed.pop_front());
        }
    }

    pub(in super::super) fn cut(&mut self, at: usize) {
        self.wires[at].1.is_broken = true;
    }

    /// Connections of lanes that nobody waits on, which the pool has.
    pub(in super::super) fn left(&self) -> impl Iterator<Item = u32> + '_ {
        let is_there = |wire: &u32| self.wires.iter().any(|(number, _)| number == wire);
        self.ios.iter().filter_map(|io| io.left).filter(is_there)
    }

    /// Lanes that nobody leads, and whose connections the pool has closed.
    pub(in super::super) fn closed(&self) -> impl Iterator<Item = usize> + '_ {
        let is_there = |wire: u32| self.wires.iter().any(|(number, _)| *number == wire);
        let is_closed = move |&lane: &usize| {
            let has_leader = self.callers.iter().any(|caller| match &caller.at {
                At::Leading(leading) => leading.lane == lane && leading.has_io(),
                _ => false,
            });
            !has_leader && self.ios[lane].left.is_some_and(|wire| !is_there(wire))
        };
        self.lanes.drifting().filter(is_closed)
    }

    /// What `Core::stats` does where it finds such a lane.
    pub(in super::super) fn find_closed(&mut self, lane: usize) {
        self.dropped += self.lanes.lanes[lane].flights.len() as u64;
        self.overdue[lane] = false;
        self.with(|lanes| lanes.closed(lane));
    }

    /// The pool closes the connection of a lane that nobody waits on.
    pub(in super::super) fn close_left(&mut self, wire: u32) {
        self.wires.retain(|(number, _)| *number != wire);
    }

    pub(super) fn wire(&mut self, number: u32) -> &mut Wire {
        let found = self.wires.iter_mut().find(|(other, _)| *other == number);
        &mut found.expect("a connection is used that was given back").1
    }

    /// Gives a connection back, or closes it.
    pub(super) fn close(&mut self, number: u32) -> Wire {
        let lane = self.ios.iter().position(|io| io.wire == Some(number));
        assert!(
            lane.is_none_or(|lane| self.writers(lane) == 0),
            "a connection goes while somebody writes on it"
        );
        for io in &mut self.ios {
            io.wire.take_if(|wire| *wire == number);
        }
        let at = self.wires.iter().position(|(other, _)| *other == number);
        self.wires
            .remove(at.expect("a connection is closed twice"))
            .1
    }

    /// How many callers that do not lead this lane write on it.
    pub(super) fn writers(&self, lane: usize) -> usize {
        let writes = |caller: &&Caller| match &caller.at {
            At::Writing { lane: other, .. } => *other == lane,
            _ => false,
        };
        self.callers.iter().filter(writes).count()
    }

    /// Writes on a lane's connection; how much of it, or that it failed.
    pub(super) fn write(
        &mut self,
        lane: usize,
        bytes: &[u8],
        is_whole: bool,
        config: &Config,
        choices: &mut Choices,
    ) -> Result<usize, ()> {
        let number = self.ios[lane].wire;
        let wire = self.wire(number.expect("somebody writes, and there is no connection"));
        if wire.is_broken {
            return Err(());
        }
        let mut count = bytes.len();
        if config.parts && !is_whole && wire.part(bytes) < count {
            count = choices.pick(&[(1, count), (1, wire.part(bytes))]);
        }
        let (mut touched, mut executed) = (Vec::new(), Vec::new());
        for &byte in &bytes[..count] {
            wire.partial.push(byte);
            if wire.partial.len() == 1 {
                touched.push(byte);
            }
            if wire.partial.len() == head(&wire.partial, 4) as usize {
                let id = head(&wire.partial, 0);
                executed.push(id);
                wire.owed.push_back(id);
                wire.partial.clear();
            }
        }
        for byte in touched {
            let is_it = |caller: &&mut Caller| caller.id.to_le_bytes()[0] == byte;
            if let Some(caller) = self.callers.iter_mut().find(is_it) {
                caller.was_touched = true;
            }
        }
        for id in executed {
            assert!(!self.executed.contains(&id), "{id} was executed twice");
            self.executed.push(id);
            if let Some(caller) = self.callers.iter_mut().find(|caller| caller.id == id) {
                caller.was_executed = true;
            }
        }
        Ok(count)
    }

    pub(super) fn shut(&mut self, lane: usize) {
        let wire = self.ios[lane].wire.unwrap();
        self.wire(wire).is_broken = true;
    }
}

impl Wire {
    /// How many of these bytes go up to the next place at which it matters where a write stops:
    /// the first byte of a request, or its last one.
    fn part(&self, bytes: &[u8]) -> usize {
        if self.partial.is_empty() {
            return 1;
        }
        let begun: Vec<u8> = self.partial.iter().chain(bytes).copied().collect();
        head(&begun, 4) as usize - self.partial.len()
    }

    pub(super) fn has_come(&self) -> bool {
        !self.answers.is_empty()
    }
}
