//! The plots, from what the rows leave here.

use crate::rows::burst::Burst;
use crate::rows::shared::{Rates, Waits};
use crate::rows::size::Cost;

/// What the rows have measured that is worth a picture.
#[derive(Debug, Default)]
pub(crate) struct Plots {
    pub(crate) unworked: Vec<Rates>,
    pub(crate) rates: Vec<Rates>,
    pub(crate) waits: Vec<Waits>,
    pub(crate) sizes: Vec<Cost>,
    /// jackpot's and r2d2's.
    pub(crate) bursts: Option<(Burst, Burst)>,
}
