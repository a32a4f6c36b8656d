//! Tests of the pool against real sockets, in rooms by behaviour.

mod allocation;
mod bounds;
mod buffered;
mod call_sites;
mod closing;
mod config;
mod connector;
mod control;
mod deadline;
mod documents;
mod events;
mod faults;
mod foreign_drops;
#[cfg(target_os = "linux")]
mod given_up;
mod handshake_options;
mod handshake_timeout;
mod hostile;
#[cfg(unix)]
mod imap;
mod interface;
mod late_replies;
mod layers;
mod line;
mod lines;
mod liveness;
mod load;
mod looks;
mod matrix;
mod numbers;
mod options;
mod outage;
mod panics;
mod queue_bound;
mod ready;
#[cfg(unix)]
mod real;
mod reaper;
mod rescue;
mod retry;
mod returns;
#[cfg(target_os = "linux")]
mod scale;
mod second_try;
mod support;
mod thread_locals;
mod tls;
#[cfg(target_os = "linux")]
mod vanished;
mod waiting;
