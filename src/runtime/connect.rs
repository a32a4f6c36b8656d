//! The threads that connect: `jackpot-connect`.
//!
//! A connect runs on a thread of its own, so that a caller can take whichever comes first, the
//! connection that is made for it or one that comes back, and so that its time-out holds however
//! long the factory takes. The thread goes on as long as another connect is wanted, then ends.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use crate::net::connector::Factory;
use crate::net::options::Owner;
use crate::net::stream::Stream;
use crate::net::sys;
use crate::report::error::Error;
use crate::report::event::Event;
use crate::report::outcome::Eviction;
use crate::report::stats::Brief;
use crate::runtime::reaper::CLOSE_BATCH;
use crate::runtime::shared::{Core, Held, Shared};
use crate::state::core::Reserved;
use crate::sync::user_code::{BoxError, destroy, guarded};
use crate::sync::{now, spawn, thread};

/// How long a connect that needs a descriptor waits for clients to be dropped.
const DROP_WAIT: Duration = Duration::from_secs(1);

/// A slot under construction; dropped unused, it gives the slot back and serves a waiter.
struct Reservation<C: Send + 'static> {
    shared: Arc<Shared<C>>,
    reserved: Option<Reserved>,
}

/// Starts a thread that makes this connection.
pub(crate) fn start<C: Send + 'static>(shared: &Arc<Shared<C>>, reserved: Reserved) {
    Reservation::new(shared, reserved).start();
}

impl<C: Send + 'static> Drop for Reservation<C> {
    fn drop(&mut self) {
        if self.reserved.is_none() {
            return;
        }
        let text = if thread::panicking() {
            "the thread that connects panicked"
        } else {
            "no thread could be started to connect"
        };
        let error = Error::Connect(io::Error::other(text));
        if let Some(next) = self.fail(error, Duration::ZERO) {
            next.start();
        }
    }
}

impl<C: Send + 'static> Reservation<C> {
    fn new(shared: &Arc<Shared<C>>, reserved: Reserved) -> Self {
        Self {
            shared: Arc::clone(shared),
            reserved: Some(reserved),
        }
    }

    fn start(self) {
        // Where no thread can be started, the closure is dropped and the reservation with it.
        let _ = spawn("jackpot-connect", move || {
            let mut next = Some(self);
            while let Some(reservation) = next {
                next = reservation.make();
            }
        });
    }

    /// Makes the connection; the next one that this thread is to make.
    fn make(mut self) -> Option<Self> {
        let reserved = self.reserved?;
        let started = now();
        let Some(factory) = self.shared.factory() else {
            self.reserved = None;
            self.shared.with(|core| core.connect_dropped(reserved.key));
            return None;
        };
        let made = self
            .open(&*factory, reserved.needed)
            .and_then(refuse_echo)
            .map_err(Error::Connect)
            .and_then(|tcp| self.set_up(reserved, tcp));
        destroy(factory);
        let took = now().saturating_duration_since(started);
        match made {
            Ok(held) => self.succeed(reserved, held, took),
            Err(error) => self.fail(error, took),
        }
    }

    /// Opens a socket, at the cost of idle ones where the process has run out of descriptors.
    fn open(&self, factory: &dyn Factory, needed: bool) -> io::Result<TcpStream> {
        loop {
            let opened = guarded(|| factory.connect()).unwrap_or_else(|text| {
                Err(io::Error::other(format!("the factory panicked: {text}")))
            });
            let retry = opened
                .as_ref()
                .is_err_and(|error| sys::is_out_of_descriptors(error) && self.give_up_some(needed));
            if !retry {
                return opened;
            }
        }
    }

    /// Gives descriptors up: those of the dead, or an idle one for a connect that is needed.
    fn give_up_some(&self, needed: bool) -> bool {
        let gave_up = self
            .shared
            .with(|core| core.close_left(CLOSE_BATCH) > 0 || needed && core.evict_oldest());
        if gave_up {
            // A descriptor is free once the client over it has been dropped.
            self.shared.closer.wait(DROP_WAIT);
        }
        gave_up
    }

    /// Makes a client of a new socket, unless nobody counts on it any more.
    ///
    /// From here on the core has a handle on the socket, so that `Close::Hard` can cut a handshake
    /// that hangs. A failed connect's place is free only when its socket has been shut down, so that
    /// the core's handle is closed after it does no harm.
    fn set_up(&self, reserved: Reserved, tcp: TcpStream) -> Result<Held<C>, Error> {
        let stream = Stream::new(tcp);
        let socket = Arc::clone(stream.socket());
        let handle = Arc::clone(&socket);
        if !self.shared.with(|core| core.opened(reserved.key, handle)) {
            let text = "aborted by `free` or `end` while it connected";
            let error = io::Error::new(io::ErrorKind::ConnectionAborted, text);
            return Err(Error::Connect(error));
        }
        let made = self.shake_hands(stream);
        if made.is_err() {
            socket.abort();
        }
        made
    }

    fn shake_hands(&self, stream: Stream) -> Result<Held<C>, Error> {
        let (socket, settings) = (stream.socket(), &self.shared.settings);
        let timeouts = settings.timeouts.set(socket.tcp());
        timeouts.map_err(Error::Connect)?;
        let bound = settings.handshake_timeout;
        let deadline = bound.and_then(|bound| now().checked_add(bound));
        let bounded = socket.set_deadline(Owner::Pool, deadline);
        bounded.map_err(Error::Connect)?;
        let client = guarded(|| (self.shared.functions.handshake)(stream.another()))
            .unwrap_or_else(|text| Err(format!("the handshake panicked: {text}").into()))
            .map_err(|source: BoxError| {
                let is_late = deadline.is_some_and(|deadline| deadline <= now());
                Error::Handshake(match bound.filter(|_| is_late) {
                    Some(bound) => {
                        let error = HandshakeTimedOut { bound, source };
                        // So that it has a kind, whatever the handshake made of it.
                        Arc::new(io::Error::new(io::ErrorKind::TimedOut, error))
                    }
                    None => Arc::from(source),
                })
            })?;
        let unfit = socket.end_handshake(settings.timeouts, settings.allow_unread);
        if let Some(why) = unfit {
            let socket = Arc::clone(socket);
            self.shared.dispose(client, &socket, stream);
            let text = match why {
                Eviction::Unanswered => "the handshake left bytes unsent in its buffer".to_owned(),
                Eviction::Unread => "the handshake left bytes unread in its buffer".to_owned(),
                why => format!("the connection was {why} during the handshake"),
            };
            return Err(Error::Handshake(Arc::from(BoxError::from(text))));
        }
        Ok(Held { client, stream })
    }

    fn succeed(mut self, reserved: Reserved, held: Held<C>, took: Duration) -> Option<Self> {
        let id = reserved.key.id;
        // Told before anybody can use it, so that it comes before whatever happens to it.
        self.shared.tell(&Event::Connected { id, took });
        let handle = Arc::clone(held.socket());
        self.reserved = None;
        self.conclude(|core| core.connected(reserved.key, held, handle))
    }

    fn fail(&mut self, error: Error, took: Duration) -> Option<Self> {
        let key = self.reserved.take()?.key;
        let error = Arc::new(error);
        let next = self.conclude(|core| core.connect_failed(key, Arc::clone(&error)));
        self.shared.tell(&Event::ConnectFailed { error, took });
        next
    }

    /// The connect is over; the next one that this thread is to make.
    fn conclude(&self, conclude: impl FnOnce(&mut Core<C>)) -> Option<Self> {
        let next = self.shared.with(|core| {
            conclude(core);
            core.take_connect()
        });
        next.map(|next| Self::new(&self.shared, next))
    }
}

