//! Tests of the pool against real sockets, in rooms by behaviour.

mod allocation;
mod config;
mod control;
mod events;
mod panics;
mod reaper;
mod support;
