//! Sockets: where they come from, what was done to them, and what the kernel says of them.

pub(crate) mod connector;
pub(crate) mod options;
pub(crate) mod probe;
pub(crate) mod socket;
pub(crate) mod stream;
pub(crate) mod sys;
