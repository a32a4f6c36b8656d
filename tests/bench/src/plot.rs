//! The plots, from what the rows leave here.

use crate::rows::shared::{Rates, Waits};

/// What the rows have measured that is worth a picture.
#[derive(Debug, Default)]
pub(crate) struct Plots {
    pub(crate) unworked: Vec<Rates>,
    pub(crate) rates: Vec<Rates>,
    pub(crate) waits: Vec<Waits>,
}
