//! The pool's numbers with what they mean, and Prometheus' text format of them.

use std::fmt::Write;
use std::time::Duration;

use jackpot::{Eviction, Stats};

/// A number of the pool's, and what it says.
pub(crate) struct Number {
    /// In Prometheus the name has `jackpot_` in front.
    pub(crate) name: &'static str,
    pub(crate) value: String,
    pub(crate) meaning: &'static str,
}

impl Number {
    fn new(name: &'static str, value: &impl ToString, meaning: &'static str) -> Self {
        let value = value.to_string();
        Self {
            name,
            value,
            meaning,
        }
    }
}

/// What may rise and fall.
pub(crate) fn gauges(stats: &Stats) -> [Number; 7] {
    [
        Number::new("limit", &stats.limit, "connections it may have"),
        Number::new("open", &stats.open, "connections it has: idle and leased"),
        Number::new("idle", &stats.idle, "wait for somebody to use them"),
        Number::new("leased", &stats.leased, "are in use right now"),
        Number::new("connecting", &stats.connecting, "are being made"),
        Number::new(
            "waiting",
            &stats.waiting,
            "threads that wait for a connection",
        ),
        Number::new(
            "wait_seconds_max",
            &seconds(stats.wait_max),
            "the longest wait so far",
        ),
    ]
}

/// What only ever grows.
pub(crate) fn counters(stats: &Stats) -> [Number; 6] {
    [
        Number::new(
            "allocations_total",
            &stats.allocations,
            "times a connection was handed out",
        ),
        Number::new(
            "connects_total",
            &stats.connects,
            "connections that were made",
        ),
        Number::new(
            "connect_failures_total",
            &stats.connect_failures,
            "could not be made",
        ),
        Number::new(
            "releases_total",
            &stats.releases,
            "connections that left the pool",
        ),
        Number::new(
            "waits_total",
            &stats.waits,
            "times a thread had to wait for one",
        ),
        Number::new(
            "wait_seconds_total",
            &seconds(stats.wait_total),
            "all those waits together",
        ),
    ]
}

fn seconds(duration: Duration) -> String {
    format!("{:.6}", duration.as_secs_f64())
}

pub(crate) fn text(stats: &Stats) -> String {
    let mut text = String::new();
    let gauges = gauges(stats).map(|number| ("gauge", number));
    let counters = counters(stats).map(|number| ("counter", number));
    for (
        kind,
        Number {
            name,
            value,
            meaning,
        },
    ) in gauges.into_iter().chain(counters)
    {
        let _ = write!(
            text,
            "# HELP jackpot_{name} {meaning}\n\
             # TYPE jackpot_{name} {kind}\n\
             jackpot_{name} {value}\n"
        );
    }
    text += "# HELP jackpot_evictions_total connections that left the pool, by cause\n\
             # TYPE jackpot_evictions_total counter\n";
    for why in Eviction::all() {
        let count = stats.evicted(why);
        let _ = writeln!(text, "jackpot_evictions_total{{cause=\"{why}\"}} {count}");
    }
    text
}
