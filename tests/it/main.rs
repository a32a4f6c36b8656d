//! Tests of the pool against real sockets, in rooms by behaviour.

mod allocation;
mod foreign_drops;
mod lines;
mod load;
mod real;
mod support;
mod tls;
