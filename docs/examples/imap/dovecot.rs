//! A Dovecot for those who run the example and have no IMAP server at hand.
//!
//! In a program of your own leave this out.

use std::env;
use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// Ends with this value.
pub(crate) struct Dovecot {
    child: Child,
    port: u16,
    pub(crate) folder: PathBuf,
}

pub(crate) fn start() -> Result<Dovecot, Box<dyn std::error::Error + Send + Sync>> {
    let program = find("dovecot").ok_or(
        "there is no dovecot here: install it (Debian: apt-get install dovecot-imapd), or say HOST:PORT and USER",
    )?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let folder = env::temp_dir().join(format!("jackpot-imap-{port}"));
    let mail = folder.join("mail");
    fs::create_dir_all(&mail)?;
    let config = folder.join("dovecot.conf");
    let (uid, gid, as_root) = keeper(&mail)?;
    let users = if as_root {
        String::new()
    } else {
        let (user, group) = (id("-un")?, id("-gn")?);
        format!(
            "default_internal_user = {user}\ndefault_login_user = {user}\n\
             default_internal_group = {group}\n\
             service imap-login {{\n  chroot =\n}}\nservice anvil {{\n  chroot =\n}}\n"
        )
    };
    fs::write(
        &config,
        format!(
            "protocols = imap\nlisten = 127.0.0.1\nssl = no\ndisable_plaintext_auth = no\n\
             base_dir = {folder}/run\nlog_path = {folder}/log\nmail_location = maildir:~/mail\n\
             passdb {{\n  driver = static\n  args = password={PASSWORD}\n}}\n\
             userdb {{\n  driver = static\n  args = uid={uid} gid={gid} home={mail}/%u\n}}\n\
             service imap-login {{\n  inet_listener imap {{\n    port = {port}\n  }}\n  \
             inet_listener imaps {{\n    port = 0\n  }}\n}}\n{users}",
            folder = folder.display(),
            mail = mail.display(),
        ),
    )?;
    let log = folder.join("log");
    let child = Command::new(program)
        .arg("-F")
        .arg("-c")
        .arg(&config)
        .stdout(Stdio::null())
        .spawn()?;
    let mut server = Dovecot {
        child,
        port,
        folder,
    };
    while TcpStream::connect(server.address()).is_err() {
        if server.child.try_wait()?.is_some() {
            let log = fs::read_to_string(log).unwrap_or_default();
            return Err(format!("dovecot does not start: {}", log.trim()).into());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(server)
}

/// Of every user.
pub(crate) const PASSWORD: &str = "secret";

/// Whose user and group keep the mail: those who run this, or nobody's, as root's may not.
#[cfg(unix)]
fn keeper(mail: &Path) -> io::Result<(u32, u32, bool)> {
    use std::os::unix::fs::{MetadataExt, chown};

    const NOBODY: u32 = 65534;
    let own = fs::metadata(mail)?;
    if own.uid() != 0 {
        return Ok((own.uid(), own.gid(), false));
    }
    chown(mail, Some(NOBODY), Some(NOBODY))?;
    Ok((NOBODY, NOBODY, true))
}

#[cfg(not(unix))]
fn keeper(_: &Path) -> io::Result<(u32, u32, bool)> {
    Err(io::ErrorKind::Unsupported.into())
}

/// What `id` says of whoever runs this.
fn id(option: &str) -> io::Result<String> {
    let output = Command::new("id").arg(option).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Dovecot {
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        // Its processes end by themselves when they miss it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Debian puts servers where only root looks.
fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let mut files = folders.map(|folder: PathBuf| folder.join(name));
    files.find(|file| Path::is_file(file))
}
