//! The fleet, its server, and what happens between them, in steps of a millisecond.

use std::collections::VecDeque;
use std::time::Duration;

use jackpot::{Backoff, Delays};

/// When the server comes back; it goes away at 0.
pub(crate) const RETURN: u32 = 60_000;
/// When the simulation ends, whoever is back by then.
const END: u32 = 400_000;
/// Everybody has noticed that the server is away by then.
const NOTICE: u32 = 1_000;
/// How long a connect takes to be answered.
const ROUND_TRIP: u32 = 1;
/// When Linux sends a SYN again that nobody answered, after the first one.
const AGAIN: [u32; 2] = [1_000, 3_000];
/// `Connector`'s default.
const CONNECT_TIMEOUT: u32 = 5_000;
/// `Builder::max_connecting`'s default.
const MAX_CONNECTING: u32 = 4;
/// `src/state/breaker.rs`.
const SPACING: u32 = 100;
const LONGEST: u32 = 1_000;

/// What a fleet is made of.
#[derive(Clone, Debug)]
pub(crate) struct Fleet {
    pub(crate) processes: u32,
    /// Threads in each process that wait for a connection each, and keep it.
    pub(crate) callers: u32,
    /// Whether each process connects as the pool does; otherwise every retry is a connect.
    pub(crate) gate: bool,
    pub(crate) backoff: Backoff,
}

/// What the server can take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Server {
    /// Connections that it accepts in a second.
    pub(crate) accepts: u32,
    /// How many may wait to be accepted; a SYN beyond is dropped.
    pub(crate) backlog: u32,
}

/// What was seen.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Connects begun in each tenth of a second.
    pub(crate) begun: Vec<u32>,
    /// Refused while the server was away.
    pub(crate) refused: u64,
    /// Given up after the server's return, because its backlog was full.
    pub(crate) timed_out: u64,
    /// When each client that is back was accepted, in milliseconds since the return, in order.
    pub(crate) back: Vec<f64>,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// A caller finds its connection dead and calls `pull`.
    Call(u32),
    /// A caller's delay is over.
    Retry(u32),
    /// The pause before the pool's own next connect is over.
    Alarm(u32),
    /// A process's SYN arrives, for the nth time.
    Syn(u32, u8),
    Refused(u32),
    TimedOut(u32),
    /// A connect is answered, and will be accepted at this many milliseconds since the return.
    Connected(u32, f64),
}

struct Process {
    /// Callers without a connection, oldest first.
    waiting: VecDeque<u32>,
    /// Those of them whose try is not decided yet, oldest first.
    trying: VecDeque<u32>,
    connecting: u32,
    last_start: Option<u32>,
    /// While the gate is shut: the pause, and when the pool tries again.
    outage: Option<(u32, u32)>,
}

/// `SplitMix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `low ..= high`.
    fn between(&mut self, low: u32, high: u32) -> u32 {
        let span = u64::from(high - low) + 1;
        // Below `span`, which is below 2³³.
        low + u32::try_from(self.next() % span).unwrap_or(0)
    }
}

struct Simulation<'a> {
    fleet: &'a Fleet,
    server: Server,
    random: Random,
    now: u32,
    /// What happens in each millisecond.
    calendar: Vec<Vec<Event>>,
    processes: Vec<Process>,
    /// Each caller's, from its first failed try on.
    delays: Vec<Option<Delays>>,
    served: Vec<bool>,
    /// When the server has accepted all that it has promised, in milliseconds since its return.
    busy_until: f64,
    outcome: Outcome,
}

/// Runs one outage. The seed decides all but the delays, which are `Backoff`'s own.
pub(crate) fn run(fleet: &Fleet, server: Server, seed: u64) -> Outcome {
    let callers = (fleet.processes * fleet.callers) as usize;
    let process = || Process {
        waiting: VecDeque::new(),
        trying: VecDeque::new(),
        connecting: 0,
        last_start: None,
        outage: None,
    };
    let mut simulation = Simulation {
        fleet,
        server,
        random: Random(seed),
        now: 0,
        calendar: vec![Vec::new(); END as usize],
        processes: (0..fleet.processes).map(|_| process()).collect(),
        delays: vec![None; callers],
        served: vec![false; callers],
        busy_until: 0.0,
        outcome: Outcome {
            begun: vec![0; END as usize / 100],
            refused: 0,
            timed_out: 0,
            back: Vec::new(),
        },
    };
    simulation.run();
    simulation.outcome
}

