//! What differs between systems: flags, and what error codes mean.

use std::io::{self, ErrorKind};
use std::net::TcpStream;

/// A peek that does not wait, where its numbers are known.
///
/// `MSG_PEEK` is 2 wherever sockets came from BSD; `MSG_DONTWAIT` and `EAGAIN` differ. With `--cfg
/// jackpot_switching` the tests see everywhere what is done where the numbers are not known.
pub(crate) const PEEK_WITHOUT_WAITING: Option<Peek> = if cfg!(jackpot_switching) {
    None
} else if cfg!(any(target_os = "linux", target_os = "android")) {
    Some(Peek {
        flags: 0x2 | 0x40,
        nothing: 11,
    })
} else if cfg!(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd",
    target_os = "openbsd"
)) {
    Some(Peek {
        flags: 0x2 | 0x80,
        nothing: 35,
    })
} else {
    None
};

/// Whether a probe switches the blocking mode, which the holder of a lease would notice.
pub(crate) const SWITCHES_MODE: bool = PEEK_WITHOUT_WAITING.is_none();

/// A peek that does not wait: its flags, and the code of the error that says "nothing there".
#[derive(Clone, Copy)]
pub(crate) struct Peek {
    flags: i32,
    nothing: i32,
}

impl Peek {
    /// How many bytes lie there; none is the end of the stream, and `None` is nothing yet.
    #[inline]
    pub(crate) fn call(self, tcp: &TcpStream) -> Option<io::Result<usize>> {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let found = socket2::SockRef::from(tcp).recv_with_flags(&mut byte, self.flags);
        match found {
            Err(error) if error.raw_os_error() == Some(self.nothing) => {
                // It is a bare code, which needs no destructor. This is the answer of nearly every
                // probe.
                std::mem::forget(error);
                None
            }
            found => Some(found),
        }
    }
}

/// Whether the send buffer takes 16 KiB, even if no segment of it is acknowledged.
///
/// Linux counts what the kernel needs for each segment too, up to 1.3 KB for a small one, and says
/// twice the size that was set.
pub(crate) fn is_roomy(tcp: &TcpStream) -> bool {
    let enough = if cfg!(any(target_os = "linux", target_os = "android")) {
        40 * 1024
    } else {
        32 * 1024
    };
    let size = socket2::SockRef::from(tcp).send_buffer_size();
    size.is_ok_and(|size| size >= enough)
}

/// Whether the socket is in non-blocking mode; Windows cannot be asked.
pub(crate) fn is_nonblocking(tcp: &TcpStream) -> bool {
    #[cfg(unix)]
    return socket2::SockRef::from(tcp).nonblocking().unwrap_or(false);
    #[cfg(not(unix))]
    {
        let _ = tcp;
        false
    }
}

/// Whether a call only came to nothing: interrupted, or nothing came in time.
///
/// On Unix a time-out of the socket's is EAGAIN, and ETIMEDOUT is what is left of a connection
/// whose peer has vanished (keepalive, `TCP_USER_TIMEOUT`). On Windows the time-out of a read is
/// WSAETIMEDOUT, and a vanished peer is another code. A deadline's error has no code.
pub(crate) fn is_pause(error: &io::Error) -> bool {
    match error.kind() {
        ErrorKind::Interrupted | ErrorKind::WouldBlock => true,
        ErrorKind::TimedOut => cfg!(windows) || error.raw_os_error().is_none(),
        _ => false,
    }
}

/// Whether a write failed because our sending side was shut down (EPIPE; WSAESHUTDOWN, which std
/// gives no kind of its own).
pub(crate) fn is_shut_down(error: &io::Error) -> bool {
    error.kind() == ErrorKind::BrokenPipe || (cfg!(windows) && error.raw_os_error() == Some(10058))
}

/// Whether the process or the system has no descriptor left (EMFILE, ENFILE, WSAEMFILE).
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    let source = || std::error::Error::source(error)?.downcast_ref::<io::Error>();
    let code = error.raw_os_error().or_else(|| source()?.raw_os_error());
    let codes: &[i32] = if cfg!(windows) { &[10024] } else { &[23, 24] };
    code.is_some_and(|code| codes.contains(&code))
}
