//! A network that loses, delays, reorders and cuts off packets, by a router of the test's own.
//!
//! The pool's process, the router and the server are in three network namespaces. The router takes
//! packets from one link and sends them out on the other, or not, or later, as it is told; it counts
//! what it did, and each scene checks that it did.
//!
//! A scene is a function of a [`Network`]; those of shared calls are in `calls`.

mod calls;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use jackpot::{Builder, Connection, Connector, Eviction, Pool};
use socket2::{Domain, Protocol as IpProtocol, Socket, Type};

use crate::line::fast_retries;
use crate::load::{Load, Protocol};
use crate::support::namespaces::{
    Addresses, Namespace, Process, ip, is_peer, link_names, not_shown,
};
use crate::support::{Opened, SOON, alone, assert_over, eventually, threads_named};

/// In the environment of the process that routes.
const ROUTER: &str = "JACKPOT_TEST_ROUTER";
/// In that of the process that serves lines, and keeps books: its address.
const LINES: &str = "JACKPOT_TEST_LINES";
const SECOND: Duration = Duration::from_secs(1);

/// A server behind a router.
struct Network {
    near: String,
    router: Mutex<Process>,
    address: SocketAddr,
    server: Mutex<Process>,
    _namespaces: [Namespace; 2],
}

/// What the router has done so far.
#[derive(Debug)]
struct Count {
    lost: usize,
    late: usize,
    /// Packets that left before one that had come earlier from the same side.
    reordered: usize,
    cut: usize,
}

impl Network {
    fn new(test: &str) -> io::Result<Self> {
        let (middle, far) = (Namespace::new()?, Namespace::new()?);
        let ((near_a, near_b), (far_a, far_b)) = (link_names(), link_names());
        let (here, there) = (Addresses::new(), Addresses::new());
        let middle_name = &middle.name;
        ip(&format!(
            "link add {near_a} type veth peer name {near_b} netns {middle_name}"
        ))?;
        middle.ip(&format!(
            "link add {far_a} type veth peer name {far_b} netns {}",
            far.name
        ))?;
        ip(&format!("addr add {}/30 dev {near_a}", here.ours))?;
        middle.ip(&format!("addr add {}/30 dev {near_b}", here.theirs))?;
        middle.ip(&format!("addr add {}/30 dev {far_a}", there.ours))?;
        far.ip(&format!("addr add {}/30 dev {far_b}", there.theirs))?;
        // One packet is one segment, as on a wire.
        ip(&format!("link set {near_a} up gso_max_segs 1"))?;
        middle.ip(&format!("link set {near_b} up"))?;
        middle.ip(&format!("link set {far_a} up"))?;
        far.ip(&format!("link set {far_b} up gso_max_segs 1"))?;
        ip(&format!(
            "route add {} via {} dev {near_a}",
            there.block, here.theirs
        ))?;
        far.ip(&format!("route add {} via {}", here.block, there.ours))?;
        let mut router = middle.run(test, ROUTER, "yes");
        router.hear("routing");
        let (server, address) = if test.contains("::calls::") {
            let mut server = far.run(test, LINES, &there.theirs);
            let address = server.hear("serving on ").parse().unwrap();
            (server, address)
        } else {
            far.serve(test, &there.theirs)
        };
        Ok(Self {
            near: near_a,
            router: Mutex::new(router),
            address,
            server: Mutex::new(server),
            _namespaces: [middle, far],
        })
    }

    /// Settings for a pool of connections through the router, which never gives up.
    fn builder(&self, opened: &Opened) -> Builder {
        let connector = Connector::new(self.address.to_string()).connect_timeout(2 * SECOND);
        Pool::builder(opened.by(connector))
            .limit(4)
            .backoff(fast_retries())
            .reap_interval(Some(SECOND / 20))
    }

    /// From now on so many packets of a hundred are lost, and so many late.
    fn worsen(&self, lost: u64, late: u64) {
        self.order(&format!("worsen {lost} {late}"));
    }

    /// Every packet after so many with payload is lost.
    fn cut_after(&self, packets: usize) {
        self.order(&format!("cut {packets}"));
    }

    fn mend(&self) {
        self.order("mend");
    }

    fn order(&self, what: &str) {
        let mut router = self.router.lock().unwrap();
        router.order(what);
        router.hear("done");
    }

