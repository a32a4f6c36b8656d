//! How soon a pool full of idle connections is over the death of its server.
//!
//! `JACKPOT_SCALE=full cargo test --release --test it recovery -- --nocapture` prints 20 runs.

use std::env;
use std::thread;
use std::time::{Duration, Instant};

use jackpot::{Connector, Pool};

use super::memcached;
use super::program::Program;
use crate::support::{SOON, ask, lease};

const IDLE: usize = 200;

#[test]
fn a_restart_costs_neither_the_first_caller_nor_the_pool_much() {
    let Some(mut server) = Program::start("memcached", memcached) else {
        return;
    };
    let is_full = env::var_os("JACKPOT_SCALE").is_some_and(|scale| scale == "full");
    for _ in 0..if is_full { 20 } else { 2 } {
        let pool = Pool::builder(Connector::new(server.address().to_string()))
            .limit(IDLE)
            .read_timeout(Some(SOON))
            // So that what is measured is not the sweep that was due just then.
            .reap_interval(Some(SOON * 100))
            .build()
            .unwrap();
        drop(lease(&pool, IDLE));
        assert_eq!(pool.stats().idle, IDLE);
        server.kill();
        server.start_again();

        let back = Instant::now();
        let reply = ask(&mut *pool.pull().unwrap(), "version\r").unwrap();
        let replied = back.elapsed();
        while pool.stats().releases < IDLE as u64 && back.elapsed() < SOON {
            thread::sleep(Duration::from_micros(100));
        }
        let clean = back.elapsed();
        println!("first reply after {replied:.2?}, no dead connection left after {clean:.2?}");
        assert!(reply.starts_with("VERSION "), "{reply}");
        let stats = pool.stats();
        assert_eq!((stats.releases, stats.open), (IDLE as u64, 1), "{stats}");
        assert!(replied < SOON / 2 && clean < SOON / 2);
    }
}
