//! Tests of the pool against real sockets, in rooms by behaviour.

mod allocation;
mod foreign_drops;
mod late_replies;
mod lines;
mod liveness;
mod load;
mod options;
mod real;
mod returns;
mod support;
mod tls;