impl Simulation<'_> {
    fn run(&mut self) {
        for caller in 0..self.fleet.processes * self.fleet.callers {
            let at = self.random.between(0, NOTICE - 1);
            self.at(at, Event::Call(caller));
        }
        while self.now < END && self.outcome.back.len() < self.served.len() {
            let mut events = std::mem::take(&mut self.calendar[self.now as usize]);
            // What happens in one millisecond happens in no particular order.
            for last in (1..events.len()).rev() {
                let last = u32::try_from(last).unwrap_or(u32::MAX);
                let other = self.random.between(0, last);
                events.swap(last as usize, other as usize);
            }
            for event in events {
                self.happen(event);
            }
            self.now += 1;
        }
        self.outcome.back.sort_by(f64::total_cmp);
    }

    fn at(&mut self, time: u32, event: Event) {
        if let Some(events) = self.calendar.get_mut(time.max(self.now + 1) as usize) {
            events.push(event);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Call(caller) => {
                let process = self.process_of(caller);
                self.processes[process as usize].waiting.push_back(caller);
                self.attempt(process, caller);
            }
            Event::Retry(caller) => {
                if !self.served[caller as usize] {
                    self.attempt(self.process_of(caller), caller);
                }
            }
            Event::Alarm(process) => self.start_due(process),
            Event::Syn(process, nth) => self.arrive(process, nth),
            Event::Refused(process) => {
                self.outcome.refused += 1;
                self.fail(process);
            }
            Event::TimedOut(process) => {
                self.outcome.timed_out += 1;
                self.fail(process);
            }
            Event::Connected(process, accepted) => self.connected(process, accepted),
        }
    }

    fn process_of(&self, caller: u32) -> u32 {
        caller / self.fleet.callers
    }

    /// A caller tries: it connects, waits for a connect that is due, or shares the last failure.
    fn attempt(&mut self, process: u32, caller: u32) {
        let now = self.now;
        let state = &mut self.processes[process as usize];
        if self.fleet.gate && state.outage.is_some() {
            let spaced = state.last_start.is_none_or(|start| now - start >= SPACING);
            if state.connecting > 0 || !spaced {
                return self.sleep(caller);
            }
            state.trying.push_back(caller);
            return self.start(process);
        }
        state.trying.push_back(caller);
        if self.fleet.gate {
            self.start_due(process);
        } else {
            self.start(process);
        }
    }

    /// A caller's try has failed: it sleeps for as long as its `Backoff` says.
    fn sleep(&mut self, caller: u32) {
        let backoff = &self.fleet.backoff;
        let delays = self.delays[caller as usize].get_or_insert_with(|| backoff.delays());
        if let Some(delay) = delays.next() {
            let delay = u32::try_from(delay.as_millis()).unwrap_or(END);
            self.at(self.now.saturating_add(delay), Event::Retry(caller));
        }
    }

    fn start(&mut self, process: u32) {
        self.outcome.begun[self.now as usize / 100] += 1;
        let state = &mut self.processes[process as usize];
        state.connecting += 1;
        state.last_start = Some(self.now);
        self.arrive(process, 0);
    }

    fn arrive(&mut self, process: u32, nth: u8) {
        let answer = self.now + ROUND_TRIP;
        let Some(since) = self.now.checked_sub(RETURN) else {
            return self.at(answer, Event::Refused(process));
        };
        let since = f64::from(since);
        let each = 1_000.0 / f64::from(self.server.accepts);
        let free = self.busy_until.max(since);
        if (free - since) / each < f64::from(self.server.backlog) {
            self.busy_until = free + each;
            return self.at(answer, Event::Connected(process, self.busy_until));
        }
        let begun = self.now - nth.checked_sub(1).map_or(0, |n| AGAIN[usize::from(n)]);
        match AGAIN.get(usize::from(nth)) {
            Some(after) => self.at(begun + after, Event::Syn(process, nth + 1)),
            None => self.at(begun + CONNECT_TIMEOUT, Event::TimedOut(process)),
        }
    }

    fn connected(&mut self, process: u32, accepted: f64) {
        let state = &mut self.processes[process as usize];
        state.connecting -= 1;
        state.outage = None;
        if let Some(caller) = state.waiting.pop_front() {
            state.trying.retain(|&other| other != caller);
            self.served[caller as usize] = true;
            self.outcome.back.push(accepted);
        }
        self.start_due(process);
    }

    fn fail(&mut self, process: u32) {
        let state = &mut self.processes[process as usize];
        state.connecting -= 1;
        if self.fleet.gate {
            let pause = state
                .outage
                .map_or(SPACING, |(pause, _)| (pause * 2).min(LONGEST));
            let drawn = self.random.between((pause / 2).max(SPACING), pause);
            let retry_at = state.last_start.unwrap_or(self.now) + drawn;
            state.outage = Some((pause, retry_at));
        }
        // Tries for which no connect is under way fail too.
        while let Some(caller) = self.without_connect(process) {
            self.sleep(caller);
        }
        self.start_due(process);
    }

    fn without_connect(&mut self, process: u32) -> Option<u32> {
        let state = &mut self.processes[process as usize];
        let without_connect = state.trying.len() > state.connecting as usize;
        without_connect.then(|| state.trying.pop_back()).flatten()
    }

    /// Starts the connects that are due, or sets the alarm for the next one.
    fn start_due(&mut self, process: u32) {
        if !self.fleet.gate {
            return;
        }
        loop {
            let state = &self.processes[process as usize];
            if state.connecting as usize >= state.waiting.len() {
                return;
            }
            match state.outage {
                None if state.connecting < MAX_CONNECTING => self.start(process),
                Some((_, retry_at)) if state.connecting == 0 => {
                    if retry_at > self.now {
                        return self.at(retry_at, Event::Alarm(process));
                    }
                    self.start(process);
                }
                _ => return,
            }
        }
    }
}

