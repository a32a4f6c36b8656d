//! A pool.
#![warn(missing_docs)]

mod backoff;
mod builder;
mod connect;
mod connection;
mod connector;
mod convoy;
mod error;
mod event;
mod gate;
mod order;
mod pool;
mod probe;
mod pull;
mod reaper;
mod shared;
mod slots;
mod stats;
mod stream;
mod table;
mod waiters;

pub use backoff::{Backoff, Delays, Jitter};
pub use builder::Builder;
pub use connection::Connection;
pub use connector::{Connector, Factory};
pub use error::Error;
pub use event::{Close, Event, Eviction, Freed};
pub use pool::Pool;
pub use stats::{ConnectionInfo, State, Stats};
pub use stream::Stream;
