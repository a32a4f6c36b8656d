//! The pool's decisions. Pure: no lock, no clock, no socket, no function of the user's.

pub(crate) mod barging;
pub(crate) mod breaker;
pub(crate) mod core;
pub(crate) mod lanes;
pub(crate) mod queue;
pub(crate) mod slots;
