//! How much memory an idle connection takes outside the kernel: prints the bytes allocated, per
//! connection.
//!
//! A program of its own, because the counting allocator would slow the benchmarks down.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const CONNECTIONS: usize = 10_000;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, peer, address] = &arguments[..] else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    rlimit::increase_nofile_limit(1 << 16)?;
    let bytes = match peer.as_str() {
        "jackpot" => weigh(|size| jackpot(address, size)),
        "r2d2" => weigh(|size| r2d2(address, size)),
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    println!("{bytes}");
    Ok(())
}

/// Bytes per connection of a pool of so many.
fn weigh<P>(pool: impl Fn(usize) -> P) -> f64 {
    // The first pool leaves behind whatever is allocated once per process.
    drop(pool(10));
    threads_stand_still();
    let before = HEAP.current_usage();
    let pool = pool(CONNECTIONS);
    threads_stand_still();
    let after = HEAP.current_usage();
    drop(pool);
    (after - before) as f64 / CONNECTIONS as f64
}

/// Waits until threads have stopped coming and going: those that connect hold memory too.
fn threads_stand_still() {
    let threads = || fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    let mut unchanged = 0;
    while unchanged < 20 {
        let before = threads();
        thread::sleep(Duration::from_millis(5));
        unchanged = if threads() == before {
            unchanged + 1
        } else {
            0
        };
    }
}

fn jackpot(address: SocketAddr, size: usize) -> jackpot::Pool {
    let pool = jackpot::Pool::builder(move || connect(address))
        .limit(size)
        .min_idle(size)
        .build()
        .expect("the settings are fine");
    while pool.stats().idle < size {
        thread::sleep(Duration::from_millis(1));
    }
    pool
}

struct Manager(SocketAddr);

impl r2d2::ManageConnection for Manager {
    type Connection = TcpStream;
    type Error = io::Error;

    fn connect(&self) -> io::Result<TcpStream> {
        connect(self.0)
    }

    fn is_valid(&self, _: &mut TcpStream) -> io::Result<()> {
        Ok(())
    }

    fn has_broken(&self, _: &mut TcpStream) -> bool {
        false
    }
}

fn r2d2(address: SocketAddr, size: usize) -> r2d2::Pool<Manager> {
    r2d2::Pool::builder()
        .max_size(u32::try_from(size).expect("sizes are small"))
        .build(Manager(address))
        .expect("r2d2 connects")
}

/// Waits until the server has accepted: it must not be outrun.
fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let mut socket = TcpStream::connect(address)?;
    socket.write_all(&[0])?;
    socket.read_exact(&mut [0])?;
    Ok(socket)
}
