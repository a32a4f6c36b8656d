//! Clients that are TLS sessions, made in `handshake`.

use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use jackpot::{Builder, Connection, Connector, Error, Eviction, Pool, Stream};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    SupportedProtocolVersion,
};

use crate::load::{ECHO, Load};
use crate::support::{Gate, Opened, SOON, Server, ask, eventually, on_thread, read_line};

/// What callers of these pools work with.
pub(crate) type Tls = StreamOwned<ClientConnection, Stream>;

/// How many session tickets a server sends once a TLS 1.3 handshake is over, as most do.
const TICKETS: usize = 2;
pub(crate) const NAME: &str = "localhost";

#[test]
fn requests_and_replies_pass_through_one_session() {
    for version in [&TLS12, &TLS13] {
        let server = TlsServer::new(TICKETS);
        let pool = server.pool(version);
        for n in 0..20 {
            let mut connection = pool.pull().unwrap();
            let line = format!("request {n}");
            assert_eq!(ask(&mut connection, &line).unwrap(), line);
            let agreed = connection.conn.protocol_version();
            assert_eq!(agreed, Some(version.version));
        }
        let stats = pool.stats();
        assert_eq!((stats.connects, stats.allocations), (1, 20));
    }
}

/// It is in the session's memory, where no probe sees it.
#[test]
fn plaintext_that_a_caller_left_in_the_session_never_reaches_the_next() {
    let server = TlsServer::new(TICKETS);
    let pool = server.builder(&TLS13).recycle(left_clean).build().unwrap();
    let mut connection = pool.pull().unwrap();
    let first = Connection::id(&connection);
    assert_eq!(ask(&mut connection, TWICE).unwrap(), TWICE);
    drop(connection);
    assert_eq!(pool.stats().evicted(Eviction::RecycleFailed), 1);
    let mut connection = pool.pull().unwrap();
    assert_ne!(Connection::id(&connection), first);
    assert_eq!(ask(&mut connection, "once").unwrap(), "once");
    drop(connection);
    assert_eq!(pool.stats().idle, 1);
}

#[test]
fn tickets_that_nobody_read_cost_a_connection_made_in_advance() {
    let server = TlsServer::new(TICKETS);
    let pool = server.builder(&TLS13).min_idle(1).build().unwrap();
    eventually("it is made", || pool.stats().idle == 1);
    eventually("its tickets are found", || pool.reap() == 1);
    assert_eq!(pool.stats().evicted(Eviction::Unread), 1);
}

#[test]
fn tickets_do_no_harm_once_a_reply_was_read() {
    let server = TlsServer::new(TICKETS);
    let pool = server.pool(&TLS13);
    ask(&mut pool.pull().unwrap(), "hello").unwrap();
    assert_eq!((pool.reap(), pool.stats().idle), (0, 1));
}

#[test]
fn tickets_do_no_harm_where_the_handshake_asks_a_first_question() {
    let server = TlsServer::new(TICKETS);
    lasts_unused(&server, server.greeting(&TLS13));
}

#[test]
fn tickets_do_no_harm_where_the_server_sends_none() {
    let server = TlsServer::new(0);
    lasts_unused(&server, server.builder(&TLS13));
}

/// There the ticket comes before the handshake is over.
#[test]
fn tickets_do_no_harm_in_the_version_before() {
    let server = TlsServer::new(TICKETS);
    lasts_unused(&server, server.builder(&TLS12));
}

#[test]
fn tickets_do_no_harm_where_unread_bytes_are_allowed() {
    let server = TlsServer::new(TICKETS);
    lasts_unused(&server, server.builder(&TLS13).allow_unread(true));
}

/// A connection that was made in advance is there when it is wanted.
fn lasts_unused(server: &TlsServer, builder: Builder<Tls>) {
    let pool = builder.min_idle(1).build().unwrap();
    eventually("it is made, and the server has sent all it will", || {
        pool.stats().idle == 1 && server.shaken_hands() == 1
    });
    assert_eq!(pool.reap(), 0);
    drop(pool.pull().unwrap()); // not used either
    let line = "after a while";
    assert_eq!(ask(&mut pool.pull().unwrap(), line).unwrap(), line);
    let stats = pool.stats();
    assert_eq!((stats.connects, stats.open), (1, 1));
}

#[test]
fn a_session_that_the_server_closed_is_not_used_again() {
    let server = TlsServer::new(TICKETS);
    let pool = server.pool(&TLS13);
    assert_eq!(ask(&mut pool.pull().unwrap(), BYE).unwrap(), BYE);
    server.goodbye.open();
    eventually("it is found", || pool.reap() == 1);
    assert_eq!(ask(&mut pool.pull().unwrap(), "again").unwrap(), "again");
    assert_eq!(pool.stats().connects, 2);
}

