//! A server inside the process, for those who run an example and have none at hand.
//!
//! In a program of your own leave this out.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::thread;

/// Serves every connection on a thread of its own; where it listens.
pub(crate) fn start(
    serve: impl Fn(&TcpStream) -> io::Result<()> + Clone + Send + 'static,
) -> io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            // Else an answer may wait for the acknowledgement of the one before it.
            let _ = socket.set_nodelay(true);
            let serve = serve.clone();
            thread::spawn(move || serve(&socket));
        }
    });
    Ok(address)
}
