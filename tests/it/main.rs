//! Tests of the pool against real sockets, in rooms by behaviour.

mod allocation;
mod lines;
mod load;
mod real;
mod support;
mod tls;
