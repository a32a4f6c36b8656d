//! The pool's decisions. Pure: no lock, no clock, no socket, no function of the user's.

#![expect(
    clippy::inline_always,
    reason = "a part of each pull or drop, and a tenth of it if it is a call"
)]

pub(crate) mod barging;
pub(crate) mod breaker;
pub(crate) mod core;
pub(crate) mod lanes;
pub(crate) mod queue;
pub(crate) mod slots;
