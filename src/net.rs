//! Sockets: where they come from, what was done to them, and what the kernel says of them.
//!
//! Imports run one way: `buffered` → `stream` → `socket` → `options`, `sys`, and `probe` →
//! `socket`. Outside this folder they reach `report` and `sync` only.

mod address;
mod attempts;
pub(crate) mod buffered;
pub(crate) mod connector;
pub(crate) mod options;
pub(crate) mod probe;
pub(crate) mod socket;
pub(crate) mod stream;
pub(crate) mod sys;
