//! A connection that the kernel gave up: its peer is gone, or has stopped reading for too long.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use jackpot::{Eviction, Pool};
use socket2::SockRef;

use crate::support::{Peer, SOON, assert_left};

/// ETIMEDOUT has the kind of a time-out, and is none.
#[test]
fn a_connection_that_the_kernel_gave_up_does_not_go_back() {
    let peer = Peer::new();
    let address = peer.address();
    let pool = Pool::builder(move || {
        let tcp = TcpStream::connect(address)?;
        SockRef::from(&tcp).set_tcp_user_timeout(Some(Duration::from_millis(100)))?;
        Ok(tcp)
    })
    .limit(1)
    .reap_interval(None)
    .probe_after(SOON)
    .allow_unanswered(true)
    .read_timeout(Some(SOON))
    .build()
    .unwrap();
    let mut lease = pool.pull().unwrap();
    let _far = peer.accept();
    // It reads nothing, so that before long nothing more can be sent.
    let mut tcp = lease.tcp();
    tcp.set_nonblocking(true).unwrap();
    let much = vec![b'.'; 65536];
    while tcp.write_all(&much).is_ok() {}
    tcp.set_nonblocking(false).unwrap();
    let error = lease.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.raw_os_error().is_some(), "{error}");
    drop(lease);
    assert_left(&pool, Eviction::Broken);
}
