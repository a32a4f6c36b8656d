//! Room for ten thousand sockets.

use std::io;

/// What a process needs besides the sockets that are measured.
const SPARE: u64 = 100;

/// Raises the limit on open descriptors as far as the system lets it; how many sockets fit.
pub(crate) fn raise_limit() -> io::Result<usize> {
    let limit = rlimit::increase_nofile_limit(1 << 16)?;
    Ok(usize::try_from(limit.saturating_sub(SPARE)).unwrap_or(usize::MAX))
}
