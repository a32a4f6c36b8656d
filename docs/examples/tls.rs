//! TLS sessions in the pool: one handshake for each connection, not one for each request.
//!
//! ```sh
//! cargo run --example tls       # a server inside this process, with a certificate of its own
//! cargo run --example tls -- HOST:443 /etc/ssl/certs/ca-certificates.crt    # any HTTPS server
//! ```
//!
//! Four threads ask five times each for the server's front page (`HEAD`, HTTP/1.1) and print the
//! last answer; then comes `20 requests, TLS handshakes: N`, N being 4 at most with the server inside.

#[path = "stand_in.rs"]
mod stand_in;

use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use jackpot::{Connector, Pool, Stream};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use rustls::{StreamOwned, crypto::ring};

type BoxError = Box<dyn Error + Send + Sync>;
type Https = BufReader<StreamOwned<ClientConnection, Stream>>;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let outcome = match (args.next(), args.next()) {
        (None, _) => start_server().and_then(|(address, root)| run(address, vec![root])),
        (Some(address), Some(file)) => roots(&file).and_then(|roots| run(address, roots)),
        (Some(_), None) => Err("give me the file with the root certificates, too".into()),
    };
    let Err(error) = outcome else {
        return ExitCode::SUCCESS;
    };
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    let text = causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"));
    eprintln!("tls: {text}");
    ExitCode::FAILURE
}

fn roots(file: &str) -> Result<Vec<CertificateDer<'static>>, BoxError> {
    let roots = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    roots.map_err(|error| format!("{file}: {error}").into())
}

fn run(address: String, trusted: Vec<CertificateDer<'static>>) -> Result<(), BoxError> {
    let host = address
        .rsplit_once(':')
        .map_or(&*address, |(host, _)| host)
        .to_owned();
    let name = ServerName::try_from(host.clone())?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(trusted);
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    let for_handshake = host.clone();
    let pool = Pool::builder(Connector::new(address))
        .limit(4)
        .read_timeout(Some(Duration::from_secs(5)))
        .write_timeout(Some(Duration::from_secs(5)))
        .handshake(move |stream| {
            let session = ClientConnection::new(Arc::clone(&config), name.clone())?;
            let mut https = BufReader::new(StreamOwned::new(session, stream));
            // A first question at once, because with TLS 1.3 the server sends session tickets after
            // the handshake: in an idle connection they would count as bytes that nobody read.
            head(&mut https, &for_handshake)?;
            Ok::<_, BoxError>(https)
        })
        // What has been read from the socket, no probe can see any more.
        .recycle(|https| {
            let unread = https.buffer().len();
            let session = https.get_mut().conn.process_new_packets()?;
            match unread + session.plaintext_bytes_to_read() {
                0 if !session.peer_has_closed() => Ok::<_, BoxError>(()),
                0 => Err("the server has said goodbye".into()),
                _ => Err("the server sent more than was asked for".into()),
            }
        })
        .build()?;

    let ask = || -> io::Result<String> {
        let mut last = String::new();
        for _ in 0..5 {
            last = head(&mut *pool.pull_timeout(Duration::from_secs(10))?, &host)?;
        }
        Ok(last)
    };
    let last = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        let mut last = Ok(String::new());
        for thread in threads {
            let outcome = thread.join().unwrap_or(Err(io::ErrorKind::Other.into()));
            last = last.and(outcome);
        }
        last
    })?;
    println!("{last}");
    println!("20 requests, TLS handshakes: {}", pool.stats().connects);
    Ok(())
}

/// Asks for the front page's head, and returns its first line.
fn head(https: &mut Https, host: &str) -> io::Result<String> {
    let request = format!("HEAD / HTTP/1.1\r\nHost: {host}\r\nUser-Agent: jackpot\r\n\r\n");
    https.get_mut().write_all(request.as_bytes())?;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if https.take(10_000).read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head.lines().next().unwrap_or_default().to_owned())
}

/// The server inside: where it listens, and the certificate to trust.
fn start_server() -> Result<(String, CertificateDer<'static>), BoxError> {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    let certificate = made.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())?;
    let config = Arc::new(config);
    let address = stand_in::start(move |socket| serve(socket, Arc::clone(&config)))?;
    Ok((address, certificate))
}

/// Answers every `HEAD`, at the empty line in which it ends.
fn serve(socket: &TcpStream, config: Arc<ServerConfig>) -> io::Result<()> {
    let session = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut https = BufReader::new(StreamOwned::new(session, socket));
    let mut line = String::new();
    while https.read_line(&mut line)? > 0 {
        if line == "\r\n" {
            let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
            https.get_mut().write_all(answer)?;
        }
        line.clear();
    }
    Ok(())
}
