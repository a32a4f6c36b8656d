//! The thread that pings: `jackpot-ping`.

use std::sync::Arc;

use crate::net::probe;
use crate::report::outcome::{Eviction, PeerSignal};
use crate::runtime::shared::{Core, Held, Shared};
use crate::state::slots::{PING_THREAD, SlotKey};
use crate::sync::spawn;
use crate::sync::user_code::{guarded_call, log};

/// A lease of the pool's own, for a ping; dropped, it goes back.
struct Ping<C: Send + 'static> {
    shared: Arc<Shared<C>>,
    key: SlotKey,
    held: Option<Held<C>>,
    verdict: Option<Eviction>,
}

/// The right to ping, of which there is one.
struct Pinging<C: Send + 'static>(Arc<Shared<C>>);

/// Pings what asks for it, one at a time, on a thread of its own: a server that hangs must not
/// hang the sweep.
pub(super) fn start_pinging<C: Send + 'static>(shared: &Arc<Shared<C>>) {
    if shared.functions.ping.is_none() || !shared.with(Core::begin_pinging) {
        return;
    }
    let pinging = Pinging(Arc::clone(shared));
    let mut from = Some(0);
    let Some(first) = pinging.next(&mut from) else {
        return;
    };
    let started = spawn(PING_THREAD, move || {
        let mut next = Some(first);
        while let Some(mut ping) = next {
            ping.run();
            drop(ping);
            next = pinging.next(&mut from);
        }
    });
    if let Err(error) = started {
        log!(Warn, "cannot start the ping thread: {error}");
    }
}

impl<C: Send + 'static> Pinging<C> {
    fn next(&self, from: &mut Option<u32>) -> Option<Ping<C>> {
        let (every, _) = self.0.functions.ping.as_ref()?;
        let lease = loop {
            if let Some(found) = self.0.with(|core| core.next_ping(from, *every)) {
                break found;
            }
            from.as_ref()?;
        };
        Some(Ping {
            shared: Arc::clone(&self.0),
            key: lease.key,
            held: Some(lease.client),
            verdict: None,
        })
    }
}

impl<C: Send + 'static> Drop for Pinging<C> {
    fn drop(&mut self) {
        self.0.with(Core::end_pinging);
    }
}

impl<C: Send + 'static> Ping<C> {
    fn run(&mut self) {
        let (Some((_, ping)), Some(held)) = (&self.shared.functions.ping, &mut self.held) else {
            return;
        };
        let socket = Arc::clone(held.stream.socket());
        // Bytes that lie in it would pass for the reply to the ping.
        self.verdict = probe::verdict(&socket, self.shared.settings.allow_unread);
        if self.verdict.is_some() {
            return;
        }
        socket.set_leased(true);
        self.verdict = match guarded_call(ping, &mut held.client) {
            Ok(()) => {
                let settings = &self.shared.settings;
                socket.make_reusable(settings.allow_unanswered, settings.allow_unread)
            }
            Err(error) => {
                let id = self.key.id;
                log!(Debug, "connection {id}: ping failed: {error}");
                Some(Eviction::PingFailed)
            }
        };
        socket.set_leased(self.verdict.is_some());
    }
}

impl<C: Send + 'static> Drop for Ping<C> {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            let (key, verdict) = (self.key, self.verdict);
            let signal = PeerSignal::Silence;
            self.shared
                .with(|core| core.give_back(key, held, verdict, signal));
        }
    }
}
