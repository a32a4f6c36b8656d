//! What befalls connections, and pools whose sockets a test can strike.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{self, Receiver};

use Fault::{Fin, OurHalfClose, OutOfBand, Rst, Stray, StrayFin, StrayRst, TheirHalfClose};
use jackpot::{Builder, Connection, Eviction, Pool};
use socket2::SockRef;

use super::{Peer, SOON, eventually, reset, reset_cause};

/// A pool whose factory keeps a duplicate of each socket, and the duplicates.
pub(crate) fn keeping(
    address: SocketAddr,
    settings: impl FnOnce(Builder) -> Builder,
) -> (Pool, Receiver<TcpStream>) {
    let (keep, kept) = mpsc::channel();
    let builder = Pool::builder(move || {
        let tcp = TcpStream::connect(address)?;
        let _ = keep.send(tcp.try_clone()?);
        Ok(tcp)
    });
    let pool = settings(builder.reap_interval(None)).build().unwrap();
    (pool, kept)
}

/// What befalls a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Fin,
    Rst,
    Stray,
    StrayFin,
    StrayRst,
    OurHalfClose,
    TheirHalfClose,
    OutOfBand,
}

/// What the other side can do.
pub(crate) const THEIRS: [Fault; 7] = [
    Fin,
    Rst,
    Stray,
    StrayFin,
    StrayRst,
    TheirHalfClose,
    OutOfBand,
];

/// Both ends of a connection, beside the pool's own handle on it.
pub(crate) struct Ends {
    pub(crate) near: TcpStream,
    pub(crate) far: Option<TcpStream>,
}

impl Ends {
    /// Does it, and waits until it can be seen.
    pub(crate) fn strike(&mut self, fault: Fault) {
        let mut far = self.far.take().unwrap();
        if matches!(fault, Stray | StrayFin | StrayRst) {
            far.write_all(b"!").unwrap();
        }
        match fault {
            Fin | StrayFin => drop(far),
            Rst | StrayRst => reset(far),
            Stray => self.far = Some(far),
            OurHalfClose => {
                self.near.shutdown(Shutdown::Write).unwrap();
                self.far = Some(far);
            }
            TheirHalfClose => {
                far.shutdown(Shutdown::Write).unwrap();
                self.far = Some(far);
            }
            OutOfBand => {
                SockRef::from(&far).send_out_of_band(b"!").unwrap();
                self.far = Some(far);
            }
        }
        eventually("it arrives", || match fault {
            Fin | TheirHalfClose => self.near.peek(&mut [0]).unwrap() == 0,
            Rst | StrayRst => self.near.peer_addr().is_err(),
            Stray | StrayFin => self.near.peek(&mut [0]).unwrap() == 1,
            OurHalfClose => true,
            OutOfBand => {
                let urgent_peek = 1 | 2;
                let mut byte = [std::mem::MaybeUninit::uninit()];
                let near = SockRef::from(&self.near);
                near.recv_with_flags(&mut byte, urgent_peek).is_ok()
            }
        });
    }
}

/// A pool whose sockets a test can strike.
pub(crate) struct Range {
    pub(crate) peer: Peer,
    pub(crate) pool: Pool,
    pub(crate) kept: Receiver<TcpStream>,
}

impl Range {
    pub(crate) fn new(limit: usize, settings: impl FnOnce(Builder) -> Builder) -> Self {
        let peer = Peer::new();
        let (pool, kept) = keeping(peer.address(), |b| {
            settings(b.limit(limit).max_connecting(1))
        });
        Self { peer, pool, kept }
    }

    /// A pool of one idle connection that this has befallen; the other side stays open if that
    /// leaves it so.
    pub(crate) fn struck(fault: Fault, settings: impl FnOnce(Builder) -> Builder) -> (Self, Ends) {
        let range = Self::new(1, settings);
        let (lease, mut ends) = range.lease();
        drop(lease);
        ends.strike(fault);
        (range, ends)
    }

    /// The ends of the connection made next.
    pub(crate) fn ends(&self) -> Ends {
        Ends {
            near: self.kept.recv_timeout(SOON).unwrap(),
            far: Some(self.peer.accept()),
        }
    }

    pub(crate) fn lease(&self) -> (Connection, Ends) {
        (self.pool.allocate().unwrap(), self.ends())
    }
}

/// An urgent byte is not in the stream, so that it harms nobody who does not ask for it.
pub(crate) fn why(fault: Fault) -> Option<Eviction> {
    match fault {
        Fin | TheirHalfClose => Some(Eviction::PeerClosed),
        Rst => Some(reset_cause(false)),
        StrayRst => Some(reset_cause(true)),
        Stray | StrayFin => Some(Eviction::Unread),
        OurHalfClose => Some(Eviction::HalfClosed),
        OutOfBand => None,
    }
}
