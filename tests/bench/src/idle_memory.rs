//! How much memory an idle connection takes outside the kernel: prints the bytes allocated and the
//! bytes by which the process grew, each per connection.
//!
//! A program of its own, because the counting allocator would slow the benchmarks down.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const CONNECTIONS: usize = 10_000;

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).ok_or(io::ErrorKind::InvalidInput)?;
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    rlimit::increase_nofile_limit(1 << 16)?;
    // The first pool leaves behind whatever is allocated once per process.
    drop(filled(address, 100));
    let before = weigh()?;
    let pool = filled(address, CONNECTIONS);
    let after = weigh()?;
    drop(pool);
    let each = |before: usize, after: usize| (after - before) as f64 / CONNECTIONS as f64;
    println!("{} {}", each(before.0, after.0), each(before.1, after.1));
    Ok(())
}

fn filled(address: SocketAddr, size: usize) -> jackpot::Pool {
    let pool = jackpot::Pool::builder(move || TcpStream::connect(address))
        .limit(size)
        .min_idle(size)
        .build()
        .expect("the settings are fine");
    // The connect threads hold memory too, and are over a moment after the last connect.
    while pool.stats().idle < size || threads() > 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
    pool
}

/// This thread and the reaper make two.
fn threads() -> usize {
    fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

/// Bytes allocated, and bytes resident.
fn weigh() -> io::Result<(usize, usize)> {
    let status = fs::read_to_string("/proc/self/status")?;
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))
        .and_then(|kilobytes| kilobytes.parse::<usize>().ok())
        .ok_or_else(|| io::Error::other("no VmRSS"))?;
    Ok((HEAP.current_usage(), resident * 1024))
}
