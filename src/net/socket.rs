//! What every handle on one connection shares: the socket, and the memory of what was done to it.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::net::options::{Direction, Options, Owner, Timeouts, Wait};
use crate::net::sys;
use crate::report::outcome::{Eviction, PeerSignal};
use crate::sync::now;
use crate::sync::user_code::log;

/// End of file, an error, or `shutdown` was seen.
const BROKEN: u32 = 1;
/// The last thing was a write, or a read that came to nothing.
const UNANSWERED: u32 = 1 << 1;
/// A write could not go on, so a request may be half sent.
const STALLED: u32 = 1 << 2;
/// The last write took less than it was given: the next one goes on with the same request.
const PARTIAL: u32 = 1 << 3;
/// Something was written in this lease.
const ASKED: u32 = 1 << 4;
/// Something was written since the last byte was read.
const AWAITING: u32 = 1 << 5;
/// A read came to nothing while a reply was outstanding, and no byte has come since.
const LATE: u32 = 1 << 6;
/// Something was written while a reply was late: replies can no longer be told apart.
const AMBIGUOUS: u32 = 1 << 7;
/// `options` says what was changed through `Stream`.
const CHANGED: u32 = 1 << 8;
/// `options` has a deadline.
const DEADLINE: u32 = 1 << 9;
/// The socket itself was handed out, so anything may have been done to it.
const BYPASSED: u32 = 1 << 10;
/// The socket is in non-blocking mode.
const NONBLOCKING: u32 = 1 << 11;
/// A byte came from the other side, or may have come.
const HEARD: u32 = 1 << 12;
/// What broke it was the other side.
const HUNG_UP: u32 = 1 << 13;
/// A sweep took the socket's error away.
const ERROR_TAKEN: u32 = 1 << 14;
/// A buffer above holds bytes that came and were not read.
const UNREAD: u32 = 1 << 15;
/// A buffer above holds bytes that were written and not sent.
const UNSENT: u32 = 1 << 16;
/// A byte was read in this lease, or may have been.
const ANSWERED: u32 = 1 << 17;

/// After a socket's time-out that much of the deadline may be left, since its clock is coarse.
const COARSE: Duration = Duration::from_millis(50);

/// What every handle on one connection shares.
pub(crate) struct Socket {
    tcp: TcpStream,
    flags: AtomicU32,
    /// What a lease has changed; only ever held for an instant.
    options: Mutex<Option<Box<Options>>>,
    /// Locked by whoever probes the socket without having leased it.
    outside: Mutex<Outside>,
    /// Whether its lease is to end soon.
    recalled: AtomicBool,
    /// Whether its send buffer is large, once that was asked.
    roomy: OnceLock<bool>,
}

/// Whether a read takes the bytes away.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    Take,
    Peek,
}

/// What is known of a socket outside its lease.
#[derive(Default)]
pub(crate) struct Outside {
    /// Whether a lease is out; kept only where a probe switches the blocking mode.
    pub(crate) leased: bool,
    /// The error that a sweep took away, for the holder of a lease that began meanwhile.
    taken: Option<io::Error>,
}

impl Socket {
    pub(crate) fn new(tcp: TcpStream) -> Self {
        let nonblocking = sys::is_nonblocking(&tcp);
        Self {
            tcp,
            flags: AtomicU32::new(if nonblocking { NONBLOCKING } else { 0 }),
            options: Mutex::new(None),
            outside: Mutex::default(),
            recalled: AtomicBool::new(false),
            roomy: OnceLock::new(),
        }
    }

    #[inline]
    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Whether the send buffer takes 16 KiB without a wait; asked once, when it first matters.
    pub(crate) fn is_roomy(&self) -> bool {
        *self.roomy.get_or_init(|| sys::is_roomy(&self.tcp))
    }

    /// The socket itself is handed out.
    pub(crate) fn bypass(&self) -> &TcpStream {
        self.mark(BYPASSED | HEARD | ANSWERED);
        &self.tcp
    }