/// Why `allow_unread` is the wrong answer to tickets: the server's "close notify" is unread bytes
/// too, and the end of file behind them cannot be seen.
#[test]
fn a_session_that_the_server_closed_looks_alive_where_unread_bytes_are_allowed() {
    let server = TlsServer::new(TICKETS);
    let pool = server.builder(&TLS13).allow_unread(true).build().unwrap();
    assert_eq!(ask(&mut pool.pull().unwrap(), BYE).unwrap(), BYE);
    server.goodbye.open();
    eventually("it is closed", || server.closed() == 1);
    assert_eq!(pool.reap(), 0);
    ask(&mut pool.pull().unwrap(), "again").unwrap_err();
}

#[test]
fn what_the_handshake_found_wrong_is_in_the_error() {
    let server = TlsServer::new(TICKETS);
    let config = client(&TLS13);
    let pool = Pool::builder(server.connector())
        .handshake(move |stream| shake_hands(&config, "elsewhere.test", stream))
        .build()
        .unwrap();
    let error = pool.allocate().unwrap_err();
    let Error::Handshake(cause) = &error else {
        panic!("{error:?}");
    };
    let io: &io::Error = cause.downcast_ref().unwrap();
    let found = io.get_ref().and_then(|inner| inner.downcast_ref());
    assert!(matches!(found, Some(rustls::Error::InvalidCertificate(_))));
    assert_eq!(error.io_error().unwrap().kind(), ErrorKind::InvalidData);
    let source = std::error::Error::source(&error).unwrap();
    assert!(source.to_string().contains("invalid peer certificate"));
    assert_eq!(io::Error::from(error).kind(), ErrorKind::InvalidData);
}

#[test]
fn a_server_that_stalls_in_the_handshake_is_given_up_after_the_read_timeout() {
    let server = TlsServer::new(TICKETS);
    let timeout = Duration::from_millis(150);
    let builder = server.builder(&TLS13).read_timeout(Some(timeout));
    let pool = builder.build().unwrap();
    server.stalls.store(true, SeqCst);
    let started = Instant::now();
    let error = on_thread(&pool, |pool| pool.allocate().unwrap_err()).join();
    assert!(started.elapsed() >= timeout);
    assert!(matches!(error, Error::Handshake(_)), "{error:?}");
    let kind = error.io_error().unwrap().kind();
    assert!(matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut));
    eventually("its place is free again", || pool.stats().connecting == 0);
    assert_eq!(pool.stats().open, 0);

    server.stalls.store(false, SeqCst);
    let mut connection = pool.pull().unwrap();
    assert_eq!(ask(&mut connection, "again").unwrap(), "again");
}

/// A restart, one after which the server accepts but does not shake hands at first, and one while
/// all sessions lie idle.
#[test]
fn threads_ride_out_restarts_and_a_stall() {
    let mut server = TlsServer::new(TICKETS);
    let opened = Opened::default();
    let config = client(&TLS13);
    let pool = Pool::builder(opened.by(server.connector()))
        .limit(4)
        .read_timeout(Some(SOON / 2))
        .handshake(move |stream| {
            stream.set_read_timeout(Some(Duration::from_millis(250)))?;
            shake_hands(&config, NAME, stream)
        })
        .recycle(left_clean)
        .build()
        .unwrap();
    let failures = || pool.stats().connect_failures;
    let load = Load::start(&pool, ECHO);
    load.calm();
    load.storm(|| {
        server.server.die(true);
        let before = failures();
        eventually("connects fail", || failures() > before);
        server.server.come_back();
    });
    load.calm();
    load.storm(|| {
        server.server.die(false);
        server.stalls.store(true, SeqCst);
        server.server.come_back();
        let (accepted, before) = (server.server.accepted(), failures());
        eventually("handshakes fail", || {
            server.server.accepted() > accepted && failures() > before + 1
        });
        server.server.die(false);
        server.stalls.store(false, SeqCst);
        server.server.come_back();
    });
    load.calm();
    load.rest(|| {
        server.server.die(false);
        server.server.come_back();
    });
    load.calm();
    let connection = pool.pull().unwrap();
    let timeout = Connection::stream(&connection).read_timeout().unwrap();
    assert_eq!(timeout, Some(SOON / 2)); // the handshake's own bound has been put back
    drop(connection);
    load.end(&opened);
}

/// The line that the server answers twice, in one record.
const TWICE: &str = "twice";
/// The line that the server answers, and after which it closes the session when told.
const BYE: &str = "bye";

/// The line after which the server sends a byte again and again, and never a line.
pub(crate) const DRIP_LINE: &str = "drip";

