//! Tests of the pool against real sockets, in rooms by behaviour.

mod allocation;
mod line;
mod outage;
mod support;
mod waiting;
