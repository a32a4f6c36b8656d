//! The echo server, which runs in a process of its own: this program again, with `serve`.
//!
//! One thread waits for all sockets at once, so that idle connections cost nothing and a thousand
//! busy ones no threads. It ends when its standard input does, which the parent's death ensures.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

const LISTENER: Token = Token(0);

/// A running echo server; dropped, it ends.
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    pub(crate) fn start() -> io::Result<Self> {
        Self::run(&[])
    }

    /// One that answers each request so long after it came.
    pub(crate) fn start_late(late: Duration) -> io::Result<Self> {
        Self::run(&["--late", &late.as_micros().to_string()])
    }

    fn run(arguments: &[&str]) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("serve")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().expect("standard output is piped");
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let address = line.trim().parse().map_err(io::Error::other)?;
        Ok(Self { child, address })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// What the server's process does: echoes until standard input ends.
pub(crate) fn serve() -> io::Result<()> {
    let mut listener = TcpListener::bind("127.0.0.1:0".parse().expect("an address"))?;
    println!("{}", listener.local_addr()?);
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(0);
    });
    let mut poll = Poll::new()?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut peers: HashMap<Token, TcpStream> = HashMap::new();
    let mut next = LISTENER.0;
    loop {
        if let Err(error) = poll.poll(&mut events, None) {
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        for event in &events {
            if event.token() != LISTENER {
                let over = peers
                    .get_mut(&event.token())
                    .is_some_and(|peer| !echo(peer));
                if over {
                    peers.remove(&event.token());
                }
                continue;
            }
            while let Ok((mut peer, _)) = listener.accept() {
                next += 1;
                peer.set_nodelay(true)?;
                poll.registry()
                    .register(&mut peer, Token(next), Interest::READABLE)?;
                peers.insert(Token(next), peer);
            }
        }
    }
}

/// Sends back what has come; false when the connection is over.
fn echo(peer: &mut TcpStream) -> bool {
    let mut bytes = [0; 4096];
    loop {
        match peer.read(&mut bytes) {
            Ok(0) => return false,
            // Requests are small and answered one by one, so the buffer always has room.
            Ok(count) => {
                if peer.write_all(&bytes[..count]).is_err() {
                    return false;
                }
            }
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
}

/// The same, each answer so long after its request: one thread for each connection that reads, and
/// one for all that waits and answers.
pub(crate) fn serve_late(late: Duration) -> io::Result<()> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(0);
    });
    let (later, due) = mpsc::channel::<(Instant, Arc<std::net::TcpStream>, Vec<u8>)>();
    thread::spawn(move || {
        for (at, peer, bytes) in due {
            let now = Instant::now();
            if now < at {
                thread::sleep(at - now);
            }
            let _ = (&*peer).write_all(&bytes);
        }
    });
    for peer in listener.incoming() {
        let peer = Arc::new(peer?);
        peer.set_nodelay(true)?;
        let later = later.clone();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count) = (&*peer).read(&mut bytes) {
                let at = Instant::now() + late;
                if count == 0
                    || later
                        .send((at, Arc::clone(&peer), bytes[..count].to_vec()))
                        .is_err()
                {
                    return;
                }
            }
        });
    }
    Ok(())
}
