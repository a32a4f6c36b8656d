//! Real servers that are killed while threads work, and started again on the same port.
//!
//! A program that is not installed is skipped, and standard error says so; with
//! `JACKPOT_REQUIRE_SERVERS` set in the environment that is a failure.

mod program;
mod recovery;

use std::fs;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::Path;

use jackpot::{Backoff, Connector, Pool, Stream};

use crate::load::{ECHO, Load, Protocol};
use crate::support::{Opened, SOON, Server, background, eventually};
pub(crate) use program::Program;

const MEMCACHED: Protocol = Protocol {
    request: |id| format!("set key{id:08} 0 0 8\r\n{id:08}\r\nget key{id:08}\r\n"),
    reply: |id| format!("STORED\r\nVALUE key{id:08} 0 8\r\n{id:08}\r\nEND\r\n"),
};

const REDIS: Protocol = Protocol {
    request: |id| format!("SET key{id:08} {id:08}\r\nGET key{id:08}\r\nECHO {id:08}\r\n"),
    reply: |id| format!("+OK\r\n$8\r\n{id:08}\r\n$8\r\n{id:08}\r\n"),
};

#[test]
fn threads_ride_out_the_death_of_memcached() {
    if let Some(server) = Program::start("memcached", memcached) {
        ride_out_deaths(server, MEMCACHED);
    }
}

#[test]
fn threads_ride_out_the_death_of_redis() {
    if let Some(server) = Program::start("redis-server", redis) {
        ride_out_deaths(server, REDIS);
    }
}

#[test]
fn threads_ride_out_the_death_of_a_proxy() {
    let backends = [Server::echo(), Server::echo()];
    if let Some(server) = haproxy(&backends) {
        ride_out_deaths(server, ECHO);
        assert!(backends.iter().all(|backend| backend.requests() > 0));
    }
}

#[test]
fn threads_ride_out_the_death_of_a_backend_behind_a_proxy() {
    let mut backends = [Server::echo(), Server::echo()];
    let Some(server) = haproxy(&backends) else {
        return;
    };
    let opened = Opened::default();
    let pool = pool(&server, &opened);
    let load = Load::start(&pool, ECHO);
    load.calm();
    for (dying, living) in [(0, 1), (1, 0)] {
        load.storm(|| {
            backends[dying].die(true);
            // The proxy is one thread: when it has carried so much since, it has passed the news on.
            let goal = backends[living].requests() + 100;
            eventually("the other one works on", || {
                backends[living].requests() >= goal
            });
        });
        load.calm();
        backends[dying].come_back();
        let before = backends[dying].requests();
        eventually("both work again", || backends[dying].requests() > before);
        load.calm();
    }
    assert_eq!(pool.stats().connect_failures, 0);
    load.end(&opened);
}

/// A proxy accepts before it knows whether a server is there.
#[test]
fn a_handshake_that_asks_finds_out_that_nobody_is_behind_the_proxy() {
    let mut backends = [Server::echo(), Server::echo()];
    let Some(server) = haproxy(&backends) else {
        return;
    };
    for backend in &mut backends {
        backend.die(true);
    }
    let connector = Connector::new(server.address().to_string());
    let builder = Pool::builder(connector).read_timeout(Some(SOON / 2));
    let trusting = builder.build().unwrap();
    drop(trusting.pull_timeout(SOON).unwrap());
    assert_eq!(trusting.stats().connect_failures, 0);

    let connector = Connector::new(server.address().to_string());
    let builder = Pool::builder(connector).read_timeout(Some(SOON / 2));
    let asking = builder
        .backoff(Backoff::new().retries(u32::MAX))
        .handshake(|mut stream: Stream| -> io::Result<Stream> {
            stream.write_all(b"are you there?\n")?;
            stream.read_exact(&mut [0; 15])?;
            Ok(stream)
        })
        .build()
        .unwrap();
    let other = asking.clone();
    let caller = background(move || other.pull().map(|_| ()));
    eventually("handshakes fail", || asking.stats().connect_failures > 0);
    for backend in &mut backends {
        backend.come_back();
    }
    caller.join().unwrap();
}

/// The server dies twice while threads work, then once while all connections lie idle: no pull
/// fails, no reply is wrong, nothing leaks.
fn ride_out_deaths(mut server: Program, protocol: Protocol) {
    let opened = Opened::default();
    let pool = pool(&server, &opened);
    let load = Load::start(&pool, protocol);
    load.calm();
    for _ in 0..2 {
        load.storm(|| {
            server.kill();
            let before = pool.stats().connect_failures;
            eventually("connects fail", || pool.stats().connect_failures > before);
            server.start_again();
        });
        load.calm();
    }
    load.rest(|| {
        server.kill();
        server.start_again();
    });
    load.calm();
    load.end(&opened);
}

fn pool(server: &Program, opened: &Opened) -> Pool {
    let connector = Connector::new(server.address().to_string());
    Pool::builder(opened.by(connector))
        .limit(4)
        .read_timeout(Some(SOON / 2))
        .build()
        .unwrap()
}

pub(crate) fn memcached(address: SocketAddr, _: &Path) -> Vec<String> {
    let port = address.port();
    words(&format!("-l 127.0.0.1 -p {port} -u nobody -m 16"))
}

pub(crate) fn redis(address: SocketAddr, _: &Path) -> Vec<String> {
    let port = address.port();
    let mut arguments = words(&format!("--bind 127.0.0.1 --port {port} --appendonly no"));
    arguments.extend(["--save".into(), String::new()]);
    arguments
}

/// In TCP mode before two servers that take turns, configured as docs/FLEET.md says.
fn haproxy(backends: &[Server; 2]) -> Option<Program> {
    let [a, b] = backends
        .each_ref()
        .map(|backend| backend.address().to_string());
    Program::start("haproxy", |address, folder| {
        let file = folder.join("haproxy.cfg");
        let address = address.to_string();
        let mut text = documented("haproxy").to_owned();
        for (theirs, ours) in [
            ("192.0.2.1:6379", &*address),
            ("192.0.2.11:6379", &a),
            ("192.0.2.12:6379", &b),
            // One thread carries the bytes in the order in which they come.
            ("nbthread 4", "nbthread 1"),
            // More would need more descriptors than a test may take for granted.
            ("maxconn 20000", "maxconn 100"),
        ] {
            assert_eq!(text.matches(theirs).count(), 1, "{theirs} in {text}");
            text = text.replace(theirs, ours);
        }
        fs::write(&file, text).unwrap();
        words(&format!("-db -q -f {}", file.display()))
    })
}

/// The listing of this kind in docs/FLEET.md.
fn documented(kind: &str) -> &'static str {
    let page = include_str!("../../docs/FLEET.md");
    let listing = page.split_once(&format!("```{kind}\n")).unwrap().1;
    listing.split_once("```").unwrap().0
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}
