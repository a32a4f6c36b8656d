//! The rows of the table, one module for each group.

pub(crate) mod build;
pub(crate) mod burst;
pub(crate) mod cold;
pub(crate) mod goodput;
pub(crate) mod growth;
pub(crate) mod memcached;
pub(crate) mod pipeline;
pub(crate) mod redis;
pub(crate) mod shared;
pub(crate) mod single;
pub(crate) mod size;
pub(crate) mod sweep;

use std::io;

use crate::plot::Plots;
use crate::profile;
use crate::report::Report;

/// What every group of rows gets.
pub(crate) struct Bench {
    pub(crate) report: Report,
    pub(crate) plots: Plots,
    pub(crate) quick: bool,
}

impl Bench {
    /// How many rounds: `full`, or fewer with `--quick`.
    pub(crate) fn rounds(&self, quick: usize, full: usize) -> usize {
        if self.quick { quick } else { full }
    }
}

/// A group: what to call it, and how to measure it.
pub(crate) type Group = (&'static str, fn(&mut Bench) -> io::Result<()>);

/// All of them, in the order of the table.
pub(crate) const GROUPS: [Group; 18] = [
    ("single", single::run),
    ("instructions", profile::run),
    ("idle", shared::idle),
    ("echo", shared::echo),
    ("size", size::run),
    ("sweep", sweep::run),
    ("burst", burst::run),
    ("cold", cold::run),
    ("memcached", memcached::run),
    ("grow-idle", growth::idle),
    ("grow-waiters", growth::waiters),
    ("grow-threads", growth::threads),
    ("lock", growth::model),
    ("goodput", goodput::run),
    ("shared-echo", pipeline::echo),
    ("shared-late", pipeline::late),
    ("shared-servers", pipeline::servers),
    ("build", build::run),
];
