//! The options that a lease changes on its socket, and the deadlines that shorten its time-outs.

use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// A time-out this much longer than what is left until the deadline is left as it is: clocks of
/// sockets are no finer, and to set it is a system call.
const SLACK: Duration = Duration::from_millis(1);

/// What a lease has changed, and its deadlines.
#[derive(Default)]
pub(crate) struct Options {
    read: Timeout,
    write: Timeout,
    /// These three as they were before the lease changed them.
    nodelay: Option<bool>,
    ttl: Option<u32>,
    nonblocking: Option<bool>,
    /// The caller's own deadline.
    deadline: Option<Instant>,
    /// The pool's own, over a handshake for instance.
    bound: Option<Instant>,
}

/// Which of a socket's two time-outs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

/// Whose deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Caller,
    #[allow(dead_code, reason = "for a time-out over the whole handshake")]
    Pool,
}

#[derive(Default)]
struct Timeout {
    /// What it was before the lease changed it.
    before: Option<Option<Duration>>,
    /// There once a call has had to respect a deadline.
    shortened: Option<Shortened>,
}

/// A time-out under a deadline.
#[derive(Clone, Copy)]
struct Shortened {
    /// What the caller has set.
    own: Option<Duration>,
    /// What is set on the socket.
    on_socket: Option<Duration>,
}

/// How long the next call waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// As long as the socket's time-out says.
    Own,
    /// Until the deadline.
    Until(Instant),
    /// Not at all: the deadline is past.
    Over,
}

impl Direction {
    fn timeout(self, tcp: &TcpStream) -> io::Result<Option<Duration>> {
        match self {
            Self::Read => tcp.read_timeout(),
            Self::Write => tcp.write_timeout(),
        }
    }

    fn set_timeout(self, tcp: &TcpStream, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Read => tcp.set_read_timeout(timeout),
            Self::Write => tcp.set_write_timeout(timeout),
        }
    }
}

impl Options {
    /// The caller's own time-out, whatever a deadline has made of it on the socket.
    pub(crate) fn timeout(
        &self,
        direction: Direction,
        tcp: &TcpStream,
    ) -> io::Result<Option<Duration>> {
        let timeout = match direction {
            Direction::Read => &self.read,
            Direction::Write => &self.write,
        };
        match timeout.shortened {
            Some(shortened) => Ok(shortened.own),
            None => direction.timeout(tcp),
        }
    }

    pub(crate) fn set_timeout(
        &mut self,
        direction: Direction,
        tcp: &TcpStream,
        own: Option<Duration>,
    ) -> io::Result<()> {
        let timeout = self.direction(direction);
        if timeout.before.is_none() {
            timeout.before = Some(direction.timeout(tcp)?);
        }
        direction.set_timeout(tcp, own)?;
        if let Some(shortened) = &mut timeout.shortened {
            let on_socket = own;
            *shortened = Shortened { own, on_socket };
        }
        Ok(())
    }

    pub(crate) fn set_nodelay(&mut self, tcp: &TcpStream, yes: bool) -> io::Result<()> {
        if self.nodelay.is_none() {
            self.nodelay = Some(tcp.nodelay()?);
        }
        tcp.set_nodelay(yes)
    }

    pub(crate) fn set_ttl(&mut self, tcp: &TcpStream, ttl: u32) -> io::Result<()> {
        if self.ttl.is_none() {
            self.ttl = Some(tcp.ttl()?);
        }
        tcp.set_ttl(ttl)
    }

    /// The blocking mode is about to change from this.
    pub(crate) fn remember_nonblocking(&mut self, before: bool) {
        self.nonblocking.get_or_insert(before);
    }

    /// The earlier of the two deadlines.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match (self.deadline, self.bound) {
            (Some(deadline), Some(bound)) => Some(deadline.min(bound)),
            (deadline, bound) => deadline.or(bound),
        }
    }

    /// Sets a deadline; without any the caller's own time-outs hold again.
    pub(crate) fn set_deadline(
        &mut self,
        owner: Owner,
        at: Option<Instant>,
        tcp: &TcpStream,
    ) -> io::Result<()> {
        match owner {
            Owner::Caller => self.deadline = at,
            Owner::Pool => self.bound = at,
        }
        if self.deadline().is_some() {
            return Ok(());
        }
        self.end_deadlines(tcp)
    }

    /// The caller's own time-outs hold again.
    pub(crate) fn end_deadlines(&mut self, tcp: &TcpStream) -> io::Result<()> {
        (self.deadline, self.bound) = (None, None);
        let read = self.read.lengthen(Direction::Read, tcp);
        let write = self.write.lengthen(Direction::Write, tcp);
        read.and(write)
    }

    /// How long a call that begins now waits; sets the socket's time-out to that.
    ///
    /// A socket that refuses is dead, and a call on it does not wait: some systems refuse once the
    /// other side has closed.
    pub(crate) fn wait(&mut self, direction: Direction, now: Instant, tcp: &TcpStream) -> Wait {
        let Some(deadline) = self.deadline() else {
            return Wait::Own;
        };
        let left = deadline.saturating_duration_since(now);
        if left.is_zero() {
            return Wait::Over;
        }
        let timeout = self.direction(direction);
        if timeout.shortened.is_none() {
            let Ok(own) = direction.timeout(tcp) else {
                return Wait::Own;
            };
            let on_socket = own;
            timeout.shortened = Some(Shortened { own, on_socket });
        }
        let (Some(shortened), before) = (&mut timeout.shortened, &mut timeout.before) else {
            return Wait::Own;
        };
        let target = shortened.own.map_or(left, |own| own.min(left));
        let longest = target.saturating_add(SLACK);
        let fits = |set: Duration| (target..=longest).contains(&set);
        if !shortened.on_socket.is_some_and(fits) {
            before.get_or_insert(shortened.own);
            if direction.set_timeout(tcp, Some(target)).is_err() {
                return Wait::Own;
            }
            shortened.on_socket = Some(target);
        }
        if target == left {
            Wait::Until(deadline)
        } else {
            Wait::Own
        }
    }

    /// Undoes all changes but that of the blocking mode, which comes out as it was.
    pub(crate) fn put_back(self, tcp: &TcpStream) -> io::Result<Option<bool>> {
        if let Some(timeout) = self.read.before {
            tcp.set_read_timeout(timeout)?;
        }
        if let Some(timeout) = self.write.before {
            tcp.set_write_timeout(timeout)?;
        }
        if let Some(yes) = self.nodelay {
            tcp.set_nodelay(yes)?;
        }
        if let Some(ttl) = self.ttl {
            tcp.set_ttl(ttl)?;
        }
        Ok(self.nonblocking)
    }

    fn direction(&mut self, direction: Direction) -> &mut Timeout {
        match direction {
            Direction::Read => &mut self.read,
            Direction::Write => &mut self.write,
        }
    }
}

impl Timeout {
    /// The caller's own time-out holds again.
    fn lengthen(&mut self, direction: Direction, tcp: &TcpStream) -> io::Result<()> {
        match self.shortened.take() {
            Some(shortened) if shortened.own != shortened.on_socket => {
                direction.set_timeout(tcp, shortened.own)
            }
            _ => Ok(()),
        }
    }
}