    fn count(&self) -> Count {
        let mut router = self.router.lock().unwrap();
        router.order("count");
        let told = router.hear("count: ");
        let mut numbers = told.split(' ').map(|number| number.parse().unwrap());
        let mut next = || numbers.next().unwrap();
        Count {
            lost: next(),
            late: next(),
            reordered: next(),
            cut: next(),
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = ip(&format!("link del {}", self.near));
    }
}

/// Plays a scene in a process of its own, so that its threads can be counted.
fn through_a_router(test: &str, scene: impl FnOnce(&Network)) {
    if std::env::var_os(ROUTER).is_some() {
        return route();
    }
    if let Ok(address) = std::env::var(LINES) {
        return calls::serve(&address);
    }
    if is_peer() {
        return;
    }
    alone(test, || match Network::new(test) {
        Ok(network) => {
            scene(&network);
            eventually("no thread is left", || threads_named("jackpot-") == 0);
        }
        Err(error) => not_shown(test, &error),
    });
}

/// What the router does to packets, and what it has done.
#[derive(Default)]
struct Fate {
    lost: u64,
    late: u64,
    cut_after: Option<usize>,
    count: [usize; 4],
}

/// Routes until it is killed.
fn route() {
    let incoming = Socket::new(
        Domain::PACKET,
        Type::DGRAM,
        Some(IpProtocol::from(i32::from(0x0800_u16.to_be()))),
    )
    .unwrap();
    incoming
        .set_read_timeout(Some(Duration::from_millis(1)))
        .unwrap();
    incoming.set_recv_buffer_size(4 << 20).unwrap();
    let raw = IpProtocol::from(255);
    let outgoing = Socket::new(Domain::IPV4, Type::RAW, Some(raw)).unwrap();
    outgoing.set_header_included_v4(true).unwrap();
    outgoing.set_send_buffer_size(4 << 20).unwrap();
    let fate: Arc<Mutex<Fate>> = Arc::default();
    println!("routing");
    thread::spawn({
        let fate = Arc::clone(&fate);
        move || {
            for line in io::stdin().lines() {
                obey(&line.unwrap(), &fate);
            }
        }
    });
    let mut router = Router {
        fate,
        outgoing,
        random: 1,
        arrivals: 0,
        waiting: BinaryHeap::new(),
    };
    let mut buffer = vec![0; 1 << 16];
    loop {
        router.send_what_is_due();
        match (&incoming).read(&mut buffer) {
            Ok(length) => router.take(&buffer[..length]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
    }
}

fn obey(order: &str, fate: &Mutex<Fate>) {
    let mut fate = fate.lock().unwrap();
    let mut words = order.split(' ');
    let verb = words.next().unwrap();
    let mut number = || words.next().unwrap().parse::<u64>().unwrap();
    match verb {
        "worsen" => (fate.lost, fate.late) = (number(), number()),
        "cut" => fate.cut_after = Some(usize::try_from(number()).unwrap()),
        "mend" => {
            let count = fate.count;
            *fate = Fate {
                count,
                ..Fate::default()
            };
        }
        _ => {
            let count = fate.count.map(|count| count.to_string());
            return println!("count: {}", count.join(" "));
        }
    }
    println!("done");
}

struct Router {
    fate: Arc<Mutex<Fate>>,
    outgoing: Socket,
    random: u64,
    arrivals: u64,
    /// What is late: when it is due, when it came, and itself.
    waiting: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>,
}

impl Router {
    fn take(&mut self, packet: &[u8]) {
        const TCP: u8 = 6;
        if packet.len() < 40 || packet[9] != TCP {
            return;
        }
        // The link may pad what is short.
        let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        let mut packet = packet[..length].to_vec();
        fill_in_checksum(&mut packet);
        let has_payload = length > 100;
        let chance = (self.random(100), self.random(100));
        let mut fate = self.fate.lock().unwrap();
        let fate = &mut *fate;
        let [lost, late, reordered, cut] = &mut fate.count;
        match &mut fate.cut_after {
            Some(0) => return *cut += 1,
            Some(left) if has_payload => *left -= 1,
            _ => {}
        }
        if chance.0 < fate.lost {
            return *lost += 1;
        }
        self.arrivals += 1;
        if chance.1 < fate.late {
            *late += 1;
            let due = Instant::now() + Duration::from_millis(1 + self.arrivals % 15);
            return self.waiting.push(Reverse((due, self.arrivals, packet)));
        }
        let source = &packet[12..16];
        if self
            .waiting
            .iter()
            .any(|Reverse((_, _, other))| &other[12..16] == source)
        {
            *reordered += 1;
        }
        send(&self.outgoing, &packet);
    }

    fn send_what_is_due(&mut self) {
        let now = Instant::now();
        while self
            .waiting
            .peek()
            .is_some_and(|Reverse((due, ..))| *due <= now)
        {
            let Some(Reverse((_, _, packet))) = self.waiting.pop() else {
                return;
            };
            send(&self.outgoing, &packet);
        }
    }

    /// Sebastiano Vigna's `SplitMix64`.
    fn random(&mut self, end: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % end
    }
}

fn send(socket: &Socket, packet: &[u8]) {
    let to = Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]);
    let to: SocketAddr = SocketAddrV4::new(to, 0).into();
    // There is no way out any more while the links are taken down at the end.
    let _ = socket.send_to(packet, &to.into());
}

/// The sender leaves TCP's checksum to its network card, which a virtual link has not.
fn fill_in_checksum(packet: &mut [u8]) {
    let header = usize::from(packet[0] & 15) * 4;
    let checksum = header + 16;
    packet[checksum..checksum + 2].fill(0);
    let length = u32::try_from(packet.len() - header).unwrap();
    let words = |bytes: &[u8]| -> u32 {
        let pairs = bytes.chunks(2);
        pairs
            .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| low.into()))
            .sum()
    };
    let mut sum = words(&packet[12..20]) + 6 + length + words(&packet[header..]);
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    let sum = !u16::try_from(sum).unwrap();
    packet[checksum..checksum + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Lines that take three packets, any part of which tells whose they are.
const LONG: Protocol = Protocol {
    request: |id| format!("{id:08}").repeat(512),
    reply: |id| format!("{id:08}").repeat(512),
};

#[test]
fn packets_lost_late_and_out_of_order_cost_time_and_nothing_else() {
    through_a_router(
        "bad_network::packets_lost_late_and_out_of_order_cost_time_and_nothing_else",
        |network| {
            let opened = Opened::default();
            let builder = network.builder(&opened).read_timeout(Some(SOON / 2));
            let pool = builder.build().unwrap();
            let load = Load::start(&pool, LONG);
            load.calm();
            network.worsen(3, 20);
            load.calm();
            load.calm();
            let count = network.count();
            println!("{count:?}, {}", pool.stats());
            assert!(
                count.lost > 20 && count.late > 100 && count.reordered > 100,
                "{count:?}"
            );
            network.mend();
            load.end(&opened);
        },
    );
}

/// With so short a time-out late replies come when nobody waits for them any more.
#[test]
fn replies_that_are_later_than_a_callers_time_out_reach_nobody() {
    through_a_router(
        "bad_network::replies_that_are_later_than_a_callers_time_out_reach_nobody",
        |network| {
            let opened = Opened::default();
            let timeout = Duration::from_millis(8);
            let builder = network.builder(&opened).read_timeout(Some(timeout));
            let pool = builder.build().unwrap();
            let load = Load::start(&pool, LONG);
            load.storm(|| {
                network.worsen(2, 30);
                eventually("many have timed out", || {
                    pool.stats().evicted(Eviction::Unanswered) > 200
                });
                let count = network.count();
                println!("{count:?}, {}", pool.stats());
                assert!(count.late > 200, "{count:?}");
                network.mend();
            });
            load.end(&opened);
        },
    );
}

#[test]
fn a_network_that_is_cut_in_the_middle_of_requests_harms_only_those() {
    through_a_router(
        "bad_network::a_network_that_is_cut_in_the_middle_of_requests_harms_only_those",
        |network| {
            let opened = Opened::default();
            let builder = network.builder(&opened).read_timeout(Some(SECOND / 2));
            let pool = builder.write_timeout(Some(SECOND / 2)).build().unwrap();
            let load = Load::start(&pool, LONG);
            load.calm();
            for packets in [1, 20, 50] {
                load.storm(|| {
                    let before = network.count().cut;
                    network.cut_after(packets);
                    eventually("it is cut", || network.count().cut > before);
                    eventually("the requests on all connections fail", || {
                        pool.stats().open == 0
                    });
                    network.mend();
                });
                load.calm();
            }
            let count = network.count();
            println!("{count:?}, {}", pool.stats());
            assert!(count.cut > 20, "{count:?}");
            load.end(&opened);
        },
    );
}

/// Writes a request of seventy packets, and reads its echo.
fn ask_at_length(lease: &mut Connection) -> io::Result<()> {
    let request = vec![b'x'; 100_000];
    let mut stream: &jackpot::Stream = lease;
    stream.write_all(&request)?;
    let mut reply = vec![0; request.len()];
    stream.read_exact(&mut reply)?;
    assert!(reply == request);
    Ok(())
}

#[test]
fn a_lease_that_was_cut_off_in_the_middle_is_closed_and_the_next_one_works() {
    through_a_router(
        "bad_network::a_lease_that_was_cut_off_in_the_middle_is_closed_and_the_next_one_works",
        |network| {
            let opened = Opened::default();
            // Where the buffers are small it is the write that ends.
            let builder = network.builder(&opened).read_timeout(Some(SECOND / 4));
            let builder = builder.write_timeout(Some(SECOND / 4)).limit(1);
            let pool = builder.build().unwrap();
            ask_at_length(&mut pool.pull().unwrap()).unwrap();
            // In the first packets, in the middle of the request, in the middle of the reply.
            for (cut, packets) in (1..).zip([1, 30, 110]) {
                let mut lease = pool.pull().unwrap();
                let id = Connection::id(&lease);
                network.cut_after(packets);
                let kind = ask_at_length(&mut lease).unwrap_err().kind();
                assert_eq!(kind, ErrorKind::WouldBlock, "it timed out");
                drop(lease);
                network.mend();
                let mut lease = pool.pull_timeout(SOON).unwrap();
                assert_ne!(Connection::id(&lease), id);
                ask_at_length(&mut lease).unwrap();
                drop(lease);
                let stats = pool.stats();
                // "Broken" where the write stalled half-way.
                let cut_off = stats.evicted(Eviction::Unanswered) + stats.evicted(Eviction::Broken);
                assert_eq!((cut_off, stats.idle), (cut, 1), "{stats}");
            }
            assert!(network.count().cut > 10);
            pool.end();
            assert!(pool.drain(SOON));
            assert_over(&pool.stats());
            eventually("every socket is closed", || opened.left() == 0);
        },
    );
}
