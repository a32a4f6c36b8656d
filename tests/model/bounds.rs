//! What a transition costs does not depend on how many wait, or how many slots there are.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::report::error::Error;
use crate::report::outcome::{Eviction, PeerSignal};
use crate::state::core::{Caller, Core, Dead, Reserved, Rules, Turn};
use crate::state::slots::{Lease, Taker};

const FEW: usize = 500;
/// So many times as many, that whoever walks shows.
const MANY: usize = 32 * FEW;
const ROUNDS: u32 = 200;

/// A pool whose only connection is leased, and a crowd that waits for it, asleep.
struct Crowd {
    core: Core<(), (), ()>,
    /// One that is under way where the limit leaves a place.
    connect: Option<Reserved>,
    lease: Option<Lease<()>>,
    waiters: VecDeque<Caller<()>>,
    now: Instant,
}

fn caller() -> Caller<()> {
    Caller::new((), true, Taker::default())
}

impl Crowd {
    fn new(waiting: usize, limit: usize) -> Self {
        let now = Instant::now();
        let mut core = Core::new(1, Rules::PLAIN, Backoff::new(), now);
        let mut first = caller();
        assert!(matches!(core.enter(&mut first), Turn::Pending(_)));
        let connect = core.take_effects().connects[0];
        core.connected(connect.key, (), ());
        let Turn::Granted(lease) = core.poll(&mut first) else {
            panic!("a connection was made");
        };
        let mut waiters: VecDeque<_> = (0..waiting).map(|_| caller()).collect();
        for waiter in &mut waiters {
            assert!(matches!(core.enter(waiter), Turn::Failed(..)));
        }
        core.set_limit(limit);
        let connect = core.take_effects().connects.pop();
        Self {
            core,
            connect,
            lease: Some(lease),
            waiters,
            now,
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.core.advance(self.now);
    }
}

/// The time that some rounds of something take before so many waiters; the best of a few.
fn time(waiting: usize, limit: usize, round: impl Fn(&mut Crowd)) -> Duration {
    let run = |_| {
        let mut crowd = Crowd::new(waiting, limit);
        let begun = Instant::now();
        for _ in 0..ROUNDS {
            round(&mut crowd);
            crowd.core.take_effects();
        }
        begun.elapsed()
    };
    (0..5).map(run).min().unwrap()
}

#[track_caller]
fn assert_costs_the_same(limit: usize, round: impl Fn(&mut Crowd)) {
    if cfg!(miri) {
        return;
    }
    // On a busy machine one of the two may be held up each time: so there are several tries.
    let measure = || (time(FEW, limit, &round), time(MANY, limit, &round));
    let mut measured = std::iter::repeat_with(measure).take(10);
    let is_flat = measured.any(|(few, many)| many < few * 8);
    assert!(is_flat, "it takes longer before many than before few");
}

#[test]
fn a_retry_walks_no_line() {
    assert_costs_the_same(1, |crowd| {
        let last = crowd.waiters.back_mut().unwrap();
        assert!(matches!(crowd.core.retry(last), Turn::Failed(..)));
    });
}

#[test]
fn another_factory_walks_no_line() {
    assert_costs_the_same(1, |crowd| crowd.core.factory_changed());
}

#[test]
fn a_failed_connect_walks_no_line() {
    let fails = |crowd: &mut Crowd, connect: Reserved| {
        let error = Error::Connect(std::io::ErrorKind::ConnectionRefused.into());
        crowd.core.connect_failed(connect.key, error.into());
        crowd.core.poll(&mut crowd.waiters[0]);
        crowd.core.take_effects();
    };
    assert_costs_the_same(2, |crowd| {
        if let Some(connect) = crowd.connect.take() {
            fails(crowd, connect);
        }
        crowd.pass(Duration::from_secs(2));
        crowd.core.retry(&mut crowd.waiters[0]);
        let connect = crowd.core.take_effects().connects[0];
        fails(crowd, connect);
    });
}

#[test]
fn a_dead_connection_on_its_way_walks_no_line() {
    assert_costs_the_same(1, |crowd| {
        let lease = crowd.lease.take().unwrap();
        crowd.core.give_back(lease.key, (), None, PeerSignal::Heard);
        let first = &mut crowd.waiters[0];
        let Turn::Granted(lease) = crowd.core.poll(first) else {
            panic!("the first waiter is served");
        };
        let dead = Dead {
            lease,
            why: Eviction::PeerClosed,
            silent: false,
        };
        assert!(matches!(
            crowd.core.come_back(first, dead),
            Turn::Pending(_)
        ));
        let effects = crowd.core.take_effects();
        let mut closed: Vec<_> = effects.close.iter().collect();
        closed.retain(|closed| closed.occupies);
        let keys: Vec<_> = closed.iter().map(|closed| closed.key).collect();
        crowd.core.vacate(&keys);
        let vacated = crowd.core.take_effects();
        let mut connects = effects.connects.iter().chain(&vacated.connects);
        let connect = connects.next().unwrap();
        crowd.core.connected(connect.key, (), ());
        let Turn::Granted(lease) = crowd.core.poll(first) else {
            panic!("it is at its old place");
        };
        crowd.lease = Some(lease);
        // For the next round: the last comer of all.
        *first = caller();
        crowd.core.enter(first);
        let first = crowd.waiters.pop_front().unwrap();
        crowd.waiters.push_back(first);
    });
}

#[test]
fn a_search_for_the_next_ping_goes_in_batches() {
    let mut crowd = Crowd::new(0, MANY);
    for _ in 0..200 {
        crowd.core.enter(&mut caller());
        let connects = crowd.core.take_effects().connects;
        for connect in connects {
            crowd.core.connected(connect.key, (), ());
        }
    }
    let (mut from, mut searches) = (Some(0), 0);
    while from.is_some() {
        let found = crowd.core.next_ping(&mut from, Duration::from_secs(60));
        assert!(found.is_none());
        searches += 1;
    }
    assert_eq!(searches, 201_usize.div_ceil(64));
}

/// The least time that pings take among so many idle connections; the older neighbour of each that
/// is pinged leaves meanwhile.
fn time_of_pings(idle: usize) -> Duration {
    let run = |_| {
        let mut crowd = Crowd::new(0, idle);
        let ready = crowd.core.begin_ready(idle, ());
        crowd.core.refill();
        loop {
            let connects = crowd.core.take_effects().connects;
            if connects.is_empty() {
                break;
            }
            for connect in connects {
                crowd.core.connected(connect.key, (), ());
                crowd.pass(Duration::from_micros(1));
            }
        }
        crowd.core.end_ready(ready);
        let mut took = Duration::ZERO;
        let last = crowd.core.slots().len();
        for index in (last - 2 * ROUNDS..last).step_by(2).skip(1) {
            let (mut from, core) = (Some(index), &mut crowd.core);
            let neighbour = core.slots().key(index - 1);
            let lease = core.next_ping(&mut from, Duration::ZERO).unwrap();
            assert_eq!(lease.key.index, index);
            let mut seen = Vec::new();
            core.inspect(index - 1..index, &mut seen, &mut Vec::new());
            let period = seen[0].0;
            assert_eq!(period.key, neighbour);
            assert!(core.evict_idle(period, Eviction::PeerClosed, false));
            core.take_effects();
            let begun = Instant::now();
            core.give_back(lease.key, (), None, PeerSignal::Silence);
            took += begun.elapsed();
        }
        took
    };
    (0..5).map(run).min().unwrap()
}

#[test]
fn a_ping_whose_neighbour_left_walks_no_idle_ones() {
    if cfg!(miri) {
        return;
    }
    let (few, many) = (time_of_pings(FEW), time_of_pings(MANY));
    assert!(many < few * 8, "{many:?} among many, {few:?} among few");
}

#[test]
fn nobody_overtakes_a_waiter_whose_window_is_over() {
    let mut crowd = Crowd::new(0, 1);
    for _ in 0..100 {
        crowd.core.convoy().handed_off(crowd.now);
    }
    let mut waiter = caller();
    assert!(matches!(crowd.core.enter(&mut waiter), Turn::Failed(..)));
    let lease = crowd.lease.take().unwrap();
    let key = lease.key;
    crowd.core.give_back(key, (), None, PeerSignal::Heard);
    let barging = crowd
        .core
        .take(true, Taker::default())
        .expect("its window is open");
    crowd
        .core
        .give_back(barging.key, (), None, PeerSignal::Heard);
    // Of one waiter the window is 64 µs long.
    crowd.pass(Duration::from_micros(64));
    assert!(crowd.core.take(true, Taker::default()).is_none());
    let mut late = caller();
    crowd.core.enter(&mut late);
    assert!(matches!(crowd.core.poll(&mut waiter), Turn::Granted(_)));
}
