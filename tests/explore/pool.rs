//! Small pools: two or three places, two or three callers, a clock that stands still or moves by
//! one of a few steps.
//!
//! What the core draws is pinned to the least or the greatest, and whether there is a convoy is given:
//! its counter is checked by itself. Times are compared up to the threshold that asks for them. Not
//! in it: overdue leases, which have the random walks of `model`.

use std::time::Duration;

use super::world::World;
use super::{Ages, explore};
use crate::state::core::Rules;

pub(super) const SPACING: Duration = Duration::from_millis(100);
pub(super) const LONGEST: Duration = Duration::from_secs(1);
pub(super) const LONGEST_WINDOW: Duration = Duration::from_millis(4);

/// What there is, and what may happen.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
pub(super) struct Config {
    pub(super) limit: usize,
    /// Those to which it may be set.
    pub(super) limits: &'static [usize],
    pub(super) callers: usize,
    pub(super) rules: Rules,
    /// By how many microseconds the clock may move at once.
    pub(super) steps: &'static [u64],
    pub(super) ages: Ages,
    /// How long a connection does not answer before it is pinged.
    pub(super) pings: Option<Duration>,
    pub(super) has_reaper: bool,
    pub(super) has_convoy: bool,
    pub(super) draws_greatest: bool,
    pub(super) allocates: bool,
    pub(super) detaches: bool,
    pub(super) fails_permanently: bool,
    pub(super) sweeps: bool,
    /// Free, end and drain.
    pub(super) frees: bool,
    pub(super) changes_factory: bool,
    pub(super) abandons: bool,
    /// How many connections somebody may wait for to be open.
    pub(super) readies: &'static [u8],
}

impl Config {
    fn new(limit: usize, callers: usize) -> Self {
        Self {
            limit,
            limits: &[],
            callers,
            rules: Rules {
                max_connecting: 2,
                ..Rules::PLAIN
            },
            steps: &[],
            ages: Ages::default(),
            pings: None,
            has_reaper: false,
            has_convoy: false,
            draws_greatest: false,
            allocates: false,
            detaches: false,
            fails_permanently: false,
            sweeps: false,
            frees: false,
            changes_factory: false,
            abandons: false,
            readies: &[],
        }
    }

    pub(super) fn most_leases(&self) -> usize {
        self.limits
            .iter()
            .copied()
            .max()
            .unwrap_or(0)
            .max(self.limit)
            + 1
    }
}

const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn callers_connects_and_returns() {
    let config = Config {
        allocates: true,
        has_reaper: true,
        ..Config::new(2, 2)
    };
    explore::<World>("callers, connects, returns", &config);
}

#[test]
fn three_callers_in_a_convoy() {
    let config = Config {
        has_convoy: true,
        steps: &[64, 128],
        ..Config::new(1, 3)
    };
    explore::<World>("convoy", &config);
}

fn outage(draws_greatest: bool) -> Config {
    Config {
        allocates: true,
        fails_permanently: true,
        draws_greatest,
        steps: &[100_000, 1_000_000],
        ..Config::new(2, 2)
    }
}

#[test]
fn an_outage_with_the_shortest_pauses() {
    explore::<World>("outage, shortest", &outage(false));
}

#[test]
fn an_outage_with_the_longest_pauses() {
    explore::<World>("outage, longest", &outage(true));
}

#[test]
fn limits_and_factories_that_change() {
    let config = Config {
        limits: &[0, 1, 2],
        changes_factory: true,
        ..Config::new(2, 2)
    };
    explore::<World>("limits, factories", &config);
}

#[test]
fn free_end_and_drain() {
    let config = Config {
        frees: true,
        detaches: true,
        ..Config::new(2, 2)
    };
    explore::<World>("free, end, drain", &config);
}

#[test]
fn sweeps_and_pings() {
    let rules = Rules {
        min_idle: 1,
        idle_timeout: Some(millis(300)),
        max_lifetime: Some(millis(600)),
        ..Config::new(2, 2).rules
    };
    let config = Config {
        rules,
        sweeps: true,
        has_reaper: true,
        pings: Some(millis(300)),
        steps: &[300_000],
        ages: Ages {
            idle: millis(900),
            silence: millis(300),
            hang_ups: false,
        },
        ..Config::new(2, 1)
    };
    explore::<World>("sweeps, pings", &config);
}

#[test]
fn a_server_that_hangs_up() {
    let config = Config {
        steps: &[100_000, 1_000_000],
        ages: Ages {
            hang_ups: true,
            ..Ages::default()
        },
        ..Config::new(1, 2)
    };
    explore::<World>("hang-ups", &config);
}

#[test]
fn three_places() {
    explore::<World>("three places", &Config::new(3, 2));
}

#[test]
fn connections_that_are_used_up_and_a_line_that_is_full() {
    let config = Config {
        rules: Rules {
            max_uses: Some(2),
            max_waiting: Some(1),
            ..Config::new(2, 3).rules
        },
        ..Config::new(2, 3)
    };
    explore::<World>("uses, a full line", &config);
}

#[test]
fn leases_that_are_abandoned() {
    let config = Config {
        abandons: true,
        frees: true,
        limits: &[1, 2],
        ..Config::new(2, 2)
    };
    explore::<World>("abandoned leases", &config);
}

#[test]
fn waiting_for_connections_to_be_open() {
    let config = Config {
        readies: &[1, 2],
        limits: &[1, 2],
        fails_permanently: true,
        ..Config::new(2, 1)
    };
    explore::<World>("wait_ready", &config);
}
