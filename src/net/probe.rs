//! Asking the kernel whether a connection lives.
//!
//! One peek with `MSG_DONTWAIT` is the whole probe on the hot path. `SO_ERROR` names the cause once
//! the peek has said "data", and a zero-length write finds a socket whose sending side was shut
//! down. Where the flag's value is not known (Windows), the socket's blocking mode is switched for
//! the peek and put back, by one thread at a time and never while a lease is out.

use std::io::{self, ErrorKind, Write};

use crate::net::stream::Socket;
use crate::report::outcome::Eviction;
use crate::sync::user_code::log;

/// What a peek at the receiving side of a socket shows.
#[derive(Debug)]
pub(crate) enum Pulse {
    /// It lives, and nothing lies in it.
    Quiet,
    /// Bytes lie in it; what comes behind them cannot be seen.
    Bytes,
    /// It is dead, for this reason.
    Dead(Eviction),
}

/// Why this idle connection must leave the pool, if it must.
pub(crate) fn verdict(socket: &Socket, allow_unread: bool) -> Option<Eviction> {
    match pulse(socket) {
        Pulse::Quiet => None,
        Pulse::Dead(why) => Some(why),
        Pulse::Bytes => {
            socket.heard();
            match socket.tcp().take_error() {
                Ok(None) if allow_unread => None,
                Ok(None) => Some(Eviction::Unread),
                Ok(Some(_)) | Err(_) => Some(Eviction::SocketError),
            }
        }
    }
}

/// Whether our sending side was shut down, or broke.
pub(crate) fn cannot_send(socket: &Socket) -> Option<Eviction> {
    match socket.tcp().write(&[]) {
        Ok(_) => None,
        Err(error) if is_passing(&error) => None,
        Err(error) if is_shut_down(&error) => Some(Eviction::HalfClosed),
        Err(_) => Some(Eviction::SocketError),
    }
}

/// Whether a write failed because our sending side was shut down (EPIPE; WSAESHUTDOWN, which std
/// gives no kind of its own).
fn is_shut_down(error: &io::Error) -> bool {
    error.kind() == ErrorKind::BrokenPipe || (cfg!(windows) && error.raw_os_error() == Some(10058))
}

fn pulse(socket: &Socket) -> Pulse {
    loop {
        return match peek(socket) {
            Ok(0) => Pulse::Dead(Eviction::PeerClosed),
            Ok(_) => Pulse::Bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => Pulse::Quiet,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => {
                log!(Debug, "probe found: {error}");
                Pulse::Dead(Eviction::SocketError)
            }
        };
    }
}

/// Whether an error says nothing about the connection's health.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut
    )
}

/// `MSG_PEEK` is 2 wherever sockets came from BSD; `MSG_DONTWAIT` differs.
#[cfg(any(target_os = "linux", target_os = "android"))]
const PEEK_FLAGS: Option<i32> = Some(0x2 | 0x40);
#[cfg(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd",
    target_os = "openbsd"
))]
const PEEK_FLAGS: Option<i32> = Some(0x2 | 0x80);
#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd",
    target_os = "openbsd"
)))]
const PEEK_FLAGS: Option<i32> = None;

/// With `--cfg jackpot_switching` the tests see everywhere what is done where no flags are known.
const PEEK_WITHOUT_WAITING: Option<i32> = if cfg!(jackpot_switching) {
    None
} else {
    PEEK_FLAGS
};

/// Whether a probe switches the blocking mode, which the holder of a lease would notice.
pub(crate) const SWITCHES_MODE: bool = PEEK_WITHOUT_WAITING.is_none();

fn peek(socket: &Socket) -> io::Result<usize> {
    if let Some(flags) = PEEK_WITHOUT_WAITING {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        return socket2::SockRef::from(socket.tcp()).recv_with_flags(&mut byte, flags);
    }
    socket
        .unless_leased(|tcp| {
            // Even if it should be so already: a lease may have gone round the bookkeeping.
            tcp.set_nonblocking(true)?;
            let found = tcp.peek(&mut [0]);
            tcp.set_nonblocking(socket.is_nonblocking())?;
            found
        })
        .unwrap_or_else(|| Err(ErrorKind::WouldBlock.into()))
}
