//! Events are told to the event function and, where its contract says so, to the log.

use std::sync::Arc;
use std::time::Duration;

use super::{Core, PING_THREAD, Shared};
use crate::report::event::Event;
use crate::report::stats::Brief;
use crate::state::core::{ConnectionEvent, EventKind};
use crate::state::slots::{CallSite, Holder, SlotKey};
use crate::sync::user_code::{guarded, log};

impl<C> Shared<C> {
    /// Tells this event of a connection, and those that happen to it meanwhile.
    pub(crate) fn tell_of_connection(self: &Arc<Self>, first: Option<ConnectionEvent>) {
        let mut next = first;
        while let Some(event) = next {
            let id = event.id;
            self.tell_one(event);
            next = self.with(|core| core.next_event(id));
        }
    }

    pub(super) fn tell_one(&self, event: ConnectionEvent) {
        let id = event.id;
        self.tell(&match event.kind {
            EventKind::Leased { waited, at } => Event::Leased { id, waited, at },
            EventKind::Overdue { held, holder, at } => {
                let thread = match &holder {
                    Holder::Caller(thread) => thread.name(),
                    Holder::Ping => Some(PING_THREAD),
                };
                let thread = thread.map(str::to_owned);
                let name = thread.as_deref().unwrap_or("without a name");
                let time = Brief(held);
                let place = at.map(|at| format!(", taken at {}:{}", at.file(), at.line()));
                let place = place.unwrap_or_default();
                log!(
                    Warn,
                    "connection {id} has been leased for {time} by thread {name}{place}"
                );
                Event::Overdue {
                    id,
                    held,
                    thread,
                    at,
                }
            }
            EventKind::Returned { held } => Event::Returned { id, held },
            EventKind::Evicted { why, age } => {
                log!(Debug, "connection {id} left after {}: {why}", Brief(age));
                Event::Evicted { id, why, age }
            }
        });
    }

    /// A lease has reached its caller.
    pub(crate) fn tell_leased(self: &Arc<Self>, key: SlotKey, waited: Duration, at: CallSite) {
        if self.settings.lease_events {
            let taker = self.watched_taker(at);
            self.tell_that(|core| core.lease_begins(key, waited, taker));
        }
    }

    /// A lease is about to end; told before anybody else can have the connection.
    pub(crate) fn tell_returned(self: &Arc<Self>, key: SlotKey) {
        if self.settings.lease_events {
            self.tell_that(|core| core.lease_ends(key));
        }
    }

    #[cold]
    #[inline(never)]
    fn tell_that(self: &Arc<Self>, of: impl FnOnce(&mut Core<C>) -> Option<ConnectionEvent>) {
        let event = self.with(of);
        self.tell_of_connection(event);
    }

    pub(crate) fn tell(&self, event: &Event) {
        let Some(on_event) = &self.functions.on_event else {
            return;
        };
        if let Err(text) = guarded(|| on_event(event)) {
            log!(Error, "the event function panicked: {text}");
        }
    }
}
