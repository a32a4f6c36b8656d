//! Asking the kernel whether a connection lives.
//!
//! One peek with `MSG_DONTWAIT` is the whole probe on the hot path. `SO_ERROR` names the cause once
//! the peek has said "data", and a zero-length write finds a socket whose sending side was shut
//! down. Where the flag's value is not known (Windows), the socket's blocking mode is switched for
//! the peek and put back, by one thread at a time and never while a lease is out.

use std::io::{self, ErrorKind};

use crate::net::socket::{Outside, Socket};
use crate::net::sys;
use crate::report::outcome::Eviction;
use crate::sync::user_code::log;

/// What is wrong with a connection, and the error that was taken from it to find out.
struct Death {
    why: Eviction,
    error: Option<io::Error>,
}

/// Why this connection must leave the pool, if it must; for who has it alone.
#[inline]
pub(crate) fn verdict(socket: &Socket, allow_unread: bool) -> Option<Eviction> {
    let Death { why, error } = judge(socket, allow_unread, || peek(socket)).err()?;
    if let Some(error) = error {
        log!(Debug, "probe found: {error}");
    }
    Some(why)
}

/// [`verdict`] for a sweep, during which a lease may begin.
///
/// The error that it takes from the socket is left for that lease. `try_sending` is whether to try
/// our sending side too.
pub(crate) fn sweep(socket: &Socket, allow_unread: bool, try_sending: bool) -> Option<Eviction> {
    let mut outside = socket.outside();
    if outside.leased {
        return None;
    }
    let probed = judge(socket, allow_unread, || match sys::PEEK_WITHOUT_WAITING {
        Some(peek) => peek.call(socket.tcp()),
        None => peek_switching(socket, &outside),
    });
    let found = probed.and_then(|()| {
        if !try_sending {
            return Ok(());
        }
        socket.try_sending().map_err(|(why, error)| Death {
            why,
            // That our own side was shut down is no error that could be taken away.
            error: (why == Eviction::SocketError).then_some(error),
        })
    });
    let Death { why, error } = found.err()?;
    if let Some(error) = error {
        let text = error.to_string();
        socket.give_error(&mut outside, error);
        drop(outside); // the logger may use a connection of its own
        log!(Debug, "probe found: {text}");
    }
    Some(why)
}

#[inline]
fn judge(
    socket: &Socket,
    allow_unread: bool,
    mut peek: impl FnMut() -> Option<io::Result<usize>>,
) -> Result<(), Death> {
    while let Some(found) = peek() {
        match found {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            found => return explain(socket, allow_unread, found),
        }
    }
    Ok(())
}

/// What it means that a peek found more than nothing.
#[cold]
fn explain(socket: &Socket, allow_unread: bool, found: io::Result<usize>) -> Result<(), Death> {
    let (why, error) = match found {
        Err(error) => (Eviction::SocketError, Some(error)),
        Ok(0) if socket.is_error_taken() => (Eviction::SocketError, None),
        Ok(0) => (Eviction::PeerClosed, None),
        Ok(_) => {
            socket.note_heard();
            match socket.tcp().take_error() {
                Ok(None) if allow_unread => return Ok(()),
                Ok(None) => (Eviction::Unread, None),
                Ok(Some(error)) | Err(error) => (Eviction::SocketError, Some(error)),
            }
        }
    };
    Err(Death { why, error })
}

#[inline]
fn peek(socket: &Socket) -> Option<io::Result<usize>> {
    match sys::PEEK_WITHOUT_WAITING {
        Some(peek) => peek.call(socket.tcp()),
        None => peek_switching(socket, &socket.outside()),
    }
}

