//! Everything with threads and locks: what leases, callers and the pool's own threads do.

pub(crate) mod checkout;
pub(crate) mod connect;
pub(crate) mod connection;
pub(crate) mod reaper;
pub(crate) mod shared;
