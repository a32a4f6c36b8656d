//! What a user is told: errors, events, numbers.

pub(crate) mod call_error;
pub(crate) mod error;
pub(crate) mod event;
pub(crate) mod histogram;
pub(crate) mod outcome;
pub(crate) mod pipeline_stats;
pub(crate) mod stats;
