//! Sessions of a real client, `imap`, with a real server, Dovecot.

use std::env;
use std::io::{self, Write};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use imap::Client;
use jackpot::{Builder, Connector, Error, Eviction, Pool, Stream};

use crate::support::{SOON, assert_sums, eventually, one_retry};

#[path = "../../docs/examples/imap/dovecot.rs"]
mod dovecot;

type Session = imap::Session<Stream>;

/// A server, unless there is none to start.
fn server() -> Option<dovecot::Dovecot> {
    match dovecot::start() {
        Ok(server) => Some(server),
        Err(error) => {
            let required =
                env::var_os("JACKPOT_REQUIRE_SERVERS").is_some_and(|set| !set.is_empty());
            assert!(!required, "{error}");
            let _ = writeln!(io::stderr(), "skipped: {error}");
            None
        }
    }
}

fn sessions(server: &dovecot::Dovecot) -> Builder<Session> {
    Pool::builder(Connector::new(server.address()))
        .limit(2)
        .reap_interval(None)
        .read_timeout(Some(SOON))
        .handshake(|stream| {
            let mut client = Client::new(stream);
            client.read_greeting()?;
            let login = client.login("somebody", dovecot::PASSWORD);
            login.map_err(|(error, _)| error)
        })
}

fn messages(pool: &Pool<Session>) -> u32 {
    let mut session = pool.pull_timeout(SOON).unwrap();
    session.examine("INBOX").unwrap().exists
}

#[test]
fn a_session_is_logged_in_once_and_kept_by_noop() {
    let Some(server) = server() else { return };
    let pings = Arc::new(AtomicUsize::new(0));
    let pinged = Arc::clone(&pings);
    let pool = sessions(&server)
        .ping(Duration::from_millis(1), move |session| {
            session.noop()?;
            pinged.fetch_add(1, Relaxed);
            Ok::<_, imap::Error>(())
        })
        .build()
        .unwrap();
    assert_eq!(messages(&pool), 0);
    eventually("a ping", || {
        pool.reap();
        pings.load(Relaxed) > 0
    });
    eventually("the ping is over", || pool.stats().leased == 0);
    assert_eq!(messages(&pool), 0);
    assert_eq!((pool.stats().connects, pool.stats().releases), (1, 0));
}

#[test]
fn a_session_with_a_wrong_password_is_a_failed_handshake() {
    let Some(server) = server() else { return };
    let pool = sessions(&server).build().unwrap();
    assert_eq!(messages(&pool), 0); // it runs
    let pool = Pool::builder(Connector::new(server.address()))
        .backoff(one_retry().retries(0))
        .handshake(|stream| {
            let mut client = Client::new(stream);
            client.read_greeting()?;
            client
                .login("somebody", "wrong")
                .map_err(|(error, _)| error)
        })
        .build()
        .unwrap();
    let Error::Exhausted { last, .. } = pool.pull().unwrap_err() else {
        panic!("another error");
    };
    let Error::Handshake(cause) = *last else {
        panic!("{last}")
    };
    assert!(
        matches!(cause.downcast_ref(), Some(imap::Error::No(_))),
        "{cause}"
    );
}

#[test]
fn a_session_that_the_server_logged_out_is_never_handed_out() {
    let Some(server) = server() else { return };
    let pool = sessions(&server).build().unwrap();
    assert_eq!(messages(&pool), 0);
    let kicked = Command::new("doveadm")
        .arg("-c")
        .arg(server.folder.join("dovecot.conf"))
        .args(["kick", "somebody"])
        .status();
    assert!(kicked.unwrap().success());
    eventually("it is found", || {
        pool.reap();
        pool.stats().idle == 0
    });
    let stats = pool.stats();
    let why = [
        Eviction::Unread,
        Eviction::PeerClosed,
        Eviction::SocketError,
    ];
    let found: u64 = why.into_iter().map(|why| stats.evicted(why)).sum();
    assert_eq!((found, stats.releases), (1, 1), "{stats}");
    assert_sums(&stats);
}
