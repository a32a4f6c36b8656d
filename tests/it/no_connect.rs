//! While nothing can be connected, for whatever cause.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use jackpot::{Connection, Connector, Factory, Pool};

use crate::outage::descriptors::out_of_descriptors;
use crate::support::{
    BlackHole, SOON, Server, ask, assert_sums, eventually, on_thread, on_threads, one_retry,
    panic_quietly, refused,
};

const MOMENT: Duration = Duration::from_millis(100);

/// Why no connection can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Refused,
    BacklogFull,
    NoName,
    NoDescriptor,
    FactoryFails,
    FactoryPanics,
}

const CAUSES: [Cause; 6] = [
    Cause::Refused,
    Cause::BacklogFull,
    Cause::NoName,
    Cause::NoDescriptor,
    Cause::FactoryFails,
    Cause::FactoryPanics,
];

impl Cause {
    fn factory(self) -> Box<dyn Fn() -> io::Result<TcpStream> + Send + Sync> {
        match self {
            Self::Refused => {
                let address = refused();
                Box::new(move || TcpStream::connect(address))
            }
            Self::BacklogFull => {
                let hole = BlackHole::new();
                Box::new(move || TcpStream::connect_timeout(&hole.address(), 3 * MOMENT))
            }
            // No resolver sends a label of more than 63 characters anywhere.
            Self::NoName => {
                let connector = Connector::new(format!("{}:1", "n".repeat(70)));
                Box::new(move || connector.connect())
            }
            Self::NoDescriptor => Box::new(|| Err(out_of_descriptors())),
            Self::FactoryFails => Box::new(|| Err(io::Error::other("no"))),
            Self::FactoryPanics => Box::new(|| panic_quietly()),
        }
    }
}

#[test]
fn what_is_open_works_on_while_nothing_connects() {
    let server = Server::echo();
    for cause in CAUSES {
        let (address, fails) = (server.address(), Arc::new(AtomicBool::new(false)));
        let (failing, failure) = (Arc::clone(&fails), cause.factory());
        let pool = Pool::builder(move || {
            if failing.load(SeqCst) {
                failure()
            } else {
                TcpStream::connect(address)
            }
        })
        .limit(3)
        .backoff(one_retry().retries(1000))
        .reap_interval(None)
        .build()
        .unwrap();
        drop((pool.allocate().unwrap(), pool.allocate().unwrap()));
        fails.store(true, SeqCst);
        let mut first = pool.allocate().unwrap();
        let mut second = pool.allocate().unwrap();
        let waiter = on_thread(&pool, |pool| Connection::id(&pool.pull().unwrap()));
        eventually("a connect fails", || pool.stats().connect_failures > 0);
        let caller = on_thread(&pool, |pool| {
            pool.pull_timeout(MOMENT).map(drop).unwrap_err()
        });
        assert_eq!(ask(&mut first, "still there?").unwrap(), "still there?");
        let error = caller.join();
        assert!(
            error.is_timeout() && error.is_connect(),
            "{cause:?}: {error}"
        );
        assert_eq!(ask(&mut second, "and you?").unwrap(), "and you?");
        let id = Connection::id(&second);
        drop(second);
        assert_eq!(waiter.join(), id, "{cause:?}");
    }
}

#[test]
fn the_end_comes_while_nothing_connects() {
    for cause in CAUSES {
        let pool = Pool::builder(cause.factory())
            .backoff(one_retry().retries(1000))
            .reap_interval(None)
            .build()
            .unwrap();
        let waiters = on_threads(&pool, 3, |pool, _| pool.pull().map(drop).unwrap_err());
        eventually("they wait", || pool.stats().waiting == 3);
        pool.end();
        for waiter in waiters {
            assert!(waiter.join().is_ended());
        }
        assert!(pool.drain(SOON), "{cause:?}");
        assert_sums(&pool.stats());
    }
}
