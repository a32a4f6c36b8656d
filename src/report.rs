//! What a user is told: errors, events, numbers.

pub(crate) mod error;
pub(crate) mod event;
pub(crate) mod histogram;
pub(crate) mod outcome;
pub(crate) mod stats;
