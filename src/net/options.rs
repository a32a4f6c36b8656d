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
    /// By direction.
    timeouts: [Timeout; 2],
    /// These three as they were before the lease changed them.
    nodelay: Option<bool>,
    ttl: Option<u32>,
    pub(super) nonblocking: Option<bool>,
    /// By owner.
    deadlines: [Option<Instant>; 2],
}

/// The time-outs that a new socket gets, where they are given.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timeouts {
    pub(crate) read: Option<Option<Duration>>,
    pub(crate) write: Option<Option<Duration>>,
}

impl Timeouts {
    pub(crate) fn set(self, tcp: &TcpStream) -> io::Result<()> {
        if let Some(timeout) = self.read {
            tcp.set_read_timeout(timeout)?;
        }
        if let Some(timeout) = self.write {
            tcp.set_write_timeout(timeout)?;
        }
        Ok(())
    }
}

/// Which of a socket's two time-outs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

/// Whose deadline: the caller's, or the pool's, over a handshake for instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Caller,
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
        match self.timeouts[direction as usize].shortened {
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
        let timeout = &mut self.timeouts[direction as usize];
        if timeout.before.is_none() {
            timeout.before = Some(direction.timeout(tcp)?);
        }
        direction.set_timeout(tcp, own)?;
        if let Some(shortened) = &mut timeout.shortened {
            *shortened = Shortened::not_yet(own);
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

    /// The earlier of the two deadlines.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadlines.into_iter().flatten().min()
    }

    /// Sets a deadline; without any the caller's own time-outs hold again.
    pub(crate) fn set_deadline(
        &mut self,
        owner: Owner,
        at: Option<Instant>,
        tcp: &TcpStream,
    ) -> io::Result<()> {
        self.deadlines[owner as usize] = at;
        if self.deadline().is_some() {
            return Ok(());
        }
        self.end_deadlines(tcp)
    }

    /// The caller's own time-outs hold again.
    pub(crate) fn end_deadlines(&mut self, tcp: &TcpStream) -> io::Result<()> {
        self.deadlines = [None; 2];
        let lengthened = [Direction::Read, Direction::Write]
            .map(|direction| self.timeouts[direction as usize].lengthen(direction, tcp));
        lengthened.into_iter().collect()
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
        let timeout = &mut self.timeouts[direction as usize];
        let known = timeout
            .shortened
            .map_or_else(|| direction.timeout(tcp).map(Shortened::not_yet), Ok);
        let Ok(mut shortened) = known else {
            return Wait::Own;
        };
        let target = shortened.own.map_or(left, |own| own.min(left));
        let longest = target.saturating_add(SLACK);
        let fits = |set: Duration| (target..=longest).contains(&set);
        if !shortened.on_socket.is_some_and(fits) {
            timeout.before.get_or_insert(shortened.own);
            if direction.set_timeout(tcp, Some(target)).is_err() {
                return Wait::Own;
            }
            shortened.on_socket = Some(target);
        }
        timeout.shortened = Some(shortened);
        if target == left {
            Wait::Until(deadline)
        } else {
            Wait::Own
        }
    }

    /// Undoes all changes but that of the blocking mode, which comes out as it was.
    pub(crate) fn put_back(self, tcp: &TcpStream) -> io::Result<Option<bool>> {
        for direction in [Direction::Read, Direction::Write] {
            if let Some(timeout) = self.timeouts[direction as usize].before {
                direction.set_timeout(tcp, timeout)?;
            }
        }
        if let Some(yes) = self.nodelay {
            tcp.set_nodelay(yes)?;
        }
        if let Some(ttl) = self.ttl {
            tcp.set_ttl(ttl)?;
        }
        Ok(self.nonblocking)
    }
}

