//! The settings that are read outside the lock, and the functions that the user gave us.

use std::time::Duration;

use crate::net::options::Timeouts;
use crate::net::stream::Stream;
use crate::report::event::Event;
use crate::sync::user_code::{BoxError, Hook, destroy};

#[expect(
    clippy::struct_excessive_bools,
    reason = "settings are independent switches, not states"
)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Settings {
    pub(crate) allow_unread: bool,
    pub(crate) allow_unanswered: bool,
    pub(crate) only_finished: bool,
    pub(crate) timeouts: Timeouts,
    /// The bound on a whole handshake.
    pub(crate) handshake_timeout: Option<Duration>,
    /// Whether a lease's start must be exact, which costs `pull` a reading of the clock.
    pub(crate) exact_lease_start: bool,
    /// Whether a lease's end must be exact, which costs the drop a reading of the clock.
    pub(crate) exact_lease_end: bool,
    /// Whether each lease is told and timed.
    pub(crate) lease_events: bool,
    /// Whether to remember which thread took a lease.
    pub(crate) watches_leases: bool,
    /// Whether to do so when it is taken; one that is told is watched from when that is told.
    pub(crate) watches_untold: bool,
    /// Whether the client is the plain `Stream`, whose destructor is ours.
    pub(crate) plain_client: bool,
}

/// The functions that the user gave us, but for the factory.
pub(crate) struct Functions<C> {
    pub(crate) handshake: Handshake<C>,
    pub(crate) ping: Option<(Duration, Hook<C>)>,
    pub(crate) recycle: Option<Hook<C>>,
    pub(crate) on_event: Option<Listener>,
}

pub(crate) type Listener = Box<dyn Fn(&Event) + Send + Sync>;
pub(crate) type Handshake<C> = Box<dyn Fn(Stream) -> Result<C, BoxError> + Send + Sync>;

impl<C> Functions<C> {
    pub(crate) fn new(handshake: Handshake<C>) -> Self {
        Self {
            handshake,
            ping: None,
            recycle: None,
            on_event: None,
        }
    }

    /// Drops the functions; panics of what they captured end here.
    pub(crate) fn release(&mut self) {
        let gone = |_| Err("the pool is gone".into());
        destroy(std::mem::replace(&mut self.handshake, Box::new(gone)));
        destroy(self.ping.take());
        destroy(self.recycle.take());
        destroy(self.on_event.take());
    }
}
