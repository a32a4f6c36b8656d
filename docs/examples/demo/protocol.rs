//! What is asked of the server, and whether the reply is the right one.

use std::fmt;
use std::io::{self, Read, Write};

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Protocol {
    /// Sends back what it gets
    Echo,
    /// The text protocol of memcached
    Memcached,
    /// RESP, the protocol of Redis and its relatives
    Redis,
}

/// Why a request did not end well.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The connection failed or timed out.
    Io(io::Error),
    /// The server said no, or had forgotten the key.
    Refused(String),
    /// The reply belongs to somebody else, or to nobody.
    Wrong(String),
}

impl Protocol {
    /// One request whose reply carries `id`; all that it writes is answered and read.
    pub(crate) fn ask(self, stream: &mut (impl Read + Write), id: &str) -> Result<(), Trouble> {
        for (request, reply) in self.dialogue(id) {
            stream.write_all(request.as_bytes()).map_err(Trouble::Io)?;
            self.expect(stream, reply.as_bytes())?;
        }
        Ok(())
    }

    /// Sends a request and does not wait for the reply.
    pub(crate) fn hang_up(self, stream: &mut impl Write, id: &str) -> io::Result<()> {
        match self.dialogue(id).first() {
            Some((request, _)) => stream.write_all(request.as_bytes()),
            None => Ok(()),
        }
    }

    fn dialogue(self, id: &str) -> Vec<(String, String)> {
        let length = id.len();
        match self {
            Self::Echo => vec![(format!("{id}\n"), format!("{id}\n"))],
            Self::Memcached => vec![
                (
                    format!("set {id} 0 10 {length}\r\n{id}\r\n"),
                    "STORED\r\n".into(),
                ),
                (
                    format!("get {id}\r\n"),
                    format!("VALUE {id} 0 {length}\r\n{id}\r\nEND\r\n"),
                ),
            ],
            Self::Redis => vec![
                (format!("SET {id} {id} EX 10\r\n"), "+OK\r\n".into()),
                (format!("GET {id}\r\n"), format!("${length}\r\n{id}\r\n")),
            ],
        }
    }

    /// Reads the reply, and never a byte more: what lies behind it is for the pool to find.
    fn expect(self, stream: &mut impl Read, reply: &[u8]) -> Result<(), Trouble> {
        let mut buffer = vec![0; reply.len()];
        let mut filled = 0;
        while filled < reply.len() {
            match stream.read(&mut buffer[filled..]) {
                Ok(0) => return Err(Trouble::Io(io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Trouble::Io(error)),
            }
            let got = &buffer[..filled];
            if reply.starts_with(got) {
                continue;
            }
            if self.is_refusal(got) {
                return Err(rest_of_line(stream, got.to_vec()));
            }
            return Err(Trouble::Wrong(format!(
                "{:?} instead of {:?}",
                String::from_utf8_lossy(got),
                String::from_utf8_lossy(reply)
            )));
        }
        Ok(())
    }

    /// Whether this is how the server says no, or the beginning of it.
    fn is_refusal(self, got: &[u8]) -> bool {
        let ways: &[&str] = match self {
            Self::Echo => &[],
            Self::Memcached => &[
                "ERROR",
                "SERVER_ERROR ",
                "CLIENT_ERROR ",
                "NOT_STORED",
                "END\r\n",
            ],
            Self::Redis => &["-", "$-1\r\n"],
        };
        ways.iter().any(|way| {
            let length = way.len().min(got.len());
            got[..length] == way.as_bytes()[..length]
        })
    }
}

/// What the server has to say, to the end of the line.
fn rest_of_line(stream: &mut impl Read, mut line: Vec<u8>) -> Trouble {
    let mut byte = [0];
    while line.len() < 200 && line.last() != Some(&b'\n') {
        match stream.read_exact(&mut byte) {
            Ok(()) => line.push(byte[0]),
            Err(error) => return Trouble::Io(error),
        }
    }
    Trouble::Refused(String::from_utf8_lossy(&line).trim_end().to_owned())
}

impl Trouble {
    pub(crate) fn is_timeout(&self) -> bool {
        use io::ErrorKind::{TimedOut, WouldBlock};
        matches!(self, Self::Io(error) if matches!(error.kind(), TimedOut | WouldBlock))
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Echo => "echo",
            Self::Memcached => "memcached",
            Self::Redis => "redis",
        })
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(_) if self.is_timeout() => write!(f, "no answer in time"),
            Self::Io(error) => write!(f, "{error}"),
            Self::Refused(text) => write!(f, "it said {text:?}"),
            Self::Wrong(text) => write!(f, "it said {text}"),
        }
    }
}