    /// Reads, or looks what there is to read; `wanted` is whether the buffer has room for a byte.
    pub(crate) fn read(
        &self,
        kind: Reading,
        wanted: bool,
        read: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let result = self.call(Direction::Read, read);
        match &result {
            Ok(0) if wanted => return self.ended(result),
            Ok(0) => {}
            Ok(_) => {
                self.mark(HEARD | ANSWERED);
                if kind == Reading::Take {
                    self.clear(UNANSWERED | AWAITING | LATE);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if sys::is_pause(error) => match kind {
                Reading::Take => self.read_in_vain(error),
                Reading::Peek => self.polled_in_vain(),
            },
            Err(_) => return self.ended(result),
        }
        result
    }

    /// Writes; `wanted` is how many bytes there are to write.
    pub(crate) fn write(
        &self,
        wanted: usize,
        write: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let result = self.call(Direction::Write, write);
        match &result {
            Ok(count) if wanted > 0 => {
                if self.has(LATE) {
                    self.mark(AMBIGUOUS);
                }
                self.clear(STALLED | PARTIAL);
                let partial = if *count < wanted { PARTIAL } else { 0 };
                self.mark(UNANSWERED | AWAITING | ASKED | partial);
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if sys::is_pause(error) => self.mark(STALLED | UNANSWERED),
            Err(_) => return self.ended(result),
        }
        result
    }

    /// Takes the pending error, or the one that a sweep has taken.
    pub(crate) fn take_error(&self) -> io::Result<Option<io::Error>> {
        let result = match self.tcp.take_error() {
            Ok(None) => Ok(self.outside().taken.take()),
            found => found,
        };
        match &result {
            Ok(None) => {}
            Ok(Some(error)) | Err(error) => self.broke(error),
        }
        result
    }

    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.mark(BROKEN);
        self.tcp.shutdown(how)
    }

    /// The pool wants the lease of this connection back.
    pub(crate) fn recall(&self) {
        self.recalled.store(true, Relaxed);
    }

    pub(crate) fn is_recalled(&self) -> bool {
        self.recalled.load(Relaxed)
    }

    /// Shuts the connection down, so that a thread blocked on it returns.
    pub(crate) fn abort(&self) {
        if let Err(error) = self.tcp.shutdown(Shutdown::Both) {
            log!(Debug, "shutdown: {error}");
        }
    }

    pub(crate) fn timeout(&self, direction: Direction) -> io::Result<Option<Duration>> {
        let options = self.options();
        let unchanged = Options::default();
        let options = options.as_deref().unwrap_or(&unchanged);
        options.timeout(direction, &self.tcp)
    }

    pub(crate) fn set_nonblocking(&self, yes: bool) -> io::Result<()> {
        self.change(|options, _| {
            options.nonblocking.get_or_insert(self.is_nonblocking());
            self.switch_nonblocking(yes)
        })
    }

    pub(crate) fn is_nonblocking(&self) -> bool {
        self.has(NONBLOCKING)
    }

    /// The earlier of the caller's deadline and the pool's.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.options().as_ref()?.deadline()
    }

    /// Sets a deadline of the caller's or of the pool's own; both end with the lease.
    pub(crate) fn set_deadline(&self, owner: Owner, at: Option<Instant>) -> io::Result<()> {
        self.change(|options, tcp| {
            let set = options.set_deadline(owner, at, tcp);
            if options.deadline().is_some() {
                self.mark(DEADLINE);
            } else {
                self.clear(DEADLINE);
            }
            set
        })
    }

    /// A buffer above holds bytes that came and were not read, or holds none any more.
    pub(crate) fn set_unread(&self, yes: bool) {
        self.set(UNREAD, yes);
    }

    /// A buffer above holds bytes that were written and not sent, or holds none any more.
    pub(crate) fn set_unsent(&self, yes: bool) {
        self.set(UNSENT, yes);
    }

    /// Makes the connection ready for its next lease; why it cannot have one.
    ///
    /// It puts the options back, and tries the sending side where a lease had the bare socket
    /// in its hands. `answered` overrides "unanswered", but for what was not even sent.
    #[inline]
    pub(crate) fn make_reusable(&self, answered: bool, allow_unread: bool) -> Option<Eviction> {
        let flags = self.flags.load(Relaxed);
        let is_untouched = flags & !(NONBLOCKING | HEARD) == 0;
        if is_untouched {
            return None;
        }
        self.undo(flags, answered, allow_unread)
    }

    fn undo(&self, flags: u32, answered: bool, allow_unread: bool) -> Option<Eviction> {
        if flags & (BROKEN | STALLED) != 0 {
            return Some(Eviction::Broken);
        }
        if flags & ERROR_TAKEN != 0 {
            return Some(Eviction::SocketError);
        }
        if flags & UNSENT != 0 || flags & (UNANSWERED | AMBIGUOUS) != 0 && !answered {
            return Some(Eviction::Unanswered);
        }
        if flags & UNREAD != 0 && !allow_unread {
            return Some(Eviction::Unread);
        }
        if flags & CHANGED != 0 && self.put_back().is_err() {
            return Some(Eviction::Broken);
        }
        let conversation = UNANSWERED | PARTIAL | ASKED | ANSWERED | AWAITING | LATE | AMBIGUOUS;
        self.clear(conversation | CHANGED | DEADLINE | BYPASSED);
        if flags & BYPASSED != 0 {
            return self.try_sending().err().map(|(why, _)| why);
        }
        None
    }

    /// [`make_reusable`](Self::make_reusable) after the handshake, whose options stay.
    ///
    /// These time-outs come after it.
    pub(crate) fn end_handshake(&self, after: Timeouts, allow_unread: bool) -> Option<Eviction> {
        let keep = || {
            if let Some(mut options) = self.options().take() {
                options.end_deadlines(&self.tcp)?;
            }
            after.set(&self.tcp)
        };
        let kept = keep();
        let unfit = self.make_reusable(true, allow_unread);
        unfit.or_else(|| kept.err().map(|_| Eviction::Broken))
    }

    /// Whether the connection broke in this lease before a byte of a reply was read.
    pub(crate) fn broke_unanswered(&self) -> bool {
        self.has(BROKEN) && !self.has(ANSWERED)
    }

    /// Whether the last thing was a write, or a read that came to nothing.
    #[inline]
    pub(crate) fn is_unanswered(&self) -> bool {
        self.has(UNANSWERED)
    }

    /// A byte has come from the other side.
    pub(crate) fn note_heard(&self) {
        self.mark(HEARD);
    }

    /// What the connection shows of its peer; that it was of use to a lease counts for it.
    #[inline]
    pub(crate) fn peer_signal(&self, was_of_use: bool) -> PeerSignal {
        if was_of_use {
            self.note_heard();
        }
        if self.has(HEARD) {
            PeerSignal::Heard
        } else if self.has(HUNG_UP) {
            PeerSignal::HungUp
        } else {
            PeerSignal::Silence
        }
    }

    /// A lease begins, after its probe, or has ended and left the socket as it was.
    #[inline]
    pub(crate) fn set_leased(&self, yes: bool) {
        if sys::SWITCHES_MODE {
            self.outside().leased = yes;
        }
    }

    /// Locked by whoever probes the socket without having leased it.
    ///
    /// Such a probe is a system call that does not wait, and may take an error away from a lease
    /// that began meanwhile. [`give_error`](Self::give_error) leaves it for that lease.
    pub(crate) fn outside(&self) -> MutexGuard<'_, Outside> {
        self.outside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn give_error(&self, outside: &mut Outside, error: io::Error) {
        outside.taken.get_or_insert(error);
        self.mark(ERROR_TAKEN);
    }

    pub(crate) fn is_error_taken(&self) -> bool {
        self.has(ERROR_TAKEN)
    }

    /// Whether our sending side was shut down or broke, asked with a write of nothing.
    pub(crate) fn try_sending(&self) -> Result<(), (Eviction, io::Error)> {
        match io::Write::write(&mut &self.tcp, &[]) {
            Ok(_) => Ok(()),
            Err(error) if sys::is_pause(&error) => Ok(()),
            Err(error) if sys::is_shut_down(&error) => Err((Eviction::HalfClosed, error)),
            Err(error) => Err((Eviction::SocketError, error)),
        }
    }

    /// Makes a system call, until the deadline at most.
    fn call(
        &self,
        direction: Direction,
        mut call: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if self.has(DEADLINE) {
            self.call_until_deadline(direction, &mut call)
        } else {
            call(&self.tcp)
        }
    }

    #[cold]
    fn call_until_deadline(
        &self,
        direction: Direction,
        call: &mut dyn FnMut(&TcpStream) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if self.is_nonblocking() {
            return match self.deadline() {
                Some(deadline) if deadline <= now() => Err(deadline_is_past()),
                _ => call(&self.tcp),
            };
        }
        loop {
            let wait = match &mut *self.options() {
                Some(options) => options.wait(direction, now(), &self.tcp),
                None => Wait::Own,
            };
            if wait == Wait::Over {
                return Err(deadline_is_past());
            }
            let result = call(&self.tcp);
            let waited_in_vain = result.as_ref().is_err_and(|error| {
                sys::is_pause(error) && error.kind() != io::ErrorKind::Interrupted
            });
            let Some(deadline) = self.deadline().filter(|_| waited_in_vain) else {
                return result;
            };
            let left = deadline.saturating_duration_since(now());
            if left.is_zero() {
                return Err(deadline_is_past());
            }
            if wait == Wait::Own || left > COARSE {
                return result;
            }
        }
    }

    /// A read came to nothing, which is what makes an outstanding reply late.
    ///
    /// Who waits for a byte expects one, if it has asked: a reply or the rest of one. Who does not
    /// wait may only have asked whether there is more.
    #[cold]
    fn read_in_vain(&self, error: &io::Error) {
        self.mark(UNANSWERED);
        if self.has_any(NONBLOCKING | BYPASSED) && !is_deadline(error) {
            self.polled_in_vain();
        } else if self.has(ASKED) {
            self.mark(LATE);
        }
    }

    /// The same after a call that did not wait, which shows less: a reply is late if no byte of it
    /// has come, and the request was sent to its end.
    #[cold]
    fn polled_in_vain(&self) {
        if self.has(AWAITING) && !self.has_any(PARTIAL | STALLED) {
            self.mark(LATE);
        }
    }

    /// A call found the connection's end; an error that a sweep took away comes first.
    #[cold]
    fn ended(&self, found: io::Result<usize>) -> io::Result<usize> {
        let taken = self.outside().taken.take();
        let result = taken.map_or(found, Err);
        match &result {
            Ok(_) => self.hung_up(),
            Err(error) => self.broke(error),
        }
        result
    }

    fn broke(&self, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => self.hung_up(),
            _ => self.mark(BROKEN),
        }
    }

