//! What a pipeline counts.

use std::fmt;

/// A pipeline's numbers at one instant, from [`Pipeline::stats`](crate::Pipeline::stats).
///
/// They are taken under one lock. Gauges come first, then counters that only ever grow. `calls /
/// writes` is how many requests went out with one system call. What a connection's reader has done
/// while it waits for a reply is counted when that comes, so `writes` may lag behind and be zero.
/// `Display` prints one line for a log.
///
/// # Examples
///
/// ```
/// # use std::io::{BufRead, Write};
/// # use std::net::{TcpListener, TcpStream};
/// # let server = TcpListener::bind("127.0.0.1:0")?;
/// # let address = server.local_addr()?;
/// # std::thread::spawn(move || {
/// #     let (mut peer, _) = server.accept().unwrap();
/// #     std::io::copy(&mut peer.try_clone().unwrap(), &mut peer).unwrap();
/// # });
/// # use jackpot::{Pipeline, Pool};
/// let pool = Pool::new(4, move || TcpStream::connect(address))?;
/// let lines = Pipeline::new(pool, |reply| {
///     let mut line = String::new();
///     reply.read_line(&mut line).map(|_| line)
/// });
/// assert_eq!(lines.call(b"hello\n")?, "hello\n");
///
/// let stats = lines.stats();
/// assert_eq!((stats.calls, stats.writes, stats.replies), (1, 1, 1));
/// assert_eq!((stats.queued, stats.in_flight, stats.lanes), (0, 0, 0));
/// println!("{stats}"); // one line, for a log
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PipelineStats {
    /// Calls whose request has not been sent yet.
    pub queued: usize,
    /// Requests that were sent and whose replies have not come, abandoned ones among them.
    pub in_flight: usize,
    /// Connections in use.
    pub lanes: usize,
    /// Requests sent, ever; one that is sent once more counts again.
    pub calls: u64,
    /// System calls that sent them, ever.
    pub writes: u64,
    /// Replies read, ever, those that nobody waited for among them.
    pub replies: u64,
    /// Calls whose time was up, ever.
    pub timeouts: u64,
    /// Those of them whose request had been sent, ever.
    pub abandoned: u64,
    /// Requests whose connection broke before their reply came, ever; abandoned ones do not count.
    pub lost: u64,
    /// Lost requests that were sent once more, ever.
    pub repeated: u64,
}

impl fmt::Display for PipelineStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} queued, {} in flight, {} lanes; {} calls, {} writes, {} replies, {} timeouts, \
             {} abandoned, {} lost, {} repeated",
            self.queued,
            self.in_flight,
            self.lanes,
            self.calls,
            self.writes,
            self.replies,
            self.timeouts,
            self.abandoned,
            self.lost,
            self.repeated
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_the_log_has_each_number_in_its_place() {
        let stats = PipelineStats {
            queued: 1,
            in_flight: 2,
            lanes: 3,
            calls: 4,
            writes: 5,
            replies: 6,
            timeouts: 7,
            abandoned: 8,
            lost: 9,
            repeated: 10,
        };
        assert_eq!(
            stats.to_string(),
            "1 queued, 2 in flight, 3 lanes; 4 calls, 5 writes, 6 replies, 7 timeouts, \
             8 abandoned, 9 lost, 10 repeated"
        );
    }
}
