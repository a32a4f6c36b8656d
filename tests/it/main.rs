//! Tests of the pool against real sockets, in rooms by behaviour.

mod allocation;
#[cfg(target_os = "linux")]
mod bad_network;
mod bounds;
mod buffered;
mod call_sites;
mod closing;
mod config;
mod connector;
mod connects;
mod control;
mod deadline;
mod destructors;
mod dialing;
mod discard;
mod documents;
mod drain;
mod edges;
mod end;
mod events;
mod faults;
mod finish;
mod free;
#[cfg(target_os = "linux")]
mod given_up;
mod hand_off;
mod handshake_options;
mod handshake_timeout;
mod hostile;
#[cfg(unix)]
mod hunted;
mod imap;
mod interface;
#[cfg(target_os = "linux")]
mod kernel_faults;
mod late_probes;
mod late_replies;
mod layers;
mod limit;
mod line;
mod lines;
mod liveness;
mod load;
mod logging;
mod matrix;
mod no_connect;
mod numbers;
mod options;
mod outage;
mod overdue;
mod panics;
mod pings;
mod pipeline;
mod pull_timeout;
mod queue_bound;
mod ready;
#[cfg(unix)]
mod real;
mod reaper;
mod recycle;
mod rescue;
mod restart;
mod retry;
mod returns;
#[cfg(target_os = "linux")]
mod scale;
mod second_try;
mod support;
mod thread_locals;
mod tls;
mod unread;
mod user_code;
#[cfg(target_os = "linux")]
mod vanished;
mod waiting;
