//! What the core decided is done, once the lock is free.

use std::sync::Arc;

use super::{Effects, Held, Shared};
use crate::net::socket::Socket;
use crate::net::stream::Stream;
use crate::report::event::Event;
use crate::state::slots::{Closed, SlotKey};
use crate::sync::user_code::{destroy, log};

impl<C> Shared<C> {
    pub(super) fn act(self: &Arc<Self>, effects: Effects<C>) {
        for parker in effects.wake {
            parker.wake();
        }
        for socket in effects.recall {
            socket.recall();
        }
        for socket in effects.cut {
            socket.abort();
        }
        drop(effects.released);
        // Closed before others are opened: a server may count as strictly as the pool does.
        let places = effects.close.iter().filter(|closed| closed.occupies);
        let places: Vec<SlotKey> = places.map(|closed| closed.key).collect();
        let mut events = Vec::new();
        for closed in effects.close {
            self.close(closed, &mut events);
        }
        for reserved in effects.connects {
            (self.connect)(self, reserved);
        }
        if !places.is_empty() {
            self.with(|core| core.vacate(&places));
        }
        if let Some(Held { client, stream }) = effects.aborted {
            self.dispose(client, &Arc::clone(stream.socket()), stream);
        }
        if effects.drained {
            self.changed.notify_all();
        }
        if effects.wake_reaper {
            self.wake_reaper();
        }
        if effects.warn_of_hang_ups {
            log!(
                Warn,
                "the other side hangs up on one connection after the other without a byte"
            );
        }
        for event in events {
            self.tell(&event);
        }
        for error in effects.errors {
            destroy(error);
        }
    }

    /// Closes a connection that leaves; what is to be told of it comes behind the others.
    fn close(&self, closed: Closed<Held<C>, Arc<Socket>>, events: &mut Vec<Event>) {
        if closed.tell {
            events.extend(closed.events());
        }
        if closed.is_aborted {
            closed.handle.recall();
            closed.handle.abort();
        }
        if let Some(Held { client, stream }) = closed.client {
            self.dispose(client, &closed.handle, stream);
        }
    }

    /// Drops a client whose connection is not used any more, and closes its socket.
    ///
    /// The last handle on a socket closes it. A destructor of the user's may send what lies in a
    /// buffer, or block: it runs when the socket has been shut down, and elsewhere.
    pub(crate) fn dispose(&self, client: C, socket: &Arc<Socket>, stream: Stream) {
        drop(stream);
        if !self.settings.plain_client {
            socket.abort();
            return self.closer.drop_later(client);
        }
        drop(client);
        // A sweep that is just looking at the socket has a handle too.
        if Arc::strong_count(socket) > 1 {
            socket.abort();
        }
    }
}