impl Shortened {
    fn not_yet(own: Option<Duration>) -> Self {
        Self {
            own,
            on_socket: own,
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const SECOND: Duration = Duration::from_secs(1);

    /// What no lease has changed yet, and both ends of a connection.
    fn fresh() -> (Options, TcpStream, TcpStream) {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        (Options::default(), near, server.accept().unwrap().0)
    }

    fn both(tcp: &TcpStream) -> [Option<Duration>; 2] {
        [tcp.read_timeout().unwrap(), tcp.write_timeout().unwrap()]
    }

    fn own(options: &Options, tcp: &TcpStream) -> [Option<Duration>; 2] {
        [Direction::Read, Direction::Write].map(|of| options.timeout(of, tcp).unwrap())
    }

    #[test]
    fn a_deadline_shortens_the_sockets_wait_and_not_the_callers_time_out() {
        let (mut options, tcp, _far) = fresh();
        let now = Instant::now();
        for (n, direction) in [(0, Direction::Read), (1, Direction::Write)] {
            let time_out = Some(5 * SECOND);
            options.set_timeout(direction, &tcp, time_out).unwrap();
            let mut under = |left, later| {
                let deadline = now + left;
                let set = options.set_deadline(Owner::Caller, Some(deadline), &tcp);
                set.unwrap();
                let wait = options.wait(direction, now + later, &tcp);
                assert_eq!(own(&options, &tcp)[n], time_out);
                (wait, both(&tcp)[n])
            };
            let shortened = (Wait::Until(now + 4 * SECOND), Some(3 * SECOND));
            assert_eq!(under(4 * SECOND, SECOND), shortened);
            assert_eq!(under(9 * SECOND, SECOND), (Wait::Own, time_out));
            assert_eq!(under(4 * SECOND, 4 * SECOND), (Wait::Over, time_out));
            assert_eq!(under(4 * SECOND, SECOND), shortened);
            options.set_deadline(Owner::Caller, None, &tcp).unwrap();
            assert_eq!(options.wait(direction, now, &tcp), Wait::Own);
            assert_eq!(both(&tcp)[n], time_out);
        }
    }

    #[test]
    fn a_time_out_set_under_a_deadline_holds_after_it() {
        let (mut options, tcp, _far) = fresh();
        let now = Instant::now();
        let deadline = Some(now + 2 * SECOND);
        options.set_deadline(Owner::Pool, deadline, &tcp).unwrap();
        for direction in [Direction::Read, Direction::Write] {
            assert_eq!(
                options.wait(direction, now, &tcp),
                Wait::Until(now + 2 * SECOND)
            );
        }
        assert_eq!(
            (own(&options, &tcp), both(&tcp)[0]),
            ([None; 2], Some(2 * SECOND))
        );
        let time_out = Some(7 * SECOND);
        options
            .set_timeout(Direction::Read, &tcp, time_out)
            .unwrap();
        options.wait(Direction::Read, now, &tcp);
        options.end_deadlines(&tcp).unwrap();
        assert_eq!(both(&tcp), [time_out, None]);
        assert_eq!(options.deadline(), None);
    }

    #[test]
    fn the_earlier_deadline_holds_whose_ever_it_is() {
        let (mut options, tcp, _far) = fresh();
        let now = Instant::now();
        let (early, late) = (Some(now + SECOND), Some(now + 2 * SECOND));
        for (caller, pool, earlier) in [
            (early, late, early),
            (late, early, early),
            (None, late, late),
            (late, None, late),
            (None, None, None),
        ] {
            options.set_deadline(Owner::Caller, caller, &tcp).unwrap();
            options.set_deadline(Owner::Pool, pool, &tcp).unwrap();
            assert_eq!(options.deadline(), earlier);
        }
    }

    /// Each would be a system call.
    #[test]
    fn what_is_on_the_socket_is_not_set_again() {
        let (mut options, tcp, _far) = fresh();
        let now = Instant::now();
        let (time_out, by_hand) = (Some(5 * SECOND), Some(8 * SECOND));
        tcp.set_read_timeout(time_out).unwrap();
        let deadline = Some(now + 9 * SECOND);
        options.set_deadline(Owner::Caller, deadline, &tcp).unwrap();
        assert_eq!(options.wait(Direction::Read, now, &tcp), Wait::Own);
        tcp.set_read_timeout(by_hand).unwrap();
        options.wait(Direction::Read, now + SECOND, &tcp);
        options.end_deadlines(&tcp).unwrap();
        assert_eq!(both(&tcp), [by_hand, None]);
        options.set_deadline(Owner::Caller, deadline, &tcp).unwrap();
        options.wait(Direction::Read, now + 4 * SECOND, &tcp);
        tcp.set_read_timeout(by_hand).unwrap();
        options.wait(Direction::Read, now + 4 * SECOND + SLACK, &tcp);
        assert_eq!(both(&tcp), [by_hand, None]);
        options.wait(Direction::Read, now + 5 * SECOND, &tcp);
        assert_eq!(both(&tcp), [Some(4 * SECOND), None]);
    }

    #[test]
    fn all_that_a_lease_changed_is_put_back_as_it_was_before_its_first_change() {
        let (mut options, tcp, _far) = fresh();
        let before = [Some(3 * SECOND), Some(4 * SECOND)];
        tcp.set_read_timeout(before[0]).unwrap();
        tcp.set_write_timeout(before[1]).unwrap();
        let (nodelay, ttl) = (tcp.nodelay().unwrap(), tcp.ttl().unwrap());
        for n in [1, 2] {
            for direction in [Direction::Read, Direction::Write] {
                let time_out = Some(n * SECOND);
                options.set_timeout(direction, &tcp, time_out).unwrap();
            }
            assert_eq!(both(&tcp), [Some(n * SECOND); 2]);
            options.set_nodelay(&tcp, !nodelay).unwrap();
            options.set_ttl(&tcp, ttl - n).unwrap();
            assert_eq!(tcp.nodelay().unwrap(), !nodelay);
            assert_eq!(tcp.ttl().unwrap(), ttl - n);
            options.nonblocking.get_or_insert(n == 1);
        }
        assert_eq!(options.put_back(&tcp).unwrap(), Some(true));
        assert_eq!(both(&tcp), before);
        assert_eq!((tcp.nodelay().unwrap(), tcp.ttl().unwrap()), (nodelay, ttl));
    }

    #[test]
    fn what_a_deadline_shortened_is_put_back_too() {
        let (mut options, tcp, _far) = fresh();
        let now = Instant::now();
        tcp.set_write_timeout(Some(4 * SECOND)).unwrap();
        let deadline = Some(now + 2 * SECOND);
        options.set_deadline(Owner::Caller, deadline, &tcp).unwrap();
        options.wait(Direction::Write, now, &tcp);
        assert_eq!(both(&tcp), [None, Some(2 * SECOND)]);
        assert_eq!(options.put_back(&tcp).unwrap(), None);
        assert_eq!(both(&tcp), [None, Some(4 * SECOND)]);
        let mut options = Options::default();
        options.nonblocking.get_or_insert(false);
        assert_eq!(options.put_back(&tcp).unwrap(), Some(false));
    }
}
