//! One deadline over a whole handshake.

use std::error::Error as _;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use jackpot::{Error, Pool, Stream};

use crate::support::{SOON, Server, background};

const BOUND: Duration = Duration::from_millis(150);

#[track_caller]
fn assert_ends_in_time<C: Send + 'static>(pool: &Pool<C>) -> Error {
    let begun = Instant::now();
    let other = pool.clone();
    let error = background(move || other.allocate().map(drop))
        .join()
        .unwrap_err();
    assert!(begun.elapsed() >= BOUND && begun.elapsed() < SOON);
    assert!(matches!(error, Error::Handshake(_)), "{error}");
    assert_eq!(error.io_error().unwrap().kind(), ErrorKind::TimedOut);
    let source = error.source().unwrap().to_string();
    assert_eq!(source, "timed out after 150 ms");
    assert_eq!((pool.stats().connect_failures, pool.stats().open), (1, 0));
    error
}

#[test]
fn a_server_that_drips_in_a_handshake_held_the_connect_for_ever() {
    let server = Server::dripping(Duration::from_millis(10));
    let address = server.address();
    let pool = Pool::builder(move || TcpStream::connect(address))
        .handshake_timeout(Some(BOUND))
        .read_timeout(Some(SOON))
        .handshake(|stream| {
            let mut lines = BufReader::new(stream);
            lines.read_line(&mut String::new())?;
            Ok::<_, io::Error>(lines)
        })
        .build()
        .unwrap();
    assert_ends_in_time(&pool);
}

#[test]
fn what_a_handshake_makes_of_its_time_out_is_the_cause() {
    let server = Server::dripping(Duration::from_millis(10));
    let address = server.address();
    let pool = Pool::builder(move || TcpStream::connect(address))
        .handshake_timeout(Some(BOUND))
        .handshake(|mut stream: Stream| {
            stream
                .read_to_end(&mut Vec::new())
                .map_err(|_| "no greeting")?;
            Ok::<_, &str>(stream)
        })
        .build()
        .unwrap();
    let error = assert_ends_in_time(&pool);
    let cause = error.source().unwrap().source().unwrap();
    assert_eq!(cause.to_string(), "no greeting");
}

#[test]
fn a_server_that_drips_in_a_tls_handshake_is_ended() {
    // A record that announces so much more than comes.
    let server = Server::serving(|mut socket: &TcpStream| {
        let mut next = [0x16, 3, 3, 0x3f, 0xff, 2]
            .into_iter()
            .chain(std::iter::repeat(0));
        while socket.write_all(&[next.next().unwrap()]).is_ok() {
            thread::sleep(Duration::from_millis(10));
        }
    });
    let address = server.address();
    let roots = rustls::RootCertStore::empty();
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    let pool = Pool::builder(move || TcpStream::connect(address))
        .handshake_timeout(Some(BOUND))
        .handshake(move |mut stream: Stream| {
            let name = "localhost".try_into().unwrap();
            let mut session = rustls::ClientConnection::new(Arc::clone(&config), name)
                .map_err(io::Error::other)?;
            while session.is_handshaking() {
                session.complete_io(&mut stream)?;
            }
            Ok::<_, io::Error>(rustls::StreamOwned::new(session, stream))
        })
        .build()
        .unwrap();
    assert_ends_in_time(&pool);
}

#[test]
fn the_deadline_of_a_handshake_is_over_with_it() {
    let server = Server::serving(|mut socket: &TcpStream| {
        socket.write_all(b"!").unwrap();
        thread::sleep(BOUND * 2);
        socket.write_all(b"?").unwrap();
        let _ = socket.read(&mut [0]);
    });
    let address = server.address();
    let pool = Pool::builder(move || TcpStream::connect(address))
        .handshake_timeout(Some(BOUND))
        .handshake(|mut stream: Stream| {
            assert!(stream.deadline().is_some());
            stream.read_exact(&mut [0])?;
            Ok::<_, io::Error>(stream)
        })
        .build()
        .unwrap();
    let mut lease = pool.pull().unwrap();
    assert_eq!(lease.deadline(), None);
    lease.read_exact(&mut [0]).unwrap();
}
