//! Reading and writing on a lane's connection, by a deadline.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::net::stream::Stream;
use crate::pipeline::lane::{Io, Stop, is_stream};
use crate::report::stats::Brief;
use crate::runtime::connection::Connection;
use crate::state::lanes::Report;
use crate::sync::now;

/// The shortest time-out.
const MOMENT: Duration = Duration::from_millis(1);

impl<R, C: Read + Write + Send + 'static> Io<R, C> {
    pub(super) fn stream(&self) -> &Stream {
        let lease = self.lease.as_ref();
        Connection::stream(lease.expect("bug: a leader without a lease"))
    }

    /// Whether a write may have to wait until the server reads.
    pub(super) fn may_block(&self) -> bool {
        !self.is_held || !self.stream().socket().is_roomy()
    }

    /// Writes; how much of it is done with, which is less than all of it only if the time is up.
    ///
    /// What breaks the connection is left to the next read, because replies may have come before.
    pub(super) fn write(&mut self, bytes: &[u8], deadline: Option<Instant>) -> usize {
        let deadline = deadline.filter(|_| self.may_block());
        if deadline.is_some() {
            let _ = self.stream().set_deadline(deadline);
        }
        let Io { lease, report, .. } = self;
        let lease = lease.as_mut().expect("bug: a leader without a lease");
        let is_exact = is_stream::<C>();
        let done = write_all(&mut **lease, bytes, is_exact, deadline, report);
        if deadline.is_some() {
            // Whoever writes next may have more time.
            let _ = self.stream().set_deadline(None);
        }
        if self.report.failed {
            // What has come can still be read, then there is the end.
            let _ = self.stream().shutdown(Shutdown::Both);
        }
        done
    }

    /// Reads what comes, by the deadline; nothing if it was only woken.
    pub(super) fn read(&mut self, deadline: Option<Instant>) -> Result<(), Stop<R>> {
        if !self.arm_read(deadline) {
            return Err(Stop::OutOfTime);
        }
        let Io { lease, input, .. } = self;
        let lease = lease.as_mut().expect("bug: a leader without a lease");
        match lease.read(input.space()) {
            Ok(0) => {
                let text = "the connection was closed";
                Err(broken(io::Error::new(ErrorKind::UnexpectedEof, text)))
            }
            Ok(count) => {
                self.input.add(count);
                self.report.heard = true;
                self.timeout.quiet_since = None;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                self.timeout.quiet_since.get_or_insert_with(now);
                self.read_in_vain(error, deadline)
            }
            Err(error) if is_passing(&error) => self.read_in_vain(error, deadline),
            Err(error) => Err(broken(error)),
        }
    }

    /// Whether one of the replies has come that nobody waits for, on a lane that was left alone.
    pub(super) fn has_come(&mut self) -> bool {
        if self.lease.is_none() || self.stream().set_nonblocking(true).is_err() {
            return false;
        }
        let Io { lease, input, .. } = self;
        let lease = lease.as_mut().expect("bug: a leader without a lease");
        let count = lease.read(input.space()).unwrap_or(0);
        self.input.add(count);
        self.report.heard = count > 0;
        self.timeout.quiet_since = None;
        count > 0 && self.stream().set_nonblocking(false).is_ok()
    }

    /// Sees to it that a read wakes at the deadline; false if that is over.
    ///
    /// Without a deadline, and where none was set before, this costs nothing. Else a time-out is
    /// rounded down to a power of two: it wakes early, a few times at most, but one that was set
    /// for a call serves the next call too.
    fn arm_read(&mut self, deadline: Option<Instant>) -> bool {
        if deadline.is_none() && self.timeout.set.is_none() {
            return true;
        }
        let now = now();
        let left = deadline.map(|at| at.saturating_duration_since(now));
        if left.is_some_and(|left| left.is_zero()) {
            return false;
        }
        let given = self.given_timeout();
        let quiet_since = *self.timeout.quiet_since.get_or_insert(now);
        let silent = given.map(|given| {
            let until = quiet_since + given + given / 8;
            until.saturating_duration_since(now).max(MOMENT)
        });
        let wanted = [left, silent].into_iter().flatten().min();
        let is_fine = match (self.timeout.set.unwrap_or(given), wanted) {
            (None, None) => true,
            (Some(set), Some(wanted)) => set <= wanted && set >= wanted / 4,
            _ => false,
        };
        if !is_fine {
            let value = wanted.map(round_down);
            self.timeout.set = Some(value);
            let _ = self.stream().set_read_timeout(value);
        }
        true
    }

    fn given_timeout(&mut self) -> Option<Duration> {
        if let Some(given) = self.timeout.given {
            return given;
        }
        let given = self.stream().read_timeout().unwrap_or(None);
        self.timeout.given = Some(given);
        given
    }

    /// A read was interrupted, or has waited for as long as it may: whether that is too long.
    fn read_in_vain(&mut self, error: io::Error, deadline: Option<Instant>) -> Result<(), Stop<R>> {
        let now = now();
        if deadline.is_some_and(|at| at <= now) {
            return Err(Stop::OutOfTime);
        }
        let Some(given) = self.given_timeout() else {
            let is_ours = self.timeout.set.is_some() || !is_passing(&error);
            return if is_ours { Ok(()) } else { Err(broken(error)) };
        };
        let quiet_since = self.timeout.quiet_since;
        let quiet = quiet_since.map_or(given, |since| now.saturating_duration_since(since));
        if quiet < given {
            return Ok(());
        }
        let text = format!("no byte within {}", Brief(quiet));
        Err(broken(io::Error::new(ErrorKind::TimedOut, text)))
    }
}

