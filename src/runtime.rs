//! Everything with threads and locks: what leases, callers and the pool's own threads do.

pub(crate) mod checkout;
pub(crate) mod closer;
pub(crate) mod connect;
pub(crate) mod connection;
pub(crate) mod parker;
pub(crate) mod pinger;
pub(crate) mod ready;
pub(crate) mod reaper;
pub(crate) mod retry;
pub(crate) mod settings;
pub(crate) mod shared;