/// A line server behind TLS that echoes.
pub(crate) struct TlsServer {
    server: Server,
    stalls: Arc<AtomicBool>,
    goodbye: Gate,
    shaken_hands: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
}

impl TlsServer {
    pub(crate) fn new(tickets: usize) -> Self {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![IDENTITY.0.clone()], IDENTITY.1.clone_key())
            .unwrap();
        config.send_tls13_tickets = tickets;
        let config = Arc::new(config);
        let (stalls, goodbye) = (Arc::<AtomicBool>::default(), Gate::default());
        let (shaken_hands, closed) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let server = Server::serving({
            let (stalls, goodbye) = (Arc::clone(&stalls), goodbye.clone());
            let (shaken_hands, closed) = (Arc::clone(&shaken_hands), Arc::clone(&closed));
            move |mut socket| {
                if stalls.load(SeqCst) {
                    let _ = io::copy(&mut socket, &mut io::sink());
                    return;
                }
                let session = ServerConnection::new(Arc::clone(&config)).unwrap();
                let _ = serve(StreamOwned::new(session, socket), &goodbye, &shaken_hands);
                let _ = socket.shutdown(std::net::Shutdown::Both);
                closed.fetch_add(1, SeqCst);
            }
        });
        Self {
            server,
            stalls,
            goodbye,
            shaken_hands,
            closed,
        }
    }

    /// How many handshakes are over, tickets included.
    fn shaken_hands(&self) -> usize {
        self.shaken_hands.load(SeqCst)
    }

    /// How many sessions are over.
    fn closed(&self) -> usize {
        self.closed.load(SeqCst)
    }

    fn connector(&self) -> Connector {
        Connector::new(self.server.address().to_string())
    }

    pub(crate) fn pool(&self, version: &'static SupportedProtocolVersion) -> Pool<Tls> {
        self.builder(version).build().unwrap()
    }

    /// Settings for a pool of sessions with this server, without a reaper thread.
    fn builder(&self, version: &'static SupportedProtocolVersion) -> Builder<Tls> {
        let config = client(version);
        Pool::builder(self.connector())
            .reap_interval(None)
            .handshake(move |stream| shake_hands(&config, NAME, stream))
    }

    /// The same, with a question and its answer in each handshake.
    fn greeting(&self, version: &'static SupportedProtocolVersion) -> Builder<Tls> {
        let config = client(version);
        Pool::builder(self.connector())
            .reap_interval(None)
            .handshake(move |stream| {
                let mut tls = shake_hands(&config, NAME, stream)?;
                ask(&mut tls, "hello")?;
                Ok::<_, io::Error>(tls)
            })
    }
}

fn serve(
    mut tls: StreamOwned<ServerConnection, &TcpStream>,
    goodbye: &Gate,
    shaken_hands: &AtomicUsize,
) -> io::Result<()> {
    while tls.conn.is_handshaking() || tls.conn.wants_write() {
        tls.conn.complete_io(&mut tls.sock)?;
    }
    shaken_hands.fetch_add(1, SeqCst);
    loop {
        let line = read_line(&mut tls)?;
        match line.trim_ascii() {
            line if line == TWICE.as_bytes() => tls.write_all(&b"twice\ntwice\n"[..])?,
            line if line == BYE.as_bytes() => {
                tls.write_all(b"bye\n")?;
                goodbye.pass();
                tls.conn.send_close_notify();
                return tls.flush();
            }
            line if line == DRIP_LINE.as_bytes() => loop {
                tls.write_all(b".")?;
                std::thread::sleep(Duration::from_millis(5));
            },
            _ => tls.write_all(&line)?,
        }
    }
}

/// A session on this stream, with the handshake done.
pub(crate) fn shake_hands(
    config: &Arc<ClientConfig>,
    name: &'static str,
    stream: Stream,
) -> io::Result<Tls> {
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    let session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    let mut tls = StreamOwned::new(session, stream);
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock)?;
    }
    Ok(tls)
}

/// Whether a session holds nothing that the last caller did not read.
fn left_clean(tls: &mut Tls) -> Result<(), &'static str> {
    match tls.conn.process_new_packets() {
        Ok(state) if state.peer_has_closed() => Err("closed by the server"),
        Ok(state) if state.plaintext_bytes_to_read() > 0 => Err("unread plaintext"),
        Ok(_) => Ok(()),
        Err(_) => Err("broken"),
    }
}

pub(crate) fn client(version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(IDENTITY.0.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The certificate of every server here, and its key.
static IDENTITY: LazyLock<(CertificateDer<'static>, PrivateKeyDer<'static>)> =
    LazyLock::new(|| {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        (made.cert.der().clone(), key.into())
    });
