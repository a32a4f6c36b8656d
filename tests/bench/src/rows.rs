//! The rows of the table, one module for each group.

pub(crate) mod single;

use crate::report::Report;

/// What every row gets.
pub(crate) struct Bench {
    pub(crate) report: Report,
    pub(crate) quick: bool,
}

impl Bench {
    /// How many rounds: `full`, or fewer with `--quick`.
    pub(crate) fn rounds(&self, quick: usize, full: usize) -> usize {
        if self.quick { quick } else { full }
    }
}