/// Writes all, if it can; what it did is added to `report`. Returns how much of it is done with, which
/// is less than all of it only if the time is up: what breaks the connection is left to the next
/// read, because replies may have come before. Where a failed write may have sent a part
/// (`!is_exact`), all of it counts as sent.
pub(super) fn write_all(
    to: &mut dyn Write,
    bytes: &[u8],
    is_exact: bool,
    deadline: Option<Instant>,
    report: &mut Report,
) -> usize {
    let mut done = 0;
    while done < bytes.len() {
        let risked = if is_exact { 0 } else { bytes.len() - done };
        // It may panic, too.
        report.bytes += risked;
        let wrote = to.write(&bytes[done..]);
        report.bytes -= risked;
        match wrote {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Ok(count) if count > 0 => {
                done += count;
                report.bytes += count;
            }
            Err(error)
                if is_exact && is_passing(&error) && deadline.is_some_and(|at| at <= now()) =>
            {
                report.writes += 1;
                return done;
            }
            _ => {
                report.bytes += risked;
                report.failed = true;
                done = bytes.len();
            }
        }
        report.writes += 1;
    }
    if !report.failed && to.flush().is_err() {
        report.failed = true;
    }
    done
}

fn broken<R>(error: io::Error) -> Stop<R> {
    Stop::Broken(Arc::new(error), true)
}

/// Whether an error only says that a time-out is over.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// The largest power of two in milliseconds that is not longer, or what is too short for that.
fn round_down(wanted: Duration) -> Duration {
    let millis = u64::try_from(wanted.as_millis()).unwrap_or(u64::MAX);
    if millis < 4 {
        wanted.max(MOMENT)
    } else {
        Duration::from_millis(1 << millis.ilog2())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::builder::Builder;
    use crate::pipeline::lane::Line;

    /// To set one is a system call.
    #[test]
    fn a_read_time_out_that_is_nearly_right_is_left_alone() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let seconds = |seconds: u64| Some(Duration::from_secs(seconds));
        let millis = |millis: u64| Some(Some(Duration::from_millis(millis)));
        // What was given, how much is left until the deadline at one read and at the next, and what
        // is set by then. So long that no stall of the machine makes a difference.
        for (given, left, expected) in [
            (None, [None, None], None),
            (seconds(8000), [None, seconds(1_000_000)], None),
            (seconds(8000), [None, seconds(3000)], millis(1 << 21)),
            (seconds(8000), [seconds(3000), None], millis(1 << 23)),
            (None, [None, seconds(100_000)], millis(1 << 26)),
            (None, [seconds(3000), None], Some(None)),
        ] {
            let pool = Builder::new(move || TcpStream::connect(address))
                .read_timeout(given)
                .reap_interval(None)
                .build()
                .unwrap();
            let line = Line::<(), Stream>::new();
            let mut io = line.io();
            io.lease = Some(pool.pull().unwrap());
            for left in left {
                assert!(io.arm_read(left.map(|left| now() + left)));
            }
            assert_eq!(io.timeout.set, expected, "{given:?} {left:?}");
        }
    }
}
