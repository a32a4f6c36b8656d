//! Sockets: where they come from, what was done to them, and what the kernel says of them.

mod address;
mod attempts;
pub(crate) mod connector;
pub(crate) mod probe;
pub(crate) mod stream;
