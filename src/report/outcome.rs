//! Why a connection left the pool, and what its peer showed.

use std::fmt;

/// Why a connection left the pool.
///
/// `Display` gives the reason in a few words, as it stands in the log.
///
/// # Examples
///
/// ```
/// use jackpot::Eviction;
///
/// assert_eq!(Eviction::PeerClosed.to_string(), "closed by the peer");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Eviction {
    /// The other side closed it (FIN) while it was idle.
    PeerClosed,
    /// The kernel reported an error on it while it was idle, or one that its last lease did not
    /// see: reset, keepalive ran out.
    SocketError,
    /// Our sending side was shut down behind the pool's back.
    HalfClosed,
    /// Bytes that nobody read lay in it, or in its `BufStream`: they belonged to an earlier caller.
    Unread,
    /// The last thing that happened in the lease was a write, or a read that timed out; or a
    /// request followed one whose reply was late; or a `BufStream` held unsent bytes.
    Unanswered,
    /// It came back without `finish` in a pool with `only_finished(true)`.
    Unfinished,
    /// A caller saw end of file or an error on it, or shut it down.
    Broken,
    /// The thread that held it panicked.
    Panicked,
    /// The ping function failed or panicked.
    PingFailed,
    /// The recycle function failed or panicked.
    RecycleFailed,
    /// It was idle longer than `idle_timeout`.
    IdleTimeout,
    /// It was older than `max_lifetime`.
    MaxLifetime,
    /// It had been leased `max_uses` times.
    MaxUses,
    /// The limit was lowered below it, or the process ran out of descriptors.
    OverLimit,
    /// `free` closed it, or `set_factory` or `free` came while it was being made.
    Freed,
    /// The pool ended.
    Ended,
    /// The caller called `Connection::discard`, or a pipeline gave the connection up.
    Discarded,
    /// The caller called `Connection::detach`; it was not closed.
    Detached,
}

impl Eviction {
    pub(crate) const COUNT: usize = 18;

    /// Every reason there is, in the order of their declaration.
    ///
    /// # Examples
    ///
    /// ```
    /// use jackpot::{Eviction, Stats};
    ///
    /// let stats = Stats::default();
    /// assert!(Eviction::all().all(|why| stats.evicted(why) == 0));
    /// ```
    pub fn all() -> impl Iterator<Item = Self> {
        const ALL: [Eviction; Eviction::COUNT] = [
            Eviction::PeerClosed,
            Eviction::SocketError,
            Eviction::HalfClosed,
            Eviction::Unread,
            Eviction::Unanswered,
            Eviction::Unfinished,
            Eviction::Broken,
            Eviction::Panicked,
            Eviction::PingFailed,
            Eviction::RecycleFailed,
            Eviction::IdleTimeout,
            Eviction::MaxLifetime,
            Eviction::MaxUses,
            Eviction::OverLimit,
            Eviction::Freed,
            Eviction::Ended,
            Eviction::Discarded,
            Eviction::Detached,
        ];
        ALL.into_iter()
    }
}

impl fmt::Display for Eviction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PeerClosed => "closed by the peer",
            Self::SocketError => "socket error",
            Self::HalfClosed => "half-closed",
            Self::Unread => "unread bytes",
            Self::Unanswered => "unanswered",
            Self::Unfinished => "unfinished",
            Self::Broken => "broken in use",
            Self::Panicked => "caller panicked",
            Self::PingFailed => "ping failed",
            Self::RecycleFailed => "recycle failed",
            Self::IdleTimeout => "idle too long",
            Self::MaxLifetime => "too old",
            Self::MaxUses => "used up",
            Self::OverLimit => "over the limit",
            Self::Freed => "freed",
            Self::Ended => "pool ended",
            Self::Discarded => "discarded",
            Self::Detached => "detached",
        })
    }
}

/// What a lease that is over tells of the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerSignal {
    /// Nothing, or nothing new.
    Silence,
    /// A byte was once read from the connection, or it was written to and came back fit.
    Heard,
    /// The other side ended the connection, from which no byte was ever read.
    HungUp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_evictions_are_listed_once_in_order() {
        for (n, why) in Eviction::all().enumerate() {
            assert_eq!(why as usize, n);
        }
        assert_eq!(Eviction::Detached as usize + 1, Eviction::COUNT);
    }

    #[test]
    fn the_guide_explains_every_eviction_by_its_text() {
        let guide = include_str!("../../docs/GUIDE.md");
        for why in Eviction::all() {
            assert!(guide.contains(&format!("`{why}`")), "{why}");
        }
    }
}