/// Switches the blocking mode unless a lease is out; no lease begins, and nobody else does this,
/// while the lock is held.
fn peek_switching(socket: &Socket, outside: &Outside) -> Option<io::Result<usize>> {
    if outside.leased {
        return None;
    }
    let found = || {
        // Even if it should be so already: a lease may have gone round the bookkeeping.
        socket.tcp().set_nonblocking(true)?;
        let peeked = socket.tcp().peek(&mut [0]);
        socket.tcp().set_nonblocking(socket.is_nonblocking())?;
        peeked
    };
    match found() {
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        found => Some(found),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;
    use crate::net::stream::Stream;

    /// Our end of a connection whose peer sends this and resets it, and what this probe, repeated,
    /// finds at last.
    fn reset_after<T>(bytes: &[u8], probe: impl Fn(&Socket) -> Option<T>) -> (Stream, Option<T>) {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let mut far = server.accept().unwrap().0;
        far.write_all(bytes).unwrap();
        let linger = Some(Duration::ZERO);
        socket2::SockRef::from(&far).set_linger(linger).unwrap();
        drop(far);
        let stream = Stream::new(near);
        for _ in 0..1_000 {
            if let Some(found) = probe(stream.socket()) {
                return (stream, Some(found));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        (stream, None)
    }

    /// The same after a sweep has found the reset; none where it cannot be told from an orderly
    /// end.
    fn swept(bytes: &[u8]) -> Option<Stream> {
        let (stream, found) = reset_after(bytes, |socket| sweep(socket, true, false));
        let shows = found == Some(Eviction::SocketError);
        if !shows {
            eprintln!("skipped: here, a reset looks like an end of file");
        }
        shows.then_some(stream)
    }

    #[test]
    fn the_error_that_a_look_took_away_comes_back_to_every_call_of_the_holder() {
        let calls: [fn(&mut Stream) -> io::Result<usize>; 5] = [
            |stream| stream.read_to_end(&mut Vec::new()),
            |stream| {
                stream.read_exact(&mut [0; 4])?;
                stream.peek(&mut [0; 1])
            },
            |stream| stream.write(b"?"),
            |stream| stream.take_error()?.map_or(Ok(0), Err),
            |stream| {
                stream.read_exact(&mut [0; 4])?;
                io::BufRead::fill_buf(&mut io::BufReader::new(stream)).map(<[u8]>::len)
            },
        ];
        for call in calls {
            let Some(mut stream) = swept(b"half") else {
                return;
            };
            let error = call(&mut stream).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            // Once, as the system does.
            assert!(stream.take_error().unwrap().is_none());
            let unfit = stream.socket().make_reusable(true, true);
            assert_eq!(unfit, Some(Eviction::Broken));
        }
    }

    #[test]
    fn a_holder_that_did_not_see_the_error_does_not_give_the_connection_back() {
        for bytes in [&b""[..], b"whole"] {
            let Some(mut stream) = swept(bytes) else {
                return;
            };
            stream.read_exact(&mut vec![0; bytes.len()]).unwrap();
            let unfit = stream.socket().make_reusable(true, true);
            assert_eq!(unfit, Some(Eviction::SocketError));
            assert_eq!(verdict(stream.socket(), true), Some(Eviction::SocketError));
        }
    }

    #[test]
    fn a_look_at_our_own_sending_side_takes_no_error_away() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let far = server.accept().unwrap().0;
        near.shutdown(Shutdown::Write).unwrap();
        let mut stream = Stream::new(near);
        let found = sweep(stream.socket(), true, true);
        assert_eq!(found, Some(Eviction::HalfClosed));
        drop(far);
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn a_peek_that_was_interrupted_is_repeated() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let stream = Stream::new(near);
        let mut peeks = [Some(Err(ErrorKind::Interrupted.into())), None].into_iter();
        assert!(judge(stream.socket(), false, || peeks.next().unwrap()).is_ok());
        assert!(peeks.next().is_none());
    }

    /// Why a sweep that tries the sending side has an error to give back.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_write_of_nothing_takes_a_pending_error_away() {
        let (mut stream, found) = reset_after(b"", |socket| socket.try_sending().err());
        let (why, error) = found.unwrap();
        assert_eq!(why, Eviction::SocketError);
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    }
}
