//! Tests of the pool against real sockets, in rooms by behaviour.

mod allocation;
mod late_replies;
mod liveness;
mod options;
mod returns;
mod support;