impl Outcome {
    /// Connects begun in the busiest second after the return.
    pub(crate) fn peak(&self) -> u32 {
        let after = &self.begun[RETURN as usize / 100..];
        let seconds = after.windows(10).map(|tenths| tenths.iter().sum());
        seconds.max().unwrap_or(0)
    }

    /// Connects begun in a second, on average over the second half of the outage.
    pub(crate) fn knocking(&self) -> f64 {
        let half = &self.begun[RETURN as usize / 200..RETURN as usize / 100];
        f64::from(half.iter().sum::<u32>()) / Duration::from_millis(RETURN.into()).as_secs_f64()
            * 2.0
    }

    /// Seconds from the return until so many of a hundred clients are back.
    pub(crate) fn back_after(&self, percent: usize, clients: usize) -> Option<f64> {
        let rank = (clients * percent).div_ceil(100);
        self.back.get(rank.checked_sub(1)?).map(|ms| ms / 1_000.0)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use jackpot::{Jitter, Pool};

    use super::*;

    const SERVER: Server = Server {
        accepts: 1_000,
        backlog: 100,
    };

    fn fleet(processes: u32, callers: u32, gate: bool) -> Fleet {
        Fleet {
            processes,
            callers,
            gate,
            backoff: Backoff::new().retries(u32::MAX),
        }
    }

    #[test]
    fn every_connect_is_refused_timed_out_or_somebody_is_back() {
        for (processes, callers, gate) in [(2_000, 1, false), (2_000, 1, true), (20, 100, true)] {
            let outcome = run(&fleet(processes, callers, gate), SERVER, 7);
            assert_eq!(outcome.back.len(), 2_000);
            let begun: u64 = outcome.begun.iter().map(|&n| u64::from(n)).sum();
            assert_eq!(begun, outcome.refused + outcome.timed_out + 2_000);
            assert!(outcome.back.windows(2).all(|pair| pair[1] > pair[0]));
        }
    }

    #[test]
    fn without_jitter_the_same_seed_gives_the_same_figures() {
        let mut fleet = fleet(500, 1, false);
        fleet.backoff = fleet.backoff.jitter(Jitter::None);
        let (one, two) = (run(&fleet, SERVER, 7), run(&fleet, SERVER, 7));
        assert_eq!((one.begun, one.back), (two.begun, two.back));
    }

    #[test]
    fn the_simulated_gate_connects_as_often_as_the_pool() {
        const SECONDS: u32 = 5;
        let connects = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&connects);
        let factory = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            Err(io::ErrorKind::ConnectionRefused.into())
        };
        let pool = Pool::builder(factory)
            .backoff(Backoff::new().retries(u32::MAX))
            .build()
            .unwrap();
        let pulled = pool.pull_timeout(Duration::from_secs(SECONDS.into()));
        assert!(pulled.is_err_and(|error| error.is_timeout()));
        let real = connects.load(Ordering::Relaxed);
        let simulated: Vec<u32> = (0..50)
            .map(|seed| {
                let begun = run(&fleet(1, 1, true), SERVER, seed).begun;
                // The caller notices within the first second: one second less is certain.
                begun[..=(SECONDS as usize * 10 + 5)].iter().sum()
            })
            .collect();
        let (least, most) = (
            simulated.iter().min().unwrap(),
            simulated.iter().max().unwrap(),
        );
        assert!(
            (least - 2..=most + 2).contains(&real),
            "{real} connects, {least} to {most} in the simulation"
        );
    }
}
