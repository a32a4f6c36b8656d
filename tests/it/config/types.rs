//! What the types of the interface are, and what can be done with them.

use super::*;

#[test]
fn debug_shows_the_outside_whatever_the_client_is() {
    struct Opaque;

    let peer = Peer::new();
    let builder = peer.builder(3).handshake(|_| Ok::<_, io::Error>(Opaque));
    let shown = format!("{builder:?}");
    assert!(shown.contains("limit: 3"), "{shown}");
    let pool = builder.build().unwrap();
    let connection = pool.pull().unwrap();
    let port = peer.address().port().to_string();
    let shown = format!("{connection:?}");
    assert!(shown.contains("id: 1") && shown.contains(&port), "{shown}");
    let shown = format!("{:?}", Connection::stream(&connection));
    assert!(
        shown.starts_with("Stream") && shown.contains(&port),
        "{shown}"
    );
    let shown = format!("{pool:?}");
    assert!(
        shown.contains("leased: 1") && shown.contains("ended: false"),
        "{shown}"
    );
}

#[test]
fn stats_are_one_line() {
    let peer = Peer::new();
    let pool = peer.pool(2);
    Connection::discard(pool.pull().unwrap());
    let line = pool.stats().to_string();
    assert!(!line.contains('\n'), "{line}");
    for part in [
        "limit 2: 0 idle, 0 leased, 0 connecting, 0 waiting",
        "1 allocations, 1 connects",
        "1 discarded",
    ] {
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn a_factory_may_be_a_closure_a_function_or_a_type_of_ones_own() {
    struct Fixed(SocketAddr);

    impl Factory for Fixed {
        fn connect(&self) -> io::Result<TcpStream> {
            TcpStream::connect(self.0)
        }
    }

    let peer = Peer::new();
    let address = peer.address();
    let connector = Connector::new(address.to_string())
        .connect_timeout(NEVER)
        .nodelay(false)
        .keepalive(None)
        .user_timeout(None);
    let pools = [
        Pool::new(1, Fixed(address)).unwrap(),
        Pool::new(1, move || TcpStream::connect(address)).unwrap(),
        Pool::new(1, connector.clone()).unwrap(),
        Pool::builder(connector).limit(1).build().unwrap(),
    ];
    for pool in pools {
        assert_eq!(pool.pull().unwrap().peer_addr().unwrap(), address);
    }
    let pool = Pool::new(1, nowhere).unwrap();
    assert!(pool.allocate().unwrap_err().is_connect());
    pool.set_factory(Fixed(address));
    assert!(pool.pull().is_ok());
}

/// Compiles only if a lease reads and writes with no more bounds than these.
fn answer<C: BufRead + Write>(connection: &mut Connection<C>) -> io::Result<String> {
    let mut line = String::new();
    connection.write_all(b"question\n")?;
    connection.flush()?;
    connection.read_line(&mut line)?;
    Ok(line)
}

fn first_byte<C: Read>(connection: &mut Connection<C>) -> io::Result<u8> {
    let mut byte = [0];
    connection.read_exact(&mut byte)?;
    Ok(byte[0])
}

fn bare<C>(connection: Connection<C>) -> (u64, SocketAddr, C) {
    let address = Connection::stream(&connection).peer_addr().unwrap();
    (
        Connection::id(&connection),
        address,
        Connection::detach(connection),
    )
}

/// A buffered client that can be written to.
struct Lines(BufReader<Stream>);

impl Read for Lines {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl BufRead for Lines {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.0.consume(amount);
    }
}

impl Write for Lines {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.get_mut().write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.get_mut().flush()
    }
}

#[test]
fn a_lease_reads_and_writes_as_its_client_does() {
    let server = Server::echo();
    let address = server.address();
    let pool = Pool::builder(move || TcpStream::connect(address))
        .handshake(|stream| Ok::<_, io::Error>(Lines(BufReader::new(stream))))
        .build()
        .unwrap();
    let mut connection = pool.pull().unwrap();
    assert_eq!(answer(&mut connection).unwrap(), "question\n");
    connection.write_all(b"!\n").unwrap();
    assert_eq!(first_byte(&mut connection).unwrap(), b'!');
    assert_eq!(connection.0.buffer(), b"\n", "C's own fields and methods");
    let (id, peer, mut lines) = bare(connection);
    assert_eq!((id, peer), (1, address));
    assert_eq!(first_line(&mut lines), "\n");
}

fn first_line(lines: &mut impl BufRead) -> String {
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    line
}

#[test]
fn a_stream_reads_and_writes_through_a_shared_reference() {
    let server = Server::echo();
    let address = server.address();
    let pool = Pool::new(1, move || TcpStream::connect(address)).unwrap();
    let connection = pool.pull().unwrap();
    let mut shared: &Stream = &connection;
    assert_eq!(ask(&mut shared, "shared").unwrap(), "shared");
    #[cfg(unix)]
    {
        use std::os::fd::{AsFd, AsRawFd};

        assert_eq!(shared.as_fd().as_raw_fd(), shared.as_raw_fd());
    }
}

#[test]
fn the_types_keep_their_promises() {
    fn crosses_threads<T: Send + Sync>() {}
    fn can_be_sent<T: Send>() {}
    fn survives_unwinding<T: UnwindSafe + RefUnwindSafe>() {}
    fn is_a_small_value<T: Copy + Debug + Eq + Hash + Send + Sync>() {}
    fn can_be_shown<T: Debug>() {}
    fn is_data<T: Clone + Debug + PartialEq + Default>() {}
    fn can_be_copied<T: Clone + Debug>() {}
    fn reads_well<T: Display + std::error::Error>() {}
    fn gives_delays<T: Iterator<Item = Duration> + Clone + Debug>() {}
    fn compares<T: Copy + Eq>() {}

    crosses_threads::<Pool>();
    crosses_threads::<Pool<Cell<u8>>>(); // a client need not be `Sync`
    crosses_threads::<Connection>();
    can_be_sent::<Connection<Cell<u8>>>();
    crosses_threads::<Stream>();
    crosses_threads::<Builder>();
    crosses_threads::<Error>();
    crosses_threads::<Event>();
    crosses_threads::<Stats>();
    crosses_threads::<ConnectionInfo>();
    crosses_threads::<Connector>();
    crosses_threads::<Backoff>();
    survives_unwinding::<Pool>();
    survives_unwinding::<Pool<Cell<u8>>>();
    is_a_small_value::<Jitter>();
    is_a_small_value::<Close>();
    is_a_small_value::<State>();
    is_a_small_value::<Eviction>();
    can_be_shown::<Event>();

    is_data::<Backoff>();
    is_data::<Stats>();
    can_be_copied::<Pool<Cell<u8>>>();
    can_be_copied::<Connector>();
    can_be_copied::<ConnectionInfo>();
    can_be_copied::<Freed>();
    reads_well::<Error>();
    gives_delays::<Delays>();
    compares::<Freed>();
}
