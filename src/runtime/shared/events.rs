//! Events are told to the event function and, where its contract says so, to the log.

use std::sync::Arc;
use std::time::Duration;

use super::{Core, Shared, taker};
use crate::report::event::{Event, Freed};
use crate::report::stats::Brief;
use crate::state::core::ConnectionEvent;
use crate::state::slots::{CallSite, SlotKey};
use crate::sync::user_code::{guarded, log};

impl<C> Shared<C> {
    /// Tells this event of a connection, and those that happen to it meanwhile.
    pub(crate) fn tell_of_connection(self: &Arc<Self>, mut next: Option<ConnectionEvent>) {
        while let Some((id, event)) = next {
            self.tell(&event);
            next = self.with(|core| core.next_event(id));
        }
    }

    /// A lease has reached its caller.
    pub(crate) fn tell_leased(self: &Arc<Self>, key: SlotKey, waited: Duration, at: CallSite) {
        if self.settings.lease_events {
            let taker = taker(at, self.settings.watches_leases);
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
        write_down(event);
        let Some(on_event) = &self.functions.on_event else {
            return;
        };
        if let Err(text) = guarded(|| on_event(event)) {
            log!(Error, "the event function panicked: {text}");
        }
    }
}

/// What stands of an event in the log.
fn write_down(event: &Event) {
    match event {
        Event::Connected { id, took } => log!(Debug, "connection {id} made in {}", Brief(*took)),
        Event::ConnectFailed { error, took } => {
            // The error may be of a type of the user's, whose `Display` may panic.
            let texts = || error.chain().map(ToString::to_string).collect::<Vec<_>>();
            let text = guarded(|| texts().join(": ")).unwrap_or_else(|panic| panic);
            log!(Warn, "connect failed after {}: {text}", Brief(*took));
        }
        Event::Evicted { id, why, age } => {
            log!(Debug, "connection {id} left after {}: {why}", Brief(*age));
        }
        Event::Overdue {
            id,
            held,
            thread,
            at,
        } => {
            let (time, name) = (Brief(*held), thread.as_deref().unwrap_or("without a name"));
            let place = at.map(|at| format!(", taken at {}:{}", at.file(), at.line()));
            let place = place.unwrap_or_default();
            log!(
                Warn,
                "connection {id} has been leased for {time} by thread {name}{place}"
            );
        }
        Event::Freed(Freed {
            kept,
            closed,
            doomed,
        }) => {
            log!(
                Debug,
                "freed: {kept} kept, {closed} closed, {doomed} doomed"
            );
        }
        Event::Ended => log!(Debug, "the pool has ended"),
        Event::Leased { .. } | Event::Returned { .. } | Event::GaveUp { .. } => {}
    }
}