    /// The other side ended it, unless we broke it before, by `shutdown` for instance.
    pub(crate) fn hung_up(&self) {
        if !self.has(BROKEN) {
            self.mark(BROKEN | HUNG_UP);
        }
    }

    fn options(&self) -> MutexGuard<'_, Option<Box<Options>>> {
        self.options.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes an option, keeping in mind what it was when the lease began.
    pub(crate) fn change(
        &self,
        change: impl FnOnce(&mut Options, &TcpStream) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut options = self.options();
        self.mark(CHANGED);
        change(options.get_or_insert_default(), &self.tcp)
    }

    fn put_back(&self) -> io::Result<()> {
        let options = self.options().take().unwrap_or_default();
        match options.put_back(&self.tcp)? {
            Some(yes) => self.switch_nonblocking(yes),
            None => Ok(()),
        }
    }

    fn switch_nonblocking(&self, yes: bool) -> io::Result<()> {
        self.tcp.set_nonblocking(yes)?;
        self.set(NONBLOCKING, yes);
        Ok(())
    }

    #[inline]
    fn has(&self, flags: u32) -> bool {
        self.flags.load(Relaxed) & flags == flags
    }

    #[inline]
    fn has_any(&self, flags: u32) -> bool {
        self.flags.load(Relaxed) & flags != 0
    }

