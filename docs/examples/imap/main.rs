//! Pooled IMAP sessions: counts the messages in every folder of a mailbox, four folders at a time.
//!
//! ```sh
//! cargo run --example imap                               # a Dovecot of its own, ended afterwards
//! IMAP_PASSWORD=secret cargo run --example imap -- HOST:PORT USER   # a server of yours, in the clear
//! ```
//!
//! The first needs `dovecot` (Debian: `apt-get install dovecot-imapd`) and says so where it is missing.
//! Prints a line for each folder, then `12 folders, 78 messages, sessions made: N`, N being 4 at most.
//! Exit code 1: something failed, and one line says what.
//!
//! A session is worth pooling: it costs a connect, a greeting and a login, and servers count them for each
//! user. For TLS put a `rustls::StreamOwned` around the stream first, as the example `tls` does.

mod dovecot;

use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use imap::Client;
use jackpot::{Connection, Connector, Pool, Stream};

type Session = imap::Session<Stream>;
type Failure = Box<dyn Error + Send + Sync>;

const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let Err(error) = run() else {
        return ExitCode::SUCCESS;
    };
    let error: &dyn Error = &*error;
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    let text = causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"));
    eprintln!("imap: {text}");
    ExitCode::FAILURE
}

fn run() -> Result<(), Failure> {
    let mut args = env::args().skip(1);
    if let Some(address) = args.next() {
        let user = args.next().ok_or("say HOST:PORT and USER")?;
        let password = env::var("IMAP_PASSWORD").map_err(|_| "IMAP_PASSWORD is not set")?;
        return count(&sessions(address, user, password)?);
    }
    let server = dovecot::start()?;
    let pool = sessions(server.address(), "demo".into(), dovecot::PASSWORD.into())?;
    fill(&pool)?;
    count(&pool)
}

/// Sessions that are logged in.
fn sessions(address: String, user: String, password: String) -> Result<Pool<Session>, Failure> {
    let pool = Pool::builder(Connector::new(address))
        .limit(4) // Dovecot allows a user ten from one address, all its programs together
        .read_timeout(Some(PATIENCE))
        .write_timeout(Some(PATIENCE))
        .handshake(move |stream| {
            let mut client = Client::new(stream);
            client.read_greeting()?;
            client.login(&user, &password).map_err(|(error, _)| error)
        })
        // A server logs a session out after half an hour of silence (RFC 9051, 5.4). A NOOP every ten
        // minutes keeps it; after ten minutes without use the pool lets it go (`idle_timeout`).
        .ping(Duration::from_secs(10 * 60), Session::noop)
        // What the server told of other clients' doings meanwhile is nobody's.
        .recycle(|session| {
            session.take_all_unsolicited().for_each(drop);
            Ok::<_, Failure>(())
        })
        // An answer that was not understood may have a rest: only `ask` knows when one is complete.
        .only_finished(true)
        .build()?;
    Ok(pool)
}

/// Runs commands on a session, which goes back if the server has answered the last one completely.
///
/// The folder that a session has open outlives the lease, so `commands` begin with opening theirs.
fn ask<T>(
    pool: &Pool<Session>,
    commands: impl FnOnce(&mut Session) -> imap::Result<T>,
) -> Result<T, Failure> {
    let mut session = pool.pull_timeout(PATIENCE)?;
    let answer = commands(&mut session);
    // "No" is a complete answer. Everything else that goes wrong closes the session.
    if matches!(answer, Ok(_) | Err(imap::Error::No(_))) {
        Connection::finish(session);
    }
    Ok(answer?)
}

fn count(pool: &Pool<Session>) -> Result<(), Failure> {
    let folders = ask(pool, |session| {
        let names = session.list(None, Some("*"))?;
        Ok(names
            .iter()
            .map(|name| name.name().to_owned())
            .collect::<Vec<_>>())
    })?;
    let (todo, total) = (Mutex::new(folders.iter()), Mutex::new(0));
    thread::scope(|scope| {
        let threads = (0..4).map(|_| {
            scope.spawn(|| {
                let next = || todo.lock().expect("no thread panics here").next();
                while let Some(folder) = next() {
                    let messages = ask(pool, |session| Ok(session.examine(folder)?.exists))?;
                    println!("{folder}: {messages}");
                    *total.lock().expect("no thread panics here") += messages;
                }
                Ok::<_, Failure>(())
            })
        });
        let threads: Vec<_> = threads.collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("a thread panicked"))
    })?;

    let total = total.into_inner().expect("no thread panics here");
    let made = pool.stats().connects;
    println!(
        "{} folders, {total} messages, sessions made: {made}",
        folders.len()
    );
    say_goodbye(pool);
    Ok(())
}

/// Logs out what is idle. Closing a session does not: no byte is sent because a connection closes.
fn say_goodbye(pool: &Pool<Session>) {
    while let Ok(mut session) = pool.pull_timeout(Duration::ZERO) {
        let _ = session.logout();
        Connection::discard(session);
    }
}

/// Eleven folders beside the INBOX, the first with one message, the last with eleven; twelve in the INBOX.
fn fill(pool: &Pool<Session>) -> Result<(), Failure> {
    let folders = (1..=11).map(|month| (format!("2025-{month:02}"), month));
    for (folder, messages) in folders.chain([("INBOX".to_owned(), 12)]) {
        ask(pool, |session| {
            if folder != "INBOX" {
                session.create(&folder)?;
            }
            for n in 0..messages {
                let message = format!("Subject: {n}\r\n\r\nThe body of {n} in {folder}.\r\n");
                session.append(&folder, message.as_bytes()).finish()?;
            }
            Ok(())
        })?;
    }
    Ok(())
}