/// Refuses a socket that is connected to itself.
///
/// A connect to a local port on which nobody listens may be given that very port as its own (TCP's
/// simultaneous open, RFC 9293, section 3.5). The socket then echoes what it is sent, and keeps the
/// server from coming back to its port.
fn refuse_echo(tcp: TcpStream) -> io::Result<TcpStream> {
    match (tcp.local_addr(), tcp.peer_addr()) {
        (Ok(local), Ok(peer)) if local == peer => Err(io::Error::new(
            io::ErrorKind::ConnectionRefused,
            format!("nobody listens on {peer}: the socket was connected to itself"),
        )),
        _ => Ok(tcp),
    }
}

/// The handshake failed after its time was over, with what it made of that.
#[derive(Debug, thiserror::Error)]
#[error("timed out after {}", Brief(*bound))]
struct HandshakeTimedOut {
    bound: Duration,
    source: BoxError,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::Builder;
    use crate::state::core::{Caller, Turn};
    use crate::state::slots::Taker;

    #[test]
    fn a_connect_without_a_thread_starts_the_one_that_is_due_after_it() {
        let (called, calls) = std::sync::mpsc::channel();
        let factory = move || {
            called.send(()).map_err(io::Error::other)?;
            Err(io::ErrorKind::ConnectionRefused.into())
        };
        let builder = Builder::new(factory).reap_interval(None);
        let pool = builder.build().unwrap();
        let shared = Arc::clone(pool.shared());
        let mut waiter = Caller::new(Arc::default(), true, Taker::default());
        let reserved = shared.with(|core| {
            assert!(matches!(core.enter(&mut waiter), Turn::Pending(_)));
            core.effects().connects.pop()
        });
        // So long that the pool is to try again when this connect has failed.
        thread::sleep(Duration::from_millis(150));
        drop(Reservation { shared, reserved });
        calls.recv_timeout(Duration::from_secs(10)).unwrap();
    }
}
