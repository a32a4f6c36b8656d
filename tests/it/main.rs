//! Tests of the pool against real sockets, in rooms by behaviour.

mod allocation;
mod closing;
mod config;
mod connector;
mod control;
mod events;
mod faults;
mod foreign_drops;
mod hostile;
mod late_replies;
mod line;
mod lines;
mod liveness;
mod load;
mod matrix;
mod options;
mod outage;
mod panics;
#[cfg(unix)]
mod real;
mod reaper;
mod returns;
#[cfg(target_os = "linux")]
mod scale;
mod support;
mod tls;
#[cfg(target_os = "linux")]
mod vanished;
mod waiting;