    /// Relaxed will do: a lease moves between threads through the pool's lock.
    #[inline]
    fn mark(&self, flags: u32) {
        if !self.has(flags) {
            self.flags.fetch_or(flags, Relaxed);
        }
    }

    fn clear(&self, flags: u32) {
        if self.has_any(flags) {
            self.flags.fetch_and(!flags, Relaxed);
        }
    }

    fn set(&self, flags: u32, yes: bool) {
        if yes {
            self.mark(flags);
        } else {
            self.clear(flags);
        }
    }
}

fn deadline_is_past() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the deadline is past")
}

/// Whether an error is a deadline's: those of the system have a code.
fn is_deadline(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::TimedOut && error.raw_os_error().is_none()
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Write};
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (Socket, TcpStream) {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        (Socket::new(near), server.accept().unwrap().0)
    }

    /// Time-outs of sockets are rounded to the system's clock, and may end early.
    #[test]
    fn a_call_that_comes_back_shortly_before_the_deadline_is_made_again() {
        let (socket, _far) = pair();
        loop {
            let deadline = now() + COARSE / 2;
            socket.set_deadline(Owner::Caller, Some(deadline)).unwrap();
            let mut calls = 0;
            let result = socket.read(Reading::Take, true, |_| {
                calls += 1;
                std::thread::sleep(COARSE / 10);
                Err(ErrorKind::WouldBlock.into())
            });
            assert_eq!(result.unwrap_err().kind(), ErrorKind::TimedOut);
            assert!(now() >= deadline);
            // Else the machine stalled until the deadline was past.
            if calls > 1 {
                break;
            }
        }
    }

    /// A signal to the process says nothing about the other side.
    #[test]
    fn a_call_that_was_interrupted_changes_nothing() {
        let (socket, _far) = pair();
        socket.write(1, |mut tcp| tcp.write(b"?")).unwrap();
        let before = socket.flags.load(Relaxed);
        let interrupted = |_: &TcpStream| Err(ErrorKind::Interrupted.into());
        for result in [
            socket.read(Reading::Take, true, interrupted),
            socket.read(Reading::Peek, true, interrupted),
            socket.write(1, interrupted),
        ] {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Interrupted);
        }
        assert_eq!(socket.flags.load(Relaxed), before);
    }

    #[test]
    fn a_byte_that_was_only_looked_at_is_an_answer_too() {
        let (socket, mut far) = pair();
        far.write_all(b"!").unwrap();
        let peeked = socket.read(Reading::Peek, true, |tcp| tcp.peek(&mut [0; 1]));
        assert_eq!(peeked.unwrap(), 1);
        assert!(socket.peer_signal(false) == PeerSignal::Heard);
        socket.shutdown(Shutdown::Both).unwrap();
        assert!(!socket.broke_unanswered());
    }

    /// The deadline may be past by then.
    #[test]
    fn an_error_that_no_deadline_made_comes_out_as_it_is() {
        for kind in [ErrorKind::Interrupted, ErrorKind::ConnectionReset] {
            let (socket, _far) = pair();
            let mut called = false;
            let error = loop {
                let deadline = now() + COARSE / 5;
                socket.set_deadline(Owner::Caller, Some(deadline)).unwrap();
                let result = socket.read(Reading::Take, true, |_| {
                    called = true;
                    while now() < deadline {
                        std::thread::yield_now();
                    }
                    Err(kind.into())
                });
                // Else the deadline was past before the call began.
                if called {
                    break result.unwrap_err();
                }
            };
            assert_eq!(error.kind(), kind);
        }
    }

    #[test]
    fn a_reset_is_the_other_sides_doing_and_an_error_of_the_system_is_not() {
        for (kind, signal) in [
            (ErrorKind::ConnectionReset, PeerSignal::HungUp),
            (ErrorKind::ConnectionAborted, PeerSignal::HungUp),
            (ErrorKind::BrokenPipe, PeerSignal::HungUp),
            (ErrorKind::OutOfMemory, PeerSignal::Silence),
        ] {
            let (socket, _far) = pair();
            let error = socket
                .read(Reading::Take, true, |_| Err(kind.into()))
                .unwrap_err();
            assert_eq!(error.kind(), kind);
            assert!(socket.peer_signal(false) == signal, "{kind}");
        }
    }

    /// It is a system call.
    #[test]
    fn only_a_lease_that_had_the_bare_socket_costs_a_look_when_it_ends() {
        for (bare, found) in [(false, None), (true, Some(Eviction::HalfClosed))] {
            let (socket, mut far) = pair();
            socket.write(1, |mut tcp| tcp.write(b"?")).unwrap();
            far.write_all(b"!").unwrap();
            let read = socket.read(Reading::Take, true, |mut tcp| {
                io::Read::read(&mut tcp, &mut [0; 1])
            });
            assert_eq!(read.unwrap(), 1);
            socket.tcp().shutdown(Shutdown::Write).unwrap();
            if bare {
                socket.bypass();
            }
            assert_eq!(socket.make_reusable(false, false), found);
        }
    }

    #[test]
    fn a_lease_leaves_no_flag_behind_that_costs_the_next_one() {
        let (socket, mut far) = pair();
        let at = Some(now() + Duration::from_secs(60));
        socket.set_deadline(Owner::Caller, at).unwrap();
        socket.set_deadline(Owner::Pool, at).unwrap();
        socket
            .change(|options, tcp| options.set_ttl(tcp, 9))
            .unwrap();
        socket.bypass();
        socket.write(1, |mut tcp| tcp.write(b"?")).unwrap();
        far.write_all(b"!").unwrap();
        let read = socket.read(Reading::Take, true, |mut tcp| {
            io::Read::read(&mut tcp, &mut [0; 1])
        });
        assert_eq!(read.unwrap(), 1);
        assert_eq!(socket.make_reusable(false, false), None);
        assert_eq!(socket.flags.load(Relaxed), HEARD);
        assert_eq!(socket.deadline(), None);
    }
}
